"""A document compressor for LangChain that re-ranks by the documents' ids, from a store."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from colbert_rerank.errors import MissingDependencyError
from colbert_rerank.integrations.pairing import SOURCE, reranked, source_of
from colbert_rerank.rerank import Reranker

try:
    from langchain_core.callbacks import Callbacks
    from langchain_core.documents import BaseDocumentCompressor, Document
    from pydantic import ConfigDict, Field
except ModuleNotFoundError as error:
    raise MissingDependencyError("compressors for LangChain", "colbert-rerank[langchain]") from error

SCORE = "relevance_score"


class ColbertStoreRerank(BaseDocumentCompressor):
    """Re-ranks documents by the vectors that a store has under their ids, as ``reranker`` is set to.

    An id is `Document.id`, or with ``id_key`` what stands under it in the metadata. What becomes of one without vectors
    is the re-ranker's ``missing``; under "encode" the page content is encoded. Retrieved documents carry no score, so
    for ``interpolate`` it is their place. ``top_n`` bounds the documents returned.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    reranker: Reranker = Field(exclude=True, repr=False)
    top_n: int | None = Field(default=None, ge=1)
    id_key: str | None = None

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """Copies of ``documents``, given in first-stage order, best first.

        Their metadata have the score as ``relevance_score``, and in ``relevance_source`` what it is of: "vectors",
        "sketches", or "first_stage", where there were no vectors. Raises InputError for ids that are missing, no
        strings, or given twice.
        """
        ids = [d.id if self.id_key is None else d.metadata.get(self.id_key) for d in documents]
        ranked = reranked(self.reranker, query, documents, ids, texts=[d.page_content for d in documents])
        return [
            document.model_copy(
                update={"metadata": {**document.metadata, SCORE: scored.score, SOURCE: source_of(scored)}}
            )
            for document, scored in islice(ranked, self.top_n)
        ]
