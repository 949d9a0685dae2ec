"""An existing index as a source: every document once, and no write ever."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import opensearchpy
import pytest

from colbert_rerank.connection import Connection
from colbert_rerank.errors import IndexNotFoundError, InputError, OpenSearchAuthError, OpenSearchError, UsageError
from colbert_rerank.opensearch import connect
from colbert_rerank.retry import Retry
from colbert_rerank.types import Document
from ingest.bulk import BulkIndexer
from ingest.sources import snapshots
from ingest.sources.opensearch import OpenSearchSource
from ingest.target import prepare_index
from mappings import index_body
from tests.server.faults import Drop, Refuse
from tests.server.gateway import Gateway, User
from tests.server.indices import make_index, put_documents
from tests.server.rest import call

QUICK = Retry(attempts=4, base=0.01, cap=0.02)
DOCS: dict[str, dict[str, Any]] = {
    f"d{number}": {"text": f"word{number}", "doc_id": f"theirs{number}", "nested": {"n": [number, None]}}
    for number in range(250)
}


@pytest.fixture
def gateway(opensearch_url: str) -> Iterator[Gateway]:
    users = {"reader": User("pw", read_only=True)}
    with Gateway(opensearch_url, users=users) as opened:
        yield opened
        assert not opened.writes()


@pytest.fixture
def client(gateway: Gateway) -> Iterator[opensearchpy.OpenSearch]:
    """Logged in as a user who may only read, with every request on record."""
    with connect(Connection(gateway.url, user="reader", password="pw")) as opened:
        yield opened


def open_views(url: str) -> int:
    """Points in time and scrolls that were not closed."""
    stats = call(url, "GET", "/_nodes/stats/indices/search").json()["nodes"].values()
    return sum(node["indices"]["search"]["open_contexts"] for node in stats)


def fields_by_id(documents: list[Document]) -> dict[str, Any]:
    assert len({document.doc_id for document in documents}) == len(documents)
    return {document.doc_id: document.fields for document in documents}


@pytest.mark.parametrize(
    "slices", [pytest.param(None, id="by-shard"), pytest.param(1, id="one"), pytest.param(7, id="seven")]
)
def test_every_document_once(
    opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch, slices: int | None
) -> None:
    make_index(opensearch_url, index_name, DOCS, settings={"number_of_shards": 3})
    source = OpenSearchSource(client, index_name, slices=slices, page_docs=30)
    assert (source.kind, source.name, source.origin.name) == ("opensearch", index_name, index_name)
    documents = list(source)
    assert fields_by_id(documents) == DOCS
    assert all(document.seq_no >= 0 and document.primary_term == 1 for document in documents)
    assert documents[0].where == f"{index_name}/{documents[0].doc_id}"
    assert fields_by_id(list(source)) == DOCS  # and again
    assert open_views(opensearch_url) == 0


def test_an_empty_index(opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch) -> None:
    make_index(opensearch_url, index_name)
    assert list(OpenSearchSource(client, index_name)) == []


def test_pages_grow_and_shrink_with_the_documents(
    opensearch_url: str,
    index_name: str,
    gateway: Gateway,
    client: opensearchpy.OpenSearch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(snapshots, "PAGE_BYTES", 100_000)
    docs: dict[str, dict[str, Any]] = {f"d{n:03}": {"text": "small"} for n in range(150)}
    docs |= {f"e{n:03}": {"text": "x" * 5_000} for n in range(60)}
    make_index(opensearch_url, index_name, docs)
    assert fields_by_id(list(OpenSearchSource(client, index_name))) == docs
    sizes = [json.loads(request.body)["size"] for request in gateway.sent_to("_search") if b'"size"' in request.body]
    assert sizes[:2] == [100, 200]
    assert sizes[-1] < 40


def test_what_we_put_in_comes_out(opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch) -> None:
    given = [
        Document("1", {"title": "T", "text": "x", "doc_id": "own", "contents": [1], "": 2}),
        Document("2", {"_id": "2", "text": "y", "title": {"en": "z"}}),
    ]
    with connect(Connection(opensearch_url)) as writer:
        target = prepare_index(writer, index_name, index_body(["title", "text"]))
        indexer = BulkIndexer(writer, index_name)
        indexer.index((document.doc_id, target.body_of(document)) for document in given)
        indexer.refresh()
    found = fields_by_id(list(OpenSearchSource(client, index_name)))
    assert found == {"1": given[0].fields, "2": {"text": "y", "title": {"en": "z"}}}


def test_a_default_pipeline_changes_nothing(
    opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch
) -> None:
    pipeline = {"request_processors": [{"filter_query": {"query": {"term": {"text": "word3"}}}}]}
    assert call(opensearch_url, "PUT", f"/_search/pipeline/{index_name}", pipeline).status == 200
    try:
        make_index(opensearch_url, index_name, DOCS, settings={"index.search.default_pipeline": index_name})
        assert fields_by_id(list(OpenSearchSource(client, index_name))) == DOCS
    finally:
        call(opensearch_url, "PUT", f"/{index_name}/_settings", {"index.search.default_pipeline": "_none"})
        assert call(opensearch_url, "DELETE", f"/_search/pipeline/{index_name}").status == 200


@pytest.mark.parametrize("lost_after", [0, 29, 30, 95, 249])
def test_a_lost_view_is_opened_again(
    opensearch_url: str, index_name: str, gateway: Gateway, client: opensearchpy.OpenSearch, lost_after: int
) -> None:
    make_index(opensearch_url, index_name, DOCS, settings={"number_of_shards": 3})
    found: list[Document] = []
    for document in OpenSearchSource(client, index_name, page_docs=30):
        if len(found) == lost_after:
            # As after a restart of the node, or after an hour's pause.
            assert call(opensearch_url, "DELETE", "/_search/point_in_time/_all").status == 200
        found.append(document)
    assert fields_by_id(found) == DOCS
    assert open_views(opensearch_url) == 0
    assert len([request for request in gateway.sent_to("point_in_time") if request.method == "POST"]) == 2


def test_a_view_that_is_lost_again_and_again(
    opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_index(opensearch_url, index_name, DOCS)
    documents = iter(OpenSearchSource(client, index_name, page_docs=30))
    for _ in range(40):
        next(documents)
    whole = client.create_pit

    def gone_at_once(*, index: str, params: Any) -> Any:
        answer = whole(index=index, params=params)
        call(opensearch_url, "DELETE", "/_search/point_in_time/_all")
        return answer

    monkeypatch.setattr(client, "create_pit", gone_at_once)
    assert call(opensearch_url, "DELETE", "/_search/point_in_time/_all").status == 200
    assert len([next(documents) for _ in range(20)]) == 20  # the rest of the page that is here already
    with pytest.raises(OpenSearchError, match="keeps losing"):
        next(documents)


def test_an_index_replaced_while_it_is_read(
    opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch
) -> None:
    make_index(opensearch_url, index_name, DOCS)
    documents = iter(OpenSearchSource(client, index_name, page_docs=30))
    next(documents)
    assert call(opensearch_url, "DELETE", f"/{index_name}").status == 200
    make_index(opensearch_url, index_name, {"other": {"text": "x"}})
    with pytest.raises(OpenSearchError, match="was replaced"):
        list(documents)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Refuse(path="_search", status=429, times=2), id="429"),
        pytest.param(Refuse(path="_search", status=503, times=3), id="503"),
        pytest.param(Drop(path="_search", times=2), id="reset-before"),
        pytest.param(Drop(path="_search", times=1, after=True), id="answer-lost"),
    ],
)
def test_passing_trouble_is_waited_out(
    opensearch_url: str, index_name: str, gateway: Gateway, client: opensearchpy.OpenSearch, fault: Any
) -> None:
    make_index(opensearch_url, index_name, DOCS)
    documents = iter(OpenSearchSource(client, index_name, page_docs=30, retry=QUICK))
    first = [next(documents) for _ in range(15)]
    gateway.faults.append(fault)
    assert fields_by_id(first + list(documents)) == DOCS
    assert not gateway.faults


@pytest.mark.parametrize("status", [400, 404, 405])
def test_servers_without_points_in_time(
    opensearch_url: str, index_name: str, gateway: Gateway, client: opensearchpy.OpenSearch, status: int
) -> None:
    make_index(opensearch_url, index_name, DOCS, settings={"number_of_shards": 2})
    gateway.faults.append(Refuse(path="point_in_time", status=status, times=99))
    assert fields_by_id(list(OpenSearchSource(client, index_name, page_docs=30))) == DOCS
    assert gateway.sent_to("scroll")
    assert open_views(opensearch_url) == 0


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Drop(path="scroll", after=True), id="answer-lost"),  # that page cannot be had again
        pytest.param(Refuse(path="scroll", status=429, times=2), id="429"),
        pytest.param(Refuse(path="scroll", status=503, times=2), id="503"),
    ],
)
def test_a_lost_scroll_is_opened_again(
    opensearch_url: str, index_name: str, gateway: Gateway, client: opensearchpy.OpenSearch, fault: Any
) -> None:
    make_index(opensearch_url, index_name, DOCS, settings={"number_of_shards": 2})
    gateway.faults += [Refuse(path="point_in_time", status=400, times=99), fault]
    found: list[Document] = []
    for document in OpenSearchSource(client, index_name, page_docs=30, retry=QUICK):
        if len(found) == 200:
            assert call(opensearch_url, "DELETE", "/_search/scroll/_all").status == 200
        found.append(document)
    assert fields_by_id(found) == DOCS
    assert open_views(opensearch_url) == 0


def test_servers_that_cannot_sort_by_shard_doc(
    opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_index(opensearch_url, index_name, DOCS)
    whole = client.search

    def before_3(*, body: Any, params: Any, index: str | None = None) -> Any:
        if "pit" in body:
            reason = "No mapping found for [_shard_doc] in order to sort on"
            error = {"type": "search_phase_execution_exception", "reason": reason}
            raise opensearchpy.RequestError(400, "search_phase_execution_exception", {"error": error, "status": 400})
        return whole(index=index, body=body, params=params)

    monkeypatch.setattr(client, "search", before_3)
    assert fields_by_id(list(OpenSearchSource(client, index_name, page_docs=30))) == DOCS
    assert open_views(opensearch_url) == 0


def test_a_reader_that_stops_early_leaves_nothing_open(
    opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch
) -> None:
    make_index(opensearch_url, index_name, DOCS)
    documents = OpenSearchSource(client, index_name, page_docs=30).__iter__()
    next(documents)
    assert open_views(opensearch_url) == 1
    documents.close()  # type: ignore[attr-defined]
    assert open_views(opensearch_url) == 0


@pytest.mark.parametrize(
    "order",
    [
        pytest.param([None, 0], id="plain-and-routed"),
        pytest.param([0, None], id="routed-and-plain"),
        pytest.param([0, 1], id="both-routed"),
    ],
)
def test_one_id_twice_through_routing(
    opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch, order: list[int | None]
) -> None:
    make_index(opensearch_url, index_name, DOCS, settings={"number_of_shards": 5})
    elsewhere = routings_to_other_shards(opensearch_url, index_name, "same")
    routings = [None if place is None else elsewhere[place] for place in order]
    for routing in routings:
        put_documents(opensearch_url, index_name, {"same": {"text": "x"}}, routing=routing)
    with pytest.raises(InputError, match="two documents have the id 'same'") as raised:
        list(OpenSearchSource(client, index_name))
    message = str(raised.value)
    assert message.count(f"[{index_name}][") == 2
    for routing in routings:
        assert ("without routing" if routing is None else f"with routing '{routing}'") in message
    assert open_views(opensearch_url) == 0


def routings_to_other_shards(url: str, name: str, doc_id: str) -> list[str]:
    """Two routing values that lead to two shards, neither the one where ``doc_id`` goes by itself."""
    shards = {
        routing: call(url, "GET", f"/{name}/_search_shards?routing={routing}").json()["shards"][0][0]["shard"]
        for routing in (doc_id, *map(str, range(30)))
    }
    first = next(routing for routing, shard in shards.items() if shard != shards[doc_id])
    second = next(routing for routing, shard in shards.items() if shard not in (shards[doc_id], shards[first]))
    return [first, second]


def test_routing_alone_is_no_problem(opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch) -> None:
    make_index(opensearch_url, index_name, settings={"number_of_shards": 3})
    for routing in ("a", "b", None):
        docs = {f"{routing}{number}": {"text": "x"} for number in range(40)}
        put_documents(opensearch_url, index_name, docs, routing=routing)
    found: list[Document] = []
    for document in OpenSearchSource(client, index_name, page_docs=10):
        if len(found) == 55:
            call(opensearch_url, "DELETE", "/_search/point_in_time/_all")
        found.append(document)
    assert len(fields_by_id(found)) == 120


def test_several_indices_behind_one_name(opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch) -> None:
    for part, shards in (("a", 1), ("b", 3)):
        docs = {str(number): {"text": f"{part}{number}"} for number in range(50)}
        make_index(opensearch_url, f"{index_name}-{part}", docs, settings={"number_of_shards": shards})
    with pytest.raises(UsageError, match=r"2 indices .*or ingest with --qualified-ids"):
        OpenSearchSource(client, f"{index_name}-*")
    source = OpenSearchSource(client, f"{index_name}-*", qualified_ids=True, page_docs=20)
    assert source.origin.name == f"{index_name}-a,{index_name}-b"
    found = fields_by_id(list(source))
    assert found == {
        f"{index_name}-{part}/{number}": {"text": f"{part}{number}"} for part in "ab" for number in range(50)
    }


def test_a_filtered_alias(opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch) -> None:
    make_index(opensearch_url, index_name, DOCS)
    body = {"filter": {"match": {"text": "word7"}}}
    assert call(opensearch_url, "PUT", f"/{index_name}/_alias/{index_name}-seven", body).status == 200
    assert set(fields_by_id(list(OpenSearchSource(client, f"{index_name}-seven")))) == {"d7"}


def test_an_index_without_source(opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch) -> None:
    make_index(opensearch_url, index_name, DOCS, mappings={"_source": {"enabled": False}})
    with pytest.raises(InputError, match="keeps no _source"):
        OpenSearchSource(client, index_name)


def test_an_index_with_a_part_of_its_source(
    opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch, caplog: pytest.LogCaptureFixture
) -> None:
    make_index(opensearch_url, index_name, DOCS, mappings={"_source": {"excludes": ["nested"]}})
    assert next(iter(OpenSearchSource(client, index_name))).fields.keys() == {"text", "doc_id"}
    assert "excludes nested" in caplog.text


def test_what_cannot_be_read(
    opensearch_url: str, index_name: str, gateway: Gateway, client: opensearchpy.OpenSearch
) -> None:
    with pytest.raises(IndexNotFoundError, match=index_name):
        OpenSearchSource(client, index_name)
    make_index(opensearch_url, index_name, DOCS)
    with pytest.raises(UsageError, match="slices"):
        OpenSearchSource(client, index_name, slices=0)
    with pytest.raises(UsageError, match="page"):
        OpenSearchSource(client, index_name, page_docs=0)
    with (
        connect(Connection(gateway.url, user="reader", password="wrong")) as stranger,
        pytest.raises(OpenSearchAuthError, match="401"),
    ):
        OpenSearchSource(stranger, index_name)
