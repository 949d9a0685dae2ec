"""MaxSim, the score of late interaction: one public function over packed rows, and the reference it is held against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from colbert_rerank.errors import NonFiniteError, UsageError
from colbert_rerank.maxsim import gpu, native, packed
from colbert_rerank.store.codecs import Floats
from colbert_rerank.store.rows import DocumentRows, Gathered, RowRanges

__all__ = ["AGGREGATIONS", "SIMILARITIES", "in_place", "maxsim", "scores_of"]

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
    codec = Floats(values.dtype.name, values.shape[1])
    docs = Gathered(np.ones(bounds.size - 1, bool), np.ascontiguousarray(values), bounds, codec)
    scores = scores_of(Q, docs, device, similarity, aggregation)
    bad = ~np.isfinite(scores) & (docs.counts > 0)
    if bad.any():
        document = int(np.argmax(bad))
        name = repr(doc_ids[document]) if doc_ids is not None else f"number {document}"
        raise NonFiniteError(f"document {name}: its vectors hold NaN or infinity")
    return scores


def in_place(device: str) -> bool:
    """Whether rows are scored where they lie: on a CPU, by the compiled kernel. Else they are gathered first."""
    return device == "cpu" and bool(native.isas())


def scores_of(
    query: npt.NDArray[np.float32],
    docs: DocumentRows,
    device: str,
    similarity: str,
    aggregation: str,
) -> npt.NDArray[np.float64]:
    """Scores [n] of one query [Lq, d] with the documents found; not finite where a row is not.

    Ranges are scored where they lie: in memory, where `in_place` holds, or on the GPU that ``device`` names.
    """
    if isinstance(docs, RowRanges):
        return native.scores(query, docs, similarity, aggregation)
    if isinstance(docs, Gathered) and in_place(device):
        return native.scores(query, docs.ranges, similarity, aggregation)
    if isinstance(docs, Gathered) and device.startswith("cuda"):
        docs = docs.on(device)
    if isinstance(docs, Gathered):
        return packed.scores(query, docs.values, docs.offsets, device, similarity, aggregation, codec=docs.codec)
    docs.wait()
    if not gpu.fault(device):
        return gpu.scores([query], docs, None, similarity, aggregation)
    values, offsets = docs.packed()
    return packed.scores(query, values, offsets, device, similarity, aggregation, codec=docs.codec)


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
