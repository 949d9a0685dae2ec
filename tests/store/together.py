"""Several writers at work on one store, some of them killed: one function, for the tests and for long soaks."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from colbert_rerank.store import Store, layout, rewriting, writing
from tests.store import stores
from tests.store.killing import DIM, ROOT, versioned
from tests.store.stores import Doc

WRITERS = 3
COMMITS = 12  # of each writer, so that segments are merged while the others write
IDS = 20  # of each writer's slice
UNIT = 6
LATEST = 0.1  # seconds after the victims' first commit


class TogetherReport(NamedTuple):
    rounds: int
    kills: int
    midway: int  # kills after which the victim had some of its commits in the store, and not all
    leftovers: int  # files that were swept up afterwards


def changes_of(part: int, version: int) -> dict[str, Doc | None]:
    """What a version of a slice puts into the store by id; every fourth only deletes."""
    ids = random.Random(1000 * part + version).sample(range(1000 * part, 1000 * part + IDS), UNIT)
    return {str(i): versioned(str(i), version) if version % 4 else None for i in ids}


def write_slice(folder: str, part: int, first: int) -> None:
    """What each writer does: ``COMMITS`` versions of its slice, telling each."""
    with writing(Path(folder), stores.new_manifest(DIM)) as writer:
        writer.begin()
        writer.share()
        print("begun", flush=True)
        for version in range(first, first + COMMITS):
            unit = writer.unit()
            for doc_id, doc in changes_of(part, version).items():
                stores.add(unit, doc_id, doc) if doc else unit.delete(doc_id)
            writer.commit(unit, posted=True)
            print(version, flush=True)
        writer.finish()


def write_together(n: int, seed: int) -> TogetherReport:
    """``n`` rounds on one store, in each of which some writers are killed, or none.

    AssertionError where a commit was lost, a document is not as its own slice's history left it, or no one can go on.
    """
    rng = random.Random(seed)
    kills = midway = leftovers = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "store"
        done = [0] * WRITERS  # versions of each slice that are in the store
        for _ in range(n):
            victims = set(rng.sample(range(WRITERS), rng.randint(0, WRITERS - 1)))
            told = _run(folder, [last + 1 for last in done], victims, rng.uniform(0, LATEST))
            for part in range(WRITERS):
                if part not in victims:
                    assert told[part] == done[part] + COMMITS, "who is not killed comes to its end"
                elif told[part] > done[part]:
                    midway += told[part] < done[part] + COMMITS
            kills += len(victims)
            done = _check(folder, [max(pair) for pair in zip(told, done, strict=True)])
            before = {path.name for path in (folder / layout.SEGMENTS).iterdir()}
            with rewriting(folder) as writer:  # which no one keeps from it any more
                leftovers += len(before - writer.manifest.files)
                writer.finish()
            there = {path.name for path in (folder / layout.SEGMENTS).iterdir()}
            assert there == Store.open(folder).manifest.files
            assert _check(folder, done) == done
    return TogetherReport(n, kills, midway, leftovers)


def _run(folder: Path, first: list[int], victims: set[int], seconds: float) -> list[int]:
    """The last version that each writer told of, or 0; the victims are killed so long after their first commit."""
    writers, reports = [], []
    for part, version in enumerate(first):
        code = f"from tests.store.together import write_slice; write_slice({str(folder)!r}, {part}, {version})"
        report = folder.with_name(f"{part}.txt")
        with report.open("w", encoding="utf-8") as output:
            command = [sys.executable, "-c", code]
            writers.append(subprocess.Popen(command, stdout=output, stderr=subprocess.PIPE, text=True, cwd=ROOT))
        reports.append(report)
    for part in victims:
        while len(_versions(reports[part])) < 1 and writers[part].poll() is None:
            time.sleep(0.001)
    time.sleep(seconds)
    for part in victims:
        writers[part].send_signal(signal.SIGKILL)
    told = []
    for part, writer in enumerate(writers):
        _, errors = writer.communicate(timeout=120)
        assert writer.returncode in ({-signal.SIGKILL, 0} if part in victims else {0}), errors
        told.append(max(_versions(reports[part])))
    return told


def _versions(report: Path) -> list[int]:
    """Those that a writer has told of, in whole lines."""
    lines = report.read_text(encoding="utf-8").splitlines(keepends=True)
    return [int(line) for line in lines if line.endswith("\n") and line.strip().isdecimal()]


def _check(folder: Path, told: list[int]) -> list[int]:
    """The version of each slice in the store: that told of, or one more; every document is as it left it."""
    store = Store.open(folder)
    found: list[int] = []
    model: dict[str, Doc] = {}
    for part, version in enumerate(told):
        for last in (version, version + 1):
            mine = _model(part, last)
            held = dict(zip(_ids(part), store.describe(_ids(part)), strict=True))
            if {i: d.content_hash for i, d in mine.items()} == {i: s.content_hash for i, s in held.items() if s}:
                break
        else:
            raise AssertionError(f"slice {part} is neither at version {version} nor at {version + 1}")
        found.append(last)
        model |= mine
    stores.assert_holds(store, model)
    return found


def _ids(part: int) -> list[str]:
    return [str(i) for i in range(1000 * part, 1000 * part + IDS)]


def _model(part: int, last: int) -> dict[str, Doc]:
    model: dict[str, Doc] = {}
    for version in range(1, last + 1):
        for doc_id, doc in changes_of(part, version).items():
            model.pop(doc_id, None)
            if doc:
                model[doc_id] = doc
    return model
