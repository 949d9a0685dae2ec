"""Interrupt an ingest at random moments, again and again: one function, for the tests and for long soaks.

    python -m tests.ingest.killing MODEL STORE SOURCE [URL INDEX]

is the victim: an ingest in small units that tells its progress, a line a batch.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from colbert_rerank.candidates.bm25 import Bm25Index
from colbert_rerank.connection import Connection
from colbert_rerank.encoder import Encoder
from colbert_rerank.opensearch import connect
from colbert_rerank.recipe import Recipe
from colbert_rerank.store import Store
from colbert_rerank.types import ScoredDoc
from ingest import first_stage, pipeline
from ingest.sources import SourceOptions, open_source
from ingest.sources.opensearch import OpenSearchSource
from ingest.validation import InputReport
from mappings import index_body
from tests.collection import MUSIQUE, assert_same_documents, queries
from tests.tiny import tiny_checkpoint

ROOT = Path(__file__).parents[2]
DOCUMENTS = 300
AWAITED = 20  # lines of progress to wait for, at most, before a kill
LATEST = 0.05  # seconds after the last of them
ENOUGH = 5  # interrupts, of which one at least must come in the middle
OPENSEARCH = "opensearch:"


class KillReport(NamedTuple):
    kills: int
    midway: int  # after which the store held some documents, and not all
    refilled: int  # that found the store whole, so that it was begun anew


def ingest(model: str, store: str, source: str, url: str = "", index: str = "") -> None:
    """``source`` is a file, or ``opensearch:`` and the name of an index at ``url``; ``index`` one to fill there."""
    pipeline.READ_AHEAD = 8
    pipeline.UNIT_TOKENS = {"cpu": 700}
    report, recipe = pipeline.IngestReport(InputReport()), Recipe()
    encoder = Encoder.load(model, device="cpu")
    with closing(connect(Connection(url or "http://nowhere"))) as client:
        read = OpenSearchSource(client, source.removeprefix(OPENSEARCH)) if source.startswith(OPENSEARCH) else None
        pipeline.ingest(
            read or open_source(source, SourceOptions(), report.input),
            Path(store),
            encoder,
            recipe=recipe,
            report=report,
            first_stage=first_stage.opensearch(client, index, index_body(recipe.fields)) if index else None,
            index=read,
            progress=lambda r: print(r.encoded + r.unchanged, flush=True),
        )


def corpus(folder: Path) -> Path:
    path = folder / "corpus.jsonl"
    with (MUSIQUE / "corpus.jsonl").open(encoding="utf-8") as file:
        path.write_text("".join(islice(file, DOCUMENTS)), encoding="utf-8")
    return path


def kill_ingest(
    n: int, seed: int, how: int = signal.SIGKILL, *, url: str = "", source: str = "", index: str = ""
) -> KillReport:
    """Interrupt ``n`` ingests of one collection in turn; AssertionError where one ends otherwise than undisturbed.

    Once a store is whole another is begun, into an index of another name. ``source`` is the bundled collection's first
    documents, unless it names an index.
    """
    rng = random.Random(seed)
    midway = refilled = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = tiny_checkpoint(folder / "model")
        given = source or str(corpus(folder))
        victim = Victim(model, folder / "whole", given, url, index and f"{index}-whole")
        victim.finish()
        whole = Store.open(victim.store)
        assert len(whole) == DOCUMENTS
        victim = Victim(model, folder / "0", given, url, index and f"{index}-0")
        held = 0
        for number in range(n):
            left = victim.kill(rng.randint(1, AWAITED), rng.uniform(0, LATEST), how)
            assert left >= held, "what was committed is kept"
            midway += 0 < left < DOCUMENTS
            held = left
            if left == DOCUMENTS or number == n - 1:
                victim.finish()
                assert_same(victim, whole)
                refilled += left == DOCUMENTS
                held = 0
                victim = Victim(model, folder / str(number + 1), given, url, index and f"{index}-{number + 1}")
    assert midway or n < ENOUGH, "no interrupt came in the middle, so nothing was shown"
    return KillReport(n, midway, refilled)


class Victim(NamedTuple):
    """The ingest that is interrupted, with all it needs to be started again."""

    model: Path
    store: Path
    source: str
    url: str
    target: str

    def start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.ingest.killing", str(self.model), str(self.store), self.source]
        command += [self.url, self.target]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def kill(self, awaited: int, seconds: float, how: int) -> int:
        """Let it run for so many lines of progress and so long, then end it; how many documents the store then has."""
        with self.start() as process:
            assert process.stdout
            assert process.stderr
            for _ in range(1 + awaited):
                process.stdout.readline()
            time.sleep(seconds)
            process.send_signal(how)
            _, errors = process.communicate(timeout=120)
        expected = {-how} if how == signal.SIGKILL else {1, -how}
        assert process.returncode in {0, *expected}, errors
        return len(Store.open(self.store)) if (self.store / "manifest.json").exists() else 0

    def finish(self) -> None:
        with self.start() as process:
            _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors

    def found(self) -> list[list[ScoredDoc]]:
        store = Store.open(self.store)
        return list(Bm25Index.open_for(store.folder, store.manifest).search(queries(5), 50))


def assert_same(victim: Victim, whole: Store) -> None:
    """The store has the ids of the undisturbed one, with the same bits, and so has the index."""
    ours = Store.open(victim.store)
    assert ours.manifest.complete
    assert all(segment.posted for segment in ours.manifest.segments)
    assert_same_documents(ours, whole)
    if victim.target:
        with closing(connect(Connection(victim.url))) as client:
            body = {"size": DOCUMENTS + 1, "_source": False, "query": {"match_all": {}}}
            hits = client.search(index=victim.target, body=body)["hits"]["hits"]
        assert sorted(hit["_id"] for hit in hits) == sorted(whole.index.ids())
    elif not victim.url:
        assert victim.found() == victim._replace(store=whole.folder).found()


if __name__ == "__main__":
    ingest(*sys.argv[1:])
