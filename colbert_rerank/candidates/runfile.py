"""Candidates from a TREC run that another system wrote."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence, Set

from colbert_rerank.errors import UsageError
from colbert_rerank.trec import as_trec_eval_ranks, read_run
from colbert_rerank.types import Document, Origin, Query, ScoredDoc


class RunCandidates:
    """A first stage that was run before. Ids only: which index they belong to, and its texts, a run does not say."""

    def __init__(self, path: str) -> None:
        """Read the whole run. Raises InputError for a line that cannot be used and for a run without rows."""
        self._path = path
        self._ids: dict[str, list[str]] = {}
        self._scores: dict[str, array[float]] = {}
        for row in read_run(path):
            self._ids.setdefault(row.query_id, []).append(row.doc_id)
            self._scores.setdefault(row.query_id, array("d")).append(row.score)

    @property
    def query_ids(self) -> Set[str]:
        """The queries that the run has rows of."""
        return self._ids.keys()

    @property
    def origin(self) -> Origin | None:
        return None

    def search(self, queries: Sequence[Query], k: int) -> Iterator[list[ScoredDoc]]:
        """Yield at most ``k`` rows for each query in trec_eval's order; none for a query that the run lacks."""
        for query in queries:
            ids = self._ids.get(query.query_id, [])
            scores = self._scores.get(query.query_id, array("d"))
            rows = (ScoredDoc(query.query_id, doc_id, score) for doc_id, score in zip(ids, scores, strict=True))
            yield as_trec_eval_ranks(rows)[:k]

    def fetch(self, doc_ids: Sequence[str]) -> Iterable[Document]:
        """Raises UsageError: a run has no texts."""
        raise UsageError(
            f"the run {self._path} holds ids and no texts, so documents without vectors cannot be encoded from it. "
            "Choose another policy for missing vectors than encode, or take the candidates from the index"
        )
