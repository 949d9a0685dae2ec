"""What a writer refuses, and what is left when the disk or another process stands in its way."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from colbert_rerank.errors import NonFiniteError, StoreWriteError, UsageError
from colbert_rerank.store import Store, columns, files, layout, writing
from colbert_rerank.store.unit import Unit
from colbert_rerank.types import FLOATS
from ingest import upkeep
from tests.store import stores

ROOT = Path(__file__).parents[2]
FIRST = stores.random_docs([f"a{i}" for i in range(9)], 1)
SECOND = stores.random_docs(["a3", "b", "c"], 2)


# Documents


@pytest.mark.parametrize(
    ("dtype", "value"),
    [("float16", 70_000.0), ("float32", 1e39), *((d, v) for d in FLOATS for v in (np.nan, np.inf, -np.inf))],
)
def test_numbers_that_are_none_or_too_large(dtype: str, value: float) -> None:
    unit = Unit(4, dtype)
    matrix = np.ones((3, 4))
    unit.add("good", matrix, bytes(16))
    matrix[2, 3] = value
    with pytest.raises(NonFiniteError, match=f"document 'bad one': .*{dtype} cannot hold"):
        unit.add("bad one", matrix, bytes(16))
    assert (len(unit), unit.rows) == (1, 3)


def test_the_largest_float16_is_taken() -> None:
    unit = Unit(2, "float16")
    unit.add("edge", np.array([[65504.0, -65504.0]]), bytes(16))
    assert unit.vectors().tolist() == [[65504.0, -65504.0]]


@pytest.mark.parametrize("shape", [(3, 5), (3, 3), (4,), (1, 3, 4), (0, 5), ()], ids=str)
def test_a_matrix_of_another_shape(shape: tuple[int, ...]) -> None:
    unit = Unit(4, "float16")
    with pytest.raises(UsageError, match=r"document 'x': its matrix is .*, expected \[T, 4\]"):
        unit.add("x", np.zeros(shape), bytes(16))
    assert len(unit) == 0


@pytest.mark.parametrize(
    ("doc_id", "message"),
    [
        ("", "has 0 bytes, expected 1 to 512"),
        ("x" * 513, "has 513 bytes"),
        ("é" * 257, "has 514 bytes"),
        ("a\ud800", "half of a surrogate pair"),
    ],
    ids=["empty", "long", "long in bytes", "surrogate"],
)
def test_an_id_that_cannot_be(doc_id: str, message: str) -> None:
    unit = Unit(4, "float16")
    with pytest.raises(UsageError, match=message):
        unit.add(doc_id, np.zeros((1, 4)), bytes(16))
    assert len(unit) == 0


def test_a_hash_of_another_size() -> None:
    with pytest.raises(UsageError, match="one of its hashes has 8 bytes, not 16"):
        Unit(4, "float16").add("x", np.zeros((1, 4)), bytes(8))


# The lock


def test_who_rewrites_is_alone(tmp_path: Path) -> None:
    stores.make(tmp_path, [FIRST])
    with writing(tmp_path, stores.new_manifest()) as writer:
        writer.begin()
        writer.share()
        for rewrite in (lambda: upkeep.compact(tmp_path), lambda: upkeep.repair(tmp_path)):
            with pytest.raises(StoreWriteError, match="another process is writing to this store; wait for it to end"):
                rewrite()
        with pytest.raises(StoreWriteError, match="another process is writing to this store; wait for it to end"):
            writer.compact()
        stores.assert_holds(Store.open(tmp_path), FIRST)  # reading goes on
    assert upkeep.compact(tmp_path).after


HOLD = """
import sys, time
from pathlib import Path
from colbert_rerank.store import writing
from tests.store import stores
with writing(Path(sys.argv[1]), stores.new_manifest()):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_lock_goes_with_a_killed_holder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A second writer waits for one that has not begun, or may not end; until it is dead."""
    stores.make(tmp_path, [FIRST])
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StoreWriteError, match="another process"):
            upkeep.compact(tmp_path)
        second = threading.Thread(target=stores.make, args=(tmp_path, [SECOND]), daemon=True)
        second.start()
        second.join(0.5)
        assert second.is_alive()
        assert "another process is at work on this store; waiting for it" in caplog.text
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        second.join(30)
    stores.assert_holds(Store.open(tmp_path), FIRST | SECOND)


def test_a_store_that_was_taken_back_while_another_waited(tmp_path: Path) -> None:
    """A first writer is refused and takes its new store back, and its lock with it; a second makes another."""
    store = tmp_path / "store"
    second = threading.Thread(target=stores.make, args=(store, [SECOND]), daemon=True)

    def refused() -> None:
        with writing(store, stores.new_manifest()):
            second.start()
            second.join(0.5)
            assert second.is_alive()
            raise UsageError("refused")

    with pytest.raises(UsageError, match="refused"):
        refused()
    second.join(30)
    stores.assert_holds(Store.open(store), SECOND)


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", failing(errno.ENOLCK))
    with pytest.raises(StoreWriteError, match=r"cannot lock .*no locks available"):
        stores.make(tmp_path, [FIRST])


# A folder that cannot be written to. Permissions do not bind root, which tests may run as: so the system lies instead.


def failing(number: int) -> Callable[..., Any]:
    def fail(*args: object, **options: object) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM], ids=errno.errorcode.get)
@pytest.mark.parametrize("new", [True, False], ids=["new", "there"])
def test_a_folder_that_cannot_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, new: bool
) -> None:
    if not new:
        stores.make(tmp_path, [FIRST])
    open_ = os.open

    def read_only(path: Any, flags: int, *more: Any, **options: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(number, os.strerror(number))
        return open_(path, flags, *more, **options)

    monkeypatch.setattr(os, "open", read_only)
    if new:
        monkeypatch.setattr(Path, "mkdir", failing(number))
    with pytest.raises(StoreWriteError, match=r"cannot write .*Give a folder this user can write to"):
        stores.make(tmp_path / "store" if new else tmp_path, [SECOND])
    if not new:
        stores.assert_holds(Store.open(tmp_path), FIRST)  # what only reads opens nothing for writing


# A full disk

FILL = """
import resource, sys
from pathlib import Path
from colbert_rerank.errors import StoreWriteError
from colbert_rerank.types import FLOATS
from ingest import upkeep
from colbert_rerank.store import writing
from tests.store import stores
from tests.store.test_write_errors import SECOND, SIZES
with writing(Path(sys.argv[1]), stores.new_manifest()) as writer:
    for size in SIZES:
        for step in (lambda: stores.commit(writer, SECOND), writer.finish):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
            try:
                step()
            except StoreWriteError as error:
                print(error)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""
SIZES = (0, 1, 100, 1000, 1500, 2000, 2500)  # bytes that a file may have: the segment needs more


def test_files_that_may_not_grow(tmp_path: Path) -> None:
    stores.make(tmp_path, [FIRST], finish=False)
    before = Store.open(tmp_path).manifest
    done = subprocess.run(
        [sys.executable, "-c", FILL, str(tmp_path)], capture_output=True, text=True, cwd=ROOT, check=True, timeout=60
    )
    refusals = done.stdout.splitlines()
    assert len(refusals) >= 2 * len(SIZES) - 1  # the index of a few ids may fit where the segment does not
    assert all("file too large. What was committed before is intact" in line for line in refusals)
    assert done.stderr == ""

    stores.assert_holds(Store.open(tmp_path), FIRST)
    left = {path.name for path in (tmp_path / layout.SEGMENTS).iterdir()} | {p.name for p in tmp_path.iterdir()}
    assert not any(name.endswith(files.TEMPORARY) for name in left)
    assert {entry.file for entry in before.segments} <= left
    stores.make(tmp_path, [SECOND])
    stores.assert_holds(Store.open(tmp_path), FIRST | SECOND)


class Injection:
    """Makes the ``nth`` call of a function fail as on a full disk, and counts the calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, nth: int) -> None:
        self.calls = 0
        real = getattr(owner, name)

        def call(*args: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls == nth:
                if name in ("write", "_write"):  # half a file is there already
                    args[0].write_bytes(b"half a fi")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*args, **options)

        monkeypatch.setattr(owner, name, call)


@pytest.mark.parametrize(
    ("owner", "name", "nth", "listed"),
    [
        (columns, "write", 1, False),
        (os, "fsync", 1, False),
        (Path, "replace", 1, False),
        (os, "fsync", 2, False),
        (files, "_write", 1, False),
        (os, "fsync", 3, False),
        (Path, "replace", 2, False),
        (os, "fsync", 4, True),
    ],
    ids=[
        *(f"segment: {step}" for step in ("write", "fsync", "rename", "fsync of the folder")),
        *(f"manifest: {step}" for step in ("write", "fsync", "rename", "fsync of the folder")),
    ],
)
def test_a_full_disk_at_each_step_of_a_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, nth: int, listed: bool
) -> None:
    stores.make(tmp_path, [FIRST])
    with writing(tmp_path, stores.new_manifest()) as writer:
        with monkeypatch.context() as patch:
            injection = Injection(patch, owner, name, nth)
            with pytest.raises(StoreWriteError, match=r"the disk is full\. Free some space and run the same command"):
                stores.commit(writer, SECOND)
            assert injection.calls == nth
        # The last step comes after the rename: the commit is there, and may only be lost with the power.
        now = FIRST | SECOND if listed else FIRST
        stores.assert_holds(Store.open(tmp_path), now)
        assert not [*tmp_path.rglob("*" + files.TEMPORARY)]
        writer.sweep()
        stores.assert_holds(Store.open(tmp_path), now)
        stores.commit(writer, SECOND)
        writer.finish()
    stores.assert_holds(Store.open(tmp_path), FIRST | SECOND)
    assert len([*(tmp_path / layout.SEGMENTS).iterdir()]) == 2


def test_a_full_disk_at_any_step_of_finishing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, (owner, name) in enumerate([(os, "fsync"), (Path, "replace"), (columns, "write"), (Path, "unlink")]):
        nth = 1
        while True:
            folder = tmp_path / f"{number}-{nth}"
            stores.make(folder, [FIRST, SECOND], finish=False)
            with monkeypatch.context() as patch, writing(folder, stores.new_manifest()) as writer:
                injection = Injection(patch, owner, name, nth)
                try:
                    writer.finish()
                except StoreWriteError:
                    stores.assert_holds(Store.open(folder), FIRST | SECOND)
                if injection.calls < nth:
                    break
                writer.finish()
            stores.assert_holds(Store.open(folder), FIRST | SECOND)
            assert not [*folder.rglob("*" + files.TEMPORARY)]
            nth += 1
        assert nth > 2  # merging and indexing are two writes at least


def test_new_folders_are_made_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(files, "_sync", synced.append)
    files.make_folder(tmp_path / "a" / "b")
    assert {tmp_path / "a", tmp_path} <= set(synced)


def test_only_files_of_ours_are_swept_up(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    stores.make(folder, [FIRST])
    (folder / "bm25").mkdir()
    ours = [
        *(folder / f"{name}.tmp" for name in ("manifest.json", "manifest.next.json", "versions.npz")),
        *(folder / "segments" / f"00000009-0123abcd{end}" for end in (".h5", ".ids.h5.tmp")),
        *(folder / "bm25" / name for name in ("state.json.tmp", ".tmp1uKPFK")),
    ]
    theirs = [
        folder / "thesis.tmp",
        folder / "versions.npz",
        *(folder / "segments" / name for name in ("data.h5", "notes.tmp")),
        *(folder / "bm25" / name for name in ("meta.json", "notes.tmp")),
    ]
    for path in [*ours, *theirs]:
        path.write_text("x")
    (folder / "dir.tmp").mkdir()
    stores.make(folder, [FIRST])
    assert [path for path in ours if path.exists()] == []
    assert [path for path in theirs if not path.exists()] == []
    assert (folder / "dir.tmp").is_dir()


def test_nothing_is_swept_up_while_someone_else_may_be_writing_it(tmp_path: Path) -> None:
    stores.make(tmp_path, [FIRST])
    with writing(tmp_path, None) as writer:
        writer.begin("one")
        writer.share()
        half = tmp_path / "versions.npz.tmp"
        half.write_text("x")
        with writing(tmp_path, None) as other:
            other.begin("another")
            other.finish()
        assert half.exists()
        writer.finish()
    assert not half.exists()


@pytest.mark.parametrize("held", ["thesis.tmp", "corpus.jsonl", "dir/x"])
def test_a_folder_of_other_things_does_not_become_a_store(tmp_path: Path, held: str) -> None:
    (tmp_path / held).parent.mkdir(exist_ok=True)
    (tmp_path / held).write_text("x")
    with pytest.raises(UsageError, match=r"not a store, and not empty \(it holds "):
        stores.make(tmp_path, [FIRST])
    assert [p.name for p in tmp_path.iterdir()] == [Path(held).parts[0]]


def test_an_empty_volume_becomes_a_store(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    (tmp_path / ".keep").touch()
    stores.make(tmp_path, [FIRST])
    stores.assert_holds(Store.open(tmp_path), FIRST)
