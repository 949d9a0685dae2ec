"""The paper's way of finding documents: those of the vectors nearest to each token of the query.

Khattab & Zaharia, SIGIR 2020, section 3.6: FAISS finds the k' nearest vectors of each token, and the union of their
documents is scored by their vectors. Here a union may be cut: its documents are in the order of the sum over the
query's tokens of the nearest of their vectors that were found, or, where a document has none, of the last that was
found for that token, above which it cannot be (XTR: Lee et al., NeurIPS 2023, section 4).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]


def union(documents: Numbers, similarities: npt.NDArray[np.float32], k: int) -> tuple[Numbers, Scores]:
    """The ``k`` best documents of a query's lists [Lq, k'], best first, and their scores; of equal ones the first.

    ``documents`` are whose each vector is, -1 where there was none to be found; lists are in falling order.
    """
    tokens, length = documents.shape
    there = documents >= 0
    token = np.repeat(np.arange(tokens), length).reshape(tokens, length)[there]
    found, place = np.unique(documents[there], return_inverse=True)
    if not found.size:
        return found, np.empty(0)
    last = np.where(there, similarities, np.inf).min(axis=1)  # of lists that are empty, infinity
    last = np.where(np.isfinite(last), last, 0).astype(np.float64)
    best = np.tile(last, (found.size, 1))
    np.maximum.at(best, (place, token), similarities[there].astype(np.float64))
    scores = best.sum(axis=1)
    order = np.lexsort((found, -scores))[:k]
    return found[order], scores[order]


def reference(documents: Numbers, similarities: npt.NDArray[np.float32], k: int) -> list[tuple[int, float]]:
    """`union`, by plain loops."""
    lasts, nearest = [], []
    for numbers, values in zip(documents.tolist(), similarities.tolist(), strict=True):
        best: dict[int, float] = {}
        for number, value in zip(numbers, values, strict=True):
            if number >= 0:
                best[number] = max(value, best.get(number, value))
        nearest.append(best)
        lasts.append(
            min(best.values(), default=0.0)
            if not best
            else min(v for n, v in zip(numbers, values, strict=True) if n >= 0)
        )
    scores = {
        number: sum(best.get(number, last) for best, last in zip(nearest, lasts, strict=True))
        for number in {number for best in nearest for number in best}
    }
    return sorted(scores.items(), key=lambda one: (-one[1], one[0]))[:k]
