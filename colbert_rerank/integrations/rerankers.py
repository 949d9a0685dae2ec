"""A ranker for the rerankers library that scores documents by their ids, from a store."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

from colbert_rerank.errors import InputError, MissingDependencyError, UsageError
from colbert_rerank.integrations.pairing import SOURCE, reranked, source_of
from colbert_rerank.rerank import Reranker

try:
    from rerankers.documents import Document
    from rerankers.models.ranker import BaseRanker
    from rerankers.results import RankedResults, Result
except ModuleNotFoundError as error:
    raise MissingDependencyError("rankers of the rerankers library", "colbert-rerank[rerankers]") from error

if TYPE_CHECKING:
    from colbert_rerank.integrations.langchain import ColbertStoreRerank


class ColbertStoreRanker(BaseRanker):
    """Ranks by the vectors that a store has under the documents' ids, as ``reranker`` is set to.

    What becomes of an id without vectors is its ``missing``. A text is looked at under missing="encode" alone, so that
    of a document known by its id the text may be ``""``. The documents returned are copies; their metadata say in
    ``relevance_source`` what a score is of: "vectors", "sketches", or "first_stage", where there were no vectors.
    """

    def __init__(self, reranker: Reranker) -> None:
        self.reranker = reranker

    def rank(
        self,
        query: str,
        docs: str | Document | Sequence[str | Document],
        doc_ids: str | Sequence[str] | None = None,
    ) -> RankedResults:
        """Documents in first-stage order, best first; ``doc_ids`` come before the documents' own.

        Raises InputError where ids are missing, no strings, or given twice: none are made up.
        """
        given = [docs] if isinstance(docs, (str, Document)) else [*docs]
        documents = [Document(text=d) if isinstance(d, str) else copy.copy(d) for d in given]
        if doc_ids is not None:
            ids = [doc_ids] if isinstance(doc_ids, str) else [*doc_ids]
            if len(ids) != len(documents):
                raise InputError(f"{len(ids)} doc_ids for {len(documents)} documents")
            for document, doc_id in zip(documents, ids, strict=True):
                document.doc_id = doc_id
        ranked = reranked(
            self.reranker, query, documents, [d.doc_id for d in documents], texts=[d.text for d in documents]
        )
        results = []
        for rank, (document, scored) in enumerate(ranked, start=1):
            document.metadata = {**document.metadata, SOURCE: source_of(scored)}
            results.append(Result(document=document, score=scored.score, rank=rank))
        return RankedResults(results=results, query=query, has_scores=True)

    def score(self, query: str, doc: str) -> float:
        """The score that a document of this text would have, were it in the store.

        Raises UsageError where first-stage scores are mixed in, and InputError for a text with nothing to encode.
        """
        if self.reranker.interpolate is not None:
            raise UsageError("score: a text has no first-stage score for interpolate to mix in")
        found = self.reranker.rerank_texts(query, [("text", 0.0)], [doc])
        if not found or not found[0].scored:
            raise InputError("score: the text is empty")
        return found[0].score

    def as_langchain_compressor(self, k: int = 10) -> ColbertStoreRerank:
        """The adapter for LangChain: that of the library takes positions for ids."""
        from colbert_rerank.integrations.langchain import ColbertStoreRerank

        return ColbertStoreRerank(reranker=self.reranker, top_n=k)
