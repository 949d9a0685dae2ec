"""Jobs part by part: what a deadline leaves of them, who may pass, and what is no document to be scored."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from colbert_rerank.encoder import Encoder
from colbert_rerank.rerank import Reranker
from colbert_rerank.serve.engine import EndingError, Engine
from colbert_rerank.serve.jobs import DEADLINE, Asked, Job, Progress, answered
from colbert_rerank.serve.runs import ENDING
from colbert_rerank.serve.stores import ServedStore
from tests.collection import documents, queries, texts
from tests.serve.conftest import REAL, client_of
from tests.serve.stepping import WAIT, Stepped

IDS = [d.doc_id for d in documents(REAL)]
QUERY = queries(1)[0].text
PATH = "/v1/stores/real/rerank"


@pytest.fixture
def engine(own: ServedStore, tiny_encoder: Encoder) -> Iterator[Engine]:
    with Engine({"real": own}, tiny_encoder) as engine:
        yield engine


def of_texts(count: int, **more: Any) -> Job:
    return Job("real", QUERY, [Asked(None, text) for text in texts(count)], **more)


def of_ids() -> Job:
    return Job("real", QUERY, [Asked(i) for i in IDS[:5]])


def test_what_is_late_is_not_begun_whatever_came_with_it(
    own: ServedStore, tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An encoding takes 20 ms of this clock, and 300 are there: of 40 queries none waits for all to be encoded."""
    now = [0.0]
    encode = Encoder.encode_query_tokens

    def slowly(self: Encoder, tokens: Any, some: Any) -> Any:
        now[0] += 0.02 * len(tokens)
        return encode(self, tokens, some)

    monkeypatch.setattr(Encoder, "encode_query_tokens", slowly)
    monkeypatch.setattr("colbert_rerank.serve.jobs.time", SimpleNamespace(perf_counter=lambda: now[0]))
    engine = Engine({"real": own}, tiny_encoder)
    jobs = [Job("real", QUERY, [Asked(i) for i in IDS[:5]], deadline=0.3) for _ in range(40)]
    for job in jobs:
        engine.submit(job)
    with engine:
        found = [job.answer.result(WAIT) for job in jobs]
    assert [one.status for one in found] == ["ok"] * 14 + ["degraded"] * 26
    assert {one.reason for one in found[14:]} == {DEADLINE}


def test_at_the_deadline_what_was_scored_is_the_answer(
    own: ServedStore, stepped: Stepped, reranker: Reranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It passes while the first text is encoded: that is when the service looks at its clock."""

    def late() -> float:
        stepped.waits()
        return float("inf")

    monkeypatch.setattr("colbert_rerank.serve.service.time", SimpleNamespace(perf_counter=late))
    asked = [*({"id": i} for i in IDS[:20]), *({"text": t} for t in texts(8))]
    with client_of(own) as client:
        found = client.post(PATH, json={"query": QUERY, "documents": asked, "deadline_ms": 600_000}).json()
        stepped.let(8)
        assert (found["status"], found["reason"], found["scored"]) == ("partial", DEADLINE, 20)
        best = [(d.doc_id, d.score) for d in reranker.rerank(QUERY, [(i, 0.0) for i in IDS[:20]])]
        assert [(r["id"], r["relevance_score"]) for r in found["results"][:20]] == best
        assert [r["index"] for r in found["results"][20:]] == [*range(20, 28)]
        assert found["store_generation"] == own.generation


def test_texts_of_one_forward_pass_are_a_part(tiny_encoder: Encoder) -> None:
    """The best of the first stage first; fewer would take as long, for the network is always given as many."""
    tokens = tiny_encoder.tokenize_documents(["a b", *["a long text " * 9] * 30, "c d"] * 2)
    passes = tiny_encoder.passes(tokens)
    assert sorted(n for part in passes for n in part) == [*range(len(tokens))]
    assert [part[0] for part in passes] == sorted(part[0] for part in passes)
    assert passes[0] == [0, 31, 32, 63]
    for part in passes:
        assert len(list(tiny_encoder.encode_batches([tokens[n] for n in part]))) == 1


def test_requests_by_id_pass_one_with_many_texts(engine: Engine, stepped: Stepped) -> None:
    engine.submit(many := of_texts(8))
    stepped.waits()
    assert len(engine) == 0
    ids = [of_ids() for _ in range(3)]
    for job in ids:
        engine.submit(job)
    stepped.let(3)
    assert [job.answer.result(WAIT).status for job in ids] == ["ok"] * 3
    assert not many.answer.done()
    stepped.let(5)
    assert many.answer.result(WAIT).status == "ok"
    assert stepped.done == [-1, 5, -1, 5, -1, 5, -1, -1, -1, -1, -1], "one part each time, so that it comes to its end"


def test_a_few_texts_do_not_wait_for_many(engine: Engine, stepped: Stepped) -> None:
    engine.submit(many := of_texts(8))
    stepped.waits()
    engine.submit(few := of_texts(1))
    stepped.let(3)
    assert few.answer.result(WAIT).status == "ok"
    assert (many.answer.done(), len(engine)) == (False, 0)
    stepped.let(6)
    assert many.answer.result(WAIT).status == "ok"


def test_what_has_texts_left_counts_as_waiting(own: ServedStore, tiny_encoder: Encoder, stepped: Stepped) -> None:
    with Engine({"real": own}, tiny_encoder, waiting=3) as engine:
        engine.submit(of_texts(2))
        stepped.waits()
        for _ in range(2):
            engine.submit(of_texts(2))
        stepped.let(1)
        stepped.waits()
        assert len(engine) == 2
        stepped.let(5)


def test_in_a_hurry_all_are_answered_by_what_is_known(
    own: ServedStore, tiny_encoder: Encoder, stepped: Stepped
) -> None:
    with Engine({"real": own}, tiny_encoder) as engine:
        engine.submit(begun := of_texts(8))
        stepped.waits()
        stepped.let(1)
        stepped.waits()
        engine.submit(waits := of_ids())
        aside = engine.aside(len, "abc")
        engine.hurry()
        with pytest.raises(EndingError):
            engine.submit(of_ids())
        stepped.let(1)
        found = begun.answer.result(WAIT)
        assert (found.status, found.reason) == ("partial", ENDING)
        assert [r.source for r in found.results] == ["encoded"] * 2 + ["first_stage"] * 6
        found = waits.answer.result(WAIT)
        assert (found.status, found.reason) == ("degraded", ENDING)
        with pytest.raises(EndingError):
            aside.result(WAIT)


def test_a_job_that_was_given_up_stops_at_its_next_part(
    own: ServedStore, tiny_encoder: Encoder, stepped: Stepped
) -> None:
    with Engine({"real": own}, tiny_encoder) as engine:
        engine.submit(job := of_texts(8))
        stepped.waits()
        job.given_up = True
        stepped.let(8)
        job.answer.result(WAIT)
    assert stepped.done == [-1]


def test_documents_without_vectors_are_counted_one_by_one(served: ServedStore) -> None:
    with client_of(served) as client:
        asked = {"query": QUERY, "documents": ["null"] * 15 + [""] * 15 + ["gone", "gone", IDS[0]]}
        assert client.post(PATH, json=asked).json()["missing"] == ["null", "", "gone"]
        assert missing(client, "real") == 32


def test_at_the_root_nothing_is_looked_for_in_a_store(client: TestClient) -> None:
    before = missing(client, "")
    body = {"query": QUERY, "documents": [{"id": "a", "text": "tides"}, {"id": "b", "text": "moons"}]}
    found = client.post("/v1/rerank", json=body).json()
    assert (found["status"], found["missing"]) == ("ok", [])
    assert missing(client, "") == before


def missing(client: TestClient, store: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    name = f'colbert_rerank_missing_documents_total{{store="{store}"}} '
    return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))


@pytest.mark.parametrize("path", ["/v1/rerank", PATH])
def test_a_blank_text_is_none(client: TestClient, path: str) -> None:
    body = {"query": QUERY, "documents": [{"text": ""}, {"text": "tides"}, {"text": " \n "}]}
    found = client.post(path, json=body).json()
    assert [r["index"] for r in found["results"]] == [1, 0, 2]
    assert (found["status"], found["reason"], found["scored"]) == ("partial", "documents without vectors", 1)
    dropped = client.post(path, json=body | {"missing": "drop"}).json()
    assert ([r["index"] for r in dropped["results"]], dropped["status"]) == ([1], "ok")
    refused = client.post(path, json=body | {"missing": "error"})
    assert (refused.status_code, "among them [0, 2]" in refused.json()["error"]) == (409, True)


def test_a_text_is_stripped_as_a_store_strips_it(client: TestClient) -> None:
    body = {"query": QUERY, "documents": [{"text": "  the moon\n"}, {"text": "the moon"}]}
    one, other = client.post("/v1/rerank", json=body).json()["results"]
    assert one["relevance_score"] == other["relevance_score"]


def test_a_text_of_which_no_token_is_kept_is_none(
    own: ServedStore, reranker: Reranker, stepped: Stepped, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stepped, "score_texts", lambda self, Q, some: np.full(len(some), -np.inf))
    with client_of(own) as client:
        found = client.post(PATH, json={"query": QUERY, "documents": [{"text": "..."}, {"id": IDS[0]}]}).json()
        assert ([r["index"] for r in found["results"]], found["status"], found["scored"]) == ([1, 0], "partial", 1)
        refused = client.post(PATH, json={"query": QUERY, "documents": [{"text": "..."}], "missing": "error"})
        assert refused.status_code == 409


def test_a_query_that_was_cut_is_told(served: ServedStore) -> None:
    with client_of(served) as client:
        for query, cut in ((QUERY, False), ("word " * 500, True)):
            assert client.post(PATH, json={"query": query, "documents": IDS[:2]}).json()["query_truncated"] is cut
            body = {"query": query, "texts": IDS[:2]}
            assert "query_truncated" not in client.post("/v1/stores/real/vllm/rerank", json=body).text
        assert 'colbert_rerank_truncated_queries_total{store="real"} 1.0' in client.get("/metrics").text


class Compared(int):
    """An index that counts how often it is compared."""

    count = 0

    def __eq__(self, other: object) -> bool:
        Compared.count += 1
        return int(self) == other

    __hash__ = int.__hash__


def test_to_drop_many_is_not_to_compare_each_with_all() -> None:
    job = Job("real", QUERY, [Asked(str(i)) for i in range(1000)], missing="drop")
    without = frozenset(map(Compared, range(1000)))
    assert answered(job, Progress("", None, lacking=without, without=without)).results == []
    assert Compared.count < 10_000
