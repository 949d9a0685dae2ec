"""A first stage that finds documents by their vectors: end to end, as Khattab & Zaharia, SIGIR 2020, section 3.6."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from colbert_rerank.candidates.index import IndexCandidates
from colbert_rerank.encoder import Encoder, QueryVectors
from colbert_rerank.errors import UsageError
from colbert_rerank.retrieval.documents import LiveDocuments, Numbers
from colbert_rerank.store.codecs import Matrix
from colbert_rerank.types import Document, Index, Origin, Query, ScoredDoc


class VectorIndex(Protocol):
    """What finds documents by their vectors: `CentroidIndex` or `FaissIndex`."""

    documents: LiveDocuments

    def best(
        self, query: Matrix, k: int, similarity: str = "dot", allowed: npt.NDArray[np.bool_] | None = None
    ) -> tuple[Numbers, npt.NDArray[np.float64]]: ...


class VectorCandidates:
    """The documents of a store that an index of its vectors finds; see `colbert_rerank.types.Candidates`.

    ``documents`` is where their texts are. In a search server, what is not there, or not for the caller to see, is no
    candidate: so there may be fewer than were asked for. ``allowed`` are the only ids that are looked for.

    Raises UsageError, NonFiniteError, and what ``documents`` raises.
    """

    def __init__(
        self, index: VectorIndex, encoder: Encoder, documents: Index, *, allowed: Sequence[str] | None = None
    ) -> None:
        self._index = index
        self._encoder = encoder
        self._documents = documents
        self._allowed = None if allowed is None else index.documents.known(allowed)
        self._encoded: dict[Query, QueryVectors] = {}

    @property
    def origin(self) -> Origin | None:
        return self._documents.origin

    def fetch(self, doc_ids: Sequence[str]) -> Iterable[Document]:
        return self._documents.fetch(doc_ids)

    def search(self, queries: Sequence[Query], k: int) -> Iterator[list[ScoredDoc]]:
        """At most ``k`` documents a query, by score falling, then by id. The scores stand in for MaxSim's."""
        if k < 1:
            raise UsageError(f"k must be 1 or more, not {k}")
        similarity = self._encoder.checkpoint.spec.similarity
        for query in queries:
            self._encoded[query] = encoded = self._encoder.encode_query(query.text)
            numbers, scores = self._index.best(encoded.vectors, k, similarity, self._allowed)
            found = list(zip((-scores).tolist(), self._index.documents.ids(numbers), strict=True))
            if isinstance(self._documents, IndexCandidates):
                there = self._documents.present([doc_id for _, doc_id in found])
                found = [one for one in found if one[1] in there]
            yield [ScoredDoc(query.query_id, doc_id, -below) for below, doc_id in sorted(found)]

    def take_vectors(self, query: Query) -> QueryVectors | None:
        """What a query that was searched for was searched with: once, so that no one encodes it again."""
        return self._encoded.pop(query, None)
