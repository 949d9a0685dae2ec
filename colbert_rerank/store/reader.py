"""Reading a store: one generation of it, mapped."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from colbert_rerank.errors import StoreCorruptError, UsageError
from colbert_rerank.store import codebook, layout
from colbert_rerank.store import manifest as manifests
from colbert_rerank.store.codecs import Codec
from colbert_rerank.store.coding import CHECKSUMS
from colbert_rerank.store.columns import Array
from colbert_rerank.store.ids import IdIndex, Locations
from colbert_rerank.store.manifest import Manifest
from colbert_rerank.store.plane import Plane
from colbert_rerank.store.rows import Gathered, RowRanges
from colbert_rerank.store.segment import Segment, index_columns, index_fault, map_segments, read_index, row_shapes
from colbert_rerank.store.unit import UNKNOWN, StoredRows

_log = logging.getLogger(__name__)

Verify = Literal["touch", "open", "off"]


class Spans(NamedTuple):
    """Which ids were found, and of those the segments, and in these the rows."""

    found: npt.NDArray[np.bool_]
    segments: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]


class Stored(NamedTuple):
    """What a store remembers of one document beside its vectors."""

    content_hash: bytes
    fields_hash: bytes  # zeros where unknown
    seq_no: int
    primary_term: int
    rows: int
    posted: bool


class Store:
    """One generation of a store. Safe to share between threads and to use after a fork."""

    def __init__(self, folder: Path, manifest: Manifest, verify: Verify = "touch") -> None:
        self.folder = folder
        self.manifest = manifest
        self.verify: Verify = verify
        regions, self.segments = map_segments(folder, manifest.segments, row_shapes(manifest))
        columns, touch = _index_columns(folder, manifest, self.segments), verify == "touch"
        self.index = IdIndex(columns)
        self._planes = {
            name: Plane(name, region, self.segments, columns.get(CHECKSUMS[name]), verify=touch)
            for name, region in regions.items()
        }
        self.codec = _codec(folder, manifest, manifest.codec)
        self.sketch_codec = _codec(folder, manifest, manifest.sketches) if manifest.sketches else None
        if verify == "open":
            for plane in self._planes.values():
                plane.touch_all()

    @staticmethod
    def open(folder: str | Path, *, verify: Verify = "touch") -> Store:
        """Open the newest generation in ``folder``.

        Sizes and headers of all files are compared now. ``verify`` says when the vectors' checksums are: "touch", each
        block once, before the first score from it; "open", all of them now; "off", never.

        Raises StoreNotFoundError, StoreFormatError (a newer format) or StoreCorruptError (a file is missing, truncated
        or not the one that the manifest lists). Only the id index may be: it is made again, in memory, with a warning.
        """
        if verify not in get_args(Verify):
            raise UsageError(f"verify={verify!r}: expected one of {', '.join(get_args(Verify))}")
        path = Path(folder)
        while True:
            if (store := _opened(path, manifests.load(path), verify)) is not None:
                return store

    def __len__(self) -> int:
        return len(self.index)

    def refresh(self) -> Store:
        """What is in the folder by now, and where that is what this is, this one, which stays readable all the same.

        As a rule that is a newer generation; it is for the caller to see that it is of the same store.
        """
        found = manifests.load(self.folder)
        if (found.store_id, found.generation) == (self.manifest.store_id, self.manifest.generation):
            return self
        return Store.open(self.folder, verify=self.verify)

    def at(self, manifest: Manifest) -> Store | None:
        """The generation that ``manifest`` tells of; ``None`` where it has gone. Raises StoreCorruptError."""
        if manifest.generation == self.manifest.generation:
            return self
        return _opened(self.folder, manifest, self.verify)

    def lookup(self, doc_ids: Sequence[str]) -> Locations:
        return self.index.lookup(doc_ids)

    def gather(self, doc_ids: Sequence[str], *, sketches: bool = False) -> Gathered:
        """The token vectors of ``doc_ids``, or their sketches, copied out of the map in one piece.

        Raises StoreCorruptError; UsageError for sketches of a store that has none.
        """
        plane, codec = self.plane(sketches=sketches)
        found, segments, starts, counts = self.spans(doc_ids)
        offsets = np.zeros(counts.size + 1, dtype=np.int64)
        np.cumsum(counts, out=offsets[1:])
        return Gathered(found, plane.take(segments, starts, counts), offsets, codec)

    def ranges(self, doc_ids: Sequence[str], *, sketches: bool = False) -> RowRanges:
        """Where the token vectors of ``doc_ids``, or their sketches, lie in the map: nothing is copied.

        Raises as `gather` does.
        """
        plane, codec = self.plane(sketches=sketches)
        found, segments, starts, counts = self.spans(doc_ids)
        return RowRanges(found, plane.values, plane.locate(segments, starts, counts), counts, codec)

    def sketch_errors(self, doc_ids: Sequence[str]) -> npt.NDArray[np.float64]:
        """How far the sketches of ``doc_ids`` are off, [n]: `layout.SKETCH_ERRORS`; infinity where unknown.

        Raises StoreCorruptError.
        """
        at = self.lookup(doc_ids)
        errors = np.full(len(doc_ids), np.inf)
        for number in np.unique(at.segments[at.found]).tolist():
            column = self.segments[number].columns.get(layout.SKETCH_ERRORS)
            if column is not None:
                here = at.found & (at.segments == number)
                errors[here] = column[at.ordinals[here]]
        return errors

    def plane(self, *, sketches: bool = False) -> tuple[Plane, Codec]:
        """The rows of all documents, or their sketches, and how they are coded. Raises UsageError for none."""
        codec = self.sketch_codec if sketches else self.codec
        if codec is None:
            raise UsageError(f"{self.folder}: this store has no sketches; `store compact --sketches CODEC` makes them")
        return self._planes[layout.SKETCHES if sketches else layout.VALUES], codec

    def spans(self, doc_ids: Sequence[str]) -> Spans:
        """Where in its segments each document that is here lies."""
        at = self.lookup(doc_ids)
        return Spans(at.found, at.segments[at.found], at.row_starts[at.found], at.row_counts[at.found])

    def stored_rows(self, doc_ids: Sequence[str]) -> list[StoredRows]:
        """What of documents that are here can be put into another unit as it is."""
        at = self.lookup(doc_ids)
        columns: dict[str, list[Array]] = {}
        for name, plane in self._planes.items():
            taken = plane.take(at.segments, at.row_starts, at.row_counts)
            columns[name] = np.split(taken, np.cumsum(at.row_counts)[:-1])
        return [
            StoredRows(
                {name: rows[i] for name, rows in columns.items()},
                {
                    name: float(small[name][ordinal])
                    for name in (layout.MAX_ERRORS, layout.SKETCH_ERRORS)
                    if name in (small := self.segments[number].columns)
                },
            )
            for i, (number, ordinal) in enumerate(zip(at.segments.tolist(), at.ordinals.tolist(), strict=True))
        ]

    def describe(self, doc_ids: Sequence[str]) -> Iterator[Stored | None]:
        """For each id what is remembered of its document, or ``None``."""
        at = self.lookup(doc_ids)
        for found, number, ordinal, rows in zip(
            at.found.tolist(), at.segments.tolist(), at.ordinals.tolist(), at.row_counts.tolist(), strict=True
        ):
            if not found:
                yield None
                continue
            segment = self.segments[number]
            small = segment.columns
            fields = small.get(layout.FIELD_HASHES)
            numbered = segment.entry.numbered
            seq_nos = small.get(layout.SEQ_NOS) if numbered else None
            terms = small.get(layout.PRIMARY_TERMS) if numbered else None
            yield Stored(
                content_hash=small[layout.CONTENT_HASHES][ordinal].tobytes(),
                fields_hash=UNKNOWN if fields is None else fields[ordinal].tobytes(),
                seq_no=-1 if seq_nos is None else int(seq_nos[ordinal]),
                primary_term=-1 if terms is None else int(terms[ordinal]),
                rows=rows,
                posted=segment.entry.posted,
            )


def _opened(folder: Path, manifest: Manifest, verify: Verify) -> Store | None:
    """One generation; ``None`` where there is a newer one, for which a writer has merged segments of this one away."""
    try:
        return Store(folder, manifest, verify)
    except StoreCorruptError:
        if manifests.load(folder).generation == manifest.generation:
            raise
        return None


def _codec(folder: Path, manifest: Manifest, name: str) -> Codec:
    codec = codebook.codec_of(folder, name, manifest.dim, manifest.codebooks)
    if codec is not None:
        return codec
    if manifest.rows:
        raise StoreCorruptError(f"{folder}: its manifest lists no codebook of {name}. {layout.RESTORE}")
    return codebook.blank(name, manifest.dim)


def _index_columns(folder: Path, manifest: Manifest, segments: Sequence[Segment]) -> dict[str, Array]:
    if manifest.index is None:  # an ingest is under way, or was interrupted
        return index_columns(segments)
    try:
        return read_index(folder, manifest.index)
    except StoreCorruptError as error:
        if manifests.load(folder).generation != manifest.generation:
            raise  # a writer has replaced it, and `Store.open` goes on with the newer generation
        index = index_columns(segments)
        _log.warning(
            "%s. Nothing is lost: the id index was made in memory from the segments, as it will be at each opening, "
            "until the next `ingest` into this store writes it again",
            index_fault(error),
        )
        return index
