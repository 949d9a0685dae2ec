"""An ingest that is killed, again and again, ends as one that was left alone: the same ids, the same bits."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from colbert_rerank.encoder import Encoder
from colbert_rerank.store import Store
from colbert_rerank.types import ScoredDoc
from tests.collection import MUSIQUE, RECIPE, bm25_of, documents, ingested, queries
from tests.ingest.interrupted import Ending, interrupted_ingest

DOCUMENTS = 120
KILLS = 5


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    with (MUSIQUE / "corpus.jsonl").open(encoding="utf-8") as file:
        path.write_text("".join(islice(file, DOCUMENTS)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Encoder) -> Store:
    """What an ingest leaves that nobody interrupts, in one unit."""
    return ingested(tmp_path_factory.mktemp("whole") / "store", tiny_encoder, documents(DOCUMENTS))


def found(store: Store) -> list[list[ScoredDoc]]:
    return list(bm25_of(store).search(queries(20), 50))


def assert_same(ours: Store, whole: Store) -> None:
    ids = sorted(whole.index.ids())
    assert len(ids) == DOCUMENTS
    assert sorted(ours.index.ids()) == ids
    one, other = ours.gather(ids), whole.gather(ids)
    np.testing.assert_array_equal(one.offsets, other.offsets)
    np.testing.assert_array_equal(one.values.view(np.uint16), other.values.view(np.uint16))
    assert [s and s.content_hash for s in ours.describe(ids)] == [s and s.content_hash for s in whole.describe(ids)]
    assert ours.manifest.complete
    assert all(s.posted for s in ours.manifest.segments)
    assert found(ours) == found(whole)
    assert len(found(whole)[0]) == 50


@pytest.mark.parametrize("seed", [1, 2])
def test_an_interrupted_ingest_ends_bit_identical(
    seed: int, tmp_path: Path, tiny: Path, corpus: Path, whole: Store
) -> None:
    store = tmp_path / "store"
    endings = interrupted_ingest(tiny, store, corpus, KILLS, seed)
    stored = [e.stored for e in endings]
    assert stored == sorted(stored), "what was committed is kept"
    assert any(0 < count < DOCUMENTS for count in stored), f"none was interrupted in the middle: {endings}"
    killed = [e for e in endings[:-1] if e.status == -signal.SIGKILL]
    assert len(killed) > KILLS // 2, f"too few were killed before their end: {endings}"
    assert endings[-1] == Ending(0, DOCUMENTS)
    assert_same(Store.open(store), whole)
    listed = Store.open(store).manifest
    assert listed.index is not None
    kept = {s.file for s in listed.segments} | {listed.index.file}
    assert {p.name for p in (store / "segments").iterdir()} == kept, "nothing is left of the killed ones"
    assert not list(store.glob("*.tmp"))


def test_ctrl_c_at_the_command_line_keeps_what_was_committed(
    tmp_path: Path, tiny: Path, corpus: Path, whole: Store, tiny_encoder: Encoder
) -> None:
    """Documents come through a pipe that stays open, so that the command is still reading when it is interrupted."""
    store = tmp_path / "store"
    command = [sys.executable, "-m", "colbert_rerank", "ingest", "-", "--format", "jsonl"]
    command += ["--store", str(store), "--model", str(tiny), "--device", "cpu"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(corpus.read_bytes())
    process.stdin.flush()
    until = time.monotonic() + 120
    while not (store / "manifest.json").exists():
        assert process.poll() is None
        assert time.monotonic() < until, "the ingest did not begin"
        time.sleep(0.05)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert b"interrupted; what was committed is kept, and the same command goes on from there" in errors
    assert b"Traceback" not in errors
    assert_same(ingested(store, tiny_encoder, documents(DOCUMENTS), recipe=RECIPE), whole)
