"""The body of an index of ours, and a document's way into it and back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mappings import document_body, document_fields, index_body, made_by_us, text_fields_of


def test_every_text_field_is_searchable_and_copied_into_contents() -> None:
    body = index_body(["title", "text", "author.name"], shards=3, replicas=2, analyzer="german", k1=0.9, b=0.4)
    index, mapping = body["settings"]["index"], body["mappings"]
    assert (index["number_of_shards"], index["number_of_replicas"]) == (3, 2)
    assert "auto_expand_replicas" not in index
    assert index["similarity"]["default"] == {"type": "BM25", "k1": 0.9, "b": 0.4}
    text = {"type": "text", "analyzer": "german", "copy_to": "contents"}
    assert mapping["properties"]["title"] == mapping["properties"]["text"] == text
    assert mapping["properties"]["author"] == {"properties": {"name": text}}
    assert mapping["properties"]["contents"] == {"type": "text", "analyzer": "german"}
    assert mapping["properties"]["doc_id"] == {"type": "keyword", "meta": {"colbert_rerank": "1"}}
    assert mapping["dynamic"] is False
    assert text_fields_of(mapping) == ("title", "text", "author.name")


def test_defaults() -> None:
    index = index_body(["text"])["settings"]["index"]
    assert index["similarity"]["default"] == {"type": "BM25", "k1": 1.2, "b": 0.75}
    assert (index["number_of_shards"], index["auto_expand_replicas"]) == (1, "0-1")


def test_two_bodies_share_nothing() -> None:
    index_body(["text"])["mappings"]["properties"]["text"]["analyzer"] = "changed"
    assert index_body(["text"])["mappings"]["properties"]["text"]["analyzer"] == "english"


def test_a_text_field_called_contents_is_not_copied_into_itself() -> None:
    properties = index_body(["title", "contents"])["mappings"]["properties"]
    assert properties["contents"] == {"type": "text", "analyzer": "english"}
    assert properties["title"]["copy_to"] == "contents"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param({"text_fields": []}, "at least one", id="no-fields"),
        pytest.param({"text_fields": ["doc_id"]}, "'doc_id'", id="our-column"),
        pytest.param({"text_fields": ["original.x"]}, "'original.x'", id="our-envelope"),
        pytest.param({"text_fields": ["_id"]}, "'_id'", id="metadata"),
        pytest.param({"text_fields": ["a..b"]}, "'a..b'", id="empty-part"),
        pytest.param({"text_fields": ["a", "a.b"]}, "'a'", id="text-and-object"),
        pytest.param({"text_fields": ["contents.x"]}, "'contents.x'", id="below-contents"),
        pytest.param({"text_fields": ["a", "a"]}, "twice", id="named-twice"),
        pytest.param({"text_fields": ["a"], "shards": 0}, "shards", id="no-shards"),
        pytest.param({"text_fields": ["a"], "replicas": -1}, "replicas", id="negative-replicas"),
        pytest.param({"text_fields": ["a"], "k1": float("nan")}, "k1", id="k1-not-a-number"),
        pytest.param({"text_fields": ["a"], "b": 1.5}, "b must", id="b-over-one"),
    ],
)
def test_values_that_make_no_sense_are_refused(arguments: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        index_body(**arguments)


def test_only_our_own_meta_makes_an_index_ours() -> None:
    assert made_by_us(index_body(["text"])["mappings"]) == {"version": 1, "text_fields": ["text"]}
    others: list[dict[str, Any]] = [{}, {"_meta": {}}, {"_meta": {"them": {}}}, {"_meta": {"colbert_rerank": "x"}}]
    assert [made_by_us(other) for other in others] == [None] * 4
    # A keyword called doc_id is not enough.
    assert made_by_us({"properties": {"doc_id": {"type": "keyword"}}}) is None


AWKWARD: dict[str, Any] = {
    "title": {"en": "an object where the mapping has text"},
    "text": ["a list", 3, None],
    "author": [{"name": "A. Mary", "born": 1900}, {"name": ["B", "C"]}],
    "author.name": 7,
    "text.sub": 1,
    "doc_id": "another id",
    "contents": {"not": "ours"},
    "original": [1, 2],
    "_source": 1,
    "_unknown": 2,
    "": 3,
    "a..b": 4,
    ".": 5,
    " ": 6,
    "tail.": 7,
    "plain": {"": 1, "a..b": 2, "_id": 3, "deep": [[{"x": None}]]},
    "dotted.name": "x",
    "number": 12345678901234567890123,
}
FIELDS = ("title", "text", "author.name")


def test_awkward_fields_come_back_as_they_were() -> None:
    body = json.loads(json.dumps(document_body("1", AWKWARD, FIELDS)))
    assert document_fields(body) == AWKWARD
    assert body["doc_id"] == "1"
    assert {"text", "author", "plain", "dotted.name", "number"} <= set(body)


def test_an_id_that_only_repeats_itself_is_left_out() -> None:
    body = document_body("1", {"_id": "1", "doc_id": "1", "text": "x"}, ["text"])
    assert body == {"doc_id": "1", "text": "x"}
    assert document_fields(body) == {"text": "x"}


def test_the_documents_own_contents_stay_out_of_the_search_unless_they_are_text() -> None:
    assert document_body("1", {"contents": "x"}, ["text"]) == {"doc_id": "1", "original": {"contents": "x"}}
    assert document_body("1", {"contents": "x"}, ["contents"]) == {"doc_id": "1", "contents": "x"}
