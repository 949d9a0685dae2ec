"""A first stage in an index of a search server: ids and scores by ``_msearch``, and documents by id."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from colbert_rerank.candidates.cluster import Cluster
from colbert_rerank.candidates.documents import PREFERENCE, Documents
from colbert_rerank.candidates.hits import Hits, IdSource, IncompleteError, read_hits, search_body
from colbert_rerank.candidates.template import QueryTemplate, match_contents, match_fields
from colbert_rerank.errors import OpenSearchError, UsageError
from colbert_rerank.indices import IndexInfo, window_of
from colbert_rerank.retry import BUSY_STATUS, READ, Retry, backoff
from colbert_rerank.server_errors import error_reason
from colbert_rerank.types import Document, Origin, Query, ScoredDoc
from mappings import CONTENTS, DOC_ID, made_by_us

CHECKED_IDS = 100

_log = logging.getLogger(__name__)


class IndexCandidates:
    """Candidates from an index, alias or pattern; see ``colbert_rerank.types.Candidates``.

    ``indices`` are the concrete ones behind the name ``index``, and ``sources`` where ids are read from: the first of
    them that proves good. ``template`` is the query; without it, an index of ours is searched by one ``match`` on all
    its text, and an index that we found by ``fields``. With ``qualified_ids`` the ids read ``index/id``. ``dfs`` scores
    with the term statistics of all shards. ``batch`` queries travel in one request. Nothing is ever written. Raises
    leaves of ``OpenSearchError``, ``UsageError``, and ``InputError`` for an id that two documents share.
    """

    def __init__(
        self,
        cluster: Cluster,
        index: str,
        indices: Sequence[IndexInfo],
        *,
        origin: Origin,
        sources: Sequence[IdSource],
        fields: Sequence[str] = (),
        template: QueryTemplate | None = None,
        qualified_ids: bool = False,
        dfs: bool = False,
        batch: int = 16,
        retry: Retry = READ,
    ) -> None:
        if batch < 1:
            raise UsageError(f"a batch holds at least one query, not {batch}")
        self._origin = origin
        self._cluster = cluster
        self._index = index
        self._indices = {info.name: info for info in indices}
        self._qualified = qualified_ids
        self._dfs = dfs
        self._batch = batch
        self._retry = retry
        self._documents = Documents(cluster, index, indices, qualified=qualified_ids, retry=retry)
        # What searches find out is theirs alone: `fetch`, which another thread may call meanwhile, does not look at it.
        self.sources = tuple(sources)
        self._ids = sources[0]
        self._column_checked = False
        self._template = template or self._default_template(fields)

    @property
    def origin(self) -> Origin:
        """The concrete index and its UUID; several are joined by commas."""
        return self._origin

    def search(self, queries: Sequence[Query], k: int) -> Iterator[list[ScoredDoc]]:
        """Yield, for each query in order, at most ``k`` documents: score falling, ties by id rising."""
        if k < 1:
            raise UsageError(f"k must be 1 or more, not {k}")
        window = self._window()
        if k > window:
            raise UsageError(
                f"k = {k} is more than {self._index!r} gives at once (index.max_result_window = {window}); "
                "lower k, or raise that setting"
            )
        waiting = iter(queries)
        while batch := list(islice(waiting, self._batch)):
            for query, hits in zip(batch, self._search_batch(batch, k), strict=True):
                yield [ScoredDoc(query.query_id, doc_id, score) for doc_id, score in hits]

    def fetch(self, doc_ids: Sequence[str]) -> Iterator[Document]:
        """The documents with these ids, in any order; ids the index does not hold are left out."""
        return self._documents.fetch(doc_ids)

    def present(self, doc_ids: Sequence[str]) -> set[str]:
        """Those of these ids that the caller may find there."""
        return self._documents.present(doc_ids)

    def _default_template(self, fields: Sequence[str]) -> QueryTemplate:
        if all(made_by_us(info.mapping) for info in self._indices.values()):
            return match_contents(CONTENTS)
        if not fields:
            raise UsageError(
                f"{self._index!r} was not made by this package: name the fields to search, or give a query"
            )
        usable = [name for name in fields if any(_is_searchable(info.mapping, name) for info in self._indices.values())]
        if not usable:
            raise UsageError(
                f"{self._index!r} has no searchable field {' or '.join(map(repr, fields))}; name other fields, or give "
                "a query"
            )
        if len(usable) < len(fields):
            _log.info("%s: only %s of %s can be searched", self._index, ", ".join(usable), ", ".join(fields))
        nested = {
            name: path for name in usable for info in self._indices.values() if (path := _nested(info.mapping, name))
        }
        return match_fields(usable, nested)

    def _window(self) -> int:
        return min(map(window_of, self._indices.values()))

    def _search_batch(self, queries: Sequence[Query], k: int) -> list[Hits]:
        """Ask until every query has its answer; only those without one are asked again."""
        done: dict[int, Hits] = {}
        sizes = [k] * len(queries)
        attempt = 0
        while waiting := [i for i in range(len(queries)) if i not in done]:
            ids = self._ids
            answers = self._ask([queries[i] for i in waiting], [sizes[i] for i in waiting], ids)
            busy: Mapping[str, Any] | None = None
            for i, answer in zip(waiting, answers, strict=True):
                if "error" in answer:
                    if ids is not IdSource.HIT and _fielddata_is_off(answer):
                        self._fall_back(IdSource.HIT, "fielddata on _id is switched off in this cluster")
                    elif answer.get("status") in BUSY_STATUS:
                        busy = answer
                    else:
                        self._raise(queries[i], _refusal(self._cluster.server, answer))
                    continue
                try:
                    hits = self._read(queries[i], answer, k, sizes[i], ids)
                except IncompleteError as error:
                    sizes[i] = error.size
                    continue
                if hits is not None:
                    done[i] = hits
            if busy is not None:
                attempt += 1
                if attempt >= self._retry.attempts:
                    raise OpenSearchError(
                        f"{self._cluster.url}, index {self._index!r}: still busy after {attempt} attempts "
                        f"({busy['status']} {error_reason(busy['error'])}); try again later, or with smaller batches"
                    )
                time.sleep(backoff(attempt - 1, self._retry))
        return [done[i] for i in range(len(queries))]

    def _ask(self, queries: Sequence[Query], sizes: Sequence[int], ids: IdSource) -> list[dict[str, Any]]:
        header: dict[str, object] = {"preference": PREFERENCE, "allow_partial_search_results": False}
        if self._dfs:
            header["search_type"] = "dfs_query_then_fetch"
        searches = [
            (header, self._template.render(query.text) | search_body(ids, size, self._window(), self._qualified))
            for query, size in zip(queries, sizes, strict=True)
        ]
        return self._cluster.search_many(self._index, searches, self._retry)

    def _read(self, query: Query, answer: Mapping[str, Any], k: int, size: int, ids: IdSource) -> Hits | None:
        """The hits of one answer; ``None`` where it must be asked again because the ``doc_id`` column proved wrong."""
        shards = answer["_shards"]
        if answer.get("timed_out") or shards["failed"] or shards["successful"] < shards["total"]:
            self._raise(query, f"searched only {shards['successful']} of {shards['total']} shards to the end")
        for hit in answer["hits"]["hits"]:
            if hit["_index"] not in self._indices:
                self._raise(query, f"now also finds documents of {hit['_index']!r}: it changed while it was in use")
        hits = read_hits(answer["hits"]["hits"], ids, k, size, self._window(), self._qualified)
        if hits is None or not self._column_holds(hits, ids):
            what = DOC_ID if ids is IdSource.COLUMN else "_id"
            self._fall_back(IdSource(ids + 1), f"its column {what!r} is not the same as _id for every hit")
            return None
        if len({doc_id for doc_id, _ in hits}) < len(hits):
            twice = next(doc_id for doc_id, count in Counter(doc_id for doc_id, _ in hits).items() if count > 1)
            for index, (inner_id,) in self._documents.by_index([twice]):
                self._documents.check_twins(index, inner_id)
            self._raise(query, f"finds the document {twice!r} twice")
        return hits

    def _column_holds(self, hits: Hits, ids: IdSource) -> bool:
        """Once, on the first page: whether the ``doc_id`` column says what ``_id`` says."""
        if ids is not IdSource.COLUMN or self._column_checked or not hits:
            return True
        for index, page in self._documents.by_index([doc_id for doc_id, _ in hits[:CHECKED_IDS]]):
            found = self._documents.hits(index, page, {"_source": False, "docvalue_fields": [DOC_ID]})
            if any(hit.get("fields", {}).get(DOC_ID) != [hit["_id"]] for hit in found):
                return False
            if {hit["_id"] for hit in found} != set(page):
                return False
        self._column_checked = True
        return True

    def _fall_back(self, ids: IdSource, why: str) -> None:
        """Go on with the first source that is ``ids`` or comes after it."""
        if ids.value > self._ids.value:
            _log.warning("%s: %s; reading ids the slower way", self._index, why)
            self._ids = next(source for source in self.sources if source.value >= ids.value)

    def _raise(self, query: Query, what: str) -> None:
        asked = f", query {query.query_id!r}" if query.query_id else ""
        raise OpenSearchError(f"{self._cluster.url}, index {self._index!r}{asked}: {what}")


def _is_searchable(mapping: Mapping[str, Any], name: str) -> bool:
    """Whether a mapping has an indexed field of this (dotted) name."""
    if name in mapping.get("derived", {}):
        return True
    field: Mapping[str, Any] = mapping
    for part in name.split("."):
        if field.get("type") == "flat_object":
            return True
        below = field.get("properties", {}) | field.get("fields", {})
        if part not in below:
            return False
        field = below[part]
    return "type" in field and field.get("index") is not False


def _nested(mapping: Mapping[str, Any], name: str) -> str:
    """The path of the innermost nested object that a (dotted) field lies in; empty where it lies in none."""
    field, path, found = mapping, "", ""
    for part in name.split("."):
        field = field.get("properties", {}).get(part, {})
        path = f"{path}.{part}".removeprefix(".")
        if field.get("type") == "nested":
            found = path
    return found


def _refusal(server: str, answer: Mapping[str, Any]) -> str:
    reason = error_reason(answer["error"])
    if answer["error"].get("type") == "index_closed_exception":
        return "the index is closed; open it to search it"
    if "maxClauseCount" in reason:
        reason += "; shorten the query, or raise the node's setting indices.query.bool.max_clause_count"
    return f"{server} answered {answer.get('status')}: {reason}"


def _fielddata_is_off(answer: Mapping[str, Any]) -> bool:
    return "indices.id_field_data.enabled" in error_reason(answer["error"])
