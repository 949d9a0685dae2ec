"""Documents out of a search server by their ids, whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from colbert_rerank.candidates.cluster import Cluster
from colbert_rerank.errors import InputError, OpenSearchError
from colbert_rerank.indices import IndexInfo, window_of
from colbert_rerank.retry import READ, Retry
from colbert_rerank.types import Document
from mappings import document_fields, made_by_us

# The same string sends every search to the same copy of a shard: copies may differ in deleted documents, so in scores.
PREFERENCE = "colbert-rerank"
BATCH = 100  # documents with their text, so not many at once


class Documents:
    """The documents of the ``indices`` behind the name ``index``; where ``qualified``, their ids read ``index/id``."""

    def __init__(
        self,
        cluster: Cluster,
        index: str,
        indices: Sequence[IndexInfo],
        *,
        qualified: bool = False,
        retry: Retry = READ,
    ) -> None:
        self._cluster = cluster
        self._index = index
        self._indices = {info.name: info for info in indices}
        # Twice the room for hits: custom routing can give an id to two documents, which must not hide others.
        self._room = max(1, min(window_of(info) // 2 for info in indices))
        self._qualified = qualified
        self._retry = retry

    def fetch(self, doc_ids: Sequence[str]) -> Iterator[Document]:
        """The documents with these ids, in any order; ids the index does not hold are left out.

        Raises InputError for an id that two documents have, and leaves of OpenSearchError.
        """
        waiting: Iterator[str] = iter(doc_ids)
        while batch := list(islice(waiting, min(BATCH, self._room))):
            for index, ids in self.by_index(batch):
                yield from self._fetch_batch(index, ids)

    def present(self, doc_ids: Sequence[str]) -> set[str]:
        """Those of these ids that the caller may find in the index, by one search for as many as it gives at once."""
        found: set[str] = set()
        waiting: Iterator[str] = iter(doc_ids)
        while batch := list(islice(waiting, self._room)):
            for index, ids in self.by_index(batch):
                hits = self.hits(index, ids, {"_source": False})
                found |= {f"{hit['_index']}/{hit['_id']}" if self._qualified else hit["_id"] for hit in hits}
        return found

    def by_index(self, doc_ids: Sequence[str]) -> list[tuple[str, list[str]]]:
        """The index, or each of several, with the ids (as they are in it) that belong there."""
        if not self._qualified:
            return [(self._index, list(doc_ids))]
        groups: dict[str, list[str]] = {}
        for doc_id in doc_ids:
            name, slash, inner_id = doc_id.partition("/")  # an index name holds no slash
            if slash and name in self._indices:
                groups.setdefault(name, []).append(inner_id)
        return list(groups.items())

    def hits(self, index: str, ids: Sequence[str], body: Mapping[str, object]) -> list[dict[str, Any]]:
        """The hits of an ``ids`` query, from every shard."""
        wanted: dict[str, object] = {"ids": {"values": list(ids)}}
        if self._qualified:  # by the name that was given: it may be an alias that filters
            wanted = {"bool": {"filter": [wanted, {"term": {"_index": index}}]}}
        full = {"query": wanted, "size": 2 * len(ids), "track_total_hits": False, **body}
        answer = self._cluster.search(self._index, full, PREFERENCE, self._retry)
        shards = answer["_shards"]
        if answer.get("timed_out") or shards["failed"] or shards["successful"] < shards["total"]:
            raise OpenSearchError(f"index {index!r}: only {shards['successful']} of {shards['total']} shards answered")
        found: list[dict[str, Any]] = answer["hits"]["hits"]
        return found

    def check_twins(self, index: str, inner_id: str) -> None:
        """Raise InputError, naming both, where two documents of ``index`` have this id: custom routing can do that."""
        twins = self.hits(index, [inner_id], {"_source": False, "explain": True})
        if len(twins) > 1:
            raise InputError(
                f"two documents have the id {inner_id!r}: {' and '.join(map(_place, twins))}. Custom routing put them "
                "on different shards; give one of them another id",
                where=index,
            )

    def _fetch_batch(self, index: str, ids: Sequence[str]) -> Iterator[Document]:
        seen: set[str] = set()
        for hit in self.hits(index, ids, {"_source": True, "seq_no_primary_term": True}):
            name, inner_id = hit["_index"], hit["_id"]
            if name not in self._indices:
                raise OpenSearchError(f"{self._index!r} now also holds {name!r}: it changed while it was in use")
            if inner_id in seen:
                self.check_twins(name, inner_id)
            seen.add(inner_id)
            source = hit.get("_source")
            if source is None:
                raise OpenSearchError(f"index {name!r} keeps no _source: the text of its documents cannot be fetched")
            yield Document(
                f"{name}/{inner_id}" if self._qualified else inner_id,
                document_fields(source) if made_by_us(self._indices[name].mapping) else source,
                f"{name}/{inner_id}",
                hit["_seq_no"],
                hit["_primary_term"],
            )


def _place(hit: Mapping[str, Any]) -> str:
    routing = f"with routing {hit['_routing']!r}" if "_routing" in hit else "without routing"
    return f"{hit.get('_shard', hit['_index'])} {routing}"
