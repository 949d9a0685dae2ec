"""Writing a store: units become sealed segments, and a new manifest makes them part of it."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from colbert_rerank.errors import StoreCorruptError, StoreNotFoundError, UsageError
from colbert_rerank.recipe import HASH_BYTES
from colbert_rerank.store import files, ids, layout, segment
from colbert_rerank.store import manifest as manifests
from colbert_rerank.store.columns import Array
from colbert_rerank.store.manifest import Manifest, SegmentEntry
from colbert_rerank.store.segment import Segment
from colbert_rerank.store.unit import Unit, block_checksums
from colbert_rerank.types import Origin

# Files of the segments folder that a writer made; all others are left alone.
_OURS = re.compile(r"\d{8,}-[0-9a-f]{8}(\.ids)?\.h5(\.tmp)?")
# What a new store's folder may hold: what a writer that was killed at once left, and what file systems put there.
_HARMLESS = {layout.SEGMENTS, layout.LOCK, layout.BM25, layout.MANIFEST + files.TEMPORARY, "lost+found"}
MERGE_EVERY = 16  # segments

_log = logging.getLogger(__name__)


class StoreWriter:
    """The one process that writes to a store. Every commit is durable when its call returns."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self.begun = False

    def unit(self) -> Unit:
        return Unit(self.manifest.dim, self.manifest.dtype)

    def commit(self, unit: Unit, *, posted: bool) -> str:
        """Seal ``unit`` as a segment, list it, and return its name.

        ``posted`` says whether its documents are in the first stage's index already. Raises StoreWriteError, and then
        what was committed before is intact.
        """
        if self.manifest.segments and len(self.manifest.segments) % MERGE_EVERY == 0:
            self._merge()  # or a long ingest ends with more files than a process may map
            self.sweep()
        entry = segment.write(
            self.folder, self._name(), unit.columns(), unit.values, (unit.rows, unit.dim), self.manifest.dtype
        )
        entry, manifest = replace(entry, posted=posted), self.manifest
        segments = (*manifest.segments, entry)
        self._save(manifest.next(segments=segments, content=manifest.content + 1, index=None, complete=False))
        return entry.file

    def check_index(self) -> None:
        """Forget an id index that is lost or damaged, so that `finish` writes another."""
        if self.manifest.index is None:
            return
        try:
            segment.read_index(self.folder, self.manifest.index)
        except StoreCorruptError as error:
            _log.warning(
                "%s. Nothing is lost: the next ingest that comes to its end writes the id index again",
                segment.index_fault(error),
            )
            self.manifest = replace(self.manifest, index=None)

    def begin(self) -> None:
        """Note that an ingest is under way."""
        self.begun = True
        if self.manifest.complete:
            self._save(self.manifest.next(complete=False))

    def mark_posted(self, name: str | None = None) -> None:
        """Note that the documents of segment ``name``, or of all segments, are in the first stage's index."""
        posted = tuple(replace(s, posted=s.posted or name in (None, s.file)) for s in self.manifest.segments)
        if posted != self.manifest.segments:
            self._save(self.manifest.next(segments=posted))

    def renew(self, new: Manifest) -> None:
        """Let a store without documents be what ``new`` says, with another model, recipe, dtype or index."""
        new = replace(new, generation=self.manifest.generation)
        if new != self.manifest:
            self._save(new.next())

    def remember(self, **provenance: Any) -> None:
        """Note where something is now."""
        known = self.manifest.provenance | provenance
        if known != self.manifest.provenance:
            self._save(self.manifest.next(provenance=known))

    def extend(self, origin: Origin) -> None:
        """Note that the store belongs to more indices than before."""
        if origin != self.manifest.origin:
            self._save(self.manifest.next(origin=origin))

    def rebind(self, origin: Origin, name: str = "") -> None:
        """Make the store belong to another index, called ``name``, in which none of its documents are yet."""
        unposted = tuple(replace(s, posted=False) for s in self.manifest.segments)
        provenance = self.manifest.provenance | ({"index": name} if name else {})
        self._save(self.manifest.next(origin=origin, provenance=provenance, segments=unposted, complete=False))

    def finish(self, *, complete: bool = True) -> None:
        """End an ingest: merge small segments, write the id index, and drop files that are no longer listed.

        ``complete`` says whether the first stage's index holds all that the store holds.
        """
        self._merge()
        if self.manifest.index is None:
            opened = self._open(self.manifest.segments)
            entry = segment.write_index(self.folder, self._name("ids"), ids.build([s.columns for s in opened]))
            self._save(self.manifest.next(index=entry, complete=complete))
        elif self.manifest.complete != complete:
            self._save(self.manifest.next(complete=complete))
        self.sweep()

    def sweep(self) -> None:
        """Remove files that no manifest lists: what a killed writer or a merge left behind."""
        listed = {s.file for s in self.manifest.segments}
        if self.manifest.index:
            listed.add(self.manifest.index.file)
        with files.write_errors(self.folder):
            for path in (self.folder / layout.SEGMENTS).iterdir():
                if path.name not in listed and _OURS.fullmatch(path.name):
                    path.unlink()
            (self.folder / (layout.MANIFEST + files.TEMPORARY)).unlink(missing_ok=True)

    def _merge(self) -> None:
        """Join neighbouring segments while they fit one unit. Order is kept: of one id's documents the last is live."""
        groups: list[list[SegmentEntry]] = []
        size = 0
        for entry in self.manifest.segments:
            nbytes = entry.rows * self.manifest.dim * np.dtype(self.manifest.dtype).itemsize
            if groups and size + nbytes <= layout.UNIT_BYTES and groups[-1][-1].posted == entry.posted:
                groups[-1].append(entry)
                size += nbytes
            else:
                groups.append([entry])
                size = nbytes
        if len(groups) < len(self.manifest.segments):
            merged = tuple(self._join(group) if len(group) > 1 else group[0] for group in groups)
            self._save(self.manifest.next(segments=merged, index=None))

    def _join(self, entries: Sequence[SegmentEntry]) -> SegmentEntry:
        """One segment of the live documents of several, in their order."""
        parts = self._open(entries)
        live = ids.build([p.columns for p in parts])
        chunks: list[Array] = []
        kept: list[Array] = []
        for number, part in enumerate(parts):
            counts = part.columns[layout.ROW_COUNTS].astype(np.int64)
            starts = np.cumsum(counts) - counts
            part.verify()
            keep = np.sort(live[layout.ORDINALS][live[layout.SEGMENT_NUMBERS] == number])
            kept.append(keep)
            if keep.size == counts.size:
                chunks.append(part.values)
            else:
                chunks.extend(part.values[starts[i] : starts[i] + counts[i]] for i in keep.tolist())
        small = _join_columns(parts, kept)
        small[layout.BLOCK_CHECKSUMS] = block_checksums(chunks)
        shape = (sum(len(c) for c in chunks), self.manifest.dim)
        entry = segment.write(self.folder, self._name(), small, chunks, shape, self.manifest.dtype)
        return replace(entry, posted=entries[0].posted)

    def _open(self, entries: Sequence[SegmentEntry]) -> list[Segment]:
        return segment.map_segments(self.folder, entries, self.manifest.dim, self.manifest.dtype)[1]

    def _name(self, kind: str = "segment") -> str:
        number = f"{self.manifest.generation + 1:08d}-{secrets.token_hex(4)}"
        return f"{number}.ids.h5" if kind == "ids" else f"{number}.h5"

    def _save(self, manifest: Manifest) -> None:
        try:
            manifests.save(self.folder, manifest)
        except BaseException:
            # The rename may have happened before the error: what is on disk counts, or a sweep would remove its files.
            self.manifest = manifests.load(self.folder)
            raise
        self.manifest = manifest


@contextmanager
def writing(folder: Path, new: Manifest) -> Iterator[StoreWriter]:
    """Hold the store in ``folder`` for writing; one that is not there yet is made with the manifest ``new``.

    Of a store that was made here nothing is left where the caller is refused before its ingest has begun.

    Raises StoreWriteError where another process writes to it, StoreCorruptError where its manifest is damaged or
    has gone, UsageError for a folder of other things. Whether an existing store suits is for the caller to say.
    """
    if folder.is_dir() and not (folder / layout.MANIFEST).exists():
        others = sorted(p.name for p in folder.iterdir() if p.name not in _HARMLESS and not p.name.startswith("."))
        if others:
            raise UsageError(
                f"{folder}: not a store, and not empty (it holds {', '.join(others[:3])}"
                f"{' ...' if others[3:] else ''}). Give a new folder"
            )
    made = [p for p in (folder / layout.SEGMENTS, folder / layout.LOCK, folder, *folder.parents) if not p.exists()]
    files.make_folder(folder / layout.SEGMENTS)
    with files.locked(folder / layout.LOCK):
        try:
            writer = StoreWriter(folder, manifests.load(folder))
        except StoreNotFoundError:
            if lost := sum(1 for _ in (folder / layout.SEGMENTS).glob("*.h5")):
                raise StoreCorruptError(
                    f"{folder}: {layout.MANIFEST} is missing, but {lost} files of a store are there. {layout.RESTORE}"
                ) from None
            writer = StoreWriter(folder, new)
            manifests.save(folder, new)
            made.insert(0, folder / layout.MANIFEST)
        writer.sweep()
        writer.check_index()
        try:
            yield writer
        except BaseException:
            unused = not (writer.begun or writer.manifest.segments or (folder / layout.BM25).exists())
            if unused and folder / layout.MANIFEST in made:
                files.remove(made)
            raise


def _join_columns(parts: Sequence[Segment], kept: Sequence[Array]) -> dict[str, Array]:
    """The small columns of several segments, joined over the ordinals ``kept`` of each."""
    joined: dict[str, Array] = {}
    for name in (layout.ROW_COUNTS, layout.ID_LENGTHS, layout.CONTENT_HASHES):
        joined[name] = np.concatenate([p.columns[name][k] for p, k in zip(parts, kept, strict=True)])
    joined[layout.ID_BYTES] = np.concatenate([_id_bytes(p, k) for p, k in zip(parts, kept, strict=True)])
    unknown: dict[str, Array] = {
        layout.FIELD_HASHES: np.zeros((1, HASH_BYTES), dtype=np.uint8),
        layout.SEQ_NOS: np.full(1, -1, dtype=np.int64),
        layout.PRIMARY_TERMS: np.full(1, -1, dtype=np.int64),
    }
    for name, value in unknown.items():
        if any(name in p.columns for p in parts):
            joined[name] = np.concatenate(
                [
                    p.columns[name][k] if name in p.columns else np.repeat(value, k.size, axis=0)
                    for p, k in zip(parts, kept, strict=True)
                ]
            )
    return joined


def _id_bytes(part: Segment, keep: Array) -> Array:
    lengths = part.columns[layout.ID_LENGTHS].astype(np.int64)
    mask = np.zeros(lengths.size, dtype=bool)
    mask[keep] = True
    bytes_: Array = part.columns[layout.ID_BYTES][np.repeat(mask, lengths)]
    return bytes_
