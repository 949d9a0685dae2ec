"""Ingests of different slices into one store at the same time end as one ingest of everything."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from colbert_rerank.store import Store, writing
from tests.cli.terminal import invoke
from tests.ingest.killing import Victim, assert_same, corpus
from tests.tiny import tiny_checkpoint

PARTS = 3


def slices(tmp_path: Path, url: str = "", index: str = "") -> tuple[Store, list[Victim]]:
    """The store of an ingest of everything, and ingests of slices into another one."""
    model, whole = tiny_checkpoint(tmp_path / "model"), corpus(tmp_path)
    alone = Victim(model, tmp_path / "whole", str(whole), url, index and f"{index}-whole")
    alone.finish()
    lines = whole.read_text(encoding="utf-8").splitlines(keepends=True)
    ingests = []
    for number in range(PARTS):
        part = tmp_path / f"{number}.jsonl"
        part.write_text("".join(lines[number::PARTS]), encoding="utf-8")
        ingests.append(Victim(model, tmp_path / "store", str(part), url, index))
    return Store.open(alone.store), ingests


def at_once(ingests: list[Victim]) -> None:
    running = [ingest.start() for ingest in ingests]
    for process in running:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors


def test_with_the_index_beside_the_store(tmp_path: Path) -> None:
    whole, ingests = slices(tmp_path)
    at_once(ingests)
    assert_same(ingests[0], whole)
    assert Store.open(ingests[0].store).manifest.index


def test_into_opensearch(tmp_path: Path, opensearch_url: str, index_name: str) -> None:
    whole, ingests = slices(tmp_path, opensearch_url, index_name)
    at_once(ingests)
    assert_same(ingests[0], whole)


def test_one_of_them_is_killed(tmp_path: Path) -> None:
    whole, ingests = slices(tmp_path)
    with ingests[1].start() as other:
        assert other.stdout
        other.stdout.readline()  # it has begun; one that begins alone asks no more what became of others
        ingests[0].kill(6, 0, signal.SIGKILL)
        _, errors = other.communicate(timeout=300)
        assert other.returncode == 0, errors
    store = Store.open(ingests[0].store)
    assert len(store) < len(whole)
    assert not store.manifest.complete
    at_once([ingests[0], ingests[2]])
    assert_same(ingests[0], whole)


def test_what_is_said_while_another_goes_on(tmp_path: Path) -> None:
    model, store = tiny_checkpoint(tmp_path / "model"), tmp_path / "store"
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"_id": name, "text": "tides"}), encoding="utf-8")
    invoke("ingest", tmp_path / "a.jsonl", "--store", store, "--model", model).check()
    with writing(store, Store.open(store).manifest) as other:
        other.begin()
        other.share()
        done = invoke("ingest", tmp_path / "b.jsonl", "--store", store, "--model", model).check()
        assert f"{store}: 2 documents, " in done.err
        mixed = invoke("ingest", tmp_path / "b.jsonl", "--store", store, "--model", model, "--fields", "title,body")
        assert "made with another way of making texts" in mixed.error
        rerank = invoke("rerank", "tides", "--store", store).check()
        assert "the last ingest was interrupted, is under way" in rerank.err
    assert len(Store.open(store)) == 2
