"""Writing a store: units become sealed segments, and a new manifest makes them part of it."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from colbert_rerank.errors import StoreCorruptError, StoreNotFoundError, UsageError
from colbert_rerank.store import codebook, files, ids, layout, merge, segment
from colbert_rerank.store import manifest as manifests
from colbert_rerank.store.codecs import Codec, Residual, check_sketches, row_bytes
from colbert_rerank.store.columns import Array, Rows
from colbert_rerank.store.manifest import Manifest, SegmentEntry
from colbert_rerank.store.merge import Part
from colbert_rerank.store.segment import Segment, row_shapes
from colbert_rerank.store.unit import Unit
from colbert_rerank.types import FLOATS, Origin

# Files of the segments folder that a writer made; all others are left alone.
_OURS = re.compile(r"\d{8,}-[0-9a-f]{8}(\.ids|\.codebook)?\.h5(\.tmp)?")
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
        self.swept: list[str] = []  # files that were no part of the store

    def unit(self) -> Unit:
        return Unit(self.manifest.dim, self.manifest.vector_dtype)

    def commit(self, unit: Unit, *, posted: bool) -> str:
        """Seal ``unit`` as a segment, list it, and return its name.

        ``posted`` says whether its documents are in the first stage's index already. Raises StoreWriteError, and then
        what was committed before is intact.
        """
        if self.manifest.segments and len(self.manifest.segments) % MERGE_EVERY == 0:
            self._merge()  # or a long ingest ends with more files than a process may map
            self.sweep()
        codecs, learnt = self._codecs(self.manifest, unit.vectors, unit.rows)
        rows, columns = unit.coded(codecs)
        entry = segment.write(self.folder, self._name(), columns, rows)
        entry, manifest = replace(entry, posted=posted), learnt
        segments = (*manifest.segments, entry)
        complete = manifest.complete and unit.only_tombstones
        self._save(manifest.next(segments=segments, content=manifest.content + 1, index=None, complete=complete))
        return entry.file

    def opened(self) -> list[Segment]:
        """All segments. Raises StoreCorruptError."""
        return self._open(self.manifest.segments)

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
            entry = segment.write_index(self.folder, self._name("ids"), segment.index_columns(opened))
            self._save(self.manifest.next(index=entry, complete=complete))
        elif self.manifest.complete != complete:
            self._save(self.manifest.next(complete=complete))
        self.sweep()

    def sweep(self) -> None:
        """Remove files that no manifest lists: what a killed writer or a merge left behind."""
        listed = self.manifest.files
        with files.write_errors(self.folder):
            for path in (self.folder / layout.SEGMENTS).iterdir():
                if path.name not in listed and _OURS.fullmatch(path.name):
                    files.unlink(path)
                    self.swept.append(path.name)
            files.unlink(self.folder / (layout.MANIFEST + files.TEMPORARY))

    def compact(self, codec: str | None = None, sketches: str | None = None) -> None:
        """Write anew what holds replaced or deleted documents, or is small; or all of it, by other codecs.

        The store is what it was until all is written, so that the disk must have room for both. Raises UsageError for
        another codec of vectors that are coded already, which would lose twice.
        """
        before = self.manifest
        after = replace(
            before,
            codec=before.codec if codec is None else codec,
            sketches=before.sketches if sketches is None else sketches,
        )
        anew = (after.codec, after.sketches) != (before.codec, before.sketches)
        if after.codec != before.codec and before.codec not in FLOATS:
            raise UsageError(
                f"{self.folder}: its vectors are coded as {before.codec}, and to code them as {after.codec} would lose "
                "twice. Ingest into a new folder with --codec"
            )
        if anew:
            check_sketches(after.codec, after.sketches, after.dim)
        opened = self._open(before.segments)
        now, _ = self._codecs(before)
        width = row_bytes((after.codec, after.sketches), after.dim)
        codecs, after = self._codecs(after, lambda: merge.sample(opened, now[layout.VALUES]), before.rows)
        segments = []
        for group in _groups(_parts(opened), width):
            if not any(part.kept.size for part in group):
                continue
            if not anew and len(group) == 1 and group[0].whole:
                segments.append(group[0].segment.entry)
            else:
                rows, columns = merge.recode(group, now[layout.VALUES], codecs) if anew else merge.join(group, codecs)
                segments.append(self._sealed(rows, columns, group))
        if anew or tuple(segments) != before.segments:
            self._save(after.next(segments=tuple(segments), index=None))
        self.finish(complete=before.complete)

    def salvage(self, kept: Mapping[str, Part | None], buried: Iterable[str], *, posted: bool, complete: bool) -> None:
        """Let segments, by file, be what is kept of them, or go.

        Tombstones are for those that went, or what they had replaced would come back; ``posted`` says whether the first
        stage's index knows of that, and ``complete`` whether nothing is lost.
        """
        codecs, _ = self._codecs(self.manifest)
        segments = []
        for entry in self.manifest.segments:
            part = kept.get(entry.file)
            if entry.file not in kept:
                segments.append(entry)
            elif part and part.kept.size:
                segments.append(self._sealed(*merge.join([part], codecs), [part]))
        tombstones = self.unit()
        for doc_id in buried:
            tombstones.delete(doc_id)
        if len(tombstones):
            rows, columns = tombstones.coded(codecs)
            segments.append(replace(segment.write(self.folder, self._name(), columns, rows), posted=posted))
        content = self.manifest.content + bool(len(tombstones))
        self._save(self.manifest.next(segments=tuple(segments), content=content, index=None, complete=complete))

    def drop_sketches(self) -> None:
        """Forget the sketches, which are derived; their rows go when their segments are merged."""
        books = tuple(book for book in self.manifest.codebooks if book.codec == self.manifest.codec)
        self._save(self.manifest.next(sketches="", codebooks=books))

    def _merge(self) -> None:
        """Join neighbouring segments while they fit one unit. Order is kept: of one id's documents the last is live."""
        width = row_bytes((self.manifest.codec, self.manifest.sketches), self.manifest.dim)
        opened = self._open(self.manifest.segments)
        groups = _groups([Part(one, np.arange(one.entry.documents)) for one in opened], width)
        if len(groups) == len(opened):
            return
        codecs, _ = self._codecs(self.manifest)
        segments, number = [], 0
        for group in groups:
            if len(group) == 1:
                segments.append(group[0].segment.entry)
            else:
                # what is not here may be in an older segment, and deleted by a tombstone of these
                parts = _parts([part.segment for part in group], oldest=number == 0)
                if any(part.kept.size for part in parts):
                    segments.append(self._sealed(*merge.join(parts, codecs), parts))
            number += len(group)
        self._save(self.manifest.next(segments=tuple(segments), index=None))

    def _sealed(self, rows: list[Rows], columns: dict[str, Array], parts: Sequence[Part]) -> SegmentEntry:
        entry = segment.write(self.folder, self._name(), columns, rows)
        return replace(entry, posted=parts[0].segment.entry.posted)

    def _codecs(
        self, manifest: Manifest, sample: Callable[[], Array] | None = None, rows: int = 0
    ) -> tuple[dict[str, Codec], Manifest]:
        """The codecs of ``manifest`` by dataset; and the manifest with codebooks for them, learnt now if need be.

        They are learnt of a ``sample`` of a store of ``rows`` vectors.
        """
        codecs: dict[str, Codec] = {}
        for dataset, name in ((layout.VALUES, manifest.codec), (layout.SKETCHES, manifest.sketches)):
            if not name:
                continue
            codec = codebook.codec_of(self.folder, name, manifest.dim, manifest.codebooks)
            if codec is None:
                if sample is None or not rows:
                    codec = codebook.blank(name, manifest.dim)
                else:
                    book = codebook.train(name, np.asarray(sample(), dtype=np.float32), rows)
                    entry = codebook.write(self.folder, self._name("codebook"), name, book)
                    manifest = replace(manifest, codebooks=(*manifest.codebooks, entry))
                    codec = Residual(name, book)
            codecs[dataset] = codec
        used = (manifest.codec, manifest.sketches)
        return codecs, replace(manifest, codebooks=tuple(b for b in manifest.codebooks if b.codec in used))

    def _open(self, entries: Sequence[SegmentEntry]) -> list[Segment]:
        return segment.map_segments(self.folder, entries, row_shapes(self.manifest))[1]

    def _name(self, kind: str = "segment") -> str:
        number = f"{self.manifest.generation + 1:08d}-{secrets.token_hex(4)}"
        return f"{number}.h5" if kind == "segment" else f"{number}.{kind}.h5"

    def _save(self, manifest: Manifest) -> None:
        try:
            manifests.save(self.folder, manifest)
        except BaseException:
            # The rename may have happened before the error: what is on disk counts, or a sweep would remove its files.
            self.manifest = manifests.load(self.folder)
            raise
        self.manifest = manifest


@contextmanager
def rewriting(folder: Path) -> Iterator[StoreWriter]:
    """Hold a store that is there for writing. Raises as `writing` does, and StoreNotFoundError."""
    with writing(folder, manifests.load(folder)) as writer:
        yield writer


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
    files.make_folder(folder)
    files.make_inside(folder / layout.SEGMENTS)
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


def _parts(segments: Sequence[Segment], *, oldest: bool = True) -> list[Part]:
    """Of each segment the live documents, and the tombstones that are needed.

    That is all of them where there are older segments than these, unless these are the ``oldest``; and those that the
    first stage's index has not followed yet.
    """
    live = ids.build([one.columns for one in segments], tombstones=True)
    parts = []
    for number, one in enumerate(segments):
        kept = np.sort(live[layout.ORDINALS][live[layout.SEGMENT_NUMBERS] == number]).astype(np.int64)
        deleted = one.columns.get(layout.DELETED)
        if deleted is not None and oldest and one.entry.posted:
            kept = kept[deleted[kept] == 0]
        parts.append(Part(one, kept))
    return parts


def _groups(parts: Sequence[Part], row_bytes: int) -> list[list[Part]]:
    """Neighbours, while what they keep fits one unit, and all or none of them are posted."""
    groups: list[list[Part]] = []
    size = 0
    for part in parts:
        nbytes = part.rows * row_bytes
        alike = bool(groups) and groups[-1][-1].segment.entry.posted == part.segment.entry.posted
        if alike and size + nbytes <= layout.UNIT_BYTES:
            groups[-1].append(part)
            size += nbytes
        else:
            groups.append([part])
            size = nbytes
    return groups
