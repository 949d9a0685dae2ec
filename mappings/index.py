"""The body of an index that we create, and how to tell such an index from one that we found."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

DOC_ID = "doc_id"
CONTENTS = "contents"
ORIGINAL = "original"
META = "colbert_rerank"


def index_body(
    text_fields: Sequence[str],
    *,
    shards: int = 1,
    replicas: int | None = None,
    analyzer: str = "english",
    k1: float = 1.2,
    b: float = 0.75,
) -> dict[str, Any]:
    """The body for ``PUT /index``: settings and mapping.

    ``text_fields`` are mapped as text, each on its own, and copied into ``contents``, which a plain ``match`` searches
    as one text. All other fields stay in ``_source``, unmapped, so that arbitrary JSON can neither conflict with the
    mapping nor blow it up. ``replicas`` ``None`` keeps one replica where a second node can hold it, none on a single
    node.
    ``k1`` and ``b`` default to OpenSearch's own values, which rank SciFact, Cranfield and musique_mini better than the
    0.9 and 0.4 of the Anserini and BEIR baselines (those give SciFact's published nDCG@10, 0.679). Raises
    ``ValueError`` for values that OpenSearch would refuse or that make no sense.
    """
    _check(text_fields, shards, replicas, k1, b)
    body: dict[str, Any] = json.loads(files("mappings").joinpath("index.json").read_text(encoding="utf-8"))
    settings = body["settings"]["index"]
    settings["number_of_shards"] = shards
    if replicas is not None:
        del settings["auto_expand_replicas"]
        settings["number_of_replicas"] = replicas
    settings["similarity"]["default"].update(k1=k1, b=b)
    body["mappings"]["_meta"][META]["text_fields"] = list(text_fields)
    properties = body["mappings"]["properties"]
    properties[CONTENTS]["analyzer"] = analyzer
    for name in text_fields:
        if name != CONTENTS:
            _add_text_field(properties, name.split("."), analyzer)
    return body


def made_by_us(mapping: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Our entry in a mapping's ``_meta`` (``version``, ``text_fields``), or ``None`` for an index that we found."""
    meta = mapping.get("_meta")
    entry = meta.get(META) if isinstance(meta, Mapping) else None
    return entry if isinstance(entry, Mapping) else None


def settings_of(body: Mapping[str, Any]) -> dict[str, object]:
    """What `index_body` was given, by name, from its body or from what ``GET /index`` says of an index of ours."""
    index, mapping = body["settings"]["index"], body["mappings"]
    similarity = index["similarity"]["default"]
    return {
        "shards": int(index["number_of_shards"]),
        "replicas": int(index.get("number_of_replicas", 0)),
        "analyzer": mapping["properties"][CONTENTS]["analyzer"],
        "bm25_k1": float(similarity["k1"]),
        "bm25_b": float(similarity["b"]),
    }


def mapping_of_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping as far as its fields tell, from what ``GET /index/_mapping/field/*`` gives for one index.

    The mapping's ``_meta`` is not among them; that an index is ours is also said by the ``meta`` of its ``doc_id``.
    """
    mapping: dict[str, Any] = {"properties": {}}
    for name in sorted(fields, key=len):  # a field before its multi-fields, which its own entry holds already
        definition = next(iter(fields[name]["mapping"].values()), None)
        *parents, leaf = name.split(".")
        inside = mapping
        for parent in parents:
            inside = inside.setdefault("properties", {}).setdefault(parent, {})
        if definition is not None and "type" not in inside:
            inside.setdefault("properties", {})[leaf] = definition
    ours = mapping["properties"].get(DOC_ID, {}).get("meta", {})
    return mapping | ({"_meta": {META: {"version": int(ours[META])}}} if META in ours else {})


def text_fields_of(mapping: Mapping[str, Any]) -> tuple[str, ...]:
    """The text fields that an index of ours was created with; empty for an index that we found."""
    entry = made_by_us(mapping)
    names = entry.get("text_fields", ()) if entry else ()
    return tuple(str(name) for name in names)


def _check(text_fields: Sequence[str], shards: int, replicas: int | None, k1: float, b: float) -> None:
    if not text_fields:
        raise ValueError("an index needs at least one text field")
    for name in text_fields:
        parts = name.split(".")
        if any(not part.strip() for part in parts) or name.startswith("_") or parts[0] in (DOC_ID, ORIGINAL):
            raise ValueError(
                f"{name!r} cannot be a text field: {DOC_ID!r}, {ORIGINAL!r} and names that begin with _ are taken"
            )
        if any(other.startswith(name + ".") for other in text_fields):
            raise ValueError(f"{name!r} cannot be a text field and hold another one")
        if parts[0] == CONTENTS and name != CONTENTS:
            raise ValueError(f"{name!r} cannot be a text field: {CONTENTS!r} is one text, not an object")
    if len(set(text_fields)) < len(text_fields):
        raise ValueError(f"a text field is named twice in {', '.join(text_fields)}")
    if not 1 <= shards <= 1024:
        raise ValueError(f"shards must lie in 1..1024, not {shards}")
    if replicas is not None and replicas < 0:
        raise ValueError(f"replicas must be 0 or more, not {replicas}")
    if not (math.isfinite(k1) and k1 >= 0):
        raise ValueError(f"BM25's k1 must be a finite number >= 0, not {k1}")
    if not 0 <= b <= 1:
        raise ValueError(f"BM25's b must lie in 0..1, not {b}")


def _add_text_field(properties: dict[str, Any], parts: list[str], analyzer: str) -> None:
    for part in parts[:-1]:
        properties = properties.setdefault(part, {"properties": {}})["properties"]
    properties[parts[-1]] = {"type": "text", "analyzer": analyzer, "copy_to": CONTENTS}
