"""The index of the first stage, as ingest fills it: OpenSearch, or the BM25 index beside the store."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from colbert_rerank.types import Document, Origin

if TYPE_CHECKING:
    import opensearchpy

    from colbert_rerank.candidates.bm25 import Bm25Index
    from ingest.bulk import BulkIndexer
    from ingest.target import Target


class Posting(NamedTuple):
    """A document on its way to the first stage; ``text`` is what was encoded."""

    doc_id: str
    text: str
    fields: Mapping[str, object]


class FirstStage(Protocol):
    @property
    def origin(self) -> Origin: ...

    @property
    def ours(self) -> bool:
        """Whether only ingests put documents there."""
        ...

    def count(self) -> int:
        """How many documents the index holds."""
        ...

    def fetch(self, doc_ids: Sequence[str]) -> Iterable[Document]:
        """As `colbert_rerank.types.Index` has it."""
        ...

    def post(self, postings: Sequence[Posting], content: int) -> None:
        """Index or replace these documents; ``content`` is the store's count. Raises BulkError for those refused."""
        ...

    def finish(self) -> None:
        """Make everything posted searchable."""
        ...

    def stop(self) -> None:
        """Give up a post that is under way in another thread, which then raises, soon."""
        ...


FirstStageOpener = Callable[[bool], FirstStage]
"""Opens an index to fill, and is told whether to make it where there is none; else raises IndexNotFoundError."""


class OpenSearchFirstStage:
    """All of a document's JSON goes to OpenSearch, not only what was encoded."""

    def __init__(self, target: Target, bulk: BulkIndexer) -> None:
        self.origin = target.origin
        self.ours = target.ours
        self._target = target
        self._bulk = bulk

    def count(self) -> int:
        return self._target.count()

    def fetch(self, doc_ids: Sequence[str]) -> Iterable[Document]:
        return self._target.documents.fetch(doc_ids)

    def post(self, postings: Sequence[Posting], content: int) -> None:
        self._bulk.index((p.doc_id, self._target.body_of(Document(p.doc_id, p.fields))) for p in postings)

    def finish(self) -> None:
        self._bulk.refresh()

    def stop(self) -> None:
        self._bulk.stop()


class Bm25FirstStage:
    """The embedded index searches the very text that was encoded, and keeps the fields for those who ask for them."""

    ours = True

    def __init__(self, index: Bm25Index) -> None:
        self.origin = index.origin
        self._index = index

    def count(self) -> int:
        return len(self._index)

    def fetch(self, doc_ids: Sequence[str]) -> Iterable[Document]:
        return self._index.fetch(doc_ids)

    def post(self, postings: Sequence[Posting], content: int) -> None:
        self._index.add(postings, content)

    def finish(self) -> None:
        pass  # every post is searchable when it returns

    def stop(self) -> None:
        pass  # it writes to the disk beside us, and is soon done


def opensearch(
    client: opensearchpy.OpenSearch,
    name: str,
    body: Mapping[str, Any],
    *,
    into_existing: bool = False,
    wanted: Collection[str] = (),
) -> FirstStageOpener:
    """For the index ``name`` as a first stage to fill, made with ``body`` where there is none. See `prepare_index`."""

    def opened(make: bool) -> FirstStage:
        from ingest.bulk import BulkIndexer
        from ingest.target import prepare_index

        target = prepare_index(client, name, body, into_existing=into_existing, wanted=wanted, make=make)
        return OpenSearchFirstStage(target, BulkIndexer(client, target.origin.name))

    return opened
