"""Whether the documents of an index can have text in a field, as far as the index's mapping tells.

A misspelt name would else be told after the last document only, or never where another field has text.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from colbert_rerank.errors import UsageError
from colbert_rerank.indices import IndexInfo
from ingest.fields import is_object, shown
from mappings import made_by_us

_OBJECTS = ("object", "nested")
_WITHOUT_PARTS = ("text", "match_only_text", "keyword", "wildcard")
# Where a field that comes is mapped, or its document refused; else it stays in _source, and no mapping knows it.
_ALL_MAPPED = ("true", "strict", "strict_allow_templates")
_MAYBE = ""

_log = logging.getLogger(__name__)


def check_fields(indices: Sequence[IndexInfo], names: Sequence[str]) -> None:
    """Raises UsageError where no document can have text in one of ``names``; warns where a mapping cannot tell."""
    for name in names:
        problems = [_problem(info, name) for info in indices]
        if None in problems:
            continue
        info = indices[0]
        fields = shown(_leaves(info.mapping))
        if _MAYBE in problems:
            _log.warning(
                "index %r: the mapping does not tell whether documents have text in the field %r (fields of the index: "
                "%s); it is encoded where they have",
                info.name,
                name,
                fields,
            )
        else:
            raise UsageError(
                f"index {info.name!r}: the field {name!r} {problems[0]} (fields of the index: {fields}). Name the "
                "fields to encode with --fields"
            )


def _problem(info: IndexInfo, name: str) -> str | None:
    """Why no document can have text in the field; ``_MAYBE`` where one may; ``None`` where the field is mapped."""
    problem = _unmapped(info.mapping, name, dynamic="true" if info.settings else "unknown")
    # An index of ours gives a document back as it came, with what its mapping could not take.
    return _MAYBE if problem and made_by_us(info.mapping) else problem


def _unmapped(mapping: Mapping[str, Any], name: str, dynamic: str) -> str | None:
    node, path, rest = mapping, "", name
    while rest:
        if node.get("enabled") is False:
            return _MAYBE
        dynamic = str(node.get("dynamic", dynamic)).lower()
        # a mapping without objects has dotted names whole, as a document may: the exact name wins
        part = rest if rest in node.get("properties", {}) else rest.partition(".")[0]
        rest = rest[len(part) + 1 :]
        if part in node.get("properties", {}):
            node, path = node["properties"][part], f"{path}.{part}".removeprefix(".")
            continue
        if part in node.get("fields", {}):
            return f"is only another way to index {path!r}: name that"
        kind = node.get("type", "object")
        absent = dynamic in _ALL_MAPPED if kind in _OBJECTS else kind in _WITHOUT_PARTS
        return "is not there" if absent else _MAYBE
    if node.get("enabled") is False:
        return _MAYBE
    kind = node.get("type", "object")
    if kind == "alias":
        return f"is an alias, which no document holds: name {node['path']!r}"
    if kind in _OBJECTS or kind == "flat_object":
        return is_object(_leaves(node, f"{name}."))
    return None


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, inner in node.get("properties", {}).items():
        if "properties" in inner:
            yield from _leaves(inner, f"{prefix}{name}.")
        else:
            yield prefix + name
