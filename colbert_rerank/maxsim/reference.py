"""MaxSim as it is written in the paper, in float64: slow, and obviously right. Every fast path is tested against it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt


def maxsim(query: npt.ArrayLike, document: npt.ArrayLike) -> float:
    """The sum over the query's vectors of the greatest inner product with any vector of the document.

    Khattab & Zaharia, SIGIR 2020, equation 3. ``query`` [Lq, d], ``document`` [T, d]. A document without vectors
    scores minus infinity, the maximum of nothing.
    """
    Q = np.asarray(query, dtype=np.float64)
    D = np.asarray(document, dtype=np.float64)
    total = 0.0
    for q in Q:
        best = -np.inf
        for d in D:
            best = max(best, float((q * d).sum()))
        total += best
    return total


def scores(query: npt.ArrayLike, values: npt.ArrayLike, offsets: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """`maxsim` of one query [Lq, d] with each of n documents packed in ``values`` [sum T, d], ``offsets`` [n + 1]."""
    D = np.asarray(values)
    bounds = np.asarray(offsets).tolist()
    return np.array([maxsim(query, D[a:b]) for a, b in pairwise(bounds)], dtype=np.float64)
