"""Codecs: how a token vector becomes a row of a store, and how scoring reads it.

A row is decoded where it is scored, a tile at a time, and never before: `expand` writes the tile's vectors to a buffer,
up to a factor for each row that the scorer multiplies its products with. Residual codecs are those of ColBERTv2
(Santhanam et al., NAACL 2022, section 3.3): the nearest centroid, and each dimension's difference from it in 1, 2 or 4
bits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from colbert_rerank.errors import UsageError
from colbert_rerank.store.columns import Array
from colbert_rerank.types import CODECS, FLOATS, RESIDUALS

if TYPE_CHECKING:
    import torch

Matrix = npt.NDArray[np.float32]

SIGNS: Matrix = np.array([-1, 1], np.float32)  # what the bits of a binary row stand for

_SCALE = 4  # bytes, a float32
_CENTROID = 2  # bytes, a uint16
_CHUNK = 4096  # rows encoded or decoded at once
_PRODUCTS = 1 << 24  # numbers of one product with all centroids


class Codec(Protocol):
    """``width`` numbers of ``dtype`` are the row of a vector of ``dim`` dimensions."""

    @property
    def name(self) -> str: ...

    @property
    def dim(self) -> int: ...

    @property
    def width(self) -> int: ...

    @property
    def dtype(self) -> str: ...

    def encode(self, vectors: Matrix) -> Array:
        """Rows [n, width] of ``vectors`` [n, dim], which are finite."""
        ...

    def expand(self, rows: torch.Tensor, out: torch.Tensor) -> torch.Tensor | None:
        """Write the vectors of ``rows`` [n, width] to ``out`` [n, dim], up to the factors [n] that are returned.

        ``None`` stands for factors of 1. Factors are not negative.
        """
        ...


@dataclass(frozen=True)
class Floats:
    """Vectors as they are, in half or single precision."""

    name: str
    dim: int

    @property
    def width(self) -> int:
        return self.dim

    @property
    def dtype(self) -> str:
        return self.name

    def encode(self, vectors: npt.NDArray[Any]) -> Array:
        with np.errstate(over="ignore"):  # infinity is the caller's to see
            return np.ascontiguousarray(vectors, dtype=self.dtype)

    def expand(self, rows: torch.Tensor, out: torch.Tensor) -> None:
        out.copy_(rows)


@dataclass(frozen=True)
class Int8:
    """Each dimension in 127 steps up and down of the vector's own scale: its greatest number by 127, a float32."""

    dim: int
    name: str = "int8"
    dtype: str = "uint8"

    @property
    def width(self) -> int:
        return self.dim + _SCALE

    def encode(self, vectors: Matrix) -> Array:
        scales = (np.abs(vectors).max(axis=1, initial=0) / np.float32(127)).astype(np.float32)
        steps = np.rint(_divided(vectors, scales)).clip(-127, 127).astype(np.int8)
        return _beside(steps.view(np.uint8), scales)

    def expand(self, rows: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        import torch

        out.copy_(rows[:, : self.dim].view(torch.int8))
        return _floats(rows[:, self.dim :])


@dataclass(frozen=True)
class Binary:
    """The sign of each dimension, times the mean of their sizes: of all such vectors the nearest one."""

    dim: int
    name: str = "binary"
    dtype: str = "uint8"

    @property
    def width(self) -> int:
        return _packed_size(self.dim, 1) + _SCALE

    def encode(self, vectors: Matrix) -> Array:
        return _beside(
            np.packbits(vectors >= 0, axis=1), np.abs(vectors).mean(axis=1, dtype=np.float64).astype(np.float32)
        )

    def expand(self, rows: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        _unpack(rows[:, :-_SCALE], 1, SIGNS, out)
        return _floats(rows[:, -_SCALE:])


@dataclass(frozen=True, eq=False)
class Codebook:
    """What a residual codec has learnt: ``centroids`` [K, dim], and of the differences from them ``cutoffs``
    [2^bits - 1] between buckets, and the ``weights`` [2^bits] that these stand for.

    ``unit_length`` says that vectors have length 1, and so are decoded to it.
    """

    centroids: Matrix
    cutoffs: Matrix
    weights: Matrix
    unit_length: bool


@dataclass(frozen=True, eq=False)
class Residual:
    """The number of the nearest centroid, a uint16, and the bucket of each difference from it."""

    name: str
    book: Codebook
    dtype: str = "uint8"

    @property
    def bits(self) -> int:
        return RESIDUALS[self.name]

    @property
    def dim(self) -> int:
        return int(self.book.centroids.shape[1])

    @property
    def width(self) -> int:
        return row_of(self.name, self.dim)[0]

    def encode(self, vectors: Matrix) -> Array:
        nearest = nearest_centroids(vectors, self.book.centroids)
        buckets = np.searchsorted(self.book.cutoffs, vectors - self.book.centroids[nearest], side="right")
        bits = np.unpackbits(buckets.astype(np.uint8)[..., None], axis=2)[..., 8 - self.bits :]
        return _beside(np.packbits(bits.reshape(len(vectors), -1), axis=1), nearest.astype("<u2"), first=True)

    def expand(self, rows: torch.Tensor, out: torch.Tensor) -> torch.Tensor | None:
        import torch

        numbers = rows[:, :_CENTROID].to(torch.int32)
        _unpack(rows[:, _CENTROID:], self.bits, self.book.weights, out)
        out += self.centroids_on(out.device)[numbers[:, 0] + 256 * numbers[:, 1]]
        return out.square().sum(dim=1).clamp_min_(1e-24).rsqrt_() if self.book.unit_length else None

    def centroids_on(self, device: torch.device) -> torch.Tensor:
        """The centroids on a device, where they stay."""
        import torch

        if device not in self._by_device:
            self._by_device[device] = torch.from_numpy(self.book.centroids).to(device)
        return self._by_device[device]

    @cached_property
    def _by_device(self) -> dict[torch.device, torch.Tensor]:
        return {}


def plain(name: str, dim: int) -> Codec:
    """A codec that has nothing to learn. Raises UsageError for an unknown name."""
    if name in FLOATS:
        return Floats(name, dim)
    if name == "int8":
        return Int8(dim)
    if name == "binary":
        return Binary(dim)
    raise UsageError(f"codec {name!r}: expected one of {', '.join(CODECS)}")


def row_of(name: str, dim: int) -> tuple[int, str]:
    """The width and the dtype of a codec's rows, which do not depend on what it has learnt."""
    if name in RESIDUALS:
        return _CENTROID + _packed_size(dim, RESIDUALS[name]), "uint8"
    codec = plain(name, dim)
    return codec.width, codec.dtype


def decode(codec: Codec, rows: Array) -> Matrix:
    """The vectors [n, dim] that ``rows`` [n, width] stand for."""
    if isinstance(codec, Floats):
        return rows.astype(np.float32)

    import torch

    vectors = torch.empty((len(rows), codec.dim))
    for start in range(0, len(rows), _CHUNK):
        part = vectors[start : start + _CHUNK]
        # a copy: what a store has mapped cannot be written to, and torch warns of such
        factors = codec.expand(torch.from_numpy(rows[start : start + _CHUNK].copy()), part)
        if factors is not None:
            part *= factors[:, None]
    decoded: Matrix = vectors.numpy()
    return decoded


def row_bytes(names: Iterable[str], dim: int) -> int:
    """Bytes that a vector takes under these codecs together."""
    return sum(width * np.dtype(dtype).itemsize for width, dtype in (row_of(name, dim) for name in names if name))


def check_sketches(codec: str, sketches: str, dim: int) -> None:
    """Raises UsageError for sketches that are not smaller than the vectors' own rows, and for unknown codecs."""
    if sketches and row_bytes([sketches], dim) >= row_bytes([codec], dim):
        raise UsageError(f"sketches of {sketches} are not smaller than vectors of {codec}, and would save nothing")


def encode(codec: Codec, vectors: npt.NDArray[Any]) -> Array:
    """Rows [n, width] of ``vectors`` [n, dim], which are finite; a few at a time, to need no memory but for them."""
    if isinstance(codec, Floats):
        return codec.encode(vectors)
    rows = np.empty((len(vectors), codec.width), dtype=codec.dtype)
    for start in range(0, len(vectors), _CHUNK):
        part = slice(start, start + _CHUNK)
        rows[part] = codec.encode(vectors[part].astype(np.float32))
    return rows


def distances(codec: Codec, vectors: npt.NDArray[Any], rows: Array) -> npt.NDArray[np.float64]:
    """How far what ``rows`` [n, width] stand for is from ``vectors`` [n, dim]: lengths [n] of the differences."""
    found = np.empty(len(rows))
    for start in range(0, len(rows), _CHUNK):
        part = slice(start, start + _CHUNK)
        found[part] = np.linalg.norm(vectors[part].astype(np.float64) - decode(codec, rows[part]), axis=1)
    return found


def nearest_centroids(vectors: Matrix, centroids: Matrix) -> npt.NDArray[np.int64]:
    """The number of the centroid nearest to each vector."""
    import torch

    V, C = torch.from_numpy(np.ascontiguousarray(vectors)), torch.from_numpy(centroids)
    half = C.square().sum(dim=1) / 2
    nearest = torch.empty(len(V), dtype=torch.int64)
    step = max(1, _PRODUCTS // len(C))
    for start in range(0, len(V), step):
        part = V[start : start + step]
        torch.argmax(part @ C.T - half, dim=1, out=nearest[start : start + step])
    found: npt.NDArray[np.int64] = nearest.numpy()
    return found


def _beside(packed: Array, numbers: Array, *, first: bool = False) -> Array:
    """Rows of the bytes of ``packed`` [n, w] and of one number [n] each, which comes last unless ``first``."""
    beside = np.ascontiguousarray(numbers).astype(numbers.dtype.newbyteorder("<")).view(np.uint8)
    columns = [beside.reshape(len(packed), numbers.dtype.itemsize), packed]
    return np.concatenate(columns if first else columns[::-1], axis=1)


def _divided(vectors: Matrix, scales: Matrix) -> Matrix:
    """Zeros where the scale is zero."""
    return np.divide(vectors, scales[:, None], out=np.zeros_like(vectors), where=scales[:, None] > 0)


def _floats(scale: torch.Tensor) -> torch.Tensor:
    import torch

    # a copy begins where a number may begin, and a slice of rows need not
    return scale.clone(memory_format=torch.contiguous_format).view(torch.float32)[:, 0]


def _packed_size(dim: int, bits: int) -> int:
    return -(-dim * bits // 8)


def _unpack(packed: torch.Tensor, bits: int, weights: Matrix, out: torch.Tensor) -> None:
    """Write to ``out`` [n, dim] the weights of the codes of ``bits`` bits in ``packed`` [n, w], the first highest."""
    table = _table(bits, weights.tobytes(), out.device)
    found = table.index_select(0, packed.flatten().int()).view(len(packed), -1)
    out.copy_(found[:, : out.shape[1]])


@lru_cache(maxsize=16)
def _table(bits: int, weights: bytes, device: torch.device) -> torch.Tensor:
    """`byte_table`, where it stays."""
    import torch

    return torch.from_numpy(byte_table(bits, np.frombuffer(weights, np.float32))).to(device)


def byte_table(bits: int, weights: Matrix) -> Matrix:
    """What each of the 256 bytes stands for, [256, 8 / bits], where a code of ``bits`` bits stands for its weight."""
    codes = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).reshape(256, -1, bits)
    return weights[codes @ (1 << np.arange(bits)[::-1])]
