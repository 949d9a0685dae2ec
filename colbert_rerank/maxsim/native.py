"""MaxSim on a CPU by the compiled kernel (kernel.c), straight from the rows as a store has mapped them.

It is built with the package where there is a C compiler. Without it `packed` does the same with torch.
"""

from __future__ import annotations

import ctypes
import logging
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from colbert_rerank.store.codecs import SIGNS, Binary, Codec, Floats, Int8, Residual, byte_table
from colbert_rerank.store.rows import RowRanges

_log = logging.getLogger(__name__)

LIBRARY = Path(__file__).with_name("_kernel.so")
GROUP = 32  # tokens, as in kernel.c
WORTH_A_THREAD = 8_000_000  # products of two numbers: a tenth of a millisecond or two
LARGEST_SUM = 2**31 - 1

_FLOAT32, _FLOAT16, _INT8, _CODES = range(4)


class _Work(ctypes.Structure):
    """As in kernel.c."""

    _fields_ = (
        ("dim", ctypes.c_int64),
        ("tokens", ctypes.c_int64),
        ("query", ctypes.c_void_p),
        ("steps", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("kind", ctypes.c_int32),
        ("squared", ctypes.c_int32),
        ("rows", ctypes.c_void_p),
        ("row_bytes", ctypes.c_int64),
        ("weights", ctypes.c_void_p),
        ("bits", ctypes.c_int32),
        ("unit_length", ctypes.c_int32),
        ("centroids", ctypes.c_void_p),
        ("centroid_count", ctypes.c_int64),
        ("documents", ctypes.c_int64),
        ("starts", ctypes.c_void_p),
        ("counts", ctypes.c_void_p),
        ("maxima", ctypes.c_void_p),
    )


def scores(
    query: npt.NDArray[np.float32],
    docs: RowRanges,
    similarity: str = "dot",
    aggregation: str = "sum",
    *,
    int16_query: bool = False,
    isa: str | None = None,
    threads: int | None = None,
) -> npt.NDArray[np.float64]:
    """Scores [n] of one query [Lq, d] with the documents found; NaN where a row, or the query, is not finite.

    A document's score does not depend, to the bit, on the others, on their order, or on ``threads``; it does on
    ``isa``, by default the best that this machine has (`isas`). ``int16_query`` rounds the query to 16 bits, 32,767
    steps up and down of each token's greatest number, and scores rows of int8 in whole numbers, without another error.

    Raises ValueError for ranges beyond the rows, and RuntimeError where the kernel is not there.
    """
    library = _library()
    if library is None:
        raise RuntimeError("the kernel was not built: isas() is empty")
    length, dim = query.shape
    tokens = max(1, -(-length // GROUP)) * GROUP
    Q = np.zeros((dim, tokens), np.float32)
    Q[:, :length] = query.T
    coded = _coded(docs.codec)
    steps, scales = _steps(query, tokens) if int16_query and coded.kind == _INT8 else (None, None)
    starts, counts = (np.ascontiguousarray(numbers, dtype=np.int64) for numbers in (docs.starts, docs.counts))
    if starts.size and (min(starts.min(), counts.min()) < 0 or (counts > len(docs.values) - starts).any()):
        raise ValueError("documents must lie within the rows")
    maxima = np.full((starts.size, tokens), -np.inf, np.float32)
    work = _Work(
        dim=dim,
        tokens=tokens,
        query=_address(Q),
        steps=_address(steps),
        scales=_address(scales),
        kind=coded.kind,
        squared=similarity == "l2",
        rows=_address(docs.values),
        row_bytes=docs.values.strides[0],
        weights=_address(coded.weights),
        bits=coded.bits,
        unit_length=coded.unit_length,
        centroids=_address(coded.centroids),
        centroid_count=0 if coded.centroids is None else len(coded.centroids),
        documents=starts.size,
        starts=_address(starts),
        counts=_address(counts),
        maxima=_address(maxima),
    )
    wanted = 1 + int(counts.sum()) * tokens * dim // WORTH_A_THREAD
    failed = library.maxsim_scores(ctypes.byref(work), (isa or isas()[0]).encode(), min(threads or _threads(), wanted))
    if failed:
        raise MemoryError("no memory for a few rows of vectors")
    found = maxima[:, :length].astype(np.float64)
    if similarity == "l2":  # -|q - d|^2 = 2 qd - |d|^2 - |q|^2, the last of them here
        found -= np.square(query, dtype=np.float64).sum(axis=1)
    summed: npt.NDArray[np.float64] = found.mean(axis=1) if aggregation == "mean" else found.sum(axis=1)
    return summed


@lru_cache(maxsize=1)
def isas() -> tuple[str, ...]:
    """The instruction sets that the kernel can use on this machine, best first; none where it was not built."""
    library = _library()
    return tuple(library.maxsim_isas().decode().split()) if library else ()


class _Coded(NamedTuple):
    """How the kernel reads rows."""

    kind: int
    weights: npt.NDArray[np.float32] | None = None
    bits: int = 8
    unit_length: bool = False
    centroids: npt.NDArray[np.float32] | None = None


def _coded(codec: Codec) -> _Coded:
    if isinstance(codec, Floats):
        return _Coded(_FLOAT16 if codec.name == "float16" else _FLOAT32)
    if isinstance(codec, Int8):
        return _Coded(_INT8)
    if isinstance(codec, Binary):
        return _Coded(_CODES, byte_table(1, SIGNS), 1)
    if isinstance(codec, Residual):
        book = codec.book
        return _Coded(_CODES, byte_table(codec.bits, book.weights), codec.bits, book.unit_length, book.centroids)
    raise TypeError(f"the kernel does not know the codec {codec.name!r}")


def _steps(query: npt.NDArray[np.float32], tokens: int) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.float32]]:
    """The query in whole steps, [(d + 1) / 2, tokens, 2], and how much one is, [tokens]."""
    length, dim = query.shape
    most = min(32767, LARGEST_SUM // (127 * max(1, dim)))  # so that no sum of products overflows
    scales = np.zeros(tokens, np.float32)
    scales[:length] = np.abs(query).max(axis=1, initial=0) / most
    steps = np.zeros((tokens, dim + dim % 2), np.int16)
    some = (scales[:length] > 0) & np.isfinite(scales[:length])
    steps[:length, :dim][some] = np.rint(query[some] / scales[:length][some, None])
    return np.ascontiguousarray(steps.reshape(tokens, -1, 2).transpose(1, 0, 2)), scales


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(str(LIBRARY))
        library.maxsim_work_bytes.restype = ctypes.c_int64
        library.maxsim_isas.restype = ctypes.c_char_p
        library.maxsim_scores.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int)
    except (OSError, AttributeError) as error:
        if LIBRARY.exists():
            _log.warning("%s cannot be used, so scoring is slower: %s", LIBRARY, error)
        return None
    if library.maxsim_work_bytes() != ctypes.sizeof(_Work):
        _log.warning("%s is of another version, so scoring is slower: install the package again", LIBRARY)
        return None
    return library


def _threads() -> int:
    """As many as torch uses, for whom OMP_NUM_THREADS and the cores that this process may use count."""
    import torch

    return torch.get_num_threads()


def _address(array: npt.NDArray[np.generic] | None) -> int | None:
    return None if array is None else array.ctypes.data
