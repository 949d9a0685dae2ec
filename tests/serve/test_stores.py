"""New generations, whatever goes wrong: in files, in libraries, in OpenSearch, in searches that hang."""

from __future__ import annotations

import asyncio
import logging
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from colbert_rerank.encoder import Encoder
from colbert_rerank.errors import OpenSearchUnreachableError
from colbert_rerank.serve.service import SEARCHES
from colbert_rerank.serve.stores import ServedStore
from colbert_rerank.serve.threads import Threads
from colbert_rerank.store import Store
from colbert_rerank.types import Candidates
from tests.collection import FakeIndex, documents, ingested
from tests.serve.conftest import client_of

WAIT = 30
IDS = [d.doc_id for d in documents(12)]


class Away:
    """A first stage that can be away."""

    def __init__(self) -> None:
        self.is_away = True
        self.asked = 0

    def __call__(self, store: Store) -> tuple[Store, Candidates | None]:
        self.asked += 1
        if self.is_away:
            raise OpenSearchUnreachableError("http://node: nobody answers")
        return store, FakeIndex(documents(10))


class Hanging(FakeIndex):
    """A first stage whose searches hang until they may go on."""

    def __init__(self) -> None:
        super().__init__(documents(10))
        self.go = threading.Event()

    def search(self, *arguments: Any) -> Any:
        assert self.go.wait(WAIT)
        return super().search(*arguments)


@pytest.fixture
def store(tmp_path: Path, tiny_encoder: Encoder) -> Store:
    return ingested(tmp_path / "store", tiny_encoder, documents(10))


def grown(store: Store, encoder: Encoder, count: int) -> int:
    """Its newest generation, with so many documents."""
    return ingested(store.folder, encoder, documents(count)).manifest.generation


def until(client: TestClient, generation: int) -> bool:
    """Whether it is served, now or a little later."""
    deadline = time.monotonic() + WAIT
    while (served := client.get("/v1/stores").json()["stores"][0]["generation"]) < generation:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return bool(served == generation)


@pytest.mark.parametrize("error", [RuntimeError("of torch"), KeyError("of h5py"), MemoryError()], ids=repr)
def test_whatever_a_library_raises_is_told_and_is_not_the_last_look(
    store: Store, tiny_encoder: Encoder, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = ServedStore("real", store, tiny_encoder, {})
    newest = grown(store, tiny_encoder, 12)
    with monkeypatch.context() as broken:

        def fail(*_: object) -> None:
            raise error

        broken.setattr(ServedStore, "_opened", fail)
        assert not served.refresh()
    assert (served.fault, served.generation) == (type(error).__name__, store.manifest.generation)
    assert served.refresh()
    assert (served.fault, served.generation) == ("", newest)


def test_an_older_generation_and_another_store_are_not_taken(
    store: Store, tiny_encoder: Encoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Both have ids that the caller means something else by; the other store is at the same generation."""
    caplog.set_level(logging.INFO, "colbert_rerank.serve")
    shutil.copytree(store.folder, tmp_path / "older")
    newest = grown(store, tiny_encoder, 12)
    served = ServedStore("real", Store.open(store.folder), tiny_encoder, {})
    ingested(tmp_path / "other", tiny_encoder, documents(10, start=20))
    grown(Store.open(tmp_path / "other"), tiny_encoder, 12)
    assert Store.open(tmp_path / "other").manifest.generation == newest
    store.folder.rename(tmp_path / "own")
    for folder, why in (("older", "the older generation"), ("other", "another store is in its folder now")):
        (tmp_path / folder).rename(store.folder)
        assert not served.refresh()
        assert (served.generation, served.fault.startswith(f"StoreMismatchError: {why}")) == (newest, True)
        store.folder.rename(tmp_path / folder)
    (tmp_path / "own").rename(store.folder)
    assert not served.refresh()
    assert served.fault == ""
    assert f"store real: generation {newest} is what is in its folder again" in caplog.text
    assert str(tmp_path) not in caplog.text


def test_a_damaged_store_is_not_ready_until_a_generation_that_reads(
    store: Store, tiny_encoder: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    (entry,) = store.manifest.segments
    file = store.folder / "segments" / entry.file
    intact = file.read_bytes()
    served = ServedStore("real", store, tiny_encoder, {})
    body = {"query": "tides", "documents": IDS[:5]}
    with client_of(served) as client:
        with file.open("r+b") as damaged:
            damaged.seek(entry.values_offset)
            damaged.write(bytes(b ^ 255 for b in intact[entry.values_offset :][:64]))
        for _ in range(2):
            answer = client.post("/v1/stores/real/rerank", json=body).json()
            assert (answer["status"], answer["scored"]) == ("degraded", 0)
        (told,) = client.get("/v1/stores").json()["stores"]
        assert told["damaged"].startswith("StoreCorruptError: ")
        assert 'colbert_rerank_store_damaged{store="real"} 1.0' in client.get("/metrics").text
        ready = client.get("/readyz")
        assert (ready.status_code, "all of its stores are damaged" in ready.json()["error"]) == (503, True)
        file.write_bytes(intact)
        assert until(client, grown(store, tiny_encoder, 12))
        assert client.get("/readyz").status_code == 200
        assert client.get("/v1/stores").json()["stores"][0]["damaged"] is None
        assert client.post("/v1/stores/real/rerank", json=body).json()["status"] == "ok"
    assert caplog.text.count("store real, generation") == 1
    assert str(store.folder.parent) not in caplog.text + told["damaged"]


def test_looking_goes_on_after_one_that_failed(
    store: Store, tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    served, failures = ServedStore("real", store, tiny_encoder, {}), [SystemError("once")]
    refresh = served.refresh

    def once() -> bool:
        if failures:
            raise failures.pop()
        return refresh()

    monkeypatch.setattr(served, "refresh", once)
    with client_of(served) as client:
        assert until(client, grown(store, tiny_encoder, 12))
    assert "looking for generations of store real failed: SystemError" in caplog.text


def test_without_its_first_stage_a_store_is_served_and_replaced(
    store: Store, tiny_encoder: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "colbert_rerank.serve")
    first_stage = Away()
    served = ServedStore("real", store, tiny_encoder, {}, first_stage)
    with client_of(served) as client:
        search = {"query": "tides"}
        refused = client.post("/v1/stores/real/search", json=search)
        assert (refused.status_code, "cannot be reached" in refused.json()["error"]) == (503, True)
        body = {"query": "tides", "documents": IDS[:5]}
        assert client.post("/v1/stores/real/rerank", json=body).json()["status"] == "ok"
        assert until(client, grown(store, tiny_encoder, 12))
        assert 'colbert_rerank_store_away{store="real"} 1.0' in client.get("/metrics").text
        first_stage.is_away = False
        asked = first_stage.asked
        deadline = time.monotonic() + WAIT
        while client.get("/v1/stores").json()["stores"][0]["first_stage_away"] and time.monotonic() < deadline:
            time.sleep(0.05)
        assert client.post("/v1/stores/real/search", json=search).status_code == 200
        assert first_stage.asked > asked
    assert caplog.text.count("is not searched by text now") == 1
    assert "is searched by text again" in caplog.text


def test_an_outage_is_no_fault_of_the_vectors(store: Store, tiny_encoder: Encoder) -> None:
    first_stage = Away()
    first_stage.is_away = False
    served = ServedStore("real", store, tiny_encoder, {}, first_stage)
    newest = grown(store, tiny_encoder, 12)
    first_stage.is_away = True
    assert served.refresh()
    assert (served.generation, served.fault, served.away) == (newest, "", "OpenSearchUnreachableError")
    assert not served.refresh()
    first_stage.is_away = False
    assert not served.refresh()
    assert (served.away, served.search("tides", 5)) == ("", [])


def test_without_a_thread_the_next_look_has_its_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = Threads(1)
    with monkeypatch.context() as full:

        def start(_: object) -> None:
            raise RuntimeError("can't start new thread")

        full.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError):
            asyncio.run(threads.run(len, "abc"))
    assert asyncio.run(threads.run(len, "abc")) == 3


def test_searches_that_hang_hold_up_nothing_else_and_are_bounded(store: Store, tiny_encoder: Encoder) -> None:
    hanging = Hanging()
    served = ServedStore("real", store, tiny_encoder, {}, lambda store: (store, hanging))
    with client_of(served) as client, ThreadPoolExecutor(SEARCHES + 1) as pool:
        search = {"query": "tides"}
        asking = [pool.submit(client.post, "/v1/stores/real/search", json=search) for _ in range(SEARCHES + 1)]
        try:
            refused = next(as_completed(asking, WAIT)).result()
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            assert "colbert_rerank_refused_total 1.0" in client.get("/metrics").text
            assert until(client, grown(store, tiny_encoder, 12))
        finally:
            hanging.go.set()
        assert sorted(one.result(WAIT).status_code for one in asking) == [200] * SEARCHES + [429]
