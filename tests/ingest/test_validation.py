"""Which documents are taken, and what is said of the others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from colbert_rerank.errors import InputError
from colbert_rerank.recipe import Recipe
from colbert_rerank.types import Document
from ingest.fields import without_text
from ingest.validation import InputReport, validated


def take(documents: list[Document], report: InputReport, recipe: Recipe | None = None) -> list[str]:
    return [document.doc_id for document, _ in validated(documents, recipe or Recipe(), report)]


def doc(doc_id: str, text: str = "some text", where: str = "corpus.jsonl:1") -> Document:
    return Document(doc_id, {"text": text}, where)


GOOD_IDS = {
    "number": "7187158",
    "trec": "FBIS3-10082",
    "url": "https://en.wikipedia.org/wiki/Köln?a=1&b=%20#top",
    "doi": "10.1016/j.cell.2020.02.052",
    "cjk": "文書-42",
    "dollar-without-brace": "US$5",
    "brace-without-dollar": "{7}",
    "other-case-of-null": "NULL",
    "512-ascii-bytes": "x" * 512,
    "512-utf-8-bytes": "é" * 256,
    "quote-and-backslash": 'a"b\\c',
}


@pytest.mark.parametrize("doc_id", GOOD_IDS.values(), ids=GOOD_IDS)
def test_ids_as_users_have_them_are_taken(doc_id: str) -> None:
    report = InputReport()
    assert take([doc(doc_id)], report) == [doc_id]
    assert (report.accepted, report.total_skipped, report.ids_with_spaces) == (1, 0, 0)


BAD_IDS = {
    "empty": ("", "empty id", "the id is empty"),
    "null": ("null", "reserved id", "the id is the word null"),
    "connector-parameter": ("a${parameters.x}", "reserved id", "holds ${"),
    "513-ascii-bytes": ("x" * 513, "id too long", "has 513 bytes; OpenSearch takes at most 512"),
    "514-utf-8-bytes": ("é" * 257, "id too long", "has 514 bytes"),
    "line-feed": ("a\nb", "control character in id", r"the id 'a\nb' holds a control character"),
    "nul": ("a\0", "control character in id", "holds a control character"),
    "next-line": ("a\x85b", "control character in id", "holds a control character"),
    "half-a-surrogate": ("a\ud83d", "lone surrogate", r"'a\ud83d' holds half of a surrogate pair"),
}


@pytest.mark.parametrize(("doc_id", "cause", "message"), BAD_IDS.values(), ids=BAD_IDS)
def test_bad_ids_are_refused(doc_id: str, cause: str, message: str) -> None:
    with pytest.raises(InputError) as refusal:
        take([doc("first"), doc(doc_id, where="corpus.jsonl:12")], InputReport())
    assert str(refusal.value).startswith("corpus.jsonl:12: ")
    assert message in str(refusal.value)
    assert refusal.value.where == "corpus.jsonl:12"

    report = InputReport("skip")
    assert take([doc("first"), doc(doc_id), doc("last")], report) == ["first", "last"]
    assert report.skipped == {cause: 1}


def test_ids_with_blanks_are_taken_and_counted() -> None:
    report = InputReport()
    ids = ["Albert Einstein", "a\u3000b", "plain"]
    assert take([doc(one) for one in ids], report) == ids
    assert report.ids_with_spaces == 2


def test_the_second_use_of_an_id_is_refused_where_it_stands() -> None:
    documents = [doc("7"), doc("8"), doc("7", "another text", "corpus.jsonl:3")]
    with pytest.raises(InputError, match=r"corpus\.jsonl:3: id '7' was already used by an earlier document"):
        take(documents, InputReport())
    report = InputReport("skip")
    assert take([*documents, doc("9")], report) == ["7", "8", "9"]
    assert report.skipped == {"duplicate id": 1}


def test_a_document_that_was_refused_does_not_use_up_its_id() -> None:
    report = InputReport("skip")
    assert take([doc("7", ""), doc("7", "good")], report) == ["7"]
    assert report.skipped == {"empty text": 1}


WITHOUT_TEXT: dict[str, tuple[dict[str, object], str, str]] = {
    "no-fields": ({}, "is missing", "none"),
    "empty": ({"text": " \n"}, "is empty", "text"),
    "empty-list": ({"text": ["", []]}, "is empty", "text"),
    "another-field": ({"body": "t"}, "is missing", "body"),
    "number": ({"text": 5}, "is a number, which is not encoded", "text"),
    "boolean": ({"text": [True]}, "is a boolean, which is not encoded", "text"),
    "null": ({"text": None}, "is null", "text"),
    "list-of-null": ({"text": [None]}, "is empty", "text"),
    "object": ({"text": {"en": "t", "de": "t"}}, "is an object: name text.en or text.de", "text.en, text.de"),
    "objects": ({"text": [{"en": "t"}, {"de": {"a": "t"}}]}, "name text.en or text.de.a", "text.en, text.de.a"),
    "empty-object": ({"text": {}}, "is an object: name a field within it", "text"),
    "many-fields": ({f"f{i}": "t" for i in range(14)}, "is missing", "f9, f10, f11 and 2 more"),
}


@pytest.mark.parametrize(
    ("body", "why"),
    [({"en": None}, "is null"), ({"de": "t"}, "is missing"), ([{"de": "t"}], "is missing"), ([{"en": ""}], "is empty")],
    ids=["null", "missing", "missing-in-a-list", "empty-in-a-list"],
)
def test_of_a_field_within_an_object_it_is_told_too(body: object, why: str) -> None:
    assert without_text({"body": body}, "body.en") == why


@pytest.mark.parametrize(("fields", "why", "there"), WITHOUT_TEXT.values(), ids=WITHOUT_TEXT)
def test_a_document_without_text_is_refused_and_why_is_told(fields: dict[str, object], why: str, there: str) -> None:
    with pytest.raises(InputError, match="document '7' has no text to encode: title is missing, text is") as refusal:
        take([Document("7", fields, "corpus.jsonl:1")], InputReport())
    assert why in str(refusal.value)
    assert f"{there}). Give it a text, or name the fields to encode with --fields" in str(refusal.value)


def test_half_a_surrogate_in_the_text_is_refused() -> None:
    with pytest.raises(InputError, match="the text of '7' holds half of a surrogate pair"):
        take([doc("7", "smile \ud83d")], InputReport())


def test_the_text_is_what_the_recipe_makes_of_the_document() -> None:
    document = Document("7", {"title": " T ", "body": "b", "url": "u"}, "", 3, 1)
    [(same, text)] = validated([document], Recipe(("title", "body"), " | "), InputReport())
    assert (same, text) == (document, "T | b")


def test_control_characters_in_a_text_are_left_to_the_tokenizer() -> None:
    [(_, text)] = validated([doc("7", "a\x00b\x0cc")], Recipe(), InputReport())
    assert text == "a\x00b\x0cc"


def test_only_the_first_ten_refusals_are_kept() -> None:
    report = InputReport("skip")
    documents = [doc("", where=f"corpus.jsonl:{i}") for i in range(1, 101)]
    assert take(documents, report) == []
    assert report.skipped == {"empty id": 100}
    assert list(map(str, report.refusals)) == [f"corpus.jsonl:{i}: the id is empty" for i in range(1, 11)]


@given(st.lists(st.text(st.characters(), max_size=6), unique=True))
def test_each_document_is_either_taken_or_counted(ids: list[str]) -> None:
    report = InputReport("skip")
    taken = take([doc(one) for one in ids], report)
    assert len(taken) == report.accepted
    assert len(taken) + report.total_skipped == len(ids)
    for one in taken:
        assert one.encode("utf-8"), "a taken id can be written anywhere"
        assert one != "null"
        assert "${" not in one
        assert not any(char < " " for char in one)
