"""An ingest in a process of its own, in small units, that says how far it is, so that a test can end it anywhere.

The processes are forked from one server that has imported everything: torch alone takes longer than all of the work.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import torch

# Imported for the server's sake: what it holds, its children need not load.
import transformers.models.bert.modeling_bert  # noqa: F401

from colbert_rerank.candidates import bm25  # noqa: F401
from colbert_rerank.encoder import Encoder
from colbert_rerank.recipe import Recipe
from colbert_rerank.store import Store
from ingest import pipeline
from ingest.sources import SourceOptions, open_source
from ingest.validation import InputReport

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__])
PATIENCE = 120  # seconds that an ingest may take on a busy machine


class Ending(NamedTuple):
    """How one process ended: its exit status (negative for a signal), and how many documents are stored now."""

    status: int
    stored: int


def ingest_and_tell(model: str, store: str, corpus: str, told: Connection) -> None:
    """In the child: ingest, and send a line at every step."""
    torch.set_num_threads(1)
    pipeline.READ_AHEAD = 8
    pipeline.UNIT_TOKENS = {"cpu": 500}
    report = pipeline.IngestReport(InputReport())
    source = open_source(corpus, SourceOptions(), report.input)
    encoder = Encoder.load(model, device="cpu")
    told.send("ready")
    pipeline.ingest(
        source,
        Path(store),
        encoder,
        recipe=Recipe(),
        report=report,
        progress=lambda r: told.send(f"{r.encoded} encoded, {r.unchanged} unchanged"),
    )
    told.send("done")


def ingest_until(model: Path, store: Path, corpus: Path, steps: int, pause: float, how: int) -> Ending:
    """Start an ingest and send it signal ``how``, ``pause`` seconds after its step number ``steps``."""
    ours, theirs = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=ingest_and_tell, args=(str(model), str(store), str(corpus), theirs))
    process.start()
    theirs.close()
    for _ in range(steps):
        if not ours.poll(PATIENCE):
            raise TimeoutError(f"the ingest said nothing for {PATIENCE} seconds")
        try:
            ours.recv()
        except EOFError:  # it came to its end first
            break
    time.sleep(pause)
    if how and process.is_alive():
        assert process.pid is not None
        os.kill(process.pid, how)
    process.join(PATIENCE)
    assert process.exitcode is not None, "the ingest does not end"
    ours.close()
    return Ending(process.exitcode, len(Store.open(store)) if (store / "manifest.json").exists() else 0)


def interrupted_ingest(model: Path, store: Path, corpus: Path, kills: int, seed: int) -> list[Ending]:
    """Ingest ``corpus``, ended ``kills`` times at random moments and started again, and then left alone.

    Every fourth ending is Ctrl-C, the others are kill -9.
    """
    chance = random.Random(seed)
    endings = []
    for number in range(1, kills + 1):
        how = signal.SIGINT if number % 4 == 0 else signal.SIGKILL
        endings.append(ingest_until(model, store, corpus, chance.randint(1, 16), chance.uniform(0, 0.05), how))
    whole = 10**9  # steps
    endings.append(ingest_until(model, store, corpus, whole, 0, 0))
    return endings
