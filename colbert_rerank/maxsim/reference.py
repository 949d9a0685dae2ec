"""MaxSim as it is written in the paper, in float64: slow, and obviously right. Every fast path is tested against it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt


def maxsim(query: npt.ArrayLike, document: npt.ArrayLike, similarity: str = "dot", aggregation: str = "sum") -> float:
    """The sum, or mean, over the query's vectors of the greatest similarity with any vector of the document.

    Khattab & Zaharia, SIGIR 2020, equation 3; ``similarity`` is the inner product ("dot"; of normalized vectors the
    "cosine") or "l2", minus the squared distance, as section 3.3 has it. ``query`` [Lq, d], ``document`` [T, d]. A
    document without vectors scores minus infinity, the maximum of nothing.
    """
    Q = np.asarray(query, dtype=np.float64)
    D = np.asarray(document, dtype=np.float64)
    total = 0.0
    for q in Q:
        best = -np.inf
        for d in D:
            best = max(best, float(-((q - d) ** 2).sum() if similarity == "l2" else (q * d).sum()))
        total += best
    return total / len(Q) if aggregation == "mean" else total


def scores(
    query: npt.ArrayLike,
    values: npt.ArrayLike,
    offsets: npt.ArrayLike,
    similarity: str = "dot",
    aggregation: str = "sum",
) -> npt.NDArray[np.float64]:
    """`maxsim` of one query [Lq, d] with each of n documents packed in ``values`` [sum T, d], ``offsets`` [n + 1]."""
    D = np.asarray(values)
    bounds = np.asarray(offsets).tolist()
    return np.array([maxsim(query, D[a:b], similarity, aggregation) for a, b in pairwise(bounds)], dtype=np.float64)
