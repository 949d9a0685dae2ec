"""A ranker component for Haystack that re-ranks by the documents' ids, from a store."""

# Annotations are not put off here: older versions of Haystack, such as 2.20, read a component's as they stand.
from dataclasses import replace
from itertools import islice
from typing import Any

from colbert_rerank.errors import MissingDependencyError
from colbert_rerank.integrations.pairing import SOURCE, check_count, reranked, source_of
from colbert_rerank.rerank import Reranker

try:
    from haystack import Document, component, default_from_dict, default_to_dict
except ModuleNotFoundError as error:
    raise MissingDependencyError("components for Haystack", "colbert-rerank[haystack]") from error


@component
class ColbertStoreRanker:
    """Re-ranks documents by the vectors that a store has under their ids.

    ``store`` is its folder; it is opened, with the checkpoint it was made with, by ``warm_up`` or the first ``run``.
    All other ``options`` are those of `Reranker.open`. An id is `Document.id`, or with ``id_key`` what stands under it
    in ``meta``. What becomes of one without vectors is said by the option ``missing``; under "encode" the content is
    encoded. ``top_k`` bounds the documents returned.

    A pipeline that was saved is loaded with ``allowed_modules=["colbert_rerank.*"]``, where Haystack asks for that.
    """

    def __init__(self, store: str, top_k: int | None = None, id_key: str | None = None, **options: Any) -> None:
        check_count("top_k", top_k)
        self.store = str(store)
        self.top_k = top_k
        self.id_key = id_key
        self.options = options
        self.reranker: Reranker | None = None

    def warm_up(self) -> None:
        """Open the store and load the model, once. Raises what `Reranker.open` does."""
        self._opened()

    @component.output_types(documents=list[Document])
    def run(self, query: str, documents: list[Document], top_k: int | None = None) -> dict[str, list[Document]]:
        """Copies of ``documents``, given in first-stage order, best first, with their scores.

        Their ``meta`` say in ``relevance_source`` what a score is of: "vectors", "sketches", or "first_stage", where
        there were no vectors. ``top_k`` comes before that of the component. Raises InputError for ids that are missing,
        no strings, or given twice.
        """
        check_count("top_k", top_k)
        ids = [d.id if self.id_key is None else d.meta.get(self.id_key) for d in documents]
        ranked = reranked(
            self._opened(),
            query,
            documents,
            ids,
            scores=[d.score for d in documents],
            texts=[d.content for d in documents],
        )
        best = islice(ranked, self.top_k if top_k is None else top_k)
        return {
            "documents": [replace(d, score=s.score, meta={**d.meta, SOURCE: source_of(s)}) for d, s in best],
        }

    def to_dict(self) -> dict[str, Any]:
        """The component as Haystack saves it: where the store is and how it is opened, not what is in it."""
        saved: dict[str, Any] = default_to_dict(
            self, store=self.store, top_k=self.top_k, id_key=self.id_key, **self.options
        )
        return saved

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "ColbertStoreRanker":
        """The component that `to_dict` saved."""
        made: ColbertStoreRanker = default_from_dict(cls, data)
        return made

    def _opened(self) -> Reranker:
        if self.reranker is None:
            self.reranker = Reranker.open(self.store, **self.options)
        return self.reranker
