"""Requests that come together, that are given up, that are too many; and stores that grow meanwhile."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from colbert_rerank.encoder import Encoder
from colbert_rerank.errors import InputError
from colbert_rerank.rerank import Reranker
from colbert_rerank.serve.engine import Batch, BusyError, EndingError, Engine
from colbert_rerank.serve.errors import answer_of
from colbert_rerank.serve.jobs import Asked, Job
from colbert_rerank.serve.stores import ServedStore
from colbert_rerank.store import Store
from tests.collection import documents, ingested, queries
from tests.serve.conftest import REAL, client_of
from tests.tiny import tiny_checkpoint, tiny_weights

IDS = [d.doc_id for d in documents(REAL)]


class Held:
    """A re-ranker that waits until it may."""

    def __init__(self, reranker: Reranker) -> None:
        self._reranker = reranker
        self.entered, self.go = threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reranker, name)

    def score(self, *arguments: Any) -> Any:
        self.entered.set()
        assert self.go.wait(30)
        return self._reranker.score(*arguments)


def job(query: str = "tides", ids: list[str] = IDS[:5], **more: Any) -> Job:
    return Job("real", query, [Asked(i) for i in ids], **more)


@pytest.fixture
def own(served: ServedStore, tiny_encoder: Encoder) -> ServedStore:
    return ServedStore("real", served.reranker.store, tiny_encoder, {})


def test_requests_that_wait_are_encoded_together_and_their_answers_are_the_same(
    own: ServedStore, reranker: Reranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as the device takes at once, which of a CPU is one."""
    monkeypatch.setattr("colbert_rerank.serve.engine.QUERY_BATCH", {"cpu": 8})
    held, batches = Held(reranker), list[Batch]()
    own.current = own.current._replace(reranker=held)  # type: ignore[arg-type]
    asked = queries(12)
    with Engine({"real": own}, reranker.encoder, observe=batches.append) as engine:
        engine.submit(first := job())
        assert held.entered.wait(30)
        jobs = [job(q.text, IDS) for q in asked]
        for one in jobs:
            engine.submit(one)
        assert len(engine) == 12
        held.go.set()
        answers = [one.answer.result(30) for one in jobs]
        first.answer.result(30)
    assert [len(batch.jobs) for batch in batches] == [1, 8, 4]
    for query, answer in zip(asked, answers, strict=True):
        expected = reranker.rerank(query.text, [(i, 0.0) for i in IDS])
        assert [(IDS[r.place], r.score) for r in answer.results] == [(d.doc_id, d.score) for d in expected]


def test_a_batch_has_a_bound_in_tokens(own: ServedStore, reranker: Reranker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("colbert_rerank.serve.engine.QUERY_BATCH", {"cpu": 8})
    held, batches = Held(reranker), list[Batch]()
    own.current = own.current._replace(reranker=held)  # type: ignore[arg-type]
    with Engine({"real": own}, reranker.encoder, batch_tokens=25, observe=batches.append) as engine:
        engine.submit(first := job())
        assert held.entered.wait(30)
        jobs = [job("x" * 39) for _ in range(7)]  # 10 tokens each, about
        for one in jobs:
            engine.submit(one)
        held.go.set()
        for one in (first, *jobs):
            one.answer.result(30)
    assert [len(batch.jobs) for batch in batches] == [1, 3, 3, 1]


def test_what_is_given_up_is_not_done(own: ServedStore, reranker: Reranker) -> None:
    held, batches = Held(reranker), list[Batch]()
    own.current = own.current._replace(reranker=held)  # type: ignore[arg-type]
    with Engine({"real": own}, reranker.encoder, observe=batches.append) as engine:
        engine.submit(job())
        assert held.entered.wait(30)
        engine.submit(given_up := job("given up"))
        assert given_up.answer.cancel()
        held.go.set()
    assert [one.query for batch in batches for one in batch.jobs] == ["tides"]


def test_too_many_are_told_to_come_again_and_all_others_are_answered(own: ServedStore, reranker: Reranker) -> None:
    held = Held(reranker)
    own.current = own.current._replace(reranker=held)  # type: ignore[arg-type]
    with Engine({"real": own}, reranker.encoder, waiting=3) as engine:
        engine.submit(first := job())
        assert held.entered.wait(30)
        jobs = [job() for _ in range(3)]
        for one in jobs:
            engine.submit(one)
        for _ in range(5):
            with pytest.raises(BusyError) as busy:
                engine.submit(job())
            assert busy.value.retry_after >= 1
        held.go.set()
        for one in (first, *jobs):
            assert one.answer.result(30).status == "ok"
        engine.submit(again := job())
        assert again.answer.result(30).status == "ok", "it has recovered"


def test_over_http_that_is_429_with_a_time_to_wait(own: ServedStore, reranker: Reranker) -> None:
    held = Held(reranker)
    own.current = own.current._replace(reranker=held)  # type: ignore[arg-type]
    with client_of(own) as client, ThreadPoolExecutor(300) as pool:
        body = {"query": "tides", "documents": IDS[:3]}
        asked = [pool.submit(client.post, "/v1/stores/real/rerank", json=body) for _ in range(300)]
        assert held.entered.wait(30)
        deadline = time.monotonic() + 30
        while "colbert_rerank_refused_total 0.0" in client.get("/metrics").text and time.monotonic() < deadline:
            time.sleep(0.05)
        held.go.set()
        answers = [one.result(60) for one in asked]
    codes = {answer.status_code for answer in answers}
    assert codes == {200, 429}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers if answer.status_code == 429)


def test_one_bad_query_spoils_no_other(own: ServedStore, reranker: Reranker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("colbert_rerank.serve.engine.QUERY_BATCH", {"cpu": 8})

    def encode(self: Encoder, tokens: Any, texts: Any) -> Any:
        if "bad" in texts:
            raise FloatingPointError("NaN")
        return original(self, tokens, texts)

    original = Encoder.encode_query_tokens
    monkeypatch.setattr(Encoder, "encode_query_tokens", encode)
    held = Held(reranker)
    own.current = own.current._replace(reranker=held)  # type: ignore[arg-type]
    with Engine({"real": own}, reranker.encoder) as engine:
        engine.submit(job())
        assert held.entered.wait(30)
        jobs = [job(q) for q in ("good", "bad", "well")]
        for one in jobs:
            engine.submit(one)
        held.go.set()
        found = [one.answer.result(30) for one in jobs]
    assert [one.status for one in found] == ["ok", "degraded", "ok"]
    assert found[1].reason == "scoring failed: FloatingPointError"


def test_an_error_of_the_callers_is_raised(own: ServedStore) -> None:
    with Engine({"real": own}, own.reranker.encoder) as engine:
        for bad in (job(" "), Job("real", "a", [Asked("1", None, 1.0), Asked("2")])):
            with pytest.raises(InputError):
                engine.submit(bad)
        engine.submit(one := job(ids=["gone"], missing="encode"))
        with pytest.raises(InputError, match="send their text"):
            one.answer.result(30)


def test_what_was_taken_is_answered_before_the_end(own: ServedStore) -> None:
    with Engine({"real": own}, own.reranker.encoder) as engine:
        jobs = [job(q.text) for q in queries(20)]
        for one in jobs:
            engine.submit(one)
    assert [one.answer.result(0).status for one in jobs] == ["ok"] * 20
    with pytest.raises(EndingError) as ending:
        engine.submit(job())
    assert answer_of(ending.value).status_code == 503


def test_a_new_generation_is_served_without_a_pause(tmp_path: Path, tiny_encoder: Encoder) -> None:
    store = ingested(tmp_path / "store", tiny_encoder, documents(10))
    late = documents(1, 10)[0].doc_id
    served = ServedStore("real", store, tiny_encoder, {})
    with client_of(served) as client:

        def ask() -> Any:
            return client.post("/v1/stores/real/rerank", json={"query": "tides", "documents": [late, *IDS[:5]]}).json()

        before = ask()
        assert (before["missing"], before["store_generation"]) == ([late], store.manifest.generation)
        ingested(tmp_path / "store", tiny_encoder, documents(11))
        newest, deadline = Store.open(tmp_path / "store").manifest.generation, time.monotonic() + 30
        while (found := ask())["store_generation"] < newest and time.monotonic() < deadline:
            assert found["status"] == ("partial" if found["missing"] else "ok")
        assert (found["status"], found["missing"], found["store_generation"]) == ("ok", [], newest)
        assert f'store_generation{{store="real"}} {found["store_generation"]}.0' in client.get("/metrics").text


def test_a_generation_that_cannot_be_served_is_left_alone(
    tmp_path: Path, tiny_encoder: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    """The folder is replaced by another store, which has more generations."""
    store = ingested(tmp_path / "store", tiny_encoder, documents(10))
    served = ServedStore("real", store, tiny_encoder, {})
    other = Encoder.load(str(tiny_checkpoint(tmp_path / "other", tiny_weights(5))), device="cpu")
    ingested(tmp_path / "new", other, documents(12))
    ingested(tmp_path / "new", other, documents(14))
    (tmp_path / "store").rename(tmp_path / "old")
    (tmp_path / "new").rename(tmp_path / "store")
    assert not served.refresh()
    assert served.fault.startswith("StoreMismatchError: another store is in its folder now")
    assert "stays at generation" in caplog.text
    assert np.isfinite(served.reranker.score(tiny_encoder.encode_queries(["a"])[0], IDS[:10])).all()
    (tmp_path / "store").rename(tmp_path / "new")
    assert not served.refresh()
    assert served.fault.startswith("StoreNotFoundError: real: no store here")
    (tmp_path / "old").rename(tmp_path / "store")
    assert not served.refresh()
    assert not served.fault


def test_health_tells_a_dead_engine(served: ServedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    client: TestClient
    with client_of(served) as client:
        assert client.get("/readyz").status_code == 200
        monkeypatch.setattr(Engine, "alive", False)
        assert (client.get("/readyz").status_code, client.get("/healthz").status_code) == (503, 200)
