"""Re-ranking over HTTP: the order and the scores are those of the re-ranker, and what is not scored is said."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from colbert_rerank.encoder import Encoder
from colbert_rerank.errors import StoreCorruptError
from colbert_rerank.maxsim import reference
from colbert_rerank.rerank import Reranker
from colbert_rerank.serve.stores import ServedStore
from tests.collection import documents, queries, texts
from tests.serve.conftest import LIMITS, REAL, client_of

IDS = [d.doc_id for d in documents(REAL)]
QUERY = queries(1)[0].text
PATH = "/v1/stores/real/rerank"


def ask(client: TestClient, path: str = PATH, **body: Any) -> Any:
    answer = client.post(path, json={"query": QUERY, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def ranking(found: dict[str, Any]) -> list[tuple[str, float]]:
    return [(r["id"], r["relevance_score"]) for r in found["results"]]


def test_it_is_the_re_rankers_ranking(client: TestClient, reranker: Reranker) -> None:
    for query in queries(3):
        expected = [(d.doc_id, d.score) for d in reranker.rerank(query.text, [(i, 0.0) for i in IDS])]
        found = ask(client, query=query.text, documents=IDS)
        assert ranking(found) == expected
        assert [IDS[r["index"]] for r in found["results"]] == [doc_id for doc_id, _ in expected]
        assert (found["status"], found["scored"], found["missing"]) == ("ok", REAL, [])
        assert found["timings_ms"].keys() >= {"queue", "encode_query", "gather", "score"}


def test_candidates_without_vectors_stand_below_in_first_stage_order(client: TestClient, reranker: Reranker) -> None:
    asked = ["gone", *IDS[:3], "", "lost", "null", *IDS[3:5]]
    answer = client.post(PATH, json={"query": QUERY, "documents": asked})
    found = answer.json()
    assert answer.headers["x-colbert-rerank-status"] == found["status"] == "partial"
    assert found["reason"] == "documents without vectors"
    assert (found["scored"], found["missing"]) == (5, ["gone", "", "lost", "null"])
    expected = reranker.rerank(QUERY, [(i, 0.0) for i in asked if i not in ("", "null")])
    assert ranking(found)[:5] == [(d.doc_id, d.score) for d in expected][:5]
    assert [r["id"] for r in found["results"][5:]] == ["gone", "", "lost", "null"]
    assert sorted(r["index"] for r in found["results"]) == list(range(len(asked))), "each once"
    scores = [r["relevance_score"] for r in found["results"]]
    assert scores == sorted(set(scores), reverse=True)


def test_a_first_stage_score_tells_the_order_of_what_is_not_scored(client: TestClient) -> None:
    asked = [
        {"id": "x", "first_stage_score": 1},
        {"id": "y", "first_stage_score": 3},
        {"id": "z", "first_stage_score": 2.5},
    ]
    found = ask(client, documents=asked)
    assert [r["id"] for r in found["results"]] == ["y", "z", "x"]
    assert found["status"] == "degraded"
    refused = client.post(PATH, json={"query": QUERY, "documents": [asked[0], {"id": "w"}]})
    assert (refused.status_code, "or none" in refused.json()["error"]) == (422, True)


def test_an_id_may_be_asked_for_twice(client: TestClient) -> None:
    found = ask(client, documents=[IDS[1], IDS[0], IDS[1]])
    by_index = {r["index"]: r["relevance_score"] for r in found["results"]}
    assert by_index[0] == by_index[2] != by_index[1]
    assert [r["index"] for r in found["results"] if r["id"] == IDS[1]] == [0, 2]


def test_a_text_is_scored_as_if_it_were_stored(client: TestClient, reranker: Reranker) -> None:
    text = texts(1)[0]
    asked: list[dict[str, Any]] = [
        {"id": IDS[0]},
        {"id": "new", "text": text},
        {"text": text},
        {"id": IDS[0], "text": "not read"},
    ]
    found = ask(client, documents=asked, return_documents=True)
    assert {r["relevance_score"] for r in found["results"]} == {reranker.rerank(QUERY, [(IDS[0], 0.0)])[0].score}
    assert {r["index"]: r["source"] for r in found["results"]} == {0: "store", 1: "encoded", 2: "encoded", 3: "store"}
    assert {r["index"]: r.get("document") for r in found["results"]}[1] == {"text": text}
    assert (found["status"], found["missing"]) == ("ok", ["new"])


def test_what_becomes_of_the_missing(client: TestClient) -> None:
    asked = [{"id": "gone"}, {"id": IDS[0]}, {"id": "lost"}]
    assert [r["id"] for r in ask(client, documents=asked, missing="drop")["results"]] == [IDS[0]]
    for missing, code in (("error", 409), ("encode", 422)):
        refused = client.post(PATH, json={"query": QUERY, "documents": asked, "missing": missing})
        assert (refused.status_code, "'gone', 'lost'" in refused.json()["error"]) == (code, True)
    refused = client.post(PATH, json={"query": QUERY, "documents": IDS[:2], "missing": "drop"})
    assert (refused.status_code, "needs all of them" in refused.json()["error"]) == (422, True)


def test_elsewhere_strings_are_texts(client: TestClient, tiny_encoder: Encoder) -> None:
    some = texts(5)
    found = ask(client, "/v1/rerank", documents=some)
    (Q,) = tiny_encoder.encode_queries([QUERY])
    want = [reference.maxsim(Q, matrix) for matrix in tiny_encoder.encode_documents(some)]
    assert [r["index"] for r in found["results"]] == sorted(range(5), key=lambda i: -want[i])
    assert [r["relevance_score"] for r in found["results"]] == pytest.approx(sorted(want, reverse=True), abs=1e-4)
    refused = client.post("/v1/rerank", json={"query": QUERY, "documents": [{"id": IDS[0]}]})
    assert (refused.status_code, "neither an id" in refused.json()["error"]) == (422, True)


@pytest.mark.parametrize("count", [1, 3, 100])
@pytest.mark.parametrize("name", ["top_n", "top_k"])
def test_the_best_of_them(client: TestClient, name: str, count: int) -> None:
    asked: dict[str, Any] = {"documents": IDS, name: count}
    assert ask(client, **asked)["results"] == ask(client, documents=IDS)["results"][:count]


@pytest.mark.parametrize("none", [0, None])
def test_no_number_means_all(client: TestClient, none: int | None) -> None:
    assert len(ask(client, documents=IDS, top_n=none)["results"]) == REAL


def test_no_documents(client: TestClient) -> None:
    found = ask(client, documents=[])
    assert (found["results"], found["status"]) == ([], "ok")


class Watched:
    """A re-ranker that does something before each part of the candidates, which are counted."""

    def __init__(self, reranker: Reranker, before: Callable[[], object] = lambda: None) -> None:
        self._reranker = reranker
        self._before = before
        self.parts = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reranker, name)

    def score(self, *arguments: Any) -> Any:
        self._before()
        self.parts += 1
        return self._reranker.score(*arguments)


@pytest.fixture
def own(served: ServedStore, tiny_encoder: Encoder) -> ServedStore:
    """A store to be broken."""
    return ServedStore("real", served.reranker.store, tiny_encoder, {})


def test_at_the_deadline_the_best_of_the_first_stage_are_scored(
    own: ServedStore, reranker: Reranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(reranker)
    clock = SimpleNamespace(perf_counter=lambda: time.perf_counter() + 3600 * (watched.parts >= 2))
    monkeypatch.setattr("colbert_rerank.serve.jobs.time", clock)
    monkeypatch.setattr("colbert_rerank.serve.runs.DOCUMENTS_AT_ONCE", 10)
    own.current = own.current._replace(reranker=watched)  # type: ignore[arg-type]
    with client_of(own) as client:
        answer = client.post(PATH, json={"query": QUERY, "documents": IDS, "deadline_ms": 600_000})
        found = answer.json()
        metrics = client.get("/metrics").text
    assert answer.headers["x-colbert-rerank-status"] == found["status"] == "partial"
    assert found["reason"] == "the deadline passed"
    assert found["scored"] == 20
    best = reranker.rerank(QUERY, [(i, 0.0) for i in IDS[:20]])
    assert ranking(found)[:20] == [(d.doc_id, d.score) for d in best]
    assert [r["id"] for r in found["results"][20:]] == IDS[20:]
    assert 'colbert_rerank_answers_total{reason="the deadline passed",status="partial",store="real"} 1.0' in metrics


def test_who_waits_for_others_is_answered_at_the_deadline_all_the_same(own: ServedStore, reranker: Reranker) -> None:
    answered = threading.Event()
    own.current = own.current._replace(reranker=Watched(reranker, lambda: answered.wait(60)))  # type: ignore[arg-type]
    with client_of(own) as client:
        answer = client.post(PATH, json={"query": QUERY, "documents": IDS, "deadline_ms": 100})
        was_answered_meanwhile = own.current.reranker.parts == 0  # type: ignore[attr-defined]
        answered.set()
    assert was_answered_meanwhile
    assert [r["id"] for r in answer.json()["results"]] == IDS
    assert answer.json()["status"] == "degraded"
    assert answer.json()["store_generation"] == own.generation


def test_what_fails_is_first_stage_order_and_says_so(
    own: ServedStore, reranker: Reranker, caplog: pytest.LogCaptureFixture
) -> None:
    def damaged() -> None:
        raise StoreCorruptError("/secret/folder: a block is damaged")

    own.current = own.current._replace(reranker=Watched(reranker, damaged))  # type: ignore[arg-type]
    with client_of(own) as client:
        answer = client.post(PATH, json={"query": QUERY, "documents": IDS})
        metrics = client.get("/metrics").text
    found = answer.json()
    assert (answer.status_code, found["status"]) == (200, "degraded")
    assert found["reason"] == "scoring failed: StoreCorruptError"
    assert [r["id"] for r in found["results"]] == IDS
    assert 'status="degraded",store="real"} 1.0' in metrics
    assert "secret" not in answer.text + caplog.text + metrics


@given(st.lists(st.sampled_from([*IDS, "gone", "lost", "", "null"]), max_size=60))
@settings(deadline=None, max_examples=30)
def test_every_document_is_answered_once_with_a_score_of_its_own_kind(client: TestClient, asked: list[str]) -> None:
    found = ask(client, documents=asked)
    assert sorted(r["index"] for r in found["results"]) == list(range(len(asked)))
    scores = [r["relevance_score"] for r in found["results"]]
    assert scores == sorted(scores, reverse=True)
    assert [asked[r["index"]] in IDS for r in found["results"]] == [r["source"] == "store" for r in found["results"]]


def test_too_much_is_refused(served: ServedStore) -> None:
    with client_of(served) as client:
        for body, said in (
            ({"documents": [*map(str, range(LIMITS.documents + 1))]}, "101 documents are more than 100"),
            ({"documents": [{"text": "a"}] * (LIMITS.texts + 1)}, "11 texts are more than 10"),
            ({"documents": ["x" * LIMITS.body]}, "the body is larger"),
        ):
            refused = client.post(PATH, json={"query": QUERY, **body})
            assert (refused.status_code, said in refused.json()["error"]) == (413, True)
        streamed = client.post(PATH, content=iter([b"x" * 1000] * 2000), headers={"content-type": "application/json"})
        assert (streamed.status_code, "the body is larger" in streamed.json()["error"]) == (413, True)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "the body is no JSON"),
        (b"[]", "the body: Input should be a valid dictionary"),
        (b"{}", "query: Field required"),
        (b'{"query": "a"}', "documents: missing"),
        (b'{"query": " ", "documents": []}', "query is empty"),
        (b'{"query": 7, "documents": []}', "query: Input should be a valid string"),
        (b'{"query": "a", "documents": [7]}', "documents.0: Input should be"),
        (b'{"query": "a", "documents": [{"id": 7}]}', "documents.0.id: Input should be a valid string"),
        (b'{"query": "a", "documents": [{}]}', "neither an id in a store nor a text"),
        (b'{"query": "a", "documents": [], "top_n": -1}', "top_n: "),
        (b'{"query": "a", "documents": [], "deadline_ms": 0}', "deadline_ms: "),
        (b'{"query": "a", "documents": [{"id": "1", "first_stage_score": NaN}]}', "first_stage_score: "),
        (b'{"query": "a", "documents": [], "missing": "lose"}', "missing: "),
        (b'{"query": "\\ud800", "documents": ["1"]}', "query: it holds half"),
        (b'{"query": "a", "documents": ["\\ud800"]}', "documents.0: it holds half"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(client: TestClient, body: bytes, said: str) -> None:
    refused = client.post(PATH, content=body, headers={"content-type": "application/json"})
    assert refused.status_code == 422
    assert said in refused.json()["error"]


def test_a_store_that_is_not_served(client: TestClient) -> None:
    refused = client.post("/v1/stores/other/rerank", json={"query": QUERY, "documents": ["1"]})
    assert (refused.status_code, refused.json()["error"]) == (404, "no store is called 'other' here; there are 'real'")
