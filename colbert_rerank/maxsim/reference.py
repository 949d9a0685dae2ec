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


def rounding(query: npt.ArrayLike, longest: float) -> float:
    """How far a score may be off whose products were summed in float32, in any order, and their maxima in float64.

    ``query`` [Lq, d]; ``longest`` is the length of the longest row, as it is decoded. A product of d dimensions is off
    by at most d u |q| |r| with u = 2^-24 (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1), and so
    is a maximum of such; two more roundings are for a row's factor. Twice that is given, for what decoding itself
    rounds: centroids and codes are added, and lengths divided by, in float32.
    """
    Q = np.asarray(query, dtype=np.float64)
    return float(2 * (Q.shape[1] + 2) * 2.0**-24 * longest * np.linalg.norm(Q, axis=1).sum())
