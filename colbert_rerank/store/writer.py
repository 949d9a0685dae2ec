"""Writing a store: units become sealed segments, and a new manifest makes them part of it.

Several processes may write at once. Each seals segments of its own; the manifest is read anew, changed and replaced
under a lock that is held for that moment only. Another lock is shared by all who write, for as long as they do: who
has it alone may remove and replace files, which is for the first to come, the last to go, and for maintenance.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from colbert_rerank.errors import StoreCorruptError, StoreWriteError, UsageError
from colbert_rerank.store import codebook, files, layout, merge, segment
from colbert_rerank.store import manifest as manifests
from colbert_rerank.store.codecs import Codec, Residual, check_sketches, row_bytes
from colbert_rerank.store.columns import Array, Rows
from colbert_rerank.store.manifest import IndexEntry, Manifest, SegmentEntry
from colbert_rerank.store.merge import Part, live_parts, neighbours
from colbert_rerank.store.reader import Store
from colbert_rerank.store.segment import Segment, row_shapes
from colbert_rerank.store.unit import Unit
from colbert_rerank.types import FLOATS, RESIDUALS, Origin

# By folder, files that a writer made, and that are left over where no manifest lists them; all others are left alone.
_OURS = {
    "": re.compile(r"(manifest\.json|manifest\.next\.json|versions\.npz)\.tmp"),
    layout.SEGMENTS: re.compile(r"\d{8,}-[0-9a-f]{8}(\.ids|\.codebook)?\.h5(\.tmp)?"),
    layout.BM25: re.compile(r"state\.json\.tmp|\.tmp\w{6}"),  # the latter are tantivy's
}
MERGE_EVERY = 16  # segments
PATIENCE = 5.0  # seconds of waiting in silence
_REMOVED = "its files were removed by someone while this process was writing"
OTHERS = "another process is writing to this store; wait for it to end"

_log = logging.getLogger(__name__)


class StoreWriter:
    """A process that writes to a store. Every commit is durable when its call returns.

    ``alone`` says that no other one does. ``manifest`` is the newest that this one has seen.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, lock: files.Lock, *, alone: bool, file: str = layout.MANIFEST
    ) -> None:
        self.folder = folder
        self.manifest = manifest
        self.alone = alone
        self.begun: str | None = None  # what is ingested
        self.overtaken = False  # another process has committed since this one began
        self.swept: list[str] = []  # files that were no part of the store
        self.lock = lock
        self._file = file
        self._commit_lock = files.Lock(folder / layout.COMMIT_LOCK)
        self._changing = False
        self._lost_index: IndexEntry | None = None

    def unit(self) -> Unit:
        return Unit(self.manifest.dim, self.manifest.vector_dtype)

    def commit(self, unit: Unit, *, posted: bool) -> str:
        """Seal ``unit`` as a segment, list it, and return its name.

        ``posted`` says whether its documents are in the first stage's index already. Raises StoreWriteError, and then
        what was committed before is intact.
        """
        with self.committing(unit, posted=posted) as name:
            return name

    @contextmanager
    def committing(self, unit: Unit, *, posted: bool) -> Iterator[str]:
        """As `commit`, and no other process commits before this ends: documents are posted in the order of commits."""
        entry = self._seal(unit) if self._trained else None
        with self.changing():
            if self.manifest.segments and len(self.manifest.segments) % MERGE_EVERY == 0:
                self._merge()  # or a long ingest ends with more files than a process may map
            entry = replace(entry or self._seal(unit), posted=posted)
            segments = (*self.manifest.segments, entry)
            self._save(self.manifest.next(segments=segments, content=self.manifest.content + 1, index=None))
            yield entry.file

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Let the manifest be the newest, and no other process change it before this ends."""
        if self._changing:
            yield
            return
        if not self.lock.held:  # given up, by another thread of this process: its files may be swept at any moment
            raise StoreWriteError(f"{self.folder}: this process has given up writing to it")
        self._wait_to_commit()
        try:
            self._changing = True
            newest = manifests.load(self.folder, self._file)
            self.overtaken = self.overtaken or newest.content != self.manifest.content
            self.manifest = newest
            yield
        finally:
            self._changing = False
            self._commit_lock.release()

    def _wait_to_commit(self) -> None:
        began = time.monotonic()
        told = False
        while not self._commit_lock.take():
            if not self.folder.exists():
                raise StoreWriteError(f"{self.folder}: {_REMOVED}")
            if not told and time.monotonic() - began > PATIENCE:
                _log.warning("%s: waiting for another process, which commits and posts documents", self.folder)
                told = True
            time.sleep(0.01)

    def opened(self) -> list[Segment]:
        """All segments. Raises StoreCorruptError."""
        with self.changing():
            return self._open(self.manifest.segments)

    def store(self) -> Store:
        """What is committed now, for reading. Raises StoreCorruptError."""
        if self._file == layout.MANIFEST:
            return Store.open(self.folder)
        with self.changing():
            return Store(self.folder, self.manifest)

    def check_index(self) -> None:
        """Note whether the id index is lost or damaged, so that `finish` writes another."""
        if self.manifest.index is None:
            return
        try:
            segment.read_index(self.folder, self.manifest.index)
        except StoreCorruptError as error:
            _log.warning(
                "%s. Nothing is lost: the next writer that comes to its end writes the id index again",
                segment.index_fault(error),
            )
            self._lost_index = self.manifest.index

    def begin(self, name: str = "") -> None:
        """Note that an ingest of what is called ``name`` is under way.

        It is noted until one of that name comes to its end: others do not bring what is missing of it.
        """
        self.begun = name
        with self.changing():
            index = None if self.manifest.index == self._lost_index else self.manifest.index
            unfinished = tuple(sorted({*self.manifest.unfinished, name}))
            self._save(self.manifest.next(unfinished=unfinished, index=index))

    def forget(self, *names: str) -> None:
        """Note that nothing is missing any more of what these ingests were to bring."""
        with self.changing():
            unfinished = tuple(name for name in self.manifest.unfinished if name not in names)
            if unfinished != self.manifest.unfinished:
                self._save(self.manifest.next(unfinished=unfinished))

    def share(self) -> None:
        """From now on others may write, too."""
        self.alone = False
        if not self.lock.take(shared=True, wait=True):
            raise StoreWriteError(f"{self.folder}: {_REMOVED}")

    def mark_posted(self, *names: str) -> None:
        """Note that the documents of these segments are in the first stage's index."""
        with self.changing():
            posted = tuple(replace(s, posted=s.posted or s.file in names) for s in self.manifest.segments)
            if posted != self.manifest.segments:
                self._save(self.manifest.next(segments=posted))

    def renew(self, new: Manifest) -> None:
        """Let a store without documents be what ``new`` says, with another model, recipe, dtype or index."""
        with self.changing():
            new = replace(new, generation=self.manifest.generation)
            if new != self.manifest:
                self._save(new.next())

    def remember(self, **provenance: Any) -> None:
        """Note where something is now."""
        with self.changing():
            known = self.manifest.provenance | provenance
            if known != self.manifest.provenance:
                self._save(self.manifest.next(provenance=known))

    def extend(self, origin: Origin) -> None:
        """Note that the store belongs to more indices than before."""
        with self.changing():
            if origin != self.manifest.origin:
                self._save(self.manifest.next(origin=origin))

    def rebind(self, origin: Origin, name: str = "") -> None:
        """Make the store belong to another index, called ``name``, in which none of its documents are yet."""
        with self.changing():
            unposted = tuple(replace(s, posted=False, numbered=False) for s in self.manifest.segments)
            provenance = self.manifest.provenance | ({"index": name} if name else {})
            self._save(self.manifest.next(origin=origin, provenance=provenance, segments=unposted))

    def finish(self) -> None:
        """End what was begun; the last to do so merges small segments, writes the id index, and drops old files."""
        if self.begun is not None:
            self.forget(self.begun)
        self.begun = None
        if not self.alone:
            self.lock.release()  # first: of two who end at the same moment, one then has it
            self.alone = self.lock.take()
            if not self.alone:
                return
        with self.changing():
            self._merge()
            if self.manifest.index in (None, self._lost_index):
                opened = self._open(self.manifest.segments)
                entry = segment.write_index(self.folder, self._name("ids"), segment.index_columns(opened))
                self._save(self.manifest.next(index=entry))
        self.sweep()

    def sweep(self) -> None:
        """Remove files that no manifest lists: what a killed writer or a merge left behind."""
        self._check_alone()
        listed = manifests.listed_files(self.folder)
        with files.write_errors(self.folder):
            for name, ours in _OURS.items():
                for path in (self.folder / name).glob("*"):
                    if path.name not in listed and ours.fullmatch(path.name):
                        files.unlink(path)
                        self.swept.append(path.name)

    def compact(self, codec: str | None = None, sketches: str | None = None) -> None:
        """Write anew what holds replaced or deleted documents, or is small; or all of it, by other codecs.

        The store is what it was until all is written, so that the disk must have room for both. Raises UsageError for
        another codec of vectors that are coded already, which would lose twice.
        """
        self._check_alone()
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
        for group in neighbours(live_parts(opened), width):
            if not any(part.kept.size for part in group):
                continue
            if not anew and len(group) == 1 and group[0].whole:
                segments.append(group[0].segment.entry)
            else:
                rows, columns = merge.recode(group, now[layout.VALUES], codecs) if anew else merge.join(group, codecs)
                segments.append(self._sealed(rows, columns, group))
        if anew or tuple(segments) != before.segments:
            with self.changing():
                self._save(after.next(segments=tuple(segments), index=None))
        self.finish()

    def salvage(self, kept: Mapping[str, Part | None], buried: Iterable[str], *, posted: bool, complete: bool) -> None:
        """Let segments, by file, be what is kept of them, or go.

        Tombstones are for those that went, or what they had replaced would come back; ``posted`` says whether the first
        stage's index knows of that, and ``complete`` whether nothing is lost.
        """
        self._check_alone()
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
        unfinished = (
            self.manifest.unfinished if complete else tuple(sorted({*self.manifest.unfinished, manifests.REPAIR}))
        )
        with self.changing():
            self._save(self.manifest.next(segments=tuple(segments), content=content, index=None, unfinished=unfinished))

    def drop_sketches(self) -> None:
        """Forget the sketches, which are derived; their rows go when their segments are merged."""
        self._check_alone()
        with self.changing():
            books = tuple(book for book in self.manifest.codebooks if book.codec == self.manifest.codec)
            self._save(self.manifest.next(sketches="", codebooks=books))

    def drop_index(self) -> None:
        """Forget the id index, which is derived: `finish` writes another."""
        self._check_alone()
        with self.changing():
            self._save(self.manifest.next(index=None))

    def _merge(self) -> None:
        """Join neighbouring segments while they fit one unit. Order is kept: of one id's documents the last is live.

        While others write, those that are not posted keep their names, by which their writers know them.
        """
        width = row_bytes((self.manifest.codec, self.manifest.sketches), self.manifest.dim)
        before = self.manifest.segments
        opened = self._open(before)
        parts = [Part(one, np.arange(one.entry.documents)) for one in opened]
        groups = neighbours(parts, width, unposted=self.alone)
        if len(groups) == len(opened):
            return
        codecs, _ = self._codecs(self.manifest)
        segments, number = [], 0
        for group in groups:
            if len(group) == 1:
                segments.append(group[0].segment.entry)
            else:
                # what is not here may be in an older segment, and deleted by a tombstone of these
                parts = live_parts([part.segment for part in group], oldest=number == 0)
                if any(part.kept.size for part in parts):
                    segments.append(self._sealed(*merge.join(parts, codecs), parts))
            number += len(group)
        self._save(self.manifest.next(segments=tuple(segments), index=None))
        listed = manifests.listed_files(self.folder)
        with files.write_errors(self.folder):
            for entry in before:
                if entry.file not in listed:
                    files.unlink(self.folder / layout.SEGMENTS / entry.file)

    @property
    def _trained(self) -> bool:
        """Whether all codebooks are there that the codecs need."""
        needed = {self.manifest.codec, self.manifest.sketches} & {*RESIDUALS}
        return needed <= {book.codec for book in self.manifest.codebooks}

    def _seal(self, unit: Unit) -> SegmentEntry:
        """A segment of ``unit``, not listed yet; and codebooks, in the manifest to be saved, where there are none."""
        codecs, self.manifest = self._codecs(self.manifest, unit.vectors, unit.rows)
        rows, columns = unit.coded(codecs)
        return segment.write(self.folder, self._name(), columns, rows)

    def _check_alone(self) -> None:
        if not self.alone:
            raise StoreWriteError(f"{self.folder}: {OTHERS}")

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
                    option = "sketches" if dataset == layout.SKETCHES else "codec"
                    book = codebook.train(name, np.asarray(sample(), dtype=np.float32), rows, option)
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
            manifests.save(self.folder, manifest, self._file)
        except BaseException:
            # The rename may have happened before the error: what is on disk counts, or a sweep would remove its files.
            self.manifest = manifests.load(self.folder, self._file)
            raise
        self.manifest = manifest
