"""Reading a store: one generation of it, mapped."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from colbert_rerank.errors import StoreCorruptError
from colbert_rerank.store import ids, layout
from colbert_rerank.store import manifest as manifests
from colbert_rerank.store.columns import Array
from colbert_rerank.store.ids import IdIndex, Locations
from colbert_rerank.store.manifest import Manifest
from colbert_rerank.store.segment import Segment, index_fault, read_index
from colbert_rerank.store.unit import UNKNOWN

_log = logging.getLogger(__name__)


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

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self.segments = [Segment(folder, entry, manifest.dim, manifest.dtype) for entry in manifest.segments]
        self.index = IdIndex(_index_columns(folder, manifest, self.segments))

    @staticmethod
    def open(folder: str | Path) -> Store:
        """Open the newest generation in ``folder``.

        Raises StoreNotFoundError, StoreFormatError (a newer format) or StoreCorruptError (a file is missing, truncated
        or not the one that the manifest lists). Only the id index may be: it is made again, in memory, with a warning.
        """
        path = Path(folder)
        manifest = manifests.load(path)
        while True:
            try:
                return Store(path, manifest)
            except StoreCorruptError:
                # a writer may have merged segments away between the two reads; then there is a newer manifest
                newer = manifests.load(path)
                if newer.generation == manifest.generation:
                    raise
                manifest = newer

    def __len__(self) -> int:
        return len(self.index)

    def lookup(self, doc_ids: Sequence[str]) -> Locations:
        return self.index.lookup(doc_ids)

    def gather(self, doc_ids: Sequence[str]) -> Gathered:
        """The token vectors of ``doc_ids``, copied out of the map in one piece. Raises StoreCorruptError."""
        at = self.lookup(doc_ids)
        segments, starts, counts = at.segments[at.found], at.row_starts[at.found], at.row_counts[at.found]
        sources = {}
        for number in np.unique(segments).tolist():
            inside = segments == number
            self.segments[number].check(starts[inside], counts[inside])
            sources[number] = self.segments[number].values
        # One call copies everything, in the order asked for; assigning document by document took half as long again.
        pieces = [
            sources[number][start:end]
            for number, start, end in zip(segments.tolist(), starts.tolist(), (starts + counts).tolist(), strict=True)
        ]
        values = np.concatenate([np.empty((0, self.manifest.dim), dtype=self.manifest.dtype), *pieces])
        return Gathered(at.found, values, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))

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
