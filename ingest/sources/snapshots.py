"""A frozen view of an index, read page by page: a point in time, or a scroll where the server knows no better."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

import opensearchpy

from colbert_rerank.errors import IndexNotFoundError, OpenSearchError
from colbert_rerank.opensearch import translated
from colbert_rerank.retry import Retry, pause_after, with_retry

FIRST_PAGE = 100
PAGE_BYTES = 8 << 20
_SAMPLED = 8

_log = logging.getLogger(__name__)

Hit = Mapping[str, Any]


class SnapshotLostError(Exception):
    """The server no longer knows the view: it expired, or a node restarted."""


class SortUnknownError(Exception):
    """The server cannot sort by ``_shard_doc`` (before 3.x)."""


class Slice(NamedTuple):
    """Documents read together: of one index, where the view is of several."""

    number: int
    of: int
    within: str | None = None


class Snapshot(Protocol):
    def pages(self, part: Slice, *, whole: bool = True) -> Iterator[list[Hit]]:
        """The hits of one slice, in order; unless ``whole``, without their sources. Raises ``SnapshotLostError``."""
        ...

    def close(self) -> None: ...


class PointInTime:
    """Every page names the last hit before it, so that a page can be asked for again.

    It is named by ``_shard_doc``, of which each index has its own: over several at once, documents of the same number
    would be left out at the end of a page. So each is read by itself.
    """

    def __init__(
        self, client: opensearchpy.OpenSearch, index: str, *, page_docs: int, keep_alive: str, retry: Retry
    ) -> None:
        self._client = client
        self._index = index
        self._page_docs = page_docs
        self._keep_alive = keep_alive
        self._retry = retry
        with translated(client, index=index):
            # opensearch-py's own create_pit is the same request.
            params = {"keep_alive": keep_alive, "allow_partial_pit_creation": "false"}
            answer = with_retry(lambda: client.create_pit(index=index, params=dict(params)), retry)
        check_complete(answer, index)
        self._id: str = answer["pit_id"]

    def pages(self, part: Slice, *, whole: bool = True) -> Iterator[list[Hit]]:
        body: dict[str, Any] = search_body(min(FIRST_PAGE, self._page_docs), part, whole=whole)
        body |= {"sort": [{"_shard_doc": "asc"}], "track_total_hits": False}
        while True:
            body["pit"] = {"id": self._id, "keep_alive": self._keep_alive}
            hits = self._page(body)
            if not hits:
                return
            yield hits
            body["search_after"] = hits[-1]["sort"]
            body["size"] = next_size(hits, self._page_docs)

    def close(self) -> None:
        with suppress(opensearchpy.OpenSearchException):  # it expires by itself
            self._client.delete_pit(body={"pit_id": [self._id]})

    def _page(self, body: Mapping[str, Any]) -> list[Hit]:
        params = {"allow_partial_search_results": "false", "search_pipeline": "_none"}
        try:
            with translated(self._client, index=self._index):
                answer = with_retry(lambda: self._client.search(body=body, params=dict(params)), self._retry)
        except OpenSearchError as error:
            if context_is_lost(error):
                raise SnapshotLostError from error
            if "_shard_doc" in str(error):
                raise SortUnknownError from error
            raise
        check_complete(answer, self._index)
        self._id = answer.get("pit_id", self._id)
        hits: list[Hit] = answer["hits"]["hits"]
        return hits


class Scroll:
    """The older way. A page cannot be asked for again: a lost answer loses the view."""

    def __init__(
        self, client: opensearchpy.OpenSearch, index: str, *, page_docs: int, keep_alive: str, retry: Retry
    ) -> None:
        self._client = client
        self._index = index
        self._page_docs = page_docs
        self._keep_alive = keep_alive
        self._retry = retry
        self._id = ""

    def pages(self, part: Slice, *, whole: bool = True) -> Iterator[list[Hit]]:
        self.close()
        # The size of a scroll's pages is fixed, so it must do for large documents too.
        size = min(FIRST_PAGE, self._page_docs) if whole else self._page_docs
        body = search_body(size, part, whole=whole) | {"sort": ["_doc"]}
        params = {"scroll": self._keep_alive, "allow_partial_search_results": "false", "search_pipeline": "_none"}
        with translated(self._client, index=self._index):
            answer = with_retry(
                lambda: self._client.search(index=self._index, body=body, params=dict(params)), self._retry
            )
        while True:
            check_complete(answer, self._index)
            self._id = answer["_scroll_id"]
            if not answer["hits"]["hits"]:
                return
            yield answer["hits"]["hits"]
            answer = self._next()

    def close(self) -> None:
        if self._id:
            with suppress(opensearchpy.OpenSearchException):
                self._client.clear_scroll(body={"scroll_id": [self._id]})
        self._id = ""

    def _next(self) -> dict[str, Any]:
        try:
            with translated(self._client, index=self._index):
                answer: dict[str, Any] = self._client.scroll(body={"scroll_id": self._id, "scroll": self._keep_alive})
                return answer
        except OpenSearchError as error:
            if context_is_lost(error):
                raise SnapshotLostError from error
            # Refused or cut off, the scroll may have moved on or not: only another one is sure to miss nothing.
            cause = error.__cause__
            wait = pause_after(cause, 0, self._retry) if isinstance(cause, opensearchpy.TransportError) else None
            if wait is None:
                raise
            time.sleep(wait)
            raise SnapshotLostError from error


def search_body(size: int, part: Slice, *, whole: bool) -> dict[str, Any]:
    """What both kinds ask for: every document, ``whole`` or not, with its sequence number."""
    body: dict[str, Any] = {
        "size": size,
        "query": {"term": {"_index": part.within}} if part.within else {"match_all": {}},
        "seq_no_primary_term": True,
        "_source": whole,
    }
    if part.of > 1:
        body["slice"] = {"id": part.number, "max": part.of}
    return body


def next_size(hits: list[Hit], most: int) -> int:
    """How many documents fill a page of ``PAGE_BYTES``, going by these; growing slowly, lest larger ones follow."""
    sample = hits[:: max(1, len(hits) // _SAMPLED)]
    size = sum(len(json.dumps(hit.get("_source"))) for hit in sample) / len(sample)
    return max(1, min(most, 2 * len(hits), int(PAGE_BYTES / max(size, 1.0))))


def context_is_lost(error: OpenSearchError) -> bool:
    """Whether the view is gone, alone or with its index: opening another one tells which."""
    cause = error.__cause__
    return isinstance(error, IndexNotFoundError) or "search_context_missing" in repr(getattr(cause, "info", ""))


def check_complete(answer: Mapping[str, Any], index: str) -> None:
    """Raise ``OpenSearchError`` for an answer that leaves shards out."""
    shards = answer["_shards"]
    if any("search_context_missing" in repr(failure) for failure in shards.get("failures", ())):
        raise SnapshotLostError
    if answer.get("timed_out") or shards["failed"] or shards["successful"] < shards["total"]:
        raise OpenSearchError(
            f"index {index!r}: only {shards['successful']} of {shards['total']} shards answered, so documents would be "
            "missed; look at the cluster's health"
        )
