"""MaxSim, the score of late interaction: one public function over packed rows, and the reference it is held against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from colbert_rerank.errors import NonFiniteError, UsageError
from colbert_rerank.maxsim import packed

__all__ = ["AGGREGATIONS", "SIMILARITIES", "maxsim"]

SIMILARITIES = ("cosine", "dot", "l2")
AGGREGATIONS = ("sum", "mean")


def maxsim(
    query: npt.ArrayLike,
    values: npt.NDArray[np.floating],
    offsets: npt.ArrayLike,
    *,
    similarity: str = "dot",
    aggregation: str = "sum",
    device: str = "cpu",
    doc_ids: Sequence[str] | None = None,
) -> npt.NDArray[np.float64]:
    """Scores [n] of one query with n documents: sum over query tokens of the best match among document tokens.

    ``query`` [Lq, d]; ``values`` [sum T, d], the documents' rows one after the other, float16 or float32;
    ``offsets`` [n + 1], where each document begins and the last one ends. A document without rows scores minus
    infinity. ``similarity`` is "dot" (of normalized vectors the same as "cosine") or "l2", minus the squared distance;
    ``aggregation`` "sum" or "mean". ``doc_ids`` are only for messages.

    Raises UsageError where shapes do not fit or a name is unknown, NonFiniteError where the query or a document holds
    NaN or infinity.
    """
    Q = np.asarray(query, dtype=np.float32)
    bounds = np.asarray(offsets, dtype=np.int64)
    _check_shapes(Q, values, bounds)
    if similarity not in SIMILARITIES or aggregation not in AGGREGATIONS:
        known = f"{', '.join(SIMILARITIES)}; {', '.join(AGGREGATIONS)}"
        raise UsageError(f"similarity {similarity!r} and aggregation {aggregation!r}: expected of {known}")
    if not np.isfinite(Q).all():
        raise NonFiniteError("the query's vectors hold NaN or infinity")
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        document = int(np.searchsorted(bounds, int(np.argmin(finite)), side="right")) - 1
        name = repr(doc_ids[document]) if doc_ids is not None else f"number {document}"
        raise NonFiniteError(f"document {name}: its vectors hold NaN or infinity")
    return packed.scores(Q, values, bounds, device, similarity, aggregation)


def _check_shapes(Q: npt.NDArray[np.float32], values: npt.NDArray[np.floating], offsets: npt.NDArray[np.int64]) -> None:
    if Q.ndim != 2 or values.ndim != 2 or Q.shape[1] != values.shape[1]:
        raise UsageError(f"query [Lq, d] and values [rows, d] must share d; got {list(Q.shape)}, {list(values.shape)}")
    if values.dtype not in (np.float16, np.float32):
        raise UsageError(f"values must be float16 or float32, they are {values.dtype}")
    if offsets.ndim != 1 or offsets.size == 0 or offsets[0] != 0 or offsets[-1] != values.shape[0]:
        got = f"{offsets[0]} to {offsets[-1]}" if offsets.ndim == 1 and offsets.size else f"shape {list(offsets.shape)}"
        raise UsageError(f"offsets [n + 1] must run from 0 to {values.shape[0]}, the number of rows; got {got}")
    if (np.diff(offsets) < 0).any():
        raise UsageError("offsets must not fall")
