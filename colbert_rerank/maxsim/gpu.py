"""MaxSim on a GPU, straight from rows in its memory: the ranges of candidates go there, and their scores come back.

late-interaction-kernels 0.4.5 and flash-maxsim 0.3.0 have such kernels, in Triton too, and either would have been used
if it kept what is promised here. Both round queries and rows to half precision, pass over NaN, and choose their tiles
by timing, so that a score's bits may differ from one run to the next; neither decodes the rows of this store; the
former wants documents one behind the other, and the latter counts numbers in 32 bits, which a store overflows.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from colbert_rerank.store.codecs import Codec, Residual, plain
from colbert_rerank.store.rows import DeviceRanges, check_within

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)

_SMALLEST = -100  # exponent of a query token, so that what it is scaled by is a normal number


def scores(
    queries: Sequence[npt.NDArray[np.float32]],
    docs: DeviceRanges,
    owners: npt.NDArray[np.int64] | None = None,
    similarity: str = "dot",
    aggregation: str = "sum",
) -> npt.NDArray[np.float64]:
    """Scores [n] of the documents found, number i with ``queries[owners[i]]`` [Lq, d], by default the first.

    NaN where a row, or the query, is not finite; minus infinity for a document without rows. A document's score does
    not depend, to the bit, on the others, on their order, or on other queries.

    Raises ValueError for ranges beyond the rows.
    """
    import torch

    from colbert_rerank.maxsim import gpu_kernel

    rows, codec = docs.values, docs.codec
    starts, counts = docs.starts, docs.counts
    check_within(starts, counts, len(rows))
    if not starts.size:
        return np.empty(0)
    owners = np.zeros(starts.size, np.int64) if owners is None else owners
    lengths = np.array([len(one) for one in queries])
    tokens = np.concatenate(queries)
    device = rows.device
    # One copy of all whole numbers: a copy takes longer to begin than to end. Each kind begins at a multiple of 16
    # bytes, whatever their number: for what does not, Triton would compile the kernel again.
    pad = np.zeros(starts.size % 2, np.int64)
    numbers = np.concatenate([starts, pad, counts, pad, owners, pad, [0], np.cumsum(lengths)], dtype=np.int64)
    places = torch.from_numpy(numbers).to(device).tensor_split([(starts.size + pad.size) * i for i in (1, 2, 3)])
    found = torch.empty(starts.size, dtype=torch.float64, device=device)
    whole, rest, units = (
        None if part is None else torch.from_numpy(part).to(device) for part in _operands(tokens, codec)
    )
    residual = codec if isinstance(codec, Residual) else None
    with torch.cuda.device_of(rows):  # type: ignore[no-untyped-call]
        gpu_kernel.maxsim_kernel[(starts.size,)](
            found,
            rows,
            *places,
            whole,
            rest,
            units,
            _weights(residual.book.weights.tobytes(), device) if residual else None,
            residual.centroids_on(device) if residual else None,
            len(residual.book.centroids) if residual else 0,
            **constants(codec, similarity),
        )
    summed: npt.NDArray[np.float64] = found.cpu().numpy()
    if similarity == "l2":  # -|q - d|^2 = 2 qd - |d|^2 - |q|^2, the last of them here
        summed -= np.array([np.square(one, dtype=np.float64).sum() for one in queries])[owners]
    return summed / lengths[owners] if aggregation == "mean" else summed


@lru_cache
def fault(device: str) -> str:
    """Why the kernel cannot be used on a device, which `packed` then takes its place on; empty where it can."""
    import torch

    try:
        one = DeviceRanges(
            np.ones(1, bool),
            torch.ones((1, 16), device=device),
            np.zeros(1, np.int64),
            np.ones(1, np.int64),
            plain("float32", 16),
        )
        scores([np.ones((1, 16), np.float32)], one)
    # Triton raises all sorts: it may not be installed, find no C compiler, or not know the GPU.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        _log.warning("Triton's kernel cannot be used on %s, so scoring is slower: %s", device, reason)
        return reason
    return ""


def constants(codec: Codec, similarity: str) -> dict[str, Any]:
    """What a kernel is compiled for."""
    from colbert_rerank.maxsim import gpu_kernel

    residual = codec if isinstance(codec, Residual) else None
    return {
        "dim": codec.dim,
        "width": codec.width,
        "kind": "residual" if residual else codec.name,
        "bits": residual.bits if residual else 8,
        "unit_length": residual is not None and residual.book.unit_length,
        "squared": similarity == "l2",
        "TOKENS": gpu_kernel.TOKENS,
        "ROWS": gpu_kernel.ROWS,
        "DIMS": _dims(codec),
    }


def _dims(codec: Codec) -> int:
    """How many dimensions are multiplied at once: no more than registers and 99 KiB of shared memory have room for."""
    most = 32 if _single(codec) else 128 if codec.dim <= 128 else 64
    return min(most, max(16, 1 << (codec.dim - 1).bit_length()))


def _single(codec: Codec) -> bool:
    """Whether products are of single precision, not of halves."""
    return isinstance(codec, Residual) or codec.name == "float32"


def _operands(
    tokens: npt.NDArray[np.float32], codec: Codec
) -> tuple[npt.NDArray[np.float32 | np.float16], npt.NDArray[np.float16] | None, npt.NDArray[np.float32] | None]:
    """Queries as the kernel multiplies them: in float32, or as two halves and what these are multiples of."""
    if _single(codec):
        return np.ascontiguousarray(tokens), None, None
    _, exponents = np.frexp(np.abs(tokens).max(axis=1, initial=0))
    shifts = 15 - np.maximum(exponents, _SMALLEST)
    scaled = np.ldexp(tokens, shifts[:, None])
    whole = scaled.astype(np.float16)
    return whole, (scaled - whole).astype(np.float16), np.ldexp(np.float32(1), -shifts)


@lru_cache(maxsize=16)
def _weights(weights: bytes, device: torch.device) -> torch.Tensor:
    """On a device, where they stay."""
    import torch

    return torch.from_numpy(np.frombuffer(weights, np.float32).copy()).to(device)
