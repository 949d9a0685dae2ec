"""MaxSim over packed rows, on a CPU or a GPU: no padding between documents, no list of matrices.

Rows go through in tiles of one fixed shape, whatever the documents are, so that the matrix product always takes the
same path and a document's score does not depend, to the bit, on what it is scored with. A tile's unused rows are never
looked at. Products are summed in float32; the sum over the query's tokens is taken in float64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

    from colbert_rerank.store.codecs import Codec

# Rows of a tile. On a CPU a float32 tile of 128 dimensions is 1 MB and stays in the cache of a core.
TILE = {"cpu": 2048, "cuda": 65536, "mps": 16384}


def scores(
    query: npt.NDArray[np.float32],
    values: npt.NDArray[Any] | torch.Tensor,
    offsets: npt.NDArray[np.int64],
    device: str = "cpu",
    similarity: str = "dot",
    aggregation: str = "sum",
    tile: int | None = None,
    codec: Codec | None = None,
) -> npt.NDArray[np.float64]:
    """Scores [n] of one query [Lq, d] with n documents in ``values`` [sum T, d] (fp16 or fp32), ``offsets`` [n + 1].

    Or in rows [sum T, width] that ``codec`` has made, which are decoded a tile at a time. A document's score is NaN
    where one of its rows is not finite.
    """
    import torch

    where = torch.device(device)
    rows = tile or TILE[where.type]
    Q = torch.from_numpy(np.ascontiguousarray(query, dtype=np.float32)).to(where)
    D = values if isinstance(values, torch.Tensor) else torch.from_numpy(values)
    documents = offsets.size - 1
    best = torch.full((documents, Q.shape[0]), -torch.inf, device=where)
    buffer = torch.zeros((rows, Q.shape[1]), device=where)
    product = torch.empty((rows, Q.shape[0]), device=where)
    zero = torch.zeros((), device=where)
    for start in range(0, values.shape[0], rows):
        end = min(start + rows, values.shape[0])
        factors = None
        if codec is None:
            buffer[: end - start].copy_(D[start:end])
        else:
            factors = codec.expand(D[start:end].to(where), buffer[: end - start])
        torch.mm(buffer, Q.T, out=product)
        if factors is not None:
            product[: end - start] *= factors[:, None]
        if similarity == "l2":  # -|q - d|^2 = 2 qd - |d|^2 - |q|^2, the last of them below
            squares = buffer.square().sum(dim=1, keepdim=True)
            if factors is not None:
                squares[: end - start] *= factors.square()[:, None]
            product.mul_(2).sub_(squares)
        product.addcmul_(product, zero)  # NaN in place of infinity: a maximum would pass over that below zero
        fold = reduce_maxima if where.type == "cpu" else scatter_maxima
        fold(best, product, offsets, start, end)
    found = best.cpu().double()  # on the CPU: Apple's GPUs have no float64
    if similarity == "l2":
        found -= Q.cpu().double().square().sum(dim=1)
    return (found.mean(dim=1) if aggregation == "mean" else found.sum(dim=1)).numpy()


def reduce_maxima(
    best: torch.Tensor, product: torch.Tensor, offsets: npt.NDArray[np.int64], start: int, end: int
) -> None:
    """Fold the products [rows, Lq] of packed rows ``start`` to ``end`` into each document's maxima ``best`` [n, Lq]."""
    first, bounds = _span(offsets, start, end)
    filled = np.flatnonzero(np.diff(bounds))  # reduceat would give an empty document its neighbour's first row
    maxima = np.maximum.reduceat(product.numpy()[: end - start], bounds[filled], axis=0)
    known = best.numpy()
    known[first + filled] = np.maximum(known[first + filled], maxima)


def scatter_maxima(
    best: torch.Tensor, product: torch.Tensor, offsets: npt.NDArray[np.int64], start: int, end: int
) -> None:
    """The same on an accelerator. A maximum is exact in any order, so the scatter's order does not matter."""
    import torch

    first, bounds = _span(offsets, start, end)
    lengths = torch.from_numpy(np.diff(bounds)).to(product.device)
    owner = torch.repeat_interleave(lengths) + first
    best.scatter_reduce_(0, owner[:, None].expand(-1, best.shape[1]), product[: end - start], "amax")


def _span(offsets: npt.NDArray[np.int64], start: int, end: int) -> tuple[int, npt.NDArray[np.int64]]:
    """The first document with rows in ``start`` to ``end``, and where it and those after it begin in that range."""
    first = int(np.searchsorted(offsets, start, side="right")) - 1
    last = int(np.searchsorted(offsets, end, side="left"))
    return first, np.clip(offsets[first : last + 1], start, end) - start
