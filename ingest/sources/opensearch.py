"""An existing OpenSearch index as a source. It is only read: no request changes anything in it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import opensearchpy

from colbert_rerank.candidates.cluster import OpenSearchCluster
from colbert_rerank.candidates.documents import Documents
from colbert_rerank.errors import InputError, OpenSearchAuthError, OpenSearchError, UsageError
from colbert_rerank.id_set import IdSet
from colbert_rerank.indices import IndexInfo, origin_of, resolve_readable, window_of
from colbert_rerank.opensearch import server_url, translated
from colbert_rerank.retry import WRITE, Retry, with_retry
from colbert_rerank.types import Document, Origin
from ingest.sources.mapping import check_fields
from ingest.sources.snapshots import (
    Hit,
    PointInTime,
    Scroll,
    Slice,
    Snapshot,
    SnapshotLostError,
    SortUnknownError,
)
from mappings import document_fields, made_by_us

MOST_REOPENED = 3  # times in a row without a new document in between

_log = logging.getLogger(__name__)


class Version(NamedTuple):
    """Which writing of a document the index holds; of one with custom routing no one can tell.

    Numbers count by shard, and routing can move an id to another one, where the same number means another writing.
    """

    doc_id: str
    seq_no: int
    primary_term: int

    @property
    def known(self) -> bool:
        return self.seq_no >= 0


class OpenSearchSource:
    """All documents of an index, alias or pattern, as they stood when the reading began.

    It is read slice after slice; a slice holds documents of one shard. Where the server loses the frozen view (it
    expired, or a node restarted) the slice is read again, less what was yielded. ``slices`` defaults to the number of
    shards. Several concrete indices need ``qualified_ids``: ids then read ``index/id``. Ids are remembered as hashes,
    about 20 bytes each.

    Raises ``UsageError``, leaves of ``OpenSearchError``, and ``InputError`` for an id that two documents share or an
    index without ``_source``.
    """

    def __init__(
        self,
        client: opensearchpy.OpenSearch,
        index: str,
        *,
        slices: int | None = None,
        page_docs: int = 1000,
        keep_alive: str = "10m",
        qualified_ids: bool = False,
        retry: Retry = WRITE,
    ) -> None:
        if slices is not None and not 1 <= slices <= 1024:
            raise UsageError(f"slices must lie in 1..1024, not {slices}")
        if not 1 <= page_docs <= 10_000:
            raise UsageError(f"a page holds 1 to 10000 documents, not {page_docs}")
        self.client = client
        self._index = index
        self._asked_slices, self._asked_page = slices, page_docs
        self._indices = {info.name: info for info in resolve_readable(client, index)}
        if len(self._indices) > 1 and not qualified_ids:
            raise UsageError(
                f"{index!r} stands for {len(self._indices)} indices ({', '.join(self._indices)}), where one id may "
                "name several documents; name one of them, or ingest with --qualified-ids, and ids read INDEX/ID"
            )
        for info in self._indices.values():
            _check_source(info)
        self._documents = Documents(
            OpenSearchCluster(client), index, list(self._indices.values()), qualified=qualified_ids, retry=retry
        )
        self._parts = [part for info in self._indices.values() for part in self._slices(info, slices)]
        self._page_docs = min(page_docs, *(window_of(info) for info in self._indices.values()))
        self._keep_alive = keep_alive
        self._qualified = qualified_ids
        self._retry = retry
        self._old_server = False

    @property
    def kind(self) -> str:
        return "opensearch"

    @property
    def name(self) -> str:
        return self._index

    @property
    def origin(self) -> Origin:
        """The concrete index and its UUID; several are joined by commas."""
        return origin_of(list(self._indices.values()), qualified=self._qualified)

    def again(self) -> OpenSearchSource:
        """The same name, and what it stands for by now. Raises as the constructor does."""
        return OpenSearchSource(
            self.client,
            self._index,
            slices=self._asked_slices,
            page_docs=self._asked_page,
            keep_alive=self._keep_alive,
            qualified_ids=self._qualified,
            retry=self._retry,
        )

    def check_fields(self, names: Sequence[str]) -> None:
        """Raises UsageError where no document can have text in one of these fields, by the mapping."""
        check_fields(list(self._indices.values()), names)

    def fetch(self, doc_ids: Sequence[str]) -> Iterator[Document]:
        """The documents with these ids, in any order; ids the index does not hold are left out."""
        return self._documents.fetch(doc_ids)

    def __iter__(self) -> Iterator[Document]:
        for info, doc_id, hit in self._read(whole=True):
            source = hit.get("_source")
            if source is None:
                raise _no_source(info.name)
            yield Document(
                doc_id,
                document_fields(source) if made_by_us(info.mapping) else source,
                f"{info.name}/{hit['_id']}",
                hit.get("_seq_no", -1),
                hit.get("_primary_term", -1),
            )

    def versions(self) -> Iterator[Version]:
        """The same without what the documents say, which takes a small part of the time."""
        for _, doc_id, hit in self._read(whole=False):
            known = "_routing" not in hit
            yield Version(doc_id, hit["_seq_no"] if known else -1, hit["_primary_term"] if known else -1)

    def left_out(self, origin: Origin) -> list[str]:
        """The indices among those of ``origin`` that are there, and that this name does not reach, or not now."""
        names = [name for name in origin.name.split(",") if name not in self._indices]
        if not self._qualified:
            return []
        with translated(self.client):
            exists = self.client.indices.exists
            return [name for name in names if with_retry(partial(exists, index=name), self._retry)]

    def refresh(self) -> None:
        """Let everything be seen that was written before; a user who may not do that sees it a little later."""
        try:
            with translated(self.client, index=self._index):
                with_retry(lambda: self.client.indices.refresh(index=self._index), self._retry)
        except OpenSearchAuthError as error:
            _log.info("%s is not refreshed: %s", self._index, error)

    def _slices(self, info: IndexInfo, slices: int | None) -> list[Slice]:
        number = slices or int(info.settings.get("number_of_shards", 1))
        return [Slice(i, number, info.name if len(self._indices) > 1 else None) for i in range(number)]

    def _read(self, *, whole: bool) -> Iterator[tuple[IndexInfo, str, Hit]]:
        """Every document once, with its index and its id."""
        seen = _Seen()
        snapshot = self._open()
        try:
            self._check_same()
            for part in self._parts:
                reopened = 0
                while True:
                    before = seen.count
                    try:
                        for hits in snapshot.pages(part, whole=whole):
                            yield from self._new(hits, seen)
                        break
                    except (SnapshotLostError, SortUnknownError) as error:
                        self._old_server = self._old_server or isinstance(error, SortUnknownError)
                        reopened = 1 if seen.count > before else reopened + 1
                        if reopened > MOST_REOPENED:
                            raise OpenSearchError(
                                f"{server_url(self.client)}, index {self._index!r}: the server keeps losing the "
                                f"frozen view of it (kept alive for {self._keep_alive}); look at its log"
                            ) from error
                        _log.info("%s: the frozen view is gone, opening another", self._index)
                        snapshot.close()
                        snapshot = self._open()
                        seen.resumed = True
                        self._check_same()
            if self._old_server:  # where each slice is a view of its own
                self._check_same()
        finally:
            snapshot.close()

    def _check_same(self) -> None:
        """Raise OpenSearchError where the frozen view may be of other indices than those known."""
        now = {info.name: info for info in resolve_readable(self.client, self._index)}
        if origin_of(list(now.values()), qualified=self._qualified) != self.origin:
            changes = [f"{name} came" for name in now.keys() - self._indices.keys()]
            changes += [f"{name} went" for name in self._indices.keys() - now.keys()]
            what = ", ".join(sorted(changes)) or "another index has its name"
            raise OpenSearchError(f"{self._index!r} was replaced while it was read ({what}); read it again")

    def _open(self) -> Snapshot:
        kind: type[PointInTime] | type[Scroll] = Scroll if self._old_server else PointInTime
        try:
            return kind(
                self.client, self._index, page_docs=self._page_docs, keep_alive=self._keep_alive, retry=self._retry
            )
        except OpenSearchError as error:
            # A server (or a proxy) without points in time knows neither the path nor the method.
            cause = error.__cause__
            if self._old_server or getattr(cause, "error", "") == "index_not_found_exception":
                raise
            if getattr(cause, "status_code", 0) not in (400, 404, 405, 501):
                raise
            _log.info("%s has no points in time, scrolling instead", server_url(self.client))
            self._old_server = True
            return self._open()

    def _new(self, hits: list[Hit], seen: _Seen) -> Iterator[tuple[IndexInfo, str, Hit]]:
        for hit in hits:
            info = self._indices.get(hit["_index"])
            if info is None:
                raise OpenSearchError(f"{self._index!r} now also holds {hit['_index']!r}: it changed while it was read")
            doc_id = f"{info.name}/{hit['_id']}" if self._qualified else hit["_id"]
            verdict = seen.look(doc_id, hit.get("_routing"))
            if verdict == "again" and seen.resumed:
                continue
            if verdict == "twice":
                self._documents.check_twins(info.name, hit["_id"])  # hashes alone may meet
            yield info, doc_id, hit


class _Seen:
    """Which documents were yielded. Those with custom routing are kept by routing and id: two may share an id."""

    def __init__(self) -> None:
        self.resumed = False  # only then can a document come again
        self._keys = IdSet()  # an id without routing, or routing and id
        self._routed = IdSet()  # ids of the routed ones

    @property
    def count(self) -> int:
        return len(self._keys)

    def look(self, doc_id: str, routing: str | None) -> str:
        """``"new"``, ``"again"`` for a document that was yielded before, ``"twice"`` for an id of two documents."""
        if not self._keys.add(doc_id if routing is None else f"\0{routing}\0{doc_id}"):
            return "again"
        if routing is None:
            return "twice" if len(self._routed) and doc_id in self._routed else "new"
        other = doc_id in self._keys
        return "twice" if not self._routed.add(doc_id) or other else "new"


def _check_source(info: IndexInfo) -> None:
    source = info.mapping.get("_source", {})
    if source.get("enabled") is False:
        raise _no_source(info.name)
    if limits := [f"{name} {', '.join(source[name])}" for name in ("includes", "excludes") if source.get(name)]:
        _log.warning("index %s keeps only a part of each document (_source %s)", info.name, "; ".join(limits))


def _no_source(index: str) -> InputError:
    return InputError(
        "the index keeps no _source, so its documents cannot be read back. Ingest them from where they came from",
        where=index,
    )
