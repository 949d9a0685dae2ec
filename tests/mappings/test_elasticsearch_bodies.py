"""What Elasticsearch is told to re-rank by a service, against what is documented: no node to be had here takes it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest

from mappings import inference_endpoint, reranking_search

# The documented keys, as far as they concern re-ranking: of an object those that it must have and those that it may.
# A str is any text. Where: https://www.elastic.co/docs/api/doc/elasticsearch/operation/operation-inference-put-custom
# and, for the texts of "request" and the paths, its example "Custom rerank task" (PutCustomRequestExample4.yaml under
# specification/inference/put_custom in github.com/elastic/elasticsearch-specification).
ENDPOINT = (
    {
        "service": "custom",
        "service_settings": (
            {
                "url": str,
                "secret_parameters": {str: str},
                "request": str,
                "response": (
                    {"json_parser": ({"relevance_score": str}, {"reranked_index": str, "document_text": str})},
                    {},
                ),
            },
            {"headers": {str: str}, "query_parameters": list},
        ),
    },
    {"task_settings": dict},
)
# https://www.elastic.co/docs/reference/elasticsearch/rest-apis/retrievers/text-similarity-reranker-retriever, and
# specification/_types/Retriever.ts in github.com/elastic/elasticsearch-specification. allow_rerank_failures is in
# neither: it is in TextSimilarityRankRetrieverBuilder.java of elastic/elasticsearch (#121784, and in 8.19 by #128250).
SEARCH: tuple[dict[str, object], dict[str, object]] = (
    {
        "retriever": (
            {
                "text_similarity_reranker": (
                    {
                        "retriever": ({"standard": ({}, {"query": dict, "filter": dict, "sort": list})}, {}),
                        "field": str,
                        "inference_text": str,
                    },
                    {
                        "inference_id": str,
                        "rank_window_size": int,
                        "min_score": float,
                        "filter": dict,
                        "allow_rerank_failures": bool,
                    },
                )
            },
            {},
        )
    },
    {"size": int},
)
# What may stand in "request", without quotes around it; a template that is none of these is an error.
TEMPLATES = {"input", "query", "top_n", "return_documents"}


def misfits(value: Any, schema: Any, at: str = "") -> list[str]:
    """Where a body is not as documented."""
    if isinstance(schema, tuple):
        must, may = schema
        if not isinstance(value, Mapping):
            return [f"{at}: an object"]
        wrong = [f"{at}.{name}: missing" for name in must if name not in value]
        wrong += [f"{at}.{name}: unknown" for name in value if name not in must and name not in may]
        both = {**must, **may}
        return wrong + [m for name in value if name in both for m in misfits(value[name], both[name], f"{at}.{name}")]
    if isinstance(schema, dict):
        ((names, values),) = schema.items()
        fits = isinstance(value, Mapping) and all(type(n) is names and type(v) is values for n, v in value.items())
    elif isinstance(schema, str):
        fits = value == schema
    else:
        fits = type(value) is schema
    return [] if fits else [f"{at}: not {schema}"]


def search(**changes: Any) -> dict[str, Any]:
    return reranking_search("tides", **{"text_field": "body", "inference_id": "colbert", **changes})


def test_both_bodies_have_the_documented_keys_and_no_others() -> None:
    assert misfits(inference_endpoint("http://service:8080", "articles", api_key="k"), ENDPOINT) == []
    assert misfits(search(), SEARCH) == []
    assert misfits(search(strict=True), SEARCH) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        pytest.param(("service",), "cohere", id="other-service"),
        pytest.param(("service_settings", "request"), {"content": ""}, id="not-a-text"),
        pytest.param(("service_settings", "respond"), {}, id="unknown-key"),
        pytest.param(("service_settings", "response", "json_parser"), {"reranked_index": "$"}, id="missing-key"),
        pytest.param(("service_settings", "headers", "X"), 1, id="not-texts"),
    ],
)
def test_the_check_finds_what_is_not_documented(path: tuple[str, ...], value: object) -> None:
    body = inference_endpoint("http://service:8080", "articles")
    inner: Any = body
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    assert len(misfits(body, ENDPOINT)) == 1


@pytest.mark.parametrize("query", ['how do "tides" work\n', "${input}", "潮"])
def test_templates_filled_in_as_elasticsearch_does_make_the_request_of_the_service(query: str) -> None:
    settings = inference_endpoint("http://service:8080/", "articles")["service_settings"]
    values = {"query": json.dumps(query), "input": json.dumps(["1", "a b"])}
    assert {*re.findall(r"\$\{(\w+)\}", settings["request"])} <= TEMPLATES
    filled = re.sub(r"\$\{(\w+)\}", lambda match: values[match[1]], settings["request"])
    assert json.loads(filled) == {"query": query, "documents": ["1", "a b"]}
    headers = json.dumps(settings["headers"])
    assert {*re.findall(r"\$\{(\w+)\}", headers)} <= {*settings["secret_parameters"]}
    assert settings["url"] == "http://service:8080/v1/stores/articles/rerank"


def test_the_paths_find_indices_and_scores_in_the_answer_of_the_service() -> None:
    answer = {"results": [{"index": 1, "relevance_score": 24.8}, {"index": 0, "relevance_score": -1.5}], "id": "x"}
    parser = inference_endpoint("http://service", "s")["service_settings"]["response"]["json_parser"]

    def read(path: str) -> list[object]:
        found = re.fullmatch(r"\$\.(\w+)\[\*\]\.(\w+)", path)
        assert found is not None
        rows: Any = answer[found[1]]
        return [row[found[2]] for row in rows]

    assert read(parser["reranked_index"]) == [1, 0]
    assert read(parser["relevance_score"]) == [24.8, -1.5]


def test_names_and_numbers_are_where_they_belong() -> None:
    body = search(id_field="key", window=500, size=20)
    reranker = body["retriever"]["text_similarity_reranker"]
    assert (body["size"], reranker["rank_window_size"], reranker["field"]) == (20, 500, "key")
    assert reranker["inference_text"] == reranker["retriever"]["standard"]["query"]["match"]["body"] == "tides"
    url = inference_endpoint("http://service", "a b/c")["service_settings"]["url"]
    assert url == "http://service/v1/stores/a%20b%2Fc/rerank"
    assert inference_endpoint("http://s", "s")["service_settings"]["secret_parameters"] == {"api_key": "CHANGE_ME"}
    assert reranker["allow_rerank_failures"] is True, "a search goes on where the service does not"
    assert "allow_rerank_failures" not in search(strict=True)["retriever"]["text_similarity_reranker"]
    assert search() == search()  # what one caller got is not another's
