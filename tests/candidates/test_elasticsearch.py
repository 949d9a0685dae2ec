"""Candidates from a real Elasticsearch: right ids in a repeatable order, by a column that is right or without one."""

from __future__ import annotations

import importlib
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from elasticsearch import Elasticsearch

from colbert_rerank import elasticsearch
from colbert_rerank.candidates.elasticsearch import ElasticsearchCandidates
from colbert_rerank.candidates.hits import IdSource
from colbert_rerank.candidates.template import make_template
from colbert_rerank.connection import ELASTICSEARCH, Connection
from colbert_rerank.elasticsearch import connect
from colbert_rerank.errors import (
    IndexNotFoundError,
    InputError,
    MissingDependencyError,
    OpenSearchAuthError,
    OpenSearchError,
    OpenSearchUnreachableError,
    UsageError,
)
from colbert_rerank.retry import Retry
from colbert_rerank.types import Query, ScoredDoc
from tests.server.elasticsearch import ElasticsearchNode
from tests.server.faults import Drop, Refuse
from tests.server.gateway import Gateway, User
from tests.server.indices import make_index, put_documents
from tests.server.rest import call

QUICK = Retry(attempts=4, base=0.01, cap=0.02)
TEXT = {"properties": {"text": {"type": "text"}}}
COLUMN = {"properties": {"text": {"type": "text"}, "doc_id": {"type": "keyword"}}}
SEA = Query("q1", "tides of the sea")

DOCS: dict[str, dict[str, Any]] = {
    "d1": {"text": "The tides of the sea follow the moon.", "year": 1902},
    "d2": {"text": "Fish live in the sea."},
    "d3": {"text": "Flour and water."},
    "a b/c?ü'\"": {"text": "The moon pulls at the sea."},
}


@pytest.fixture
def url(elasticsearch_node: ElasticsearchNode) -> str:
    return elasticsearch_node.url


@pytest.fixture
def client(url: str) -> Iterator[Elasticsearch]:
    with connect(Connection(url)) as opened:
        yield opened


def ids(hits: list[ScoredDoc]) -> list[str]:
    return [hit.doc_id for hit in hits]


def with_column(docs: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {doc_id: {**fields, "doc_id": doc_id} for doc_id, fields in docs.items()}


def found(client: Elasticsearch, index: str, text: str = "sea", k: int = 10, **options: Any) -> list[ScoredDoc]:
    (hits,) = ElasticsearchCandidates(client, index, fields=["text"], retry=QUICK, **options).search(
        [Query("q", text)], k
    )
    return hits


def test_order_and_scores_are_those_of_a_plain_search(url: str, elastic_index: str, client: Elasticsearch) -> None:
    make_index(url, elastic_index, DOCS, mappings=TEXT)
    candidates = ElasticsearchCandidates(client, elastic_index, fields=["text"])
    first, none, last = candidates.search([SEA, Query("q2", "zebra"), Query("q3", "flour")], k=10)
    raw = call(url, "POST", f"/{elastic_index}/_search", {"query": {"match": {"text": SEA.text}}}).body.decode()
    hits = json.loads(raw, parse_float=str)["hits"]["hits"]
    assert [(hit.doc_id, repr(hit.score)) for hit in first] == [(hit["_id"], hit["_score"]) for hit in hits]
    assert sorted(ids(first)) == sorted({*DOCS} - {"d3"})
    assert (none, ids(last)) == ([], ["d3"])
    assert {hit.query_id for hit in first} == {"q1"}


def test_the_origin_is_the_index_by_its_uuid(url: str, elastic_index: str, client: Elasticsearch) -> None:
    make_index(url, elastic_index, DOCS, mappings=TEXT)
    uuid = call(url, "GET", f"/{elastic_index}").json()[elastic_index]["settings"]["index"]["uuid"]
    assert ElasticsearchCandidates(client, elastic_index, fields=["text"]).origin == (
        "elasticsearch",
        elastic_index,
        uuid,
    )


def test_documents_are_fetched_as_they_came(url: str, elastic_index: str, client: Elasticsearch) -> None:
    make_index(url, elastic_index, with_column(DOCS), mappings=COLUMN, settings={"number_of_shards": 2})
    documents = ElasticsearchCandidates(client, elastic_index, fields=["text"]).fetch([*DOCS, "absent"])
    assert {document.doc_id: document.fields for document in documents} == with_column(DOCS)


@pytest.mark.parametrize("k", [1, 40, 150, 299])
def test_ties_end_the_same_way_with_a_column_and_without(
    url: str, elastic_index: str, client: Elasticsearch, k: int
) -> None:
    # Neither the order of writing nor the shard may show: two scores for 300 documents, in three shards.
    docs = {f"d{number * 7919 % 300:03}": {"text": "sea" if number % 3 else "sea sea"} for number in range(300)}
    for name, mappings, held in (("with", COLUMN, with_column(docs)), ("without", TEXT, docs)):
        make_index(url, f"{elastic_index}-{name}", held, mappings=mappings, settings={"number_of_shards": 3})
    by_column, by_hit = (found(client, f"{elastic_index}-{name}", k=k, dfs=True) for name in ("with", "without"))
    assert by_column == by_hit
    assert len(by_hit) == k
    assert by_hit == sorted(by_hit, key=lambda hit: (-hit.score, hit.doc_id))
    assert found(client, f"{elastic_index}-without", k=k, dfs=True) == by_hit


def test_k_may_be_larger_than_what_is_found(url: str, elastic_index: str, client: Elasticsearch) -> None:
    make_index(url, elastic_index, DOCS, mappings=TEXT, settings={"max_result_window": 50})
    assert len(found(client, elastic_index, k=50)) == 3
    with pytest.raises(UsageError, match=r"k = 51 .*max_result_window = 50"):
        found(client, elastic_index, k=51)


@pytest.mark.parametrize("column", [True, False])
def test_a_deleted_document_is_not_found(url: str, elastic_index: str, client: Elasticsearch, column: bool) -> None:
    make_index(url, elastic_index, with_column(DOCS), mappings=COLUMN if column else TEXT)
    assert call(url, "DELETE", f"/{elastic_index}/_doc/d1?refresh=true").status == 200
    assert sorted(ids(found(client, elastic_index))) == sorted({*DOCS} - {"d1", "d3"})
    assert not list(ElasticsearchCandidates(client, elastic_index, fields=["text"]).fetch(["d1"]))


def test_an_alias_is_one_index_with_its_filter(url: str, elastic_index: str, client: Elasticsearch) -> None:
    make_index(url, elastic_index, {"1": {"text": "sea", "n": 1}, "2": {"text": "sea", "n": 2}})
    action = {"index": elastic_index, "alias": f"{elastic_index}-two", "filter": {"term": {"n": 2}}}
    assert call(url, "POST", "/_aliases", {"actions": [{"add": action}]}).status == 200
    candidates = ElasticsearchCandidates(client, f"{elastic_index}-two", fields=["text"])
    assert candidates.origin.name == elastic_index
    assert ids(next(candidates.search([Query("q", "sea")], k=9))) == ["2"]
    assert [document.doc_id for document in candidates.fetch(["1", "2"])] == ["2"]


def test_several_indices_behind_one_name_are_refused(url: str, elastic_index: str, client: Elasticsearch) -> None:
    for part in ("a", "b"):
        make_index(url, f"{elastic_index}-{part}", DOCS)
    with pytest.raises(UsageError, match=f"2 indices .*{elastic_index}-a, {elastic_index}-b"):
        found(client, f"{elastic_index}-*")
    with pytest.raises(UsageError, match="name an index"):
        found(client, "_all")


def test_one_id_twice_through_routing(url: str, elastic_index: str, client: Elasticsearch) -> None:
    make_index(url, elastic_index, mappings=TEXT, settings={"number_of_shards": 2})
    for routing in ("0", "1"):
        put_documents(url, elastic_index, {"same": {"text": f"sea {routing}"}}, routing=routing)
    shards = {hit["_shard"] for hit in _explained(url, elastic_index)}
    assert len(shards) == 2
    with pytest.raises(InputError, match="two documents have the id 'same'"):
        found(client, elastic_index)


def _explained(url: str, index: str) -> list[dict[str, Any]]:
    hits: list[dict[str, Any]] = call(url, "POST", f"/{index}/_search", {"explain": True}).json()["hits"]["hits"]
    return hits


WRONG: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "other ids": ({"1": "1", "2": "3", "3": "2"}, {"type": "keyword"}),
    "absent in one": ({"1": "1", "2": None, "3": "3"}, {"type": "keyword"}),
    "two values": ({"1": "1", "2": ["2", "x"], "3": "3"}, {"type": "keyword"}),
    "no column": ({"1": "1", "2": "2", "3": "3"}, {"type": "keyword", "doc_values": False}),
    "numbers": ({"1": 1, "2": 2, "3": 3}, {"type": "long"}),
    "a text": ({"1": "1", "2": "2", "3": "3"}, {"type": "text"}),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_column_that_is_not_the_id_is_not_taken_for_it(
    url: str, elastic_index: str, client: Elasticsearch, kind: str
) -> None:
    values, field = WRONG[kind]
    docs = {doc_id: {"text": "sea " * int(doc_id), "doc_id": value} for doc_id, value in values.items()}
    make_index(url, elastic_index, docs, mappings={"properties": {"text": {"type": "text"}, "doc_id": field}})
    assert ids(found(client, elastic_index)) == ["3", "2", "1"]


def test_a_column_that_goes_wrong_later_is_found_out(
    url: str, elastic_index: str, client: Elasticsearch, caplog: pytest.LogCaptureFixture
) -> None:
    make_index(url, elastic_index, with_column(DOCS), mappings=COLUMN)
    candidates = ElasticsearchCandidates(client, elastic_index, fields=["text"])
    put_documents(url, elastic_index, {"d9": {"doc_id": "d2", "text": "tides"}, "d2": {"text": "tides too"}})
    (hits,) = candidates.search([Query("q", "tides")], k=9)
    assert sorted(ids(hits)) == ["d1", "d2", "d9"]
    assert "not the same as _id" in caplog.text


def test_fielddata_of_ids_is_not_asked_for(url: str, elastic_index: str) -> None:
    make_index(url, f"{elastic_index}-with", with_column(DOCS), mappings=COLUMN)
    make_index(url, f"{elastic_index}-without", DOCS, mappings=TEXT)
    with Gateway(url) as gateway, connect(Connection(gateway.url)) as watched:
        for name, asked in (("with", ["doc_id"]), ("without", None)):
            assert sorted(ids(found(watched, f"{elastic_index}-{name}"))) == sorted({*DOCS} - {"d3"})
            header, body = map(json.loads, gateway.sent_to("_msearch")[-1].body.splitlines())
            assert body.get("docvalue_fields") == asked
            assert (header["preference"], header["allow_partial_search_results"]) == ("colbert-rerank", False)
        # What OpenSearch takes and Elasticsearch refuses, and what a bare node and poor users may not be asked.
        assert not any(
            b"search_pipeline" in request.body or "search_pipeline" in request.path for request in gateway.requests
        )
        assert all(request.path != "/" for request in gateway.requests)
        assert not gateway.writes()
        # An older server takes no newer version's; both take this one, from a client of either.
        assert {request.headers["accept"].partition(";")[2] for request in gateway.requests} == {" compatible-with=8"}


def test_a_query_template_and_a_query_that_is_refused(url: str, elastic_index: str, client: Elasticsearch) -> None:
    make_index(url, elastic_index, DOCS, mappings=TEXT)
    strict = make_template({"query_string": {"query": "{{query}}", "default_field": "text"}})
    assert ids(found(client, elastic_index, "flour", template=strict)) == ["d3"]
    candidates = ElasticsearchCandidates(client, elastic_index, template=strict)
    with pytest.raises(OpenSearchError, match="query 'bad': Elasticsearch answered 400"):
        list(candidates.search([SEA, Query("bad", "(((")], k=3))
    with pytest.raises(OpenSearchError, match=f"{elastic_index}.*no_such_query"):
        found(client, elastic_index, template=make_template({"no_such_query": {"text": "{{query}}"}}))
    assert len(found(client, elastic_index, "sea \ud800 \0")) == 3
    with pytest.raises(UsageError, match="'body'"):
        ElasticsearchCandidates(client, elastic_index, fields=["body"])


def test_who_is_let_in(url: str, elastic_index: str, elasticsearch_node: ElasticsearchNode) -> None:
    make_index(url, elastic_index, DOCS, mappings=TEXT)

    def search_as(**login: str) -> list[ScoredDoc]:
        with connect(Connection(elasticsearch_node.bare_url, **login)) as client:  # type: ignore[arg-type]
            return found(client, elastic_index)

    name, password = elasticsearch_node.reader
    assert len(search_as(user=name, password=password)) == 3
    with pytest.raises(OpenSearchAuthError, match=r"wants credentials \(401\) and got none"):
        search_as()
    for login in ({"user": name, "password": "wrong"}, {"api_key": "bm9uZTpub25l"}):
        with pytest.raises(OpenSearchAuthError, match=r"does not accept these credentials \(401\)"):
            search_as(**login)
    name, password = elasticsearch_node.searcher
    with pytest.raises(OpenSearchAuthError, match=rf"index '{elastic_index}'.*403 .*view_index_metadata"):
        search_as(user=name, password=password)


def test_keys_and_tokens_and_tls(url: str, elastic_index: str) -> None:
    make_index(url, elastic_index, DOCS, mappings=TEXT)
    users, tokens = {"ä": User("pässword")}, {"a-key": "ä", "a-token": "ä"}
    with Gateway(url, users=users, tokens=tokens, tls=True) as gateway:
        for login, scheme in (
            ({"api_key": "a-key"}, "ApiKey a-key"),
            ({"bearer": "a-token"}, "Bearer a-token"),
            ({"user": "ä", "password": "pässword"}, "Basic "),
        ):
            with connect(Connection(gateway.url, ca_file=str(gateway.ca_file), **login)) as client:  # type: ignore[arg-type]
                assert len(found(client, elastic_index)) == 3
            assert gateway.requests[-1].headers["authorization"].startswith(scheme)
        with (
            connect(Connection(gateway.url, bearer="a-token")) as client,
            pytest.raises(OpenSearchUnreachableError, match="no trusted TLS connection"),
        ):
            found(client, elastic_index)
        with connect(Connection(gateway.url, bearer="a-token", verify=False)) as client:
            assert len(found(client, elastic_index)) == 3


def test_nobody_there_is_said_at_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with (
        connect(Connection("http://127.0.0.1:9", server=ELASTICSEARCH)) as client,
        pytest.raises(OpenSearchUnreachableError, match=r"http://127.0.0.1:9: cannot reach Elasticsearch"),
    ):
        ElasticsearchCandidates(client, "index", fields=["text"])
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "asking again" not in caplog.text


def test_a_missing_index(url: str, elastic_index: str, client: Elasticsearch) -> None:
    for name in (elastic_index, f"{elastic_index}-*"):
        with pytest.raises(IndexNotFoundError) as refusal:
            found(client, name)
        assert name in str(refusal.value)
        assert "ingest" not in str(refusal.value)  # which fills no Elasticsearch
    make_index(url, elastic_index, DOCS, mappings=TEXT)
    candidates = ElasticsearchCandidates(client, elastic_index, fields=["text"])
    assert call(url, "DELETE", f"/{elastic_index}").status == 200
    with pytest.raises(OpenSearchError, match=elastic_index):
        next(candidates.search([SEA], k=3))


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Refuse(path="_msearch", status=429, times=2), id="429"),
        pytest.param(Refuse(path="_msearch", status=503, times=3), id="503"),
        pytest.param(Drop(path="_msearch", times=2), id="reset-before"),
        pytest.param(Drop(path="_msearch", after=True), id="answer-lost"),
    ],
)
def test_passing_trouble_is_waited_out(url: str, elastic_index: str, fault: Any) -> None:
    make_index(url, elastic_index, DOCS, mappings=TEXT)
    with Gateway(url) as gateway, connect(Connection(gateway.url)) as client:
        gateway.faults.append(fault)
        assert len(found(client, elastic_index)) == 3
        assert not gateway.faults


def test_lasting_trouble_is_an_error(url: str, elastic_index: str) -> None:
    make_index(url, elastic_index, DOCS, mappings=TEXT)
    with Gateway(url) as gateway, connect(Connection(gateway.url)) as client:
        gateway.faults.append(Refuse(path="_msearch", status=429, times=99))
        with pytest.raises(OpenSearchError, match="Elasticsearch answered 429"):
            found(client, elastic_index)
        assert len(gateway.sent_to("_msearch")) == QUICK.attempts
        gateway.faults[:] = [Refuse(path="_msearch", status=503, retry_after="100000", times=99)]
        with pytest.raises(OpenSearchError, match="503"):  # who asks for a day is not waited for
            found(client, elastic_index)
        assert len(gateway.sent_to("_msearch")) == QUICK.attempts + 1


def test_an_opensearch_is_told_from_an_elasticsearch(opensearch_url: str, index_name: str) -> None:
    make_index(opensearch_url, index_name, DOCS, mappings=TEXT)
    with (
        connect(Connection(opensearch_url, server=ELASTICSEARCH)) as client,
        pytest.raises(OpenSearchError, match=r"not as Elasticsearch does.*--opensearch"),
    ):
        found(client, index_name)


def test_the_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "elasticsearch", None)
    with pytest.raises(MissingDependencyError, match="pip install elasticsearch"):
        importlib.reload(elasticsearch)


def test_a_sample_of_a_large_index_is_drawn_over_all_of_it(
    url: str, elastic_index: str, client: Elasticsearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("colbert_rerank.candidates.elasticsearch.DRAWN", 20)
    right = with_column({f"d{number}": {"text": "sea"} for number in range(150)})
    wrong = {f"x{number}": {"text": "zebra", "doc_id": "another"} for number in range(150)}
    make_index(url, elastic_index, right | wrong, mappings=COLUMN)  # the wrong ones come last, and are not found first
    candidates = ElasticsearchCandidates(client, elastic_index, fields=["text"])
    assert candidates.sources == (IdSource.HIT,)
