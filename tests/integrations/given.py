"""What the adapters are given in tests: real documents in first-stage order, some of which a store does not have."""

from __future__ import annotations

from collections.abc import Sequence

from colbert_rerank.rerank import Reranker
from colbert_rerank.types import Document, ScoredDoc
from tests.collection import RECIPE, documents, queries

QUERY = queries(1)[0].text
GIVEN = documents(24)[::-1]  # four without vectors, first
IDS = [d.doc_id for d in GIVEN]
TEXTS = [RECIPE.text(d.fields) for d in GIVEN]
SCORES = [30.0 / (1 + place) for place in range(len(GIVEN))]  # not in proportion to the places
UNKNOWN = IDS[:4]


def fetch(doc_ids: Sequence[str]) -> list[Document]:
    return [d for d in GIVEN if d.doc_id in doc_ids]


def expected(reranker: Reranker, scores: Sequence[float] | None = None) -> list[ScoredDoc]:
    """What the re-ranker itself makes of them; by default the first stage gave no scores."""
    known = [-float(place) for place in range(len(IDS))] if scores is None else scores
    return reranker.rerank(QUERY, [*zip(IDS, known, strict=True)], fetch=fetch)


def source(document: ScoredDoc) -> str:
    return "vectors" if document.scored else "first_stage"
