"""Each dialect's answer, as its own servers give it; the order is the same in all of them."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from colbert_rerank.rerank import Reranker
from tests.collection import documents, queries, texts

QUERY = queries(1)[0].text
IDS = [d.doc_id for d in documents(8)]
STORE = "/v1/stores/real"


@pytest.fixture(scope="module")
def best_first(reranker: Reranker) -> list[tuple[int, float]]:
    ranked = reranker.rerank(QUERY, [(i, 0.0) for i in IDS])
    return [(IDS.index(d.doc_id), d.score) for d in ranked]


def ask(client: TestClient, path: str, **body: Any) -> Any:
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-colbert-rerank-status"] == "ok"
    return answer.json()


def pairs(results: list[dict[str, Any]], score: str = "relevance_score") -> list[tuple[int, float]]:
    return [(r["index"], r[score]) for r in results]


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_cohere(client: TestClient, best_first: list[tuple[int, float]], path: str) -> None:
    found = ask(client, STORE + path, query=QUERY, documents=IDS, top_n=3, model="rerank-v3.5", max_chunks_per_doc=1)
    assert pairs(found["results"]) == best_first[:3]
    assert not [r for r in found["results"] if "document" in r], "not asked for: left out, and not null"
    assert found["meta"]["billed_units"] == {"search_units": 1}
    assert found["meta"]["api_version"]["version"]
    assert found["id"]


def test_cohere_returns_documents_in_version_1_alone(client: TestClient) -> None:
    body: dict[str, Any] = {
        "query": QUERY,
        "documents": [{"text": t, "title": "x"} for t in texts(3)],
        "return_documents": True,
    }
    found = ask(client, "/v1/rerank", **body)
    assert [r["document"] for r in found["results"]] == [{"text": texts(3)[r["index"]]} for r in found["results"]]
    assert not [r for r in ask(client, "/v2/rerank", **body)["results"] if "document" in r]


def test_jina(client: TestClient) -> None:
    body: dict[str, Any] = {"query": QUERY, "documents": texts(3), "model": "jina-reranker"}
    found = ask(client, "/jina/v1/rerank", **body)
    assert [r["document"] for r in found["results"]] == [{"text": texts(3)[r["index"]]} for r in found["results"]]
    assert found["usage"]["total_tokens"] > 0
    assert not [r for r in ask(client, "/jina/v1/rerank", return_documents=False, **body)["results"] if "document" in r]


def test_voyage(client: TestClient, best_first: list[tuple[int, float]]) -> None:
    found = ask(client, f"{STORE}/voyage/v1/rerank", query=QUERY, documents=IDS, top_k=2, truncation=True)
    assert (found["object"], pairs(found["data"])) == ("list", best_first[:2])
    assert found["usage"]["total_tokens"] > 0
    (one,) = ask(client, "/voyage/v1/rerank", query=QUERY, documents=["a text"], return_documents=True)["data"]
    assert one["document"] == "a text"


@pytest.mark.parametrize("path", ["/tei/rerank", "/rerank"])
def test_text_embeddings_inference(client: TestClient, best_first: list[tuple[int, float]], path: str) -> None:
    found = ask(client, STORE + path, query=QUERY, texts=IDS, raw_scores=False, truncate=True)
    assert pairs(found, "score") == best_first
    assert all(r.keys() == {"index", "score"} for r in found)
    found = ask(client, path, query=QUERY, texts=texts(3), return_text=True)
    assert [r["text"] for r in found] == [texts(3)[r["index"]] for r in found]
    refused = client.post(path, json={"query": "", "texts": texts(3)})
    assert refused.json().keys() >= {"error", "error_type"}


def test_infinity(client: TestClient, best_first: list[tuple[int, float]]) -> None:
    found = ask(client, f"{STORE}/infinity/rerank", query=QUERY, documents=IDS, return_documents=True, top_n=2)
    assert pairs(found["results"]) == best_first[:2]
    assert [r["document"] for r in found["results"]] == [IDS[i] for i, _ in best_first[:2]], "a bare string"
    assert found["object"] == "rerank"
    assert found.keys() >= {"model", "usage", "id", "created"}


@pytest.mark.parametrize("path", ["/vllm/rerank", "/vllm/v1/rerank", "/vllm/v2/rerank"])
def test_vllm(client: TestClient, best_first: list[tuple[int, float]], path: str) -> None:
    found = ask(client, STORE + path, query=QUERY, documents=IDS, top_n=0)
    assert pairs(found["results"]) == best_first
    assert [r["document"]["text"] for r in found["results"]] == [IDS[i] for i, _ in best_first], "always there"


@pytest.mark.parametrize(
    ("one", "many"), [("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2")]
)
def test_vllm_scores(client: TestClient, best_first: list[tuple[int, float]], one: str, many: str) -> None:
    for query in (QUERY, [QUERY]):
        found = ask(client, f"{STORE}/vllm/v1/score", **{one: query, many: IDS})
        assert pairs(found["data"], "score") == sorted(best_first), "in the order of the request"
    for body in ({one: QUERY}, {one: [QUERY, "other"], many: IDS}, {one: QUERY, many: []}, {}):
        assert client.post(f"{STORE}/vllm/v1/score", json=body).status_code == 422


def test_vectors(client: TestClient, reranker: Reranker) -> None:
    found = client.post("/encode", json={"queries": [QUERY], "documents": texts(2), "store": "real"}).json()
    assert found["queries"] == [reranker.encoder.encode_queries([QUERY])[0].tolist()]
    assert found["documents"] == [m.tolist() for m in reranker.encoder.encode_documents(texts(2))]
    assert client.post("/encode", json={"queries": [], "store": "other"}).status_code == 404
    assert client.post("/encode", json={"queries": ["x"] * 65}).status_code == 422


def test_what_is_here(client: TestClient, reranker: Reranker) -> None:
    (store,) = client.get("/v1/stores").json()["stores"]
    assert (store["name"], store["documents"], store["generation"]) == (
        "real",
        len(reranker.store),
        reranker.store.manifest.generation,
    )
    assert client.get("/info").json()["stores"] == [store]
    assert [m["id"] for m in client.get("/v1/models").json()["data"]] == [reranker.encoder.checkpoint.name]
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/v1/stores/{store}/rerank", "/v1/rerank", "/encode", "/readyz"} <= paths.keys()
    assert client.get("/").status_code == 404
    assert client.get("/rerank").status_code == 405


def test_no_path_of_this_machine_is_told(client: TestClient, reranker: Reranker) -> None:
    for path in ("/info", "/v1/stores", "/v1/models", "/metrics", "/openapi.json"):
        assert str(reranker.store.folder.parent) not in client.get(path).text
