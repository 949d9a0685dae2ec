"""Which names of fields are refused, taken, or doubted, by the mapping of an index."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from colbert_rerank.errors import UsageError
from colbert_rerank.indices import IndexInfo
from ingest.sources.mapping import check_fields
from mappings import index_body

TEXT = {"type": "text"}
ARTICLES: dict[str, Any] = {
    "properties": {
        "title": {"type": "text", "fields": {"raw": {"type": "keyword"}}},
        "body": {"properties": {"en": TEXT, "de": TEXT}},
        "notes": {"type": "nested", "properties": {"text": TEXT}},
        "meta": {"type": "object", "enabled": False},
        "loose": {"dynamic": "false", "properties": {"known": TEXT}},
        "flat": {"type": "flat_object"},
        "headline": {"type": "alias", "path": "title"},
        "place": {"type": "geo_point"},
    }
}


def info(mapping: dict[str, Any], *, seen_whole: bool = True) -> IndexInfo:
    return IndexInfo("articles", "u1", mapping, {"number_of_shards": "1"} if seen_whole else {})


MAPPED = ["title", "body.en", "notes.text", "loose.known"]
REFUSED = {
    "titel": "the field 'titel' is not there (fields of the index: title, body.en, body.de, notes.text, meta,",
    "body.fr": "the field 'body.fr' is not there",
    "body": "the field 'body' is an object: name body.en or body.de",
    "notes": "the field 'notes' is an object: name notes.text",
    "loose": "the field 'loose' is an object: name loose.known",
    "flat": "the field 'flat' is an object",
    "title.raw": "the field 'title.raw' is only another way to index 'title': name that",
    "title.en": "the field 'title.en' is not there",
    "headline": "the field 'headline' is an alias, which no document holds: name 'title'",
}
DOUBTED = ["meta", "meta.text", "loose.other", "flat.text", "place.name"]


def test_a_mapping_without_objects_has_dotted_names_whole(caplog: pytest.LogCaptureFixture) -> None:
    whole = {"disable_objects": True, "properties": {"title": TEXT, "body.en": TEXT}}
    inner = {"properties": {"body": {"disable_objects": True, "properties": {"en.us": TEXT}}}}
    check_fields([info(whole)], ["title", "body.en"])
    check_fields([info(inner)], ["body.en.us"])
    assert caplog.messages == []
    with pytest.raises(UsageError, match=r"the field 'body\.de' is not there"):
        check_fields([info(whole)], ["body.de"])


@pytest.mark.parametrize("name", MAPPED)
def test_a_field_that_is_mapped_is_taken(name: str, caplog: pytest.LogCaptureFixture) -> None:
    check_fields([info(ARTICLES)], [name])
    assert caplog.messages == []


@pytest.mark.parametrize(("name", "message"), REFUSED.items(), ids=REFUSED)
def test_a_field_without_text_is_refused(name: str, message: str) -> None:
    with pytest.raises(UsageError) as refusal:
        check_fields([info(ARTICLES)], ["title", name])
    assert message in str(refusal.value)
    assert str(refusal.value).endswith("Name the fields to encode with --fields")


@pytest.mark.parametrize("name", DOUBTED)
def test_a_field_that_may_be_there_unmapped_is_doubted(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_fields([info(ARTICLES)], [name])
    (message,) = caplog.messages
    assert f"whether documents have text in the field {name!r} (fields of the index: title, body.en" in message


@pytest.mark.parametrize("dynamic", ["false", False, "runtime"])
def test_what_is_not_mapped_may_be_there_all_the_same(dynamic: object, caplog: pytest.LogCaptureFixture) -> None:
    check_fields([info({"dynamic": dynamic, "properties": {"title": TEXT}})], ["body"])
    check_fields([info({"enabled": False})], ["body"])
    check_fields([info({"properties": {"title": TEXT}}, seen_whole=False)], ["body"])
    check_fields([info(index_body(("body",))["mappings"])], ["body.en"])  # as it came, if not as it is indexed
    assert len(caplog.messages) == 4


@pytest.mark.parametrize("dynamic", ["true", True, "strict"])
def test_where_all_is_mapped_nothing_else_is_there(dynamic: object) -> None:
    with pytest.raises(UsageError, match="is not there"):
        check_fields([info({"dynamic": dynamic, "properties": {"title": TEXT}})], ["body"])


def test_of_several_indices_one_must_have_the_field(caplog: pytest.LogCaptureFixture) -> None:
    other = info({"properties": {"name": TEXT}})
    check_fields([other, info(ARTICLES)], ["title", "name"])
    assert caplog.messages == []
    check_fields([other, info(ARTICLES)], ["meta"])
    assert len(caplog.messages) == 1
    with pytest.raises(UsageError):
        check_fields([other, info(ARTICLES)], ["titel"])
