"""Who may write to a store: any number of processes that add to it, or one alone that rewrites it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from colbert_rerank.errors import StoreCorruptError, StoreError, StoreNotFoundError, StoreWriteError, UsageError
from colbert_rerank.store import files, layout
from colbert_rerank.store import manifest as manifests
from colbert_rerank.store.manifest import Manifest, SegmentEntry
from colbert_rerank.store.segment import map_segments, row_shapes
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

    Raises StoreNotFoundError, StoreCorruptError as `writing` does, and StoreWriteError where another process writes to
    it.
    """
    _check_there(folder)
    lock = files.Lock(folder / layout.LOCK)
    try:
        if not lock.take():
            raise StoreWriteError(f"{folder}: {OTHERS}")
        yield _begun(StoreWriter(folder, manifests.load(folder), lock, alone=True))
    finally:
        lock.release()


@contextmanager
def staging(live: StoreWriter, origin: Origin, name: str) -> Iterator[StoreWriter]:
    """Write a generation beside the one that is read, ``live``; it belongs to another index, called ``name``.

    What is committed is seen when this ends without an error, all at once; else the next call goes on with it. What it
    holds by then may be older than what has come to the store since: the caller compares all of it.
    """
    folder, now = live.folder, live.manifest
    own = _staged(folder, now, origin)
    ours = {entry.file for entry in own}
    theirs = [replace(s, posted=False, numbered=False) for s in now.segments if s.file not in ours]
    provenance = now.provenance | {"index": name}
    staged = now.next(origin=origin, provenance=provenance, segments=(*theirs, *own), index=None)
    manifests.save(folder, staged, layout.NEXT)
    yield StoreWriter(folder, staged, live.lock, alone=True, file=layout.NEXT)
    files.move(folder / layout.NEXT, folder / layout.MANIFEST)
    live.sweep()


def _staged(folder: Path, now: Manifest, origin: Origin) -> tuple[SegmentEntry, ...]:
    """The segments of a generation that was begun for this index and not ended; none, where they are of no use."""
    try:
        begun = manifests.load(folder, layout.NEXT)
        map_segments(folder, begun.segments, row_shapes(begun))
    except StoreError:
        return ()

    def made(manifest: Manifest) -> tuple[object, ...]:
        return manifest.store_id, manifest.codec, manifest.sketches, {*manifest.codebooks}

    return begun.segments if begun.origin == origin and made(begun) == made(now) else ()


@contextmanager
def writing(folder: Path, new: Manifest | None) -> Iterator[StoreWriter]:
    """Write to the store in ``folder``; one that is not there yet is made with the manifest ``new``, if that is given.

    Others may do so at the same time, once they have begun. While one of them has not, or maintenance is under way,
    this waits. Of a store that was made here nothing is left where the caller is refused before its ingest has begun.

    Raises StoreWriteError, StoreCorruptError where the manifest is damaged or has gone, or the folder of segments has,
    UsageError for a folder of other things, StoreNotFoundError. Whether an existing store suits is for the caller to
    say.
    """
    try:
        _check_there(folder)
    except StoreNotFoundError:
        if new is None:
            raise
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
            manifest = manifests.load(folder)
        except StoreNotFoundError:
            if new is None:
                files.remove(made)
                raise
            manifest = new
            manifests.save(folder, new)
            made.insert(0, folder / layout.MANIFEST)
        writer = StoreWriter(folder, manifest, lock, alone=alone)
        try:
            yield _begun(writer) if alone else writer
        except BaseException:
            unused = alone and not (
                writer.begun is not None or writer.manifest.segments or (folder / layout.BM25).exists()
            )
            if unused and folder / layout.MANIFEST in made:
                files.remove(made)
            raise
    finally:
        lock.release()


def _check_there(folder: Path) -> None:
    """Raises StoreNotFoundError, and StoreCorruptError where a store has lost all of its files at once.

    Their folder may be on a disk that is missing, and an empty one stand in its place: a repair would give up all
    documents, and who writes next, with the disk in its place again, would sweep up their files.
    """
    manifest = manifests.load(folder)
    if manifest.files and not any((folder / layout.SEGMENTS / file).exists() for file in manifest.files):
        documents = sum(entry.documents for entry in manifest.segments)
        raise StoreCorruptError(
            f"{folder / layout.SEGMENTS}: none of the store's files is there, nor the vectors and ids of up to "
            f"{documents:,} documents. If they are on another disk, see that it is mounted. Else: {layout.BEGIN_AGAIN}"
        )


def _begun(writer: StoreWriter) -> StoreWriter:
    writer.sweep()
    writer.check_index()
    return writer


def _entered(folder: Path) -> tuple[files.Lock, bool, list[Path]]:
    """The lock of the store in ``folder``; whether no one else has it; and what had to be made for it."""
    lock = files.Lock(folder / layout.LOCK)
    inside = [folder / name for name in (layout.SEGMENTS, layout.COMMIT_LOCK, layout.LOCK)]
    told = False
    while True:
        made = [path for path in (*inside, folder, *folder.parents) if not path.exists()]
        files.make_folder(folder)
        files.make_inside(folder / layout.SEGMENTS)
        if lock.take():
            return lock, True, made
        if lock.take(shared=True):
            if (folder / layout.MANIFEST).exists():
                return lock, False, made
        else:
            if not told:
                _log.warning("%s: another process is at work on this store; waiting for it", folder)
                told = True
            lock.take(shared=True, wait=True)
        lock.release()  # who it was may be gone, and may have taken the store back that it had made
