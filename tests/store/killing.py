"""Kill a writer at random moments and look at what it left: one function, for the tests and for long soaks."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from colbert_rerank.store import Store, layout, writing
from tests.store import stores
from tests.store.stores import Doc

ROOT = Path(__file__).parents[2]
DIM = 16
IDS = 60  # few, so that documents are replaced over and over
UNIT = 12
AWAITED = 4  # commits to wait for, at most, before a kill
LATEST = 0.03  # seconds after the last of them; a commit takes about ten milliseconds


class KillReport(NamedTuple):
    kills: int
    commits: int  # that a killed writer had reported
    unreported: int  # commits found in the store whose report was cut off by the kill
    leftovers: int  # files that a killed writer left and the next one swept up


def versioned(doc_id: str, version: int) -> Doc:
    """The one document that may stand under ``doc_id`` with this version."""
    rng = np.random.default_rng([int(doc_id), version])
    return Doc(rng.standard_normal((int(rng.integers(0, 40)), DIM)).astype("float16"), version.to_bytes(16, "big"))


def changes_of(version: int) -> dict[str, Doc | None]:
    """What a version puts into the store by id; every third one only deletes."""
    ids = random.Random(version).sample(range(IDS), UNIT)
    return {str(i): versioned(str(i), version) if version % 3 else None for i in ids}


def write_for_ever(folder: str, version: int) -> None:
    """What the victim does: commit version after version, telling each; now and then it finishes, or compacts."""
    with writing(Path(folder), stores.new_manifest(DIM)) as writer:
        print("begun", flush=True)
        while True:
            unit = writer.unit()
            for doc_id, doc in changes_of(version).items():
                stores.add(unit, doc_id, doc) if doc else unit.delete(doc_id)
            writer.commit(unit, posted=True)
            print(version, flush=True)
            if version % 4 == 0:
                writer.finish()
            if version % 5 == 0:
                writer.compact()
            version += 1


def kill_store(n: int, seed: int) -> KillReport:
    """Kill ``n`` writers in turn on one store; AssertionError where a commit was lost or the next run cannot go on."""
    rng = random.Random(seed)
    commits = unreported = leftovers = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "store"
        version = 1
        for _ in range(n):
            told = _run_and_kill(folder, version, rng.randint(0, AWAITED), rng.uniform(0, LATEST))
            last = max([version - 1, *told])
            found = _check(folder, last)
            commits += len(told)
            unreported += found - last
            leftovers += _go_on(folder)
            assert _check(folder, found) == found
            version = found + 1
    return KillReport(n, commits, unreported, leftovers)


def _run_and_kill(folder: Path, version: int, awaited: int, seconds: float) -> list[int]:
    """The versions that a writer reported before it was killed, ``seconds`` after the ``awaited``-th of them."""
    code = f"from tests.store.killing import write_for_ever; write_for_ever({str(folder)!r}, {version})"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as writer:
        assert writer.stdout
        assert writer.stderr
        lines = [writer.stdout.readline() for _ in range(1 + awaited)]
        time.sleep(seconds)
        writer.send_signal(signal.SIGKILL)
        lines += writer.stdout.readlines()
        errors = writer.stderr.read()
    assert lines[0] == "begun\n", errors
    assert writer.returncode == -signal.SIGKILL, errors
    return [int(line) for line in lines[1:] if line.endswith("\n")]


def _check(folder: Path, reported: int) -> int:
    """The newest version in the store: at least the one reported, and every document as that history left it."""
    store = Store.open(folder)
    found = store.manifest.content
    assert reported <= found <= reported + 1, (reported, found)
    model: dict[str, Doc] = {}
    for version in range(1, found + 1):
        for doc_id, doc in changes_of(version).items():
            if doc:
                model[doc_id] = doc
            else:
                model.pop(doc_id, None)
    stores.assert_holds(store, model)
    return found


def _go_on(folder: Path) -> int:
    """Open the store for writing, which takes the lock and sweeps; return how many files that removed."""

    def files() -> set[Path]:
        return {p for p in folder.rglob("*") if p.is_file()} - {folder / layout.LOCK, folder / layout.COMMIT_LOCK}

    before = files()
    with writing(folder, stores.new_manifest(DIM)) as writer:
        listed = {folder / layout.SEGMENTS / file for file in writer.manifest.files}
        assert files() == {folder / layout.MANIFEST, *listed}
    return len(before - listed)
