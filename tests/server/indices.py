"""Small indices for tests, made over plain HTTP: nothing of the package under test takes part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from tests.server.rest import call


def make_index(
    url: str,
    name: str,
    docs: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    mappings: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """An index as somebody else might have made it, with ``docs`` (id -> source) in it."""
    body = {"settings": {"number_of_shards": 1, "number_of_replicas": 0, **(settings or {})}}
    made = call(url, "PUT", f"/{name}", body | ({"mappings": mappings} if mappings is not None else {}))
    assert made.status == 200, made.body
    if docs:
        put_documents(url, name, docs)


def put_documents(url: str, name: str, docs: Mapping[str, Mapping[str, Any]], *, routing: str | None = None) -> None:
    lines: list[Mapping[str, Any]] = []
    for doc_id, source in docs.items():
        lines += [{"index": {"_id": doc_id} | ({"routing": routing} if routing is not None else {})}, source]
    answer = call(url, "POST", f"/{name}/_bulk?refresh=true", lines)
    assert answer.status == 200, answer.body
    assert not answer.json()["errors"], answer.body


def put_settings(url: str, path: str, settings: Mapping[str, Any]) -> None:
    answer = call(url, "PUT", path, settings)
    assert answer.status == 200, answer.body


def source_of(url: str, name: str, doc_id: str) -> dict[str, Any]:
    answer = call(url, "GET", f"/{name}/_doc/{quote(doc_id, safe='')}")
    assert answer.status == 200, answer.body
    source: dict[str, Any] = answer.json()["_source"]
    return source


def count(url: str, name: str) -> int:
    return int(call(url, "GET", f"/{name}/_count").json()["count"])
