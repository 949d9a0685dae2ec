"""Candidates from a real node: right ids in a repeatable order, whatever the index looks like."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import opensearchpy
import pytest

from colbert_rerank.candidates.doc_id_alias import add_doc_id_alias, estimate_fielddata_bytes
from colbert_rerank.candidates.opensearch import OpenSearchCandidates
from colbert_rerank.candidates.template import make_template
from colbert_rerank.connection import Connection
from colbert_rerank.errors import IndexNotFoundError, InputError, OpenSearchAuthError, OpenSearchError, UsageError
from colbert_rerank.opensearch import connect
from colbert_rerank.retry import Retry
from colbert_rerank.types import Query, ScoredDoc
from mappings import document_body, index_body
from tests.server.faults import Drop, Refuse
from tests.server.gateway import Gateway, User
from tests.server.indices import make_index, put_documents, put_settings
from tests.server.rest import call

QUICK = Retry(attempts=4, base=0.01, cap=0.02)
TEXT = {"properties": {"text": {"type": "text"}}}
TIDES = Query("q1", "tides of the sea")


@pytest.fixture
def client(opensearch_url: str) -> Iterator[opensearchpy.OpenSearch]:
    with connect(Connection(opensearch_url)) as opened:
        yield opened


def ids(hits: list[ScoredDoc]) -> list[str]:
    return [hit.doc_id for hit in hits]


def make_ours(url: str, name: str, docs: dict[str, dict[str, Any]], *, shards: int = 1) -> None:
    """An index as ``ingest`` makes it."""
    body = index_body(["title", "text"], shards=shards)
    assert call(url, "PUT", f"/{name}", body).status == 200
    put_documents(url, name, {key: document_body(key, value, ["title", "text"]) for key, value in docs.items()})


SEA: dict[str, dict[str, Any]] = {
    "d1": {"title": "Tides", "text": "The tides of the sea follow the moon.", "year": 1902},
    "d2": {"title": "Sea", "text": "Fish live in the sea.", "doc_id": "their own", "nested": {"a": [1]}},
    "d3": {"title": "Bread", "text": "Flour and water."},
    "a b/c?ü'\"": {"title": "Moon", "text": "The moon pulls at the sea."},
}


@contextmanager
def no_fielddata(url: str) -> Iterator[None]:
    setting = "indices.id_field_data.enabled"
    put_settings(url, "/_cluster/settings", {"persistent": {setting: False}})
    try:
        yield
    finally:
        put_settings(url, "/_cluster/settings", {"persistent": {setting: None}})


def test_our_own_index(opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch) -> None:
    make_ours(opensearch_url, index_name, SEA)
    candidates = OpenSearchCandidates(client, index_name, fields=["title", "text"])
    first, none, last = candidates.search([TIDES, Query("q2", "zebra"), Query("q3", "flour")], k=10)
    assert ids(first) == ["d1", "d2", "a b/c?ü'\""]
    assert [hit.score for hit in first] == sorted((hit.score for hit in first), reverse=True)
    assert (none, ids(last)) == ([], ["d3"])
    assert {hit.query_id for hit in first} == {"q1"}
    kind, name, uuid = candidates.origin
    assert (kind, name) == ("opensearch", index_name)
    assert uuid == call(opensearch_url, "GET", f"/{index_name}").json()[index_name]["settings"]["index"]["uuid"]
    assert ids(next(candidates.search([TIDES], k=2))) == ["d1", "d2"]


def test_scores_are_the_numbers_that_opensearch_sent(
    opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch
) -> None:
    make_ours(opensearch_url, index_name, SEA)
    (hits,) = OpenSearchCandidates(client, index_name).search([TIDES], k=10)
    body = {"query": {"match": {"contents": TIDES.text}}}
    raw = call(opensearch_url, "POST", f"/{index_name}/_search", body).body.decode()
    sent = {hit["_id"]: hit["_score"] for hit in json.loads(raw, parse_float=str)["hits"]["hits"]}
    assert {hit.doc_id: repr(hit.score) for hit in hits} == sent


def test_fetched_documents_are_as_they_came(
    opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch
) -> None:
    make_ours(opensearch_url, index_name, SEA)
    found = {document.doc_id: document for document in OpenSearchCandidates(client, index_name).fetch([*SEA, "absent"])}
    assert {doc_id: document.fields for doc_id, document in found.items()} == SEA
    assert found["d2"].where == f"{index_name}/d2"
    assert sorted(document.seq_no for document in found.values()) == [0, 1, 2, 3]
    assert all(document.primary_term == 1 for document in found.values())


def test_thousands_are_fetched_in_batches(
    opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch
) -> None:
    docs = {f"d{number}": {"text": f"word{number}"} for number in range(2500)}
    make_ours(opensearch_url, index_name, docs, shards=2)
    found = list(OpenSearchCandidates(client, index_name).fetch([*docs, *(f"x{n}" for n in range(50))]))
    assert {document.doc_id: document.fields for document in found} == docs
    assert list(OpenSearchCandidates(client, index_name).fetch([])) == []


def test_an_index_that_we_found(opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch) -> None:
    make_index(opensearch_url, index_name, SEA)
    candidates = OpenSearchCandidates(client, index_name, fields=["title", "text", "absent"])
    (hits,) = candidates.search([Query("q", "tides")], k=10)
    assert ids(hits) == ["d1"]
    (document,) = candidates.fetch(["d2"])
    assert document.fields == SEA["d2"]
    nested = OpenSearchCandidates(client, index_name, fields=["title.keyword"])
    assert ids(next(nested.search([Query("q", "Bread")], k=10))) == ["d3"]
    with pytest.raises(UsageError, match="name the fields"):
        OpenSearchCandidates(client, index_name)
    with pytest.raises(UsageError, match="'body'"):
        OpenSearchCandidates(client, index_name, fields=["body"])


def test_a_doc_id_of_their_own_is_not_taken_for_ours(
    opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch
) -> None:
    mapping = {"properties": {"text": {"type": "text"}, "doc_id": {"type": "keyword"}}}
    docs = {
        "1": {"text": "tides", "doc_id": "1"},  # alike at first sight
        "2": {"text": "sea", "doc_id": "3"},
        "3": {"text": "sea sea", "doc_id": "2"},
    }
    make_index(opensearch_url, index_name, docs, mappings=mapping)
    candidates = OpenSearchCandidates(client, index_name, fields=["text"])
    assert [ids(hits) for hits in candidates.search([Query("q", "tides"), Query("r", "sea")], k=2)] == [
        ["1"],
        ["3", "2"],
    ]


def test_a_column_of_ours_that_others_wrote_to_is_found_out(
    opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch, caplog: pytest.LogCaptureFixture
) -> None:
    make_ours(opensearch_url, index_name, {"d1": {"text": "sea"}})
    put_documents(opensearch_url, index_name, {"d2": {"doc_id": "d9", "contents": "sea sea"}})
    (hits,) = OpenSearchCandidates(client, index_name).search([Query("q", "sea")], k=9)
    assert sorted(ids(hits)) == ["d1", "d2"]
    assert "not the same as _id" in caplog.text
    put_documents(opensearch_url, index_name, {"d2": {"contents": "sea without a column"}})
    (hits,) = OpenSearchCandidates(client, index_name).search([Query("q", "sea")], k=9)
    assert sorted(ids(hits)) == ["d1", "d2"]


def test_no_fielddata_for_ids(
    opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch, caplog: pytest.LogCaptureFixture
) -> None:
    # Neither the order of writing nor the shard may show: many ties, and the same statistics for all shards.
    docs = {f"d{number * 7919 % 300:03}": {"text": "sea" if number % 3 else "sea sea"} for number in range(300)}
    make_index(opensearch_url, index_name, docs, mappings=TEXT, settings={"number_of_shards": 3})
    queries = [Query("a", "sea"), Query("b", "zebra"), Query("c", "sea")]
    with_fielddata = list(OpenSearchCandidates(client, index_name, fields=["text"], dfs=True).search(queries, k=150))
    with no_fielddata(opensearch_url):
        without = list(OpenSearchCandidates(client, index_name, fields=["text"], dfs=True).search(queries, k=150))
    assert without == with_fielddata
    assert len(without[0]) == 150
    assert len({hit.score for hit in without[0]}) == 2
    assert "fielddata" in caplog.text


def test_our_own_index_needs_no_fielddata(
    opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch, caplog: pytest.LogCaptureFixture
) -> None:
    make_ours(opensearch_url, index_name, SEA)
    with no_fielddata(opensearch_url):
        (hits,) = OpenSearchCandidates(client, index_name).search([TIDES], k=10)
    assert len(hits) == 3
    assert not caplog.text


def test_an_alias_of_the_id(opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch) -> None:
    make_index(opensearch_url, index_name, SEA, mappings={"properties": {"text": {"type": "text"}}, "dynamic": False})
    assert 4 * 4 <= estimate_fielddata_bytes(client, index_name) <= 4 * 20
    assert add_doc_id_alias(client, index_name) == [index_name]
    assert add_doc_id_alias(client, index_name) == []
    with Gateway(opensearch_url) as gateway, connect(Connection(gateway.url)) as watched:
        (hits,) = OpenSearchCandidates(watched, index_name, fields=["text"]).search([TIDES], k=10)
        assert sorted(ids(hits)) == sorted(["d1", "d2", "a b/c?ü'\""])
        (search,) = gateway.sent_to("_msearch")
        assert json.loads(search.body.splitlines()[1])["docvalue_fields"] == ["doc_id"]
        assert gateway.sent_to("_search")  # the first page was compared with _id


def test_an_alias_is_not_put_over_a_field_of_theirs(
    opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch
) -> None:
    make_index(opensearch_url, index_name, {"1": {"doc_id": "x"}})
    with pytest.raises(UsageError, match="of its own"):
        add_doc_id_alias(client, index_name)


def test_a_default_pipeline_changes_nothing(
    opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch
) -> None:
    docs = {f"d{number}": {"text": "sea " * number, "keep": number < 3} for number in range(1, 6)}
    make_index(opensearch_url, index_name, docs, mappings=TEXT | {"dynamic": True})
    reverse = {
        # Not the order (tests/server/test_reversed.py has that): these leave the worst two, and hide their ids.
        "request_processors": [{"filter_query": {"query": {"term": {"keep": True}}}}],
        "response_processors": [{"rename_field": {"field": "_id", "target_field": "gone"}}],
    }
    put_settings(opensearch_url, f"/_search/pipeline/{index_name}", reverse)
    try:
        put_settings(opensearch_url, f"/{index_name}/_settings", {"index.search.default_pipeline": index_name})
        search = {"query": {"match": {"text": "sea"}}, "docvalue_fields": ["_id"], "size": 3}
        touched = call(opensearch_url, "POST", f"/{index_name}/_search", search).json()["hits"]["hits"]
        assert [(hit["_id"], list(hit["fields"])) for hit in touched] == [("d2", ["gone"]), ("d1", ["gone"])]
        candidates = OpenSearchCandidates(client, index_name, fields=["text"])
        (hits,) = candidates.search([Query("q", "sea")], k=3)
        assert ids(hits) == ["d5", "d4", "d3"]
        assert {document.doc_id for document in candidates.fetch(list(docs))} == set(docs)
    finally:
        put_settings(opensearch_url, f"/{index_name}/_settings", {"index.search.default_pipeline": "_none"})
        assert call(opensearch_url, "DELETE", f"/_search/pipeline/{index_name}").status == 200


@pytest.mark.parametrize("ours", [pytest.param(True, id="ours"), pytest.param(False, id="found")])
@pytest.mark.parametrize("dfs", [pytest.param(False, id="query-then-fetch"), pytest.param(True, id="dfs")])
def test_runs_are_the_same_bytes_each_time(
    opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch, ours: bool, dfs: bool
) -> None:
    docs: dict[str, dict[str, Any]] = {f"best{number}": {"text": "sea sea"} for number in range(30)}
    docs |= {f"same{number * 7919 % 200:03}": {"text": "sea and much more"} for number in range(200)}
    if ours:
        make_ours(opensearch_url, index_name, docs, shards=3)
    else:
        make_index(opensearch_url, index_name, docs, mappings=TEXT, settings={"number_of_shards": 3})

    def run() -> bytes:
        candidates = OpenSearchCandidates(client, index_name, fields=["text"], dfs=dfs)
        queries = [Query(f"q{number}", "sea") for number in range(20)]
        return json.dumps(list(candidates.search(queries, k=100))).encode()

    first = run()
    assert all(run() == first for _ in range(3))
    (hits,) = OpenSearchCandidates(client, index_name, fields=["text"], dfs=dfs).search([Query("q", "sea")], k=100)
    assert len(hits) == 100
    assert hits == sorted(hits, key=lambda hit: (-hit.score, hit.doc_id))
    if dfs:  # one score for all of them, so that the ids alone decide at the cut
        assert ids(hits)[30:] == [f"same{number:03}" for number in range(70)]


def test_global_statistics_on_request(opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch) -> None:
    make_index(opensearch_url, index_name, mappings=TEXT, settings={"number_of_shards": 2})
    put_documents(opensearch_url, index_name, {"a": {"text": "sea"}}, routing="0")
    put_documents(
        opensearch_url, index_name, {f"b{n}": {"text": "sea" if n == 0 else "x"} for n in range(9)}, routing="1"
    )
    by_shard, as_one = (
        {hit.doc_id: hit.score for hit in next(found.search([Query("q", "sea")], k=5))}
        for found in (OpenSearchCandidates(client, index_name, fields=["text"], dfs=dfs) for dfs in (False, True))
    )
    assert by_shard["a"] != by_shard["b0"]
    assert as_one["a"] == as_one["b0"]


def test_a_query_template(opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch) -> None:
    make_ours(opensearch_url, index_name, SEA)
    by_title = make_template({"query": {"match": {"title": "{{query}}"}}})
    (hits,) = OpenSearchCandidates(client, index_name, template=by_title).search([Query("q", "sea")], k=9)
    assert ids(hits) == ["d2"]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('sea"}}\n{"index": "*"}\n', id="json-and-line-breaks"),
        pytest.param("sea \ud800 \0", id="surrogate-and-nul"),
        pytest.param("海 sea 🌊", id="other-scripts"),
    ],
)
def test_hostile_queries_are_only_text(
    opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch, text: str
) -> None:
    make_ours(opensearch_url, index_name, SEA)
    hits, after = OpenSearchCandidates(client, index_name).search([Query("q", text), Query("r", "flour")], k=9)
    assert {"d2", "d1"} <= set(ids(hits))
    assert ids(after) == ["d3"]


def test_a_query_that_opensearch_refuses_is_named(
    opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch
) -> None:
    make_ours(opensearch_url, index_name, SEA)
    strict = make_template({"query_string": {"query": "{{query}}", "default_field": "text"}})
    with pytest.raises(OpenSearchError, match="'bad'"):
        list(OpenSearchCandidates(client, index_name, template=strict).search([TIDES, Query("bad", "(((")], k=3))
    with pytest.raises(OpenSearchError, match=r"'long': .*shorten the query"):
        list(OpenSearchCandidates(client, index_name).search([TIDES, Query("long", "word " * 3000)], k=3))
    no_such = make_template({"no_such_query": {"text": "{{query}}"}})
    with pytest.raises(OpenSearchError, match=f"{index_name}.*no_such_query"):
        list(OpenSearchCandidates(client, index_name, template=no_such).search([TIDES], k=3))


def test_more_candidates_than_the_index_gives(
    opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch
) -> None:
    make_index(opensearch_url, index_name, SEA, settings={"max_result_window": 50})
    candidates = OpenSearchCandidates(client, index_name, fields=["text"])
    assert len(next(candidates.search([TIDES], k=50))) == 3
    with pytest.raises(UsageError, match=r"k = 51 .*max_result_window = 50"):
        next(candidates.search([TIDES], k=51))
    with pytest.raises(UsageError, match="k must be"):
        next(candidates.search([TIDES], k=0))


@pytest.mark.parametrize("k", [1, 39, 40])
def test_ties_up_to_the_window_without_fielddata(
    opensearch_url: str,
    index_name: str,
    client: opensearchpy.OpenSearch,
    caplog: pytest.LogCaptureFixture,
    k: int,
) -> None:
    docs = {f"d{number:03}": {"text": "sea"} for number in range(60)} | {"e": {"text": "tides"}}
    make_index(opensearch_url, index_name, docs, mappings=TEXT, settings={"max_result_window": 40})
    with no_fielddata(opensearch_url):
        candidates = OpenSearchCandidates(client, index_name, fields=["text"])
        assert ids(next(candidates.search([Query("q", "tides")], k=k))) == ["e"]
        assert "at the cut" not in caplog.text
        (hits,) = candidates.search([Query("q", "sea")], k=k)
    assert len(hits) == k
    assert ids(hits) == sorted(ids(hits))
    assert "at the cut" in caplog.text  # the order is repeatable, but no longer by id


def test_several_indices_behind_one_name(opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch) -> None:
    for part in ("a", "b"):
        docs = {"3": {"text": "sea"}, "1": {"text": "sea"}, "2": {"text": f"{part} sea sea"}}
        make_index(opensearch_url, f"{index_name}-{part}", docs)
    client.indices.put_alias(index=f"{index_name}-*", name=f"{index_name}-all")
    with pytest.raises(UsageError, match=f"2 indices .*{index_name}-a, {index_name}-b") as refusal:
        OpenSearchCandidates(client, f"{index_name}-all", fields=["text"])
    # the option is one of ingest's: rerank and run know by the store whether its ids are qualified
    assert f"`ingest opensearch:{index_name}-all --qualified-ids`" in str(refusal.value)
    candidates = OpenSearchCandidates(client, f"{index_name}-all", fields=["text"], qualified_ids=True)
    assert candidates.origin.name == f"{index_name}-a,{index_name}-b"
    (hits,) = candidates.search([Query("q", "sea")], k=9)
    assert hits == sorted(hits, key=lambda hit: (-hit.score, hit.doc_id))
    assert sorted(ids(hits)) == [f"{index_name}-{part}/{number}" for part in "ab" for number in "123"]
    with no_fielddata(opensearch_url):
        assert next(candidates.search([Query("q", "sea")], k=9)) == hits
    fetched = {document.doc_id: document.fields for document in candidates.fetch(ids(hits))}
    assert fetched[f"{index_name}-b/2"] == {"text": "b sea sea"}
    assert len(fetched) == 6


def test_an_alias_of_one_index_keeps_its_filter(
    opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch
) -> None:
    make_index(opensearch_url, index_name, {"1": {"text": "sea", "n": 1}, "2": {"text": "sea", "n": 2}})
    body = {"filter": {"term": {"n": 2}}}
    client.indices.put_alias(index=index_name, name=f"{index_name}-two", body=body)
    candidates = OpenSearchCandidates(client, f"{index_name}-two", fields=["text"])
    assert candidates.origin.name == index_name
    (hits,) = candidates.search([Query("q", "sea")], k=9)
    assert ids(hits) == ["2"]


def test_one_id_twice_through_routing(opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch) -> None:
    make_index(opensearch_url, index_name, mappings=TEXT, settings={"number_of_shards": 2})
    for routing in ("0", "1"):
        put_documents(opensearch_url, index_name, {"same": {"text": f"sea {routing}"}}, routing=routing)
    candidates = OpenSearchCandidates(client, index_name, fields=["text"])
    with pytest.raises(InputError, match="two documents have the id 'same'"):
        next(candidates.search([Query("q", "sea")], k=9))
    with pytest.raises(InputError, match="two documents have the id 'same'"):
        list(candidates.fetch(["same"]))


def test_a_missing_index(opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch) -> None:
    with pytest.raises(IndexNotFoundError, match=index_name):
        OpenSearchCandidates(client, index_name)
    make_ours(opensearch_url, index_name, SEA)
    candidates = OpenSearchCandidates(client, index_name)
    assert call(opensearch_url, "DELETE", f"/{index_name}").status == 200
    with pytest.raises(OpenSearchError, match=index_name):
        next(candidates.search([TIDES], k=3))


def test_an_alias_that_moves_while_it_is_used(
    opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch
) -> None:
    for part in ("a", "b"):
        make_index(opensearch_url, f"{index_name}-{part}", {"1": {"text": "sea"}})
    alias = f"{index_name}-now"
    client.indices.put_alias(index=f"{index_name}-a", name=alias)
    candidates = OpenSearchCandidates(client, alias, fields=["text"])
    client.indices.delete_alias(index=f"{index_name}-a", name=alias)
    client.indices.put_alias(index=f"{index_name}-b", name=alias)
    with pytest.raises(OpenSearchError, match="it changed while"):
        next(candidates.search([Query("q", "sea")], k=3))
    with pytest.raises(OpenSearchError, match="it changed while"):
        list(candidates.fetch(["1"]))


def test_a_shard_that_is_away_is_an_error(
    opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch
) -> None:
    settings = {"number_of_replicas": 0, "index.routing.allocation.require._name": "nowhere"}
    made = call(
        opensearch_url, "PUT", f"/{index_name}?wait_for_active_shards=0", {"settings": settings, "mappings": TEXT}
    )
    assert made.status == 200, made.body
    candidates = OpenSearchCandidates(client, index_name, fields=["text"], retry=Retry(2, 0.01, 0.01))
    with pytest.raises(OpenSearchError, match=index_name):
        next(candidates.search([TIDES], k=3))
    with pytest.raises(OpenSearchError, match=index_name):
        list(candidates.fetch(["d1"]))


def test_adding_an_alias_needs_more_than_to_read(opensearch_url: str, index_name: str) -> None:
    make_index(opensearch_url, index_name)
    with (
        Gateway(opensearch_url, users={"reader": User("pw", read_only=True)}) as gateway,
        connect(Connection(gateway.url, user="reader", password="pw")) as client,
        pytest.raises(OpenSearchAuthError, match="indices:admin/mapping/put"),
    ):
        add_doc_id_alias(client, index_name)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"timed_out": True}, id="timed-out"),
        pytest.param({"_shards": {"total": 3, "successful": 2, "failed": 1}}, id="a-shard-failed"),
        pytest.param({"_shards": {"total": 3, "successful": 2, "failed": 0}}, id="a-shard-was-away"),
    ],
)
def test_fewer_hits_than_there_are_is_an_error(
    opensearch_url: str,
    index_name: str,
    client: opensearchpy.OpenSearch,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
) -> None:
    make_ours(opensearch_url, index_name, SEA)
    batch, single = client.msearch, client.search
    candidates = OpenSearchCandidates(client, index_name)
    monkeypatch.setattr(client, "msearch", lambda **call: {"responses": [batch(**call)["responses"][0] | changes]})
    with pytest.raises(OpenSearchError, match="query 'q1': searched only"):
        next(candidates.search([TIDES], k=3))
    monkeypatch.setattr(client, "search", lambda **call: single(**call) | changes)
    with pytest.raises(OpenSearchError, match="shards answered"):
        list(candidates.fetch(["d1"]))


def test_read_only_credentials_suffice(opensearch_url: str, index_name: str) -> None:
    make_ours(opensearch_url, index_name, SEA)
    with Gateway(opensearch_url, users={"reader": User("pw", read_only=True)}) as gateway:
        with connect(Connection(gateway.url, user="reader", password="pw")) as client:
            candidates = OpenSearchCandidates(client, index_name)
            assert len(next(candidates.search([TIDES], k=10))) == 3
            assert len(list(candidates.fetch(["d1", "d2"]))) == 2
            assert add_doc_id_alias(client, index_name) == []
        assert not gateway.writes()


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Refuse(path="_msearch", status=429, times=2), id="429"),
        pytest.param(Refuse(path="_msearch", status=503, times=3), id="503"),
        pytest.param(Drop(path="_msearch", times=2), id="reset-before"),
        pytest.param(Drop(path="_msearch", after=True), id="answer-lost"),
    ],
)
def test_passing_trouble_is_waited_out(opensearch_url: str, index_name: str, fault: Any) -> None:
    make_ours(opensearch_url, index_name, SEA)
    with Gateway(opensearch_url) as gateway, connect(Connection(gateway.url)) as client:
        gateway.faults.append(fault)
        (hits,) = OpenSearchCandidates(client, index_name, retry=QUICK).search([TIDES], k=10)
        assert len(hits) == 3
        assert not gateway.faults


def test_lasting_trouble_is_an_error(opensearch_url: str, index_name: str) -> None:
    make_ours(opensearch_url, index_name, SEA)
    with Gateway(opensearch_url) as gateway, connect(Connection(gateway.url)) as client:
        candidates = OpenSearchCandidates(client, index_name, retry=QUICK)
        gateway.faults.append(Refuse(path="_msearch", status=429, times=99))
        with pytest.raises(OpenSearchError, match="429"):
            next(candidates.search([TIDES], k=10))
        assert len(gateway.sent_to("_msearch")) == QUICK.attempts


def test_single_searches_that_were_turned_away_are_sent_again(
    opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_ours(opensearch_url, index_name, SEA)
    whole, sent = client.msearch, []
    busy = {"error": {"type": "rejected_execution_exception", "reason": "queue is full"}, "status": 429}

    def one_is_busy(*, index: str, body: bytes) -> dict[str, Any]:
        sent.append(body.count(b"\n") // 2)
        answer: dict[str, Any] = whole(index=index, body=body)
        if len(sent) < 3:
            answer["responses"][0] = busy
        return answer

    monkeypatch.setattr(client, "msearch", one_is_busy)
    candidates = OpenSearchCandidates(client, index_name, retry=QUICK)
    found = [ids(hits) for hits in candidates.search([TIDES, Query("b", "flour"), Query("c", "fish")], k=9)]
    assert found[1:] == [["d3"], ["d2"]]
    assert len(found[0]) == 3
    assert sent == [3, 1, 1]


def test_servers_that_cannot_name_a_pipeline_in_a_batch(
    opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_ours(opensearch_url, index_name, SEA)
    whole, reason = client.msearch, "Unknown key for a VALUE_STRING in [search_pipeline]."

    def before_2_18(*, index: str, body: bytes) -> Any:
        if b'"search_pipeline": "' in body:
            error = {"type": "parsing_exception", "reason": reason}
            raise opensearchpy.RequestError(400, "parsing_exception", {"error": error, "status": 400})
        return whole(index=index, body=body)

    monkeypatch.setattr(client, "msearch", before_2_18)
    (hits,) = OpenSearchCandidates(client, index_name).search([TIDES], k=9)
    assert len(hits) == 3


def test_batches_travel_together_and_are_read_lazily(opensearch_url: str, index_name: str) -> None:
    make_ours(opensearch_url, index_name, SEA)
    with Gateway(opensearch_url) as gateway, connect(Connection(gateway.url)) as client:
        candidates = OpenSearchCandidates(client, index_name, batch=4)
        results = candidates.search([Query(f"q{number}", "sea") for number in range(10)], k=2)
        assert len(next(results)) == 2
        assert len(gateway.sent_to("_msearch")) == 1
        assert len(list(results)) == 9
        sent = gateway.sent_to("_msearch")
        assert [request.body.count(b"\n") // 2 for request in sent] == [4, 4, 2]
        headers = [json.loads(line) for request in sent for line in request.body.splitlines()[::2]]
    # One copy of each shard answers all of them: another may rank differently.
    assert [header["preference"] for header in headers] == ["colbert-rerank"] * 10


def test_no_log_line_holds_a_document(
    opensearch_url: str,
    index_name: str,
    client: opensearchpy.OpenSearch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    make_ours(opensearch_url, index_name, SEA)
    candidates = OpenSearchCandidates(client, index_name)
    list(candidates.search([TIDES], k=9))
    list(candidates.fetch(["d1"]))
    assert "follow the moon" not in caplog.text
    assert "tides of the sea" not in caplog.text


def test_hits_without_any_column_end_in_ids_or_an_error(
    opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a processor of the cluster may do to hits: asked in the same way again, it would be asked for ever."""
    make_ours(opensearch_url, index_name, SEA)
    want = [hit.doc_id for hit in next(OpenSearchCandidates(client, index_name).search([TIDES], k=3))]
    batch, asked = client.msearch, []

    def without_fields(**call: Any) -> Any:
        asked.append(call)
        answer = batch(**call)
        for hit in answer["responses"][0]["hits"]["hits"]:
            hit.pop("fields", None)
        return answer

    monkeypatch.setattr(client, "msearch", without_fields)
    assert [hit.doc_id for hit in next(OpenSearchCandidates(client, index_name).search([TIDES], k=3))] == want
    assert len(asked) == 3  # by the column doc_id, by that of _id, by _id itself
