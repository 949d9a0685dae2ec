"""A sound store is read by a process that may open few files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.store import stores

ROOT = Path(__file__).parents[2]
SEGMENTS = 60

# Reads every document under a soft and a hard limit on open files; prints how many are open then.
READ = """
import os, resource, sys
from colbert_rerank.store import Store
from tests.store import stores

folder, soft, hard = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
store = Store.open(folder)
ids = sorted(store.index.ids())
assert store.gather(ids).found.all()
assert all(store.describe(ids))
print(len(ids), len(os.listdir("/proc/self/fd")))
"""


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of many small segments."""
    folder = tmp_path_factory.mktemp("many") / "store"
    stores.make(folder, [stores.random_docs([f"{i}", f"{i}+"], i) for i in range(SEGMENTS)], merge=False)
    assert len(stores.segment_files(folder)) == SEGMENTS
    return folder


def read(folder: Path, soft: int, hard: int) -> str:
    command = [sys.executable, "-c", READ, str(folder), str(soft), str(hard)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def test_more_segments_than_the_limit_on_open_files(many: Path) -> None:
    """No file stays open for a map, so the limit does not bound how many segments there are."""
    documents, opened = read(many, SEGMENTS // 2, SEGMENTS // 2).split()
    assert int(documents) == 2 * SEGMENTS
    assert int(opened) < 10
