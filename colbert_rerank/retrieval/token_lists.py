"""The paper's way of finding documents: those of the vectors nearest to each token of the query.

Khattab & Zaharia, SIGIR 2020, section 3.6: FAISS finds the k' nearest vectors of each token, and the union of their
documents is scored by their vectors. Here a union may be cut: its documents are in the order of the sum over the
query's tokens of the nearest of their vectors that were found, or, where a document has none, of the last that was
found for that token, above which it cannot be (XTR: Lee et al., NeurIPS 2023, section 4).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from colbert_rerank.retrieval.documents import Numbers

Scores = npt.NDArray[np.float64]


def union(documents: Numbers, similarities: npt.NDArray[np.float32], k: int) -> tuple[Numbers, Scores]:
    """The ``k`` best documents of a query's lists [Lq, k'], best first, and their scores; of equal ones the first.

    ``documents`` are whose each vector is, -1 where there was none to be found. A token for which nothing was found
    adds nothing.
    """
    there = documents >= 0
    found, places = np.unique(documents[there], return_inverse=True)
    last = np.where(there, similarities, np.inf).min(axis=1, initial=np.inf)
    best = np.repeat(np.where(np.isinf(last), 0, last)[None].astype(np.float64), found.size, axis=0)
    np.maximum.at(best, (places, np.nonzero(there)[0]), similarities[there].astype(np.float64))
    scores = best.sum(axis=1)
    order = np.lexsort((found, -scores))[:k]
    return found[order], scores[order]


def reference(documents: Numbers, similarities: npt.NDArray[np.float32], k: int) -> list[tuple[int, float]]:
    """`union`, one document after the other."""
    lists = [
        [(number, value) for number, value in zip(numbers, values, strict=True) if number >= 0]
        for numbers, values in zip(documents.tolist(), similarities.tolist(), strict=True)
    ]
    scores = {
        document: sum(
            max((value for number, value in found if number == document), default=min(value for _, value in found))
            for found in lists
            if found
        )
        for document in {number for found in lists for number, _ in found}
    }
    return sorted(scores.items(), key=lambda one: (-one[1], one[0]))[:k]
