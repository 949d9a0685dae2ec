"""Each dialect's answer, as its own servers give it; the order is the same in all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from colbert_rerank.checkpoints.location import public_name
from colbert_rerank.encoder import Encoder
from colbert_rerank.rerank import Reranker
from colbert_rerank.serve.routes import DIALECTS
from tests.collection import documents, queries, texts
from tests.serve.conftest import LIMITS

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
    assert found["meta"]["api_version"]["version"] == ("2" if path == "/v2/rerank" else "1")
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


def test_cohere_ranks_by_the_fields_that_it_is_told(client: TestClient) -> None:
    docs: list[Any] = [{"title": f"  {text} ", "author": "Ann", "year": 7} for text in texts(3)]
    found = ask(client, "/v1/rerank", query=QUERY, documents=docs, rank_fields=["author", "title", "year", "none"])
    joined = ask(client, "/v1/rerank", query=QUERY, documents=[f"Ann {text}" for text in texts(3)])
    assert pairs(found["results"]) == pairs(joined["results"])
    for body, said in (
        ({"documents": docs}, "neither an id in a store nor a text"),
        ({"documents": docs, "rank_fields": ["none"]}, "neither an id in a store nor a text"),
        ({"documents": docs, "rank_fields": "title"}, "rank_fields: "),
        ({"documents": [{"title": "\ud800"}], "rank_fields": ["title"]}, "half of a surrogate pair"),
    ):
        content, headers = json.dumps({"query": QUERY, **body}), {"content-type": "application/json"}
        refused = client.post("/v1/rerank", content=content, headers=headers)
        assert (refused.status_code, said in refused.json()["error"]) == (422, True), refused.text


@pytest.mark.parametrize("name", ["top_n", "top_k"])
@pytest.mark.parametrize("path", [path for path in DIALECTS if "score" not in path])
def test_all_take_either_number(client: TestClient, best_first: list[tuple[int, float]], path: str, name: str) -> None:
    docs = "texts" if "tei" in path else "documents"
    found = ask(client, STORE + path, query=QUERY, **{docs: IDS, name: 2})
    results = found if isinstance(found, list) else found.get("results") or found["data"]
    assert [r["index"] for r in results] == [i for i, _ in best_first[:2]]


def test_jina(client: TestClient) -> None:
    body: dict[str, Any] = {"query": QUERY, "documents": texts(3), "model": "jina-reranker"}
    found = ask(client, "/jina/v1/rerank", **body)
    assert found["object"] == "list"
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
    for empty in ({"query": " ", "texts": texts(3)}, {"query": QUERY, "texts": []}):
        refused = client.post(path, json=empty)
        assert (refused.status_code, refused.json()["error_type"]) == (400, "Empty")
        assert refused.json().keys() >= {"error", "error_type"}


@pytest.mark.parametrize(
    ("path", "option", "docs"),
    [
        ("/voyage/v1/rerank", "truncation", "documents"),
        ("/tei/rerank", "truncate", "texts"),
        ("/rerank", "truncate", "texts"),
    ],
)
def test_who_wants_nothing_cut_is_refused(
    client: TestClient, tiny_encoder: Encoder, path: str, option: str, docs: str
) -> None:
    long = "tide " * 1000
    (cut,) = tiny_encoder.tokenize_documents([long])
    (cut_query,) = tiny_encoder.tokenize_queries([long])
    for body, said in (
        ({"query": QUERY, docs: ["a", long]}, f"document 1 has {cut.truncated:,} tokens more"),
        ({"query": long, docs: ["a"]}, f"the query has {cut_query.truncated:,} tokens more"),
    ):
        for may in ({}, {option: True}, {option: None}):
            ask(client, path, **body, **may)
        refused = client.post(path, json={**body, option: False})
        assert (refused.status_code, refused.json()["error_type"]) == (413, "Validation")
        assert said in refused.json()["error"]
    ask(client, path, query="tides", **{docs: ["a tide", "bread"], option: False})
    ask(client, STORE + path, query="tides", **{docs: IDS, option: False})
    too_many = client.post(path, json={"query": QUERY, docs: [long] * (LIMITS.texts + 1), option: False})
    assert "11 texts are more than 10" in too_many.json()["error"]


@pytest.mark.parametrize("path", [*DIALECTS, "/encode", f"{STORE}/search", f"{STORE}/explain"])
def test_a_query_of_megabytes_is_not_tokenized(client: TestClient, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """That would take half a minute, whatever its deadline, and all others would wait."""
    long, docs = "tide " * 200_000, "texts" if "tei" in path else "documents"

    def fail(*_: Any) -> Any:
        raise AssertionError("tokenized")

    monkeypatch.setattr(Encoder, "tokenize_queries", fail)
    if "score" in path:
        bodies: list[dict[str, Any]] = [{"data_1": long, "data_2": "a"}, {"queries": [long], "items": "a"}]
    elif path == "/encode":
        bodies = [{"queries": [long]}]
    else:
        bodies = [{"query": long, docs: ["a"], "id": IDS[0], **dict.fromkeys(("truncate", "truncation"), False)}]
    for body in bodies:
        refused = client.post(path, json=body)
        assert (refused.status_code, "all that a query may have" in refused.json()["error"]) == (422, True)
        assert len(refused.text) < 1000


def test_infinity(client: TestClient, best_first: list[tuple[int, float]]) -> None:
    found = ask(client, f"{STORE}/infinity/rerank", query=QUERY, documents=IDS, top_n=2)
    assert pairs(found["results"]) == best_first[:2]
    (one,) = ask(client, "/infinity/rerank", query=QUERY, documents=["a text"], return_documents=True)["results"]
    assert one["document"] == "a text", "a bare string"
    assert found["object"] == "rerank"
    assert found.keys() >= {"model", "usage", "id", "created"}


@pytest.mark.parametrize("path", ["/vllm/rerank", "/vllm/v1/rerank", "/vllm/v2/rerank"])
def test_vllm(client: TestClient, best_first: list[tuple[int, float]], path: str) -> None:
    found = ask(client, STORE + path, query=QUERY, documents=IDS, top_n=0)
    assert pairs(found["results"]) == best_first
    (one,) = ask(client, path, query=QUERY, documents=["a text"])["results"]
    assert one["document"]["text"] == "a text"


@pytest.mark.parametrize("path", [path for path in DIALECTS if "score" not in path])
def test_an_id_is_no_text(client: TestClient, path: str) -> None:
    """On a store's path nobody has sent a text, and so none comes back."""
    docs = "texts" if "tei" in path else "documents"
    found = ask(client, STORE + path, query=QUERY, **{docs: IDS, "return_documents": True, "return_text": True})
    results = found if isinstance(found, list) else found.get("results") or found["data"]
    given = [r["document"] for r in results if "document" in r] + [r["text"] for r in results if "text" in r]
    assert given == ([{"text": None, "multi_modal": None}] * len(IDS) if "vllm" in path else [])


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
    assert store["origin"] is None, "the index beside it is of no search server"
    assert (store["residence"], store["stale"], store["first_stage_away"]) == ("mmap", None, None)
    assert 'colbert_rerank_store_residence{store="real",where="mmap"} 1.0' in client.get("/metrics").text
    assert [m["id"] for m in client.get("/v1/models").json()["data"]] == [Path(reranker.encoder.checkpoint.name).name]
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/v1/stores/{store}/rerank", "/v1/rerank", "/encode", "/readyz"} <= paths.keys()
    assert client.get("/").status_code == 404
    assert client.get("/rerank").status_code == 405


def test_no_path_of_this_machine_is_told(client: TestClient, reranker: Reranker) -> None:
    answers = [client.get(path) for path in ("/info", "/v1/stores", "/v1/models", "/metrics", "/openapi.json")]
    answers.append(client.post("/encode", json={"queries": [QUERY], "store": "real"}))
    for path in DIALECTS:
        docs = ["a text"]
        body = {"query": QUERY, "texts" if "tei" in path else "documents": docs} if "score" not in path else {}
        answers += [client.post(path, json=body or {"text_1": QUERY, "text_2": docs}) for path in (path, STORE + path)]
    for private in (reranker.store.folder, Path(reranker.encoder.checkpoint.name)):
        assert private.is_absolute()
        assert not [answer.text for answer in answers if str(private.parent) in answer.text]


def test_a_model_s_public_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("starter", "colbert-ir/colbertv2.0"):
        assert public_name(name) == name
    folder = tmp_path / "secret" / "model"
    for name in (str(folder), f"{folder}/", f"{folder}/../model", "~/secret/model", "./model"):
        assert public_name(name) == "model", "also where the folder is gone by now"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    assert public_name(".") == "model"
    monkeypatch.chdir(tmp_path)
    assert public_name("secret/model") == "model"
