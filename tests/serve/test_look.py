"""A search over the service, and why a document scored: the numbers are those of the library."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from colbert_rerank.candidates.bm25 import open_beside
from colbert_rerank.encoder import Encoder
from colbert_rerank.explanation import CHANGED, NO_TEXT, explain
from colbert_rerank.rerank import Reranker
from colbert_rerank.serve.stores import ServedStore
from colbert_rerank.store import Store
from tests.collection import RECIPE, bm25_of, documents, queries
from tests.serve.conftest import client_of

QUERY = queries(1)[0]
DOC = documents(1)[0]
TEXTS = {d.doc_id: RECIPE.text(d.fields) for d in documents(40)}


@pytest.fixture(scope="module")
def looking(folder: Path, tiny_encoder: Encoder) -> Iterator[TestClient]:
    with client_of(ServedStore("real", Store.open(folder), tiny_encoder, {}, open_beside)) as client:
        yield client


def test_a_search_gives_both_rankings(looking: TestClient, reranker: Reranker) -> None:
    found = looking.post("/v1/stores/real/search", json={"query": QUERY.text, "k": 20, "top_n": 3}).json()
    (ranking,) = reranker.run([QUERY], bm25_of(reranker.store), 20)
    before = {d.doc_id: (rank, d.score) for rank, d in enumerate(ranking.first_stage, 1)}
    after = {d.doc_id: (rank, d.score) for rank, d in enumerate(ranking.ranked, 1)}
    assert found["candidates"] == len(before)
    assert {d["id"] for d in found["documents"]} == {i for i in before if before[i][0] <= 3 or after[i][0] <= 3}
    for doc in found["documents"]:
        assert (doc["first_stage"]["rank"], doc["first_stage"]["score"]) == before[doc["id"]]
        assert (doc["reranked"]["rank"], doc["reranked"]["score"]) == after[doc["id"]]
        assert doc["text"] == TEXTS[doc["id"]]


def test_nothing_found(looking: TestClient) -> None:
    found = looking.post("/v1/stores/real/search", json={"query": "xyzzy"}).json()
    assert (found["candidates"], found["documents"], found["status"]) == (0, [], "ok")


def test_an_explanation(looking: TestClient, client: TestClient, reranker: Reranker) -> None:
    expected = explain(reranker, QUERY.text, DOC.doc_id, TEXTS[DOC.doc_id])
    path = "/v1/stores/real/explain"
    found = looking.post(path, json={"query": QUERY.text, "id": DOC.doc_id}).json()
    assert (found["score"], found["tokens"], found["why_not"]) == (expected.score, expected.tokens, None)
    assert [tuple(match.values()) for match in found["matches"]] == expected.matches
    other = looking.post(path, json={"query": QUERY.text, "id": DOC.doc_id, "text": "another"}).json()
    assert (other["tokens"], other["why_not"]) == (None, CHANGED)
    assert client.post(path, json={"query": QUERY.text, "id": DOC.doc_id}).json()["why_not"] == NO_TEXT


def test_what_is_wrong_is_said_without_a_path(looking: TestClient, client: TestClient, folder: Path) -> None:
    refused = looking.post("/v1/stores/real/explain", json={"query": QUERY.text, "id": "gone"})
    assert (refused.status_code, refused.json()["error"]) == (422, "document 'gone' has no vectors in the store 'real'")
    refused = client.post("/v1/stores/real/search", json={"query": QUERY.text})
    assert (refused.status_code, "without a first stage" in refused.json()["error"]) == (422, True)
    assert looking.post("/v1/stores/other/search", json={"query": "a"}).status_code == 404
    assert looking.post("/v1/stores/real/search", json={"query": " "}).status_code == 422
