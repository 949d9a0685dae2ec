"""A sealed segment: written once, then only mapped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash

from colbert_rerank.errors import StoreCorruptError
from colbert_rerank.recipe import HASH_BYTES
from colbert_rerank.store import columns as hdf5
from colbert_rerank.store import files, ids, layout
from colbert_rerank.store.codecs import row_of
from colbert_rerank.store.coding import CHECKSUMS
from colbert_rerank.store.columns import Array, Rows
from colbert_rerank.store.manifest import IndexEntry, Manifest, SegmentEntry
from colbert_rerank.store.region import Part, Region

REQUIRED = {
    layout.ROW_COUNTS: "<u4",
    layout.ID_LENGTHS: "<u2",
    layout.ID_BYTES: "|u1",
    layout.CONTENT_HASHES: "|u1",
    layout.BLOCK_CHECKSUMS: "<u8",
}
OPTIONAL = {
    layout.FIELD_HASHES: "|u1",
    layout.SEQ_NOS: "<i8",
    layout.PRIMARY_TERMS: "<i8",
    layout.DELETED: "|u1",
    layout.MAX_ERRORS: "<f4",
    layout.SKETCH_CHECKSUMS: "<u8",
    layout.SKETCH_ERRORS: "<f4",
}
# What columns say of a document of which nothing is known.
UNKNOWN: dict[str, Array] = {
    layout.FIELD_HASHES: np.zeros((1, HASH_BYTES), dtype=np.uint8),
    layout.SEQ_NOS: np.full(1, -1, dtype=np.int64),
    layout.PRIMARY_TERMS: np.full(1, -1, dtype=np.int64),
}
# What stands for damaged ones: a hash that no text has, and a distance that is not exceeded, whatever it was.
_STAND_INS = UNKNOWN | {
    layout.CONTENT_HASHES: np.zeros((1, HASH_BYTES), dtype=np.uint8),
    layout.MAX_ERRORS: np.full(1, np.inf, dtype=np.float32),
    layout.SKETCH_ERRORS: np.full(1, np.inf, dtype=np.float32),
}
OTHER_INDEX = "it is not the id index of these segments"


class Segment:
    """One segment of a store, mapped."""

    def __init__(self, path: Path, entry: SegmentEntry, file: Array, rows: Mapping[str, Array]) -> None:
        """Of the mapped bytes of its file, and its large datasets by name."""
        self.path = path
        self.entry = entry
        self.rows = rows
        self._file = file
        self._columns: dict[str, Array] | None = None

    @property
    def columns(self) -> Mapping[str, Array]:
        """The small columns, read on first use. Raises StoreCorruptError."""
        if self._columns is None:
            found, damaged = self._read()
            if damaged:
                raise hdf5.damage(self.path, next(iter(damaged)))
            self._columns = self._checked(found)
        return self._columns

    def mend(self, manifest: Manifest, number: int, index: Mapping[str, Array] | None) -> list[str]:
        """Make damaged columns again from the id index, if that is at hand; say what was done, for each of them.

        This is segment ``number`` of the manifest. Columns that the index does not tell, and that documents can do
        without, say that nothing is known; checksums of blocks stay as they are. Raises StoreCorruptError for others.
        """
        found, damaged = self._read()
        again = _repeated(found, manifest, number, index) if damaged and index else {}
        done = []
        for name, recorded in damaged.items():
            if name in again and hdf5.checksum(again[name]) == recorded:
                found[name], how = again[name], "made again from the id index"
            elif name in _STAND_INS:
                found[name] = np.repeat(_STAND_INS[name], self.entry.documents, axis=0)
                how = "which its documents can do without"
            elif name in CHECKSUMS.values():  # each that is sound is still good for its block
                how = "of which no copy is sound: a block that does not match it is taken for damaged"
            else:
                raise hdf5.damage(self.path, name)
            done.append(f"{name}, {how}")
        self._columns = self._checked(found)
        return done

    def _read(self) -> tuple[dict[str, Array], dict[str, str]]:
        required = REQUIRED | {CHECKSUMS[name]: "<u8" for name in self.rows}
        return hdf5.read_marked(self.path, self._file, required, self.entry.columns, OPTIONAL)

    def _checked(self, found: dict[str, Array]) -> dict[str, Array]:
        """Columns that fit each other and the manifest. Raises StoreCorruptError."""
        n = self.entry.documents
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(found, (n,))
        shapes[layout.ID_BYTES] = (int(found[layout.ID_LENGTHS].sum(dtype=np.int64)),)
        shapes |= {name: (n, HASH_BYTES) for name in (layout.CONTENT_HASHES, layout.FIELD_HASHES) if name in found}
        shapes |= {CHECKSUMS[name]: (blocks(rows),) for name, rows in self.rows.items()}
        if layout.SKETCHES not in self.rows:  # the store may have dropped them
            shapes.pop(layout.SKETCH_CHECKSUMS, None)
        for name, shape in shapes.items():
            if found[name].shape != shape:
                raise StoreCorruptError(f"{self.path}: column {name} has shape {found[name].shape}, not {shape}")
        if int(found[layout.ROW_COUNTS].sum(dtype=np.int64)) != self.entry.rows:
            raise StoreCorruptError(f"{self.path}: its row counts do not add up to {self.entry.rows}")
        return found

    def verify(self, name: str = layout.VALUES, which: Iterable[int] | None = None, sums: Array | None = None) -> None:
        """Compare the checksums of these blocks of a large dataset, or of all. Raises StoreCorruptError.

        ``sums`` are those of all its blocks, where they are at hand; else they are read from its columns.
        """
        for block in self.damaged(name, which, sums):
            place = _offset(self.entry, name) + block * layout.BLOCK
            raise StoreCorruptError(
                f"{self.path}: the vectors at byte {place} are damaged, their checksum does not match. {layout.RESTORE}"
            )

    def damaged(self, name: str, which: Iterable[int] | None = None, sums: Array | None = None) -> Iterator[int]:
        """Those of these blocks of a large dataset, or of all, that are not as they were written."""
        sums = self.columns[CHECKSUMS[name]] if sums is None else sums
        raw = hdf5.raw_bytes(self.rows[name])
        for block in range(blocks(self.rows[name])) if which is None else which:
            begin = block * layout.BLOCK
            if xxhash.xxh3_64_intdigest(raw[begin : begin + layout.BLOCK]) != int(sums[block]):
                yield block


def blocks(rows: Array) -> int:
    """How many blocks a large dataset has, each under a checksum of its own."""
    return -(-rows.nbytes // layout.BLOCK)


def map_segments(
    folder: Path, entries: Sequence[SegmentEntry], shapes: Mapping[str, RowShape]
) -> tuple[dict[str, Region], list[Segment]]:
    """Map segments, whose large datasets, ``shapes`` by name, are then one array each.

    Raises StoreCorruptError, StoreReadError.
    """
    regions = {name: _region(folder, entries, name, shape) for name, shape in shapes.items()}
    files_of = regions[layout.VALUES]
    segments = []
    for number, entry in enumerate(entries):
        path = folder / layout.SEGMENTS / entry.file
        hdf5.check_header(path, files_of.file(number))
        rows = {name: region.rows(number) for name, region in regions.items()}
        segments.append(Segment(path, entry, files_of.file(number), rows))
    return regions, segments


class RowShape(NamedTuple):
    """The rows of a large dataset: ``width`` numbers of ``dtype`` each."""

    width: int
    dtype: str


def row_shapes(manifest: Manifest) -> dict[str, RowShape]:
    """Those of a store's large datasets, by name."""
    names = {layout.VALUES: manifest.codec} | ({layout.SKETCHES: manifest.sketches} if manifest.sketches else {})
    return {name: RowShape(*row_of(codec, manifest.dim)) for name, codec in names.items()}


def _region(folder: Path, entries: Sequence[SegmentEntry], name: str, shape: RowShape) -> Region:
    row = shape.width * np.dtype(shape.dtype).itemsize
    parts = []
    for entry in entries:
        path, offset = folder / layout.SEGMENTS / entry.file, _offset(entry, name)
        if offset + entry.rows * row > entry.bytes:
            raise StoreCorruptError(f"{path}: its {name} end behind the file's end, by the manifest. {layout.RESTORE}")
        parts.append(Part(path, entry.bytes, offset, entry.rows))
    return Region(parts, shape.width, shape.dtype)


def _offset(entry: SegmentEntry, name: str) -> int:
    return entry.values_offset if name == layout.VALUES else entry.sketches_offset


def write(folder: Path, file: str, small: Mapping[str, Array], rows: Sequence[Rows]) -> SegmentEntry:
    """Seal a segment file and return its entry, not posted. Raises StoreWriteError."""
    path = folder / layout.SEGMENTS / file
    placed = seal(path, small, rows)
    return SegmentEntry(
        file=file,
        bytes=path.stat().st_size,
        documents=int(small[layout.ROW_COUNTS].size),
        rows=rows[0].shape[0],
        values_offset=placed.offsets[layout.VALUES],
        sketches_offset=placed.offsets.get(layout.SKETCHES, 0),
        columns=placed.columns,
    )


def seal(path: Path, small: Mapping[str, Array], rows: Sequence[Rows] = ()) -> hdf5.Placement:
    """Write a file of columns, and of large datasets, whole. Raises StoreWriteError."""
    placed: list[hdf5.Placement] = []
    files.write_whole(path, lambda p: placed.append(hdf5.write(p, small, rows)))
    return placed[0]


def mapped(path: Path, size: int) -> Array:
    """The bytes of a file that has columns only. Raises StoreCorruptError where its size is another."""
    return Region([Part(path, size, 0, 0)], 1, "uint8").file(0)


def index_columns(segments: Sequence[Segment]) -> dict[str, Array]:
    """The columns of a generation's id index: where each live document lies, and the checksums of all blocks.

    These only spare a reader to open each segment's header before the first score from it.
    """
    columns = ids.build([one.columns for one in segments])
    for name in segments[0].rows if segments else ():
        columns[CHECKSUMS[name]] = np.concatenate([one.columns[CHECKSUMS[name]] for one in segments])
    return columns


def is_index_of(segments: Sequence[Segment], found: Mapping[str, Array]) -> bool:
    """Whether these are the columns of their id index, which its checksums do not tell.

    It may lack the checksums of blocks, and hold those of sketches that a repair has dropped since.
    """
    return all(np.array_equal(found.get(name, column), column) for name, column in index_columns(segments).items())


def _repeated(
    found: Mapping[str, Array], manifest: Manifest, number: int, index: Mapping[str, Array]
) -> dict[str, Array]:
    """What the id index says of the columns of a segment, ``number`` in the manifest, in which this was ``found``."""
    again = ids.repeated(found, number, index)
    for name, shape in row_shapes(manifest).items():
        row = shape.width * np.dtype(shape.dtype).itemsize
        ends = np.cumsum([0, *(-(-entry.rows * row // layout.BLOCK) for entry in manifest.segments)])
        if CHECKSUMS[name] in index:
            again[CHECKSUMS[name]] = index[CHECKSUMS[name]][ends[number] : ends[number + 1]]
    return again


def write_index(folder: Path, name: str, index: Mapping[str, Array]) -> IndexEntry:
    path = folder / layout.SEGMENTS / name
    placed = seal(path, index)
    return IndexEntry(name, path.stat().st_size, int(index[layout.ID_HASHES].size), placed.columns)


def read_index(folder: Path, entry: IndexEntry) -> dict[str, Array]:
    """The columns of a generation's id index. Raises StoreCorruptError."""
    path = folder / layout.SEGMENTS / entry.file
    optional = dict.fromkeys(CHECKSUMS.values(), "<u8")
    found = hdf5.read(path, mapped(path, entry.bytes), ids.DTYPES, entry.columns, optional)
    sizes = dict.fromkeys(ids.DTYPES, entry.documents)
    sizes[layout.ID_BYTES] = int(found[layout.ID_LENGTHS].sum(dtype=np.int64))
    for name, size in sizes.items():
        if found[name].shape != (size,):
            raise StoreCorruptError(f"{path}: column {name} has shape {found[name].shape}, not {(size,)}")
    return found


def index_fault(error: StoreCorruptError) -> str:
    """What `read_index` found wrong, without advice to restore a file that can be made from the others."""
    return str(error).removesuffix(layout.RESTORE).rstrip(". ")
