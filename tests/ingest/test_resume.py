"""An ingest that is killed, again and again, ends as one that was left alone: the same ids, the same bits."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from colbert_rerank.candidates.bm25 import Bm25Index
from colbert_rerank.store import Store
from colbert_rerank.trec import read_topics
from colbert_rerank.types import ScoredDoc
from tests.tiny import tiny_checkpoint

ROOT = Path(__file__).parents[2]
COLLECTION = ROOT / "colbert_rerank" / "data" / "musique_mini"
DOCUMENTS = 400


def start(model: Path, store: Path, corpus: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.ingest.interrupted", str(model), str(store), str(corpus)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def interrupt(model: Path, store: Path, corpus: Path, seed: int, how: int) -> int:
    """Let an ingest run for a random while, then end it; returns how many documents it left behind."""
    process = start(model, store, corpus)
    time.sleep(random.Random(seed).uniform(0.05, 0.6))
    process.send_signal(how)
    process.communicate(timeout=60)
    return len(Store.open(store)) if (store / "manifest.json").exists() else 0


def found(store: Path) -> list[list[ScoredDoc]]:
    index = Bm25Index.open_for(store, Store.open(store).manifest)
    return list(index.search(list(islice(read_topics(str(COLLECTION / "queries.jsonl")), 5)), 50))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_an_interrupted_ingest_ends_bit_identical(how: int, tmp_path: Path) -> None:
    model = tiny_checkpoint(tmp_path / "model")
    corpus = tmp_path / "corpus.jsonl"
    with (COLLECTION / "corpus.jsonl").open(encoding="utf-8") as file:
        corpus.write_text("".join(islice(file, DOCUMENTS)), encoding="utf-8")
    left = [interrupt(model, tmp_path / "store", corpus, seed, how) for seed in range(4)]
    assert left == sorted(left), "what was committed is kept"
    for store in ("store", "whole"):
        process = start(model, tmp_path / store, corpus)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    ours, whole = Store.open(tmp_path / "store"), Store.open(tmp_path / "whole")
    assert ours.manifest.complete
    ids = sorted(whole.index.ids())
    assert sorted(ours.index.ids()) == ids
    assert len(ids) == DOCUMENTS
    one, other = ours.gather(ids), whole.gather(ids)
    np.testing.assert_array_equal(one.offsets, other.offsets)
    np.testing.assert_array_equal(one.values, other.values)
    assert found(tmp_path / "store") == found(tmp_path / "whole")
