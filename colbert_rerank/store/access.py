"""Who may write to a store: any number of processes that add to it, or one alone that rewrites it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from colbert_rerank.errors import StoreError, StoreNotFoundError, StoreWriteError, UsageError
from colbert_rerank.store import files, layout
from colbert_rerank.store import manifest as manifests
from colbert_rerank.store.manifest import Manifest
from colbert_rerank.store.writer import OTHERS, StoreWriter
from colbert_rerank.types import Origin

# What a new store's folder may hold: what a writer that was killed at once left, and what file systems put there.
_HARMLESS = {
    layout.SEGMENTS,
    layout.LOCK,
    layout.COMMIT_LOCK,
    layout.BM25,
    layout.MANIFEST + files.TEMPORARY,
    layout.NEXT,
    "lost+found",
}

_log = logging.getLogger(__name__)


@contextmanager
def rewriting(folder: Path) -> Iterator[StoreWriter]:
    """Hold a store that is there, alone.

    Raises StoreNotFoundError, StoreCorruptError, and StoreWriteError where another process writes to it.
    """
    manifests.load(folder)
    lock = files.Lock(folder / layout.LOCK)
    try:
        if not lock.take():
            raise StoreWriteError(f"{folder}: {OTHERS}")
        yield _begun(StoreWriter(folder, manifests.load(folder), lock, alone=True))
    finally:
        lock.release()


@contextmanager
def staging(folder: Path, origin: Origin, name: str) -> Iterator[StoreWriter]:
    """As `rewriting`, for a generation beside the one that is read, which belongs to another index, called ``name``.

    What is committed is seen when this ends without an error, all at once; else the next call goes on with it.
    """
    with rewriting(folder) as live:
        now = live.manifest
        try:
            begun = manifests.load(folder, layout.NEXT)
            same = (begun.store_id, begun.origin, begun.codec, begun.sketches) == (
                (now.store_id, origin, now.codec, now.sketches)
            )
        except StoreError:
            same = False
        own = begun.segments if same else ()  # behind what has come to the store since: the newest wins
        ours = {entry.file for entry in own}
        theirs = [replace(s, posted=False, numbered=False) for s in now.segments if s.file not in ours]
        books = {book.codec: book for book in (*(begun.codebooks if same else ()), *now.codebooks)}
        manifest = replace(
            now,
            origin=origin,
            provenance=now.provenance | {"index": name},
            segments=(*theirs, *own),
            codebooks=tuple(books.values()),
            index=None,
        )
        manifests.save(folder, manifest.next(), layout.NEXT)
        writer = StoreWriter(folder, manifest.next(), live.lock, alone=True, file=layout.NEXT)
        yield writer
        files.move(folder / layout.NEXT, folder / layout.MANIFEST)
        live.sweep()


@contextmanager
def writing(folder: Path, new: Manifest) -> Iterator[StoreWriter]:
    """Write to the store in ``folder``; one that is not there yet is made with the manifest ``new``.

    Others may do so at the same time, once they have begun. While one of them has not, or maintenance is under way,
    this waits. Of a store that was made here nothing is left where the caller is refused before its ingest has begun.

    Raises StoreWriteError, StoreCorruptError where the manifest is damaged or has gone, UsageError for a folder of
    other things. Whether an existing store suits is for the caller to say.
    """
    if folder.is_dir() and not (folder / layout.MANIFEST).exists():
        others = sorted(p.name for p in folder.iterdir() if p.name not in _HARMLESS and not p.name.startswith("."))
        if others:
            raise UsageError(
                f"{folder}: not a store, and not empty (it holds {', '.join(others[:3])}"
                f"{' ...' if others[3:] else ''}). Give a new folder"
            )
    lock, alone, made = _entered(folder)
    try:
        try:
            writer = StoreWriter(folder, manifests.load(folder), lock, alone=alone)
        except StoreNotFoundError:
            writer = StoreWriter(folder, new, lock, alone=alone)
            manifests.save(folder, new)
            made.insert(0, folder / layout.MANIFEST)
        try:
            yield _begun(writer) if alone else writer
        except BaseException:
            unused = alone and not (writer.begun or writer.manifest.segments or (folder / layout.BM25).exists())
            if unused and folder / layout.MANIFEST in made:
                files.remove(made)
            raise
    finally:
        lock.release()


def _begun(writer: StoreWriter) -> StoreWriter:
    writer.sweep()
    writer.check_index()
    return writer


def _entered(folder: Path) -> tuple[files.Lock, bool, list[Path]]:
    """The lock of the store in ``folder``; whether no one else has it; and what had to be made for it."""
    lock = files.Lock(folder / layout.LOCK)
    inside = [folder / name for name in (layout.SEGMENTS, layout.COMMIT_LOCK, layout.LOCK)]
    while True:
        made = [path for path in (*inside, folder, *folder.parents) if not path.exists()]
        files.make_folder(folder)
        files.make_inside(folder / layout.SEGMENTS)
        if lock.take():
            return lock, True, made
        held = lock.take(shared=True)
        if not held:
            _log.warning("%s: another process is at work on this store; waiting for it", folder)
            held = lock.take(shared=True, wait=True)
        if held and (folder / layout.MANIFEST).exists():
            return lock, False, made
        lock.release()  # another process had made this store, and has taken it back
