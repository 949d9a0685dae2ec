"""Power loss, which kill -9 cannot show: what was not forced to disk may be gone, half there, or there out of order.

A recorder stands in the place of the file layer's few calls of the system and notes them. A crash after any of them is
then played: what no fsync has forced is kept or dropped at random, each rename, creation and removal by itself, and
each 4 KiB page of a file by itself.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from colbert_rerank.errors import ColbertRerankError
from colbert_rerank.store import Store, files, layout, staging, writing
from colbert_rerank.store import manifest as manifests
from colbert_rerank.store.inspection import damages
from colbert_rerank.types import Origin
from ingest import upkeep
from tests.store import stores
from tests.store.killing import DIM, changes_of
from tests.store.stores import Doc

PAGE = 4096
VERSIONS = 6  # of which every third only deletes
ROOT = Path("disk")
ORIGIN = Origin("opensearch", "aside", "uuid")  # of the last version, which is made aside

# The fsyncs of the file layer: who calls, and of what. Without any one of them a crash must be able to do harm.
FSYNCS = {
    "a segment": ("write_whole", r".h5.tmp"),
    "an id index": ("write_whole", r".ids.h5.tmp"),
    "a codebook": ("write_whole", r".codebook.h5.tmp"),
    "the manifest": ("write_whole", "manifest.json.tmp"),
    "the segments' folder after a rename": ("write_whole", "segments"),
    "the store's folder after a rename": ("write_whole", "store"),
    "the folder in which the store was made": ("make_folder", "disk"),
    "the store's folder after a generation was given up": ("discard", "store"),
    "the store's folder after a generation took its place": ("move", "store"),
}


class HarmError(Exception):
    """A crash lost a commit that had returned, or left a store that is not whole, or that no writer goes on with."""


class PowerReport(NamedTuple):
    operations: int
    crashes: int
    lost: int  # crashes after which a commit that had not returned yet was not there


class Inode:
    """A file's bytes, as a reader sees them, and as the disk has them."""

    def __init__(self, live: bytes) -> None:
        self.live = live
        self.durable: bytes | None = None

    def after_a_crash(self, rng: random.Random) -> bytes:
        if self.durable is not None:
            return self.durable
        pages = [self.live[i : i + PAGE] for i in range(0, len(self.live), PAGE)]
        pages = pages[: rng.choice((len(pages), rng.randint(0, len(pages))))]
        if rng.random() < 0.5:
            return b"".join(pages)
        return b"".join(page if rng.random() < 0.5 else bytes(len(page)) for page in pages)


Entries = dict[Path, "Inode | None"]  # a folder is None


@dataclass
class Disk:
    """What is durable, and by folder what is done to its entries and not yet forced to disk."""

    durable: Entries = field(default_factory=dict)
    live: Entries = field(default_factory=dict)
    pending: dict[Path, list[Callable[[Entries], None]]] = field(default_factory=dict)

    def change(self, folder: Path, operation: Callable[[Entries], None]) -> None:
        operation(self.live)
        self.pending.setdefault(folder, []).append(operation)

    def force(self, folder: Path) -> None:
        for operation in self.pending.pop(folder, []):
            operation(self.durable)

    def crashed(self, rng: random.Random, target: Path) -> None:
        """Write to ``target`` what a crash now may leave."""
        entries = dict(self.durable)
        for operations in self.pending.values():
            share = rng.choice((0.0, 0.5, 1.0))
            for operation in operations:
                if rng.random() < share:
                    operation(entries)
        for path in sorted(entries):
            inode, parent = entries[path], target / path.parent
            if not parent.is_dir():
                continue  # the folder it was in is gone
            if inode is None:
                (target / path).mkdir(exist_ok=True)
            else:
                (target / path).write_bytes(inode.after_a_crash(rng))


class Recorder:
    """Stands in for the file layer under ``root``; after each call of the system, ``crash`` is called."""

    def __init__(self, root: Path, without: str, crash: Callable[[Disk], None]) -> None:
        self.root = root
        self.disk = Disk(durable={ROOT: None}, live={ROOT: None})
        self.without = FSYNCS[without] if without else ("", "")
        self.crash = crash
        self.operations = 0

    def name(self, path: Path) -> Path:
        return ROOT / path.relative_to(self.root)

    def written(self, path: Path) -> Inode:
        """The file at ``path``, which someone has just written."""
        name = self.name(path)
        inode = self.disk.live.get(name)
        if inode is None:
            made = inode = Inode(path.read_bytes())
            self.disk.change(name.parent, lambda entries: entries.update({name: made}))
        return inode

    def sync(self, path: Path) -> None:
        caller = sys._getframe(1).f_code.co_name
        kind = path.name if path.is_dir() else ".".join(["", *path.name.split(".")[1:]]) if path.suffix else path.name
        if path.name.startswith(layout.MANIFEST):
            kind = path.name
        if path == self.root:
            kind = "disk"
        if not path.is_dir():
            inode = self.written(path)
        if (caller, kind) == self.without:
            return
        if path.is_dir():
            self.disk.force(self.name(path))
        else:
            inode.durable = inode.live
        self.done()

    def rename(self, path: Path, to: Path) -> None:
        inode, name, target = self.written(path), self.name(path), self.name(to)
        path.replace(to)

        def operation(entries: Entries) -> None:
            _forget(entries, name)
            entries[target] = inode

        self.disk.change(target.parent, operation)
        self.done()

    def make(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        name = self.name(folder)
        self.disk.change(name.parent, lambda entries: entries.update({name: None}))
        self.done()

    def unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        name = self.name(path)
        self.disk.change(name.parent, lambda entries: _forget(entries, name))
        self.done()

    def done(self) -> None:
        self.operations += 1
        self.crash(self.disk)

    @contextmanager
    def recording(self) -> Iterator[None]:
        with (
            patch.object(files, "_sync", self.sync),
            patch.object(files, "_rename", self.rename),
            patch.object(files, "_make", self.make),
            patch.object(files, "unlink", self.unlink),
        ):
            yield


def _forget(entries: Entries, name: Path) -> None:
    entries.pop(name, None)


def lose_power(n: int, seed: int, without: str = "") -> PowerReport:
    """Play ``n`` crashes after each call of the system in a store's life; HarmError where one did harm.

    ``without`` leaves out one of `FSYNCS`.
    """
    rng = random.Random(seed)
    told, crashes, lost = 0, 0, 0

    def crash(disk: Disk) -> None:
        nonlocal crashes, lost
        for _ in range(n):
            with tempfile.TemporaryDirectory() as name:
                target = Path(name)
                (target / ROOT).mkdir()
                disk.crashed(rng, target)
                try:
                    with unrecorded():
                        found = check(target / ROOT / "store", told)
                except (AssertionError, ColbertRerankError) as error:
                    raise HarmError(f"after {recorder.operations} calls: {error}") from error
                crashes += 1
                lost += found == told

    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / ROOT
        root.mkdir()
        folder = root / "store"
        recorder = Recorder(root, without, crash)
        with recorder.recording():
            for version in range(1, VERSIONS + 1):
                new = stores.new_manifest(DIM, "residual2")
                aside = version == VERSIONS
                with ExitStack() as opened:
                    writer = opened.enter_context(writing(folder, new))
                    if aside:
                        writer = opened.enter_context(staging(writer, ORIGIN, "aside"))
                    unit = writer.unit()
                    for doc_id, doc in changes_of(version).items():
                        stores.add(unit, doc_id, doc) if doc else unit.delete(doc_id)
                    writer.commit(unit, posted=True)
                    told = version - aside
                    if version % 3 == 2 or aside:
                        writer.finish()
                    if version % 4 == 0:
                        writer.compact()
                told = version
                if version == VERSIONS - 1:  # a generation is begun aside, and given up
                    with suppress(KeyboardInterrupt), writing(folder, new) as live, staging(live, ORIGIN, "") as writer:
                        stores.commit(writer, {"aside": next(doc for doc in changes_of(1).values() if doc)})
                        raise KeyboardInterrupt
                    upkeep.compact(folder)
        shutil.rmtree(root)
    return PowerReport(recorder.operations, crashes, lost)


@contextmanager
def unrecorded() -> Iterator[None]:
    """With the file layer's own calls."""
    with (
        patch.object(files, "_sync", SYNC),
        patch.object(files, "_rename", RENAME),
        patch.object(files, "_make", MAKE),
        patch.object(files, "unlink", UNLINK),
    ):
        yield


SYNC, RENAME, MAKE, UNLINK = files._sync, files._rename, files._make, files.unlink


def check(folder: Path, told: int) -> int:
    """The version that is in the store after a crash: the last that was told of, or the one that was under way."""
    if not (folder / layout.MANIFEST).exists():
        assert told == 0, "the manifest is gone"
        found = 0
    else:
        assert [*damages(folder)] == []
        found = Store.open(folder).manifest.content
        assert told <= found <= told + 1, (told, found)
    model: dict[str, Doc] = {}
    for version in range(1, found + 1):
        for doc_id, doc in changes_of(version).items():
            model.pop(doc_id, None)
            if doc:
                model[doc_id] = doc
    if found:
        store = Store.open(folder)
        assert set(store.index.ids()) == set(model)
        for doc_id, stored in zip(model, store.describe(list(model)), strict=True):
            assert stored
            assert stored.content_hash == model[doc_id].content_hash
    with writing(folder, stores.new_manifest(DIM, "residual2")) as writer:
        stores.commit(writer, {"new": next(doc for doc in changes_of(1).values() if doc)})
        writer.finish()
        there = {path.name for path in (folder / layout.SEGMENTS).iterdir()}
        assert there == manifests.listed_files(folder)
    assert set(Store.open(folder).index.ids()) == {*model, "new"}
    return found
