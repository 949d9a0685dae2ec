"""How a search asks for ids, and how they are read from its hits."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any

from mappings import DOC_ID

_log = logging.getLogger(__name__)

Hits = list[tuple[str, float]]


class IdSource(IntEnum):
    """Where a hit's id is read from; later ones work where earlier ones do not, and cost more."""

    COLUMN = 1  # the keyword column doc_id
    FIELDDATA = 2  # the doc values of _id: fielddata on the heap
    HIT = 3  # the stored field _id: five times slower at k = 1000


class IncompleteError(Exception):
    """More documents share the score at the cut than were asked for; ask for ``size``."""

    def __init__(self, size: int) -> None:
        self.size = size


def search_body(ids: IdSource, size: int, window: int, qualified: bool) -> dict[str, object]:
    """The part of a search body that does not depend on the query."""
    if ids is IdSource.HIT:
        # No column to break ties by: some hits more show whether the score at the cut goes on beyond it.
        return {"size": min(size + 1, window), "_source": False, "track_total_hits": False}
    name = DOC_ID if ids is IdSource.COLUMN else "_id"
    by_index: list[object] = [{"_index": "asc"}] if qualified else []
    return {
        "size": size,
        "_source": False,
        "stored_fields": "_none_",
        "docvalue_fields": [name],
        "sort": ["_score", *by_index, {name: "asc"}],
        "track_total_hits": False,
    }


def read_hits(
    found: Sequence[Mapping[str, Any]], ids: IdSource, k: int, size: int, window: int, qualified: bool
) -> Hits | None:
    """Ids and scores, best first, ties by id; ``None`` where a hit lacks the column. Raises ``IncompleteError``."""
    hits: Hits = []
    for hit in found:
        if ids is IdSource.HIT:
            inner_id = hit["_id"]
        else:
            values = hit.get("fields", {}).get(DOC_ID if ids is IdSource.COLUMN else "_id")
            if not values or len(values) != 1:
                return None
            inner_id = values[0]
        hits.append((f"{hit['_index']}/{inner_id}" if qualified else inner_id, float(hit["_score"])))
    if ids is not IdSource.HIT:
        return hits
    asked = min(size + 1, window)
    if len(hits) == asked and hits[-1][1] == hits[min(k, asked - 1) - 1][1]:
        if asked < window:
            raise IncompleteError(min(4 * size, window))
        _log.warning("%d documents or more share a score; which are kept at the cut is up to the server", asked - k + 2)
    hits.sort(key=lambda hit: (-hit[1], hit[0]))
    return hits[:k]
