"""The indices that are searched through a pipeline: where their documents' ids are, and what a query looks like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import opensearchpy

from colbert_rerank.candidates.opensearch import has_id_column
from colbert_rerank.errors import UsageError
from colbert_rerank.indices import IndexInfo, resolve_readable, window_of
from mappings import CONTENTS, DOC_ID, QUALIFIED_ID, made_by_us, rerank_search

SIZE = 10  # hits of a search that does not say how many it wants
ID = "_id"  # its doc values are made on the heap, when they are first asked for

# Analysed, and kept as they were given in no column.
TEXTS = ("text", "match_only_text", "annotated_text", "search_as_you_type")
WITHOUT_VALUES = ("object", "nested", "binary")


class Searched(NamedTuple):
    """``fields`` are searched; ``id_field`` is what the service gets."""

    name: str
    infos: Sequence[IndexInfo]
    fields: Sequence[str]
    id_field: str

    def body(self, text: str, size: int) -> dict[str, Any]:
        """A search to be re-ranked."""
        fields = [*self.fields]
        query = {"match": {fields[0]: text}} if len(fields) == 1 else {"multi_match": {"query": text, "fields": fields}}
        return rerank_search(query, text, id_field=self.id_field, size=size)


def searched(
    client: opensearchpy.OpenSearch,
    index: str,
    *,
    id_field: str = "",
    fields: Sequence[str] = (),
    qualified: bool = False,
) -> Searched:
    """Look at an index, alias or pattern.

    Without an ``id_field`` that is ``doc_id`` where it is known to repeat the id (in an index of ours, or as an alias),
    and ``_id`` itself elsewhere; ``qualified`` joins the index's name to it. Raises OpenSearchError and UsageError.
    """
    infos = resolve_readable(client, index)
    if qualified and id_field:
        raise UsageError("qualified ids are made of the index's name and _id: name no field for them")
    if qualified:
        id_field = QUALIFIED_ID
    elif not id_field:
        id_field = DOC_ID if all(map(has_id_column, infos)) else ID
    elif id_field != ID:
        for info in infos:
            _check_id_field(info, id_field)
    if len(infos) > 1 and not qualified:
        raise UsageError(
            f"{index!r} stands for {len(infos)} indices, where one id may name several documents: with qualified ids "
            "(--qualified-ids) the service gets INDEX/ID, as a store made so has them"
        )
    for name in fields:
        if lacking := [info.name for info in infos if not _is_there(info, name)]:
            raise UsageError(f"{', '.join(lacking)}: there is no field {name!r} to search (--text-field)")
    if not fields:
        fields = (CONTENTS,) if all(made_by_us(info.mapping) for info in infos) else _text_fields(infos)
    return Searched(index, infos, fields, id_field)


def beyond_window(infos: Sequence[IndexInfo], oversample: float) -> str:
    """What is wrong with it where a search of usual size would then ask for more hits than it may; empty where not."""
    for info in infos:
        if SIZE * oversample > (window := window_of(info)):
            return (
                f"{info.name}: {oversample:g} times {SIZE} hits, as a search asks for, are more than its "
                f"index.max_result_window, {window:,}"
            )
    return ""


def _field(info: IndexInfo, name: str) -> Mapping[str, Any] | None:
    """A field's mapping; that of its path for an alias."""
    found: Any = info.mapping
    for step in name.split("."):
        found = ((found.get("properties") or {}) | (found.get("fields") or {})).get(step)
        if not isinstance(found, Mapping):
            return None
    path = found.get("path") if found.get("type") == "alias" else None
    return found if path in (None, ID) else _field(info, str(path))


def _check_id_field(info: IndexInfo, name: str) -> None:
    """Raises UsageError for a field that is not there, and for one whose values OpenSearch could not send."""
    field = _field(info, name)
    if field is None:
        raise UsageError(f"{info.name}: there is no field {name!r} that could hold the documents' ids")
    kind = str(field.get("type", "object"))
    if not (field.get("fielddata", False) if kind in TEXTS else field.get("doc_values", kind not in WITHOUT_VALUES)):
        raise UsageError(
            f"{info.name}: the field {name!r} is of type {kind} and has no doc values, from which ids are read; name a "
            "keyword or a number"
        )


def _is_there(info: IndexInfo, name: str) -> bool:
    """Whether a field can be searched, its weight aside; a pattern may stand for any."""
    plain = name.partition("^")[0]
    return "*" in plain or plain in (info.mapping.get("derived") or {}) or _field(info, plain) is not None


def _text_fields(infos: Sequence[IndexInfo]) -> list[str]:
    """Top-level text fields of all of them. Raises UsageError where there are none."""
    names = [
        {name for name, field in info.mapping.get("properties", {}).items() if field.get("type") == "text"}
        for info in infos
    ]
    found = sorted(set.intersection(*names)) if names else []
    if not found:
        raise UsageError("name the fields to search: there is no text field at the top of the mapping (--text-field)")
    return found
