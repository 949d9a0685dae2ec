"""A user's query with the text of the query in it: as a value, never as text of the JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from colbert_rerank.candidates.template import load_template, make_template, match_fields
from colbert_rerank.errors import UsageError

HOSTILE = 'x"}}, "size": 0, {{query}} ${a} \\" \n\ud800'


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        pytest.param({"match": {"t": "{{query}}"}}, {"query": {"match": {"t": HOSTILE}}}, id="clause"),
        pytest.param({"query": {"match": {"t": "{{query}}"}}}, {"query": {"match": {"t": HOSTILE}}}, id="body"),
        pytest.param(
            {"query": {"match_all": {}}, "post_filter": {"match": {"t": "{{query}}"}}, "min_score": 0.5},
            {"query": {"match_all": {}}, "post_filter": {"match": {"t": HOSTILE}}, "min_score": 0.5},
            id="beside-the-query",
        ),
        pytest.param(
            {"bool": {"should": [{"match": {"a": "{{query}}"}}, {"match": {"b": {"query": "{{query}}", "boost": 2}}}]}},
            {
                "query": {
                    "bool": {"should": [{"match": {"a": HOSTILE}}, {"match": {"b": {"query": HOSTILE, "boost": 2}}}]}
                }
            },
            id="twice",
        ),
    ],
)
def test_the_text_is_put_in_as_one_value(tmp_path: Path, template: dict[str, Any], expected: dict[str, Any]) -> None:
    path = tmp_path / "query.json"
    path.write_text(json.dumps(template), encoding="utf-8")
    loaded = load_template(path)
    assert loaded.render(HOSTILE) == expected
    assert loaded.render("other") != expected  # rendering changed nothing


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param({"match": {"t": "fixed"}}, "no value is", id="no-placeholder"),
        pytest.param({"match": {"t": "about {{query}}"}}, "whole value", id="part-of-a-value"),
        pytest.param({"match": {"{{query}}": "x"}}, "must be a value", id="as-a-name"),
        pytest.param({"query": {"match": {"t": "{{query}}"}}, "size": 3}, "'size'", id="size-is-ours"),
        pytest.param({"query": {"match": {"t": "{{query}}"}}, "sort": []}, "'sort'", id="sort-is-ours"),
        pytest.param(["{{query}}"], "JSON object", id="not-an-object"),
    ],
)
def test_templates_that_cannot_work_are_refused(value: object, expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        make_template(value)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent\.json"):
        load_template(tmp_path / "absent.json")
    (tmp_path / "bad.json").write_text("{", encoding="utf-8")
    with pytest.raises(UsageError, match=r"bad\.json is not JSON"):
        load_template(tmp_path / "bad.json")


def test_one_field_needs_no_multi_match() -> None:
    assert match_fields(["text"]).render("q") == {"query": {"match": {"text": {"query": "q"}}}}
    assert match_fields(["title", "text"]).render("q")["query"]["multi_match"]["fields"] == ["title", "text"]  # type: ignore[index]


def test_nested_fields_stand_beside_the_others() -> None:
    nested = {"parts.body": "parts"}
    (alone,) = match_fields(["parts.body"], nested).render("q").values()
    assert alone == {
        "nested": {
            "path": "parts",
            "query": {"match": {"parts.body": {"query": "q"}}},
            "score_mode": "max",
            "ignore_unmapped": True,
        }
    }
    (both,) = match_fields(["parts.body", "title"], nested).render("q").values()
    assert both == {"dis_max": {"queries": [{"match": {"title": {"query": "q"}}}, alone], "tie_breaker": 0.5}}
