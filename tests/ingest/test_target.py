"""The index that is written to: made, continued, or left alone."""

from __future__ import annotations

from collections.abc import Iterator

import opensearchpy
import pytest

from colbert_rerank.connection import Connection
from colbert_rerank.errors import OpenSearchAuthError, UsageError
from colbert_rerank.opensearch import connect
from colbert_rerank.types import Document
from ingest.bulk import BulkIndexer
from ingest.target import prepare_index
from mappings import index_body, text_fields_of
from tests.server.faults import Drop
from tests.server.gateway import Gateway, User
from tests.server.indices import make_index, put_settings, source_of
from tests.server.rest import call

BODY = index_body(["title", "text"])


@pytest.fixture
def client(opensearch_url: str) -> Iterator[opensearchpy.OpenSearch]:
    with connect(Connection(opensearch_url)) as opened:
        yield opened


def test_an_absent_index_is_made(opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch) -> None:
    target = prepare_index(client, index_name, index_body(["title", "text"], shards=2, k1=0.9, b=0.4))
    assert (target.origin.name, target.ours) == (index_name, True)
    assert text_fields_of(target.info.mapping) == ("title", "text")
    made = call(opensearch_url, "GET", f"/{index_name}").json()[index_name]
    assert made["settings"]["index"]["uuid"] == target.origin.uuid
    assert made["settings"]["index"]["number_of_shards"] == "2"
    assert made["settings"]["index"]["similarity"]["default"] == {"type": "BM25", "k1": "0.9", "b": "0.4"}
    assert made["mappings"]["_meta"] == {"colbert_rerank": {"version": 1, "text_fields": ["title", "text"]}}
    # A second run goes on with it.
    assert prepare_index(client, index_name, BODY) == target


def test_other_fields_than_it_was_made_for(
    opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch
) -> None:
    prepare_index(client, index_name, BODY)
    with pytest.raises(UsageError, match="made for the fields title, text, not body"):
        prepare_index(client, index_name, index_body(["body"]))


def test_a_version_from_the_future(opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch) -> None:
    make_index(opensearch_url, index_name, mappings={"_meta": {"colbert_rerank": {"version": 2}}})
    with pytest.raises(UsageError, match="mapping version 2"):
        prepare_index(client, index_name, BODY)


def test_an_index_of_somebody_else(opensearch_url: str, index_name: str) -> None:
    make_index(opensearch_url, index_name, {"1": {"text": "theirs"}})
    with Gateway(opensearch_url) as gateway, connect(Connection(gateway.url)) as client:
        with pytest.raises(UsageError, match="did not make"):
            prepare_index(client, index_name, BODY)
        target = prepare_index(client, index_name, BODY, into_existing=True)
        assert not gateway.writes()
        assert not target.ours
        document = Document("7", {"_id": "7", "text": "ours", "doc_id": "x"})
        assert BulkIndexer(client, index_name).index([(document.doc_id, target.body_of(document))]) == 1
    assert source_of(opensearch_url, index_name, "7") == {"text": "ours", "doc_id": "x"}


def test_several_indices_are_no_target(opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch) -> None:
    for part in ("a", "b"):
        make_index(opensearch_url, f"{index_name}-{part}")
    with pytest.raises(UsageError, match="2 indices"):
        prepare_index(client, f"{index_name}-*", BODY)


@pytest.mark.parametrize(
    ("name", "analyzer", "expected"),
    [
        pytest.param("{}-UPPER", "english", "must be lowercase", id="upper-case"),
        pytest.param("{}-absent*", "english", "must not contain", id="pattern"),
        pytest.param("{}", "klingon", "analyzer", id="unknown-analyzer"),
    ],
)
def test_names_and_bodies_that_opensearch_refuses(
    index_name: str, client: opensearchpy.OpenSearch, name: str, analyzer: str, expected: str
) -> None:
    with pytest.raises(UsageError, match=expected):
        prepare_index(client, name.format(index_name), index_body(["text"], analyzer=analyzer))


def test_a_lost_answer_does_not_matter(opensearch_url: str, index_name: str) -> None:
    with Gateway(opensearch_url) as gateway, connect(Connection(gateway.url)) as client:
        gateway.faults.append(Drop(path=index_name, times=1))  # the first look at the name
        gateway.faults.append(Drop(path=index_name, times=1, after=True))
        assert prepare_index(client, index_name, BODY).ours


def test_reading_alone_is_not_enough(opensearch_url: str, index_name: str) -> None:
    with (
        Gateway(opensearch_url, users={"reader": User("pw", read_only=True)}) as gateway,
        connect(Connection(gateway.url, user="reader", password="pw")) as client,
        pytest.raises(OpenSearchAuthError, match="indices:admin/create"),
    ):
        prepare_index(client, index_name, BODY)


def test_documents_of_every_shape_are_taken(
    opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch
) -> None:
    documents = [
        Document("plain", {"title": "Tides", "text": "The sea."}),
        Document("no-text", {"year": 1}),
        Document("object", {"title": {"en": "Tides"}, "text": "The sea."}),
        Document("taken", {"_id": "taken", "doc_id": "x", "contents": {"a": 1}, "original": [1], "text": "The sea."}),
        Document("names", {"": 1, "a..b": 2, ".": 3, "_source": 4, "_routing": 5, "text": ["The", ["sea", 3]]}),
        Document("conflict", {"meta": 1, "text": "sea"}),
        Document("conflict2", {"meta": {"a": "x"}, "text": "sea", "title.sub": 3}),
        Document("conflict3", {"meta": {"a": [{"b": "2020-01-01"}]}, "text": None}),
        Document("wide", {"text": "sea", **{f"field{number}": number for number in range(3000)}}),
        Document("deep", {"text": "sea", "deep": _nested(200)}),
    ]
    target = prepare_index(client, index_name, BODY)
    indexer = BulkIndexer(client, index_name)
    assert indexer.index((document.doc_id, target.body_of(document)) for document in documents) == len(documents)
    indexer.refresh()
    mapping = call(opensearch_url, "GET", f"/{index_name}/_mapping").json()[index_name]["mappings"]
    assert set(mapping["properties"]) == {"doc_id", "contents", "original", "title", "text"}
    found = call(opensearch_url, "POST", f"/{index_name}/_search", {"query": {"match": {"contents": "sea"}}}).json()
    assert found["hits"]["total"]["value"] == 8
    phrase = {"query": {"match_phrase": {"contents": "tides"}}, "docvalue_fields": ["doc_id"]}
    (hit,) = call(opensearch_url, "POST", f"/{index_name}/_search", phrase).json()["hits"]["hits"]
    assert hit["fields"] == {"doc_id": ["plain"]}


def test_a_blocked_index_is_named(opensearch_url: str, index_name: str, client: opensearchpy.OpenSearch) -> None:
    target = prepare_index(client, index_name, BODY)
    put_settings(opensearch_url, f"/{index_name}/_settings", {"index.blocks.write": True})
    document = Document("1", {"text": "sea"})
    with pytest.raises(Exception, match="FORBIDDEN/8/index write"):
        BulkIndexer(client, index_name).index([("1", target.body_of(document))])


def _nested(depth: int) -> object:
    value: object = "bottom"
    for _ in range(depth):
        value = {"level": value}
    return value
