"""Reading a store: one generation of it, mapped."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from colbert_rerank.errors import StoreCorruptError, UsageError
from colbert_rerank.store import ids, layout
from colbert_rerank.store import manifest as manifests
from colbert_rerank.store.columns import Array
from colbert_rerank.store.ids import IdIndex, Locations, ranges
from colbert_rerank.store.manifest import Manifest
from colbert_rerank.store.segment import Segment, index_fault, map_segments, read_index
from colbert_rerank.store.unit import UNKNOWN

_log = logging.getLogger(__name__)


# Bytes of values that this machine may not hold in memory, so that they are read from the disk again and again.
_LARGE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2

Verify = Literal["touch", "open", "off"]


class Gathered(NamedTuple):
    """Token vectors of the documents that were found, packed in the order asked for.

    ``found`` [n] over the ids asked for; ``values`` [sum T, d] and ``offsets`` [number found + 1] over those found.
    """

    found: npt.NDArray[np.bool_]
    values: npt.NDArray[np.floating[Any]]
    offsets: npt.NDArray[np.int64]


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
        self._region, self.segments = map_segments(folder, manifest.segments, manifest.dim, manifest.dtype)
        self.index = IdIndex(_index_columns(folder, manifest, self.segments))
        # The blocks of all segments, one behind the other, of which none was touched yet.
        self._first_blocks = np.cumsum([0, *(segment.blocks for segment in self.segments)])
        self._untouched = np.ones(int(self._first_blocks[-1]), dtype=bool)
        if verify == "open":
            for segment in self.segments:
                segment.verify()

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
        manifest = manifests.load(path)
        while True:
            try:
                return Store(path, manifest, verify)
            except StoreCorruptError:
                # a writer may have merged segments away between the two reads; then there is a newer manifest
                newer = manifests.load(path)
                if newer.generation == manifest.generation:
                    raise
                manifest = newer

    def __len__(self) -> int:
        return len(self.index)

    def refresh(self) -> Store:
        """The newest generation: this store where there is no newer one, which stays readable all the same."""
        if manifests.load(self.folder).generation == self.manifest.generation:
            return self
        return Store.open(self.folder, verify=self.verify)

    def lookup(self, doc_ids: Sequence[str]) -> Locations:
        return self.index.lookup(doc_ids)

    def gather(self, doc_ids: Sequence[str]) -> Gathered:
        """The token vectors of ``doc_ids``, copied out of the map in one piece. Raises StoreCorruptError."""
        at = self.lookup(doc_ids)
        segments, starts, counts = at.segments[at.found], at.row_starts[at.found], at.row_counts[at.found]
        self._touch(segments, starts, counts)
        offsets = np.zeros(counts.size + 1, dtype=np.int64)
        np.cumsum(counts, out=offsets[1:])
        rows = ranges(self._region.bases[segments] + starts, counts)
        values = np.empty((rows.size, self.manifest.dim), dtype=self.manifest.dtype)
        # Without "clip", which clips nothing here, NumPy would copy everything twice.
        np.take(self._region.values, rows, axis=0, out=values, mode="clip")
        return Gathered(at.found, values, offsets)

    def _touch(
        self, segments: npt.NDArray[np.int64], starts: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]
    ) -> None:
        """Have the system read these rows, and verify what no one has touched before. Raises StoreCorruptError."""
        row = self._region.values.strides[0]
        some = counts > 0
        base = self._first_blocks[segments[some]]
        first, last = starts[some] * row // layout.BLOCK, ((starts + counts)[some] * row - 1) // layout.BLOCK
        blocks = np.unique(ranges(base + first, last - first + 1))
        if not self._region.values.nbytes > _LARGE:  # else what was touched may have left memory since
            blocks = blocks[self._untouched[blocks]]
        if not blocks.size:
            return
        owners = np.searchsorted(self._first_blocks, blocks, side="right") - 1
        inside = blocks - self._first_blocks[owners]
        begins = self._region.bases[owners] * row + inside * layout.BLOCK
        self._region.prefetch(begins, np.minimum(begins + layout.BLOCK, self._region.values.nbytes))
        if self.verify == "touch":
            fresh = self._untouched[blocks]
            for number in np.unique(owners[fresh]).tolist():
                self.segments[number].verify(inside[fresh & (owners == number)].tolist())
        self._untouched[blocks] = False

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
            seq_nos, terms = small.get(layout.SEQ_NOS), small.get(layout.PRIMARY_TERMS)
            yield Stored(
                content_hash=small[layout.CONTENT_HASHES][ordinal].tobytes(),
                fields_hash=UNKNOWN if fields is None else fields[ordinal].tobytes(),
                seq_no=-1 if seq_nos is None else int(seq_nos[ordinal]),
                primary_term=-1 if terms is None else int(terms[ordinal]),
                rows=rows,
                posted=segment.entry.posted,
            )


def _index_columns(folder: Path, manifest: Manifest, segments: Sequence[Segment]) -> dict[str, Array]:
    if manifest.index is None:  # an ingest is under way, or was interrupted
        return _built(segments)
    try:
        return read_index(folder, manifest.index)
    except StoreCorruptError as error:
        if manifests.load(folder).generation != manifest.generation:
            raise  # a writer has replaced it, and `Store.open` goes on with the newer generation
        index = _built(segments)
        _log.warning(
            "%s. Nothing is lost: the id index was made in memory from the segments, as it will be at each opening, "
            "until the next `ingest` into this store writes it again",
            index_fault(error),
        )
        return index


def _built(segments: Sequence[Segment]) -> dict[str, Array]:
    return ids.build([segment.columns for segment in segments])
