"""A sound store under a process that may open few files, or not these: it is read, or the limit is named."""

from __future__ import annotations

import errno
import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from colbert_rerank.errors import StoreCorruptError, StoreReadError
from colbert_rerank.store import Store, columns
from tests.store import stores

ROOT = Path(__file__).parents[2]
SEGMENTS = 60
HARD = 4096

# Reads every document under a soft and a hard limit on open files; prints how many are open then, or the error.
READ = """
import os, resource, sys
from colbert_rerank.errors import StoreReadError
from colbert_rerank.store import Store
from tests.store import stores

folder, soft, hard = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
try:
    store = Store.open(folder)
    ids = sorted(store.index.ids())
    assert store.gather(ids).found.all()
    assert all(store.describe(ids))
except StoreReadError as error:
    print(type(error).__name__, error)
else:
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


def test_more_segments_than_the_soft_limit_on_open_files(many: Path) -> None:
    documents, _ = read(many, SEGMENTS // 2, HARD).split()
    assert int(documents) == 2 * SEGMENTS


def test_more_segments_than_the_hard_limit_on_open_files(many: Path) -> None:
    answer = read(many, SEGMENTS // 2, SEGMENTS // 2)
    if sys.version_info >= (3, 13):  # where a map keeps no file open
        documents, opened = answer.split()
        assert int(documents) == 2 * SEGMENTS
        assert int(opened) < 10
    else:
        assert answer.startswith(f"StoreReadError {many}")
        assert "too many open files. The store is sound" in answer
        assert "`ulimit -n`" in answer


def test_a_file_that_this_user_may_not_read(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, size: int) -> mmap.mmap:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(columns, "_map", refuse)
    with pytest.raises(StoreReadError, match=r"\.h5: permission denied\. Give this user the right to read") as refusal:
        Store.open(many)
    assert not isinstance(refusal.value, StoreCorruptError)
