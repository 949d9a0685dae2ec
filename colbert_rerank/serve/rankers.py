"""What the engine scores documents by: a store's re-ranker, or, where there is no store, an encoder alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from colbert_rerank.encoder import Encoder
from colbert_rerank.maxsim import maxsim
from colbert_rerank.report import Report
from colbert_rerank.rerank import Reranker

__all__ = ["Ranker", "TextRanker", "passes"]


class TextRanker:
    """Scores of texts, and of nothing that is stored: as `Reranker` has them."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.report = Report()

    def score(self, Q: npt.NDArray[np.float32], doc_ids: Sequence[str]) -> npt.NDArray[np.float64]:
        return np.full(len(doc_ids), -np.inf)

    def score_texts(self, Q: npt.NDArray[np.float32], texts: Sequence[str]) -> npt.NDArray[np.float64]:
        with self.report.timed("encode_missing"):
            vectors = self.encoder.encode_documents(texts)
        spec, offsets = self.encoder.checkpoint.spec, np.cumsum([0, *map(len, vectors)])
        kind = {"similarity": spec.similarity, "aggregation": spec.aggregation}
        with self.report.timed("score"):
            return maxsim(Q, np.concatenate(vectors), offsets, **kind, device=str(self.encoder.device))


Ranker = Reranker | TextRanker


def passes(ranker: Ranker, texts: Sequence[str]) -> list[list[int]]:
    """Places of the texts that are encoded at once, the first ones first. Raises as `Encoder.tokenize_documents`."""
    stride = 0 if isinstance(ranker, TextRanker) else ranker.store.manifest.recipe.stride
    return ranker.encoder.passes(ranker.encoder.tokenize_documents(texts, stride=stride))
