"""A new generation on a GPU that has room for one. Something else stands in for it: what is kept there is counted."""

from __future__ import annotations

import threading
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from colbert_rerank.encoder import Encoder
from colbert_rerank.errors import UsageError
from colbert_rerank.residency import Residence
from colbert_rerank.serve.stores import ServedStore
from colbert_rerank.store import Store
from tests.collection import documents, ingested

WAIT = 30


class OnGpu:
    """A re-ranker whose rows are in the GPU's memory if nobody else's are, and else, if they may be, in pinned."""

    there: weakref.WeakSet[OnGpu]

    def __init__(
        self, store: Store, encoder: Encoder, *, resident: str = "auto", memory_budget: int | None = None
    ) -> None:
        self.store = store
        free = not OnGpu.there
        if resident == "gpu" and not free:
            raise UsageError("resident gpu: there is no room")
        where: Any = "gpu" if free and resident != "mmap" else "pinned" if resident == "auto" else "mmap"
        self.residence = Residence(where, 0, f"rows are in {where}")
        if where == "gpu":
            OnGpu.there.add(self)


@pytest.fixture
def store(tmp_path: Path, tiny_encoder: Encoder) -> Store:
    return ingested(tmp_path / "store", tiny_encoder, documents(10))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Encoder:
    """An encoder that is on one."""
    OnGpu.there = weakref.WeakSet()
    monkeypatch.setattr("colbert_rerank.serve.stores.Reranker", OnGpu)
    return cast(Encoder, SimpleNamespace(device=SimpleNamespace(type="cuda")))


@pytest.mark.parametrize("resident", ["auto", "gpu"])
def test_it_takes_the_place_of_the_one_before(
    store: Store, gpu: Encoder, tiny_encoder: Encoder, resident: str, caplog: pytest.LogCaptureFixture
) -> None:
    served = ServedStore("real", store, gpu, {"resident": resident})
    for count in (11, 12):
        newest = ingested(store.folder, tiny_encoder, documents(count)).manifest.generation
        assert served.refresh()
        assert (served.generation, served.fault) == (newest, "")
        assert served.reranker.residence.where == "gpu"
    assert "before it was" not in caplog.text


def test_it_is_served_while_requests_hold_the_one_before(
    store: Store, gpu: Encoder, tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = ServedStore("real", store, gpu, {"resident": "auto"})
    held = [served.reranker]
    newest = ingested(store.folder, tiny_encoder, documents(12)).manifest.generation
    waits = threading.Event()
    replace = served._replace

    def replaced(store: Store) -> None:
        replace(store)
        waits.set()

    monkeypatch.setattr(served, "_replace", replaced)
    refreshing = threading.Thread(target=served.refresh)
    refreshing.start()
    assert waits.wait(WAIT)
    assert (served.generation, served.reranker.residence.where) == (newest, "mmap")
    held.clear()
    refreshing.join(WAIT)
    assert (served.generation, served.reranker.residence.where) == (newest, "gpu")


def test_what_finds_no_room_is_told_and_tried_again(
    store: Store,
    gpu: Encoder,
    tiny_encoder: Encoder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("colbert_rerank.serve.stores.PATIENCE", 0)
    strict = ServedStore("real", store, gpu, {"resident": "gpu"})
    held = [strict.reranker]
    newest = ingested(store.folder, tiny_encoder, documents(12)).manifest.generation
    assert strict.refresh()
    assert (strict.generation, strict.reranker.residence.where) == (newest, "mmap")
    assert strict.fault.startswith("UsageError: ")
    held.clear()
    assert not strict.refresh()
    assert (strict.fault, strict.reranker.residence.where) == ("", "gpu")


def test_another_place_is_logged(
    store: Store,
    gpu: Encoder,
    tiny_encoder: Encoder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("colbert_rerank.serve.stores.PATIENCE", 0)
    served = ServedStore("real", store, gpu, {})
    held = [served.reranker]
    ingested(store.folder, tiny_encoder, documents(12))
    assert served.refresh()
    assert held
    assert served.reranker.residence.where == "pinned"
    assert "store real: rows are in pinned; before it was gpu" in caplog.text
