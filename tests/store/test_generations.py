"""A reader keeps the generation that it opened, over writers, threads and forks."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from colbert_rerank.store import Store, layout, writing
from colbert_rerank.store import manifest as manifests
from colbert_rerank.store.columns import Array
from colbert_rerank.store.manifest import IndexEntry, Manifest
from colbert_rerank.store.segment import read_index
from tests.store import stores

ROOT = Path(__file__).parents[2]
FIRST = stores.random_docs([f"a{i}" for i in range(50)], 1, dim=64, rows=40)
SECOND = stores.random_docs([f"a{i}" for i in range(20, 60)], 2, dim=64, rows=40)


def test_an_open_reader_outlives_its_files(tmp_path: Path) -> None:
    stores.make(tmp_path, [FIRST])
    untouched = Store.open(tmp_path)
    files = set((tmp_path / layout.SEGMENTS).iterdir())
    stores.make(tmp_path, [SECOND])
    assert not files & set((tmp_path / layout.SEGMENTS).iterdir())
    stores.assert_holds(untouched, FIRST)
    stores.assert_holds(Store.open(tmp_path), FIRST | SECOND)


def test_a_merge_between_the_manifest_and_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stores.make(tmp_path, [FIRST])
    load = manifests.load
    loads = 0

    def load_and_lose(folder: Path) -> Manifest:
        nonlocal loads
        loads += 1
        found = load(folder)
        if loads == 1:
            monkeypatch.setattr(manifests, "load", load)  # the writer below loads too
            stores.make(tmp_path, [SECOND])
            monkeypatch.setattr(manifests, "load", load_and_lose)
        return found

    monkeypatch.setattr(manifests, "load", load_and_lose)
    stores.assert_holds(Store.open(tmp_path), FIRST | SECOND)
    assert loads == 3, "to begin with, to see that there is a newer one, and that"


def test_an_id_index_that_vanishes_with_its_generation_leads_to_the_newer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stores.make(tmp_path, [FIRST])
    index, segments = stores.index_file(tmp_path), stores.segment_files(tmp_path)

    def lose_and_read(folder: Path, entry: IndexEntry) -> dict[str, Array]:
        if index.exists():  # between the manifest and this file an ingest came to its end
            with writing(tmp_path, stores.new_manifest(64)) as writer:
                stores.commit(writer, SECOND, posted=False)  # so that the segments stay as they are
                writer.finish()
            assert not index.exists()
            assert all(file.exists() for file in segments)
        return read_index(folder, entry)

    monkeypatch.setattr("colbert_rerank.store.reader.read_index", lose_and_read)
    stores.assert_holds(Store.open(tmp_path), FIRST | SECOND)
    assert not caplog.records, "nothing was lost"


def test_threads_share_a_store(tmp_path: Path) -> None:
    stores.make(tmp_path, [FIRST, SECOND], merge=False)
    model = FIRST | SECOND
    for _ in range(5):
        store, start = Store.open(tmp_path), threading.Barrier(8)

        def read(seed: int, store: Store = store, start: threading.Barrier = start) -> None:
            ids = sorted(model)
            start.wait()  # all threads touch first
            for step in range(1, 6):
                stores.assert_holds(store, model, ids[seed::step])

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(read, range(8)))


# In a process of its own: forking one in which other tests have left threads is not to be recommended.
FORK = """
import os, sys
from colbert_rerank.store import Store
from tests.store import stores
from tests.store.test_generations import FIRST, SECOND
store = Store.open(sys.argv[1])
stores.assert_holds(store, FIRST | SECOND, ["a1", "a30"])
child = os.fork()
stores.assert_holds(store, FIRST | SECOND)
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_child_reads_what_its_parent_opened(tmp_path: Path) -> None:
    stores.make(tmp_path, [FIRST, SECOND], merge=False)
    done = subprocess.run(
        [sys.executable, "-c", FORK, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_reading_changes_nothing_in_the_folder(tmp_path: Path) -> None:
    stores.make(tmp_path, [FIRST])

    def state() -> list[tuple[str, int, int]]:
        found = [(str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in tmp_path.rglob("*")]
        return sorted(found)

    before = state()
    stores.assert_holds(Store.open(tmp_path), FIRST)
    assert state() == before


def test_generations_and_content_are_counted(tmp_path: Path) -> None:
    with writing(tmp_path, stores.new_manifest(64)) as writer:
        assert (writer.manifest.generation, writer.manifest.content) == (0, 0)
        name = stores.commit(writer, FIRST, posted=False)
        assert (writer.manifest.generation, writer.manifest.content) == (1, 1)
        writer.mark_posted(name)
        writer.mark_posted(name)  # nothing to note any more
        assert (writer.manifest.generation, writer.manifest.content) == (2, 1)
        stores.commit(writer, SECOND)
        writer.finish()
        finished = writer.manifest
        assert (finished.content, finished.complete) == (2, True)
        writer.begin()
        assert (writer.manifest.generation, writer.manifest.complete) == (finished.generation + 1, False)
    assert Store.open(tmp_path).manifest == writer.manifest
