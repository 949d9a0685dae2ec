"""A sealed segment: written once, then only mapped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import xxhash

from colbert_rerank.errors import StoreCorruptError
from colbert_rerank.recipe import HASH_BYTES
from colbert_rerank.store import columns as hdf5
from colbert_rerank.store import files, ids, layout
from colbert_rerank.store.columns import Array
from colbert_rerank.store.manifest import IndexEntry, SegmentEntry
from colbert_rerank.store.region import Part, Region

REQUIRED = {
    layout.ROW_COUNTS: "<u4",
    layout.ID_LENGTHS: "<u2",
    layout.ID_BYTES: "|u1",
    layout.CONTENT_HASHES: "|u1",
    layout.BLOCK_CHECKSUMS: "<u8",
}
OPTIONAL = {layout.FIELD_HASHES: "|u1", layout.SEQ_NOS: "<i8", layout.PRIMARY_TERMS: "<i8"}


class Segment:
    """One segment of a store, mapped."""

    def __init__(self, path: Path, entry: SegmentEntry, file: Array, values: Array) -> None:
        """Of the mapped bytes of its file, and the rows among them."""
        self.path = path
        self.entry = entry
        self.values = values
        self._file = file
        self._columns: dict[str, Array] | None = None

    @property
    def columns(self) -> Mapping[str, Array]:
        """The small columns, read on first use. Raises StoreCorruptError."""
        if self._columns is None:
            found = hdf5.read(self.path, self._file, REQUIRED, self.entry.columns, OPTIONAL)
            n = self.entry.documents
            shapes: dict[str, tuple[int, ...]] = {
                layout.ROW_COUNTS: (n,),
                layout.ID_LENGTHS: (n,),
                layout.ID_BYTES: (int(found[layout.ID_LENGTHS].sum(dtype=np.int64)),),
                layout.CONTENT_HASHES: (n, HASH_BYTES),
                layout.BLOCK_CHECKSUMS: (self.blocks,),
            }
            shapes |= {name: (n,) for name in (layout.SEQ_NOS, layout.PRIMARY_TERMS) if name in found}
            if layout.FIELD_HASHES in found:
                shapes[layout.FIELD_HASHES] = (n, HASH_BYTES)
            for name, shape in shapes.items():
                if found[name].shape != shape:
                    raise StoreCorruptError(f"{self.path}: column {name} has shape {found[name].shape}, not {shape}")
            if int(found[layout.ROW_COUNTS].sum(dtype=np.int64)) != self.entry.rows:
                raise StoreCorruptError(f"{self.path}: its row counts do not add up to {self.entry.rows}")
            self._columns = found
        return self._columns

    @property
    def blocks(self) -> int:
        """How many blocks its values have, each under a checksum of its own."""
        return -(-self.values.nbytes // layout.BLOCK)

    def verify(self, blocks: Iterable[int] | None = None) -> None:
        """Compare the checksums of these blocks, or of all. Raises StoreCorruptError."""
        sums, raw = self.columns[layout.BLOCK_CHECKSUMS], hdf5.raw_bytes(self.values)
        for block in range(self.blocks) if blocks is None else blocks:
            begin = block * layout.BLOCK
            if xxhash.xxh3_64_intdigest(raw[begin : begin + layout.BLOCK]) != int(sums[block]):
                raise StoreCorruptError(
                    f"{self.path}: the vectors at byte {self.entry.values_offset + begin} are damaged, their checksum "
                    f"does not match. {layout.RESTORE}"
                )


def map_segments(folder: Path, entries: Sequence[SegmentEntry], dim: int, dtype: str) -> tuple[Region, list[Segment]]:
    """Map segments, whose rows are one array then. Raises StoreCorruptError, StoreReadError."""
    row = dim * np.dtype(dtype).itemsize
    parts = []
    for entry in entries:
        path = folder / layout.SEGMENTS / entry.file
        if entry.values_offset + entry.rows * row > entry.bytes:
            raise StoreCorruptError(f"{path}: its values end behind the file's end, by the manifest. {layout.RESTORE}")
        parts.append(Part(path, entry.bytes, entry.values_offset, entry.rows))
    region = Region(parts, dim, dtype)
    for number, part in enumerate(parts):
        hdf5.check_header(part.path, region.file(number))
    return region, [
        Segment(part.path, entry, region.file(i), region.rows(i))
        for i, (part, entry) in enumerate(zip(parts, entries, strict=True))
    ]


def write(
    folder: Path, name: str, small: Mapping[str, Array], values: list[Array], shape: tuple[int, int], dtype: str
) -> SegmentEntry:
    """Seal a segment file and return its entry, not posted. Raises StoreWriteError."""
    path = folder / layout.SEGMENTS / name
    placed: list[hdf5.Placement] = []
    files.write_whole(path, lambda p: placed.append(hdf5.write(p, small, values, shape, dtype)))
    return SegmentEntry(
        file=name,
        bytes=path.stat().st_size,
        documents=int(small[layout.ROW_COUNTS].size),
        rows=shape[0],
        values_offset=placed[0].values_offset,
        columns=placed[0].columns,
    )


def write_index(folder: Path, name: str, index: Mapping[str, Array]) -> IndexEntry:
    path = folder / layout.SEGMENTS / name
    placed: list[hdf5.Placement] = []
    files.write_whole(path, lambda p: placed.append(hdf5.write(p, index, None, (0, 0), "uint8")))
    return IndexEntry(name, path.stat().st_size, int(index[layout.ID_HASHES].size), placed[0].columns)


def read_index(folder: Path, entry: IndexEntry) -> dict[str, Array]:
    """The columns of a generation's id index. Raises StoreCorruptError."""
    path = folder / layout.SEGMENTS / entry.file
    file = Region([Part(path, entry.bytes, 0, 0)], 1, "uint8").file(0)
    found = hdf5.read(path, file, ids.COLUMNS, entry.columns)
    sizes = dict.fromkeys(ids.COLUMNS, entry.documents)
    sizes[layout.ID_BYTES] = int(found[layout.ID_LENGTHS].sum(dtype=np.int64))
    for name, size in sizes.items():
        if found[name].shape != (size,):
            raise StoreCorruptError(f"{path}: column {name} has shape {found[name].shape}, not {(size,)}")
    return found


def index_fault(error: StoreCorruptError) -> str:
    """What `read_index` found wrong, without advice to restore a file that can be made from the others."""
    return str(error).removesuffix(layout.RESTORE).rstrip(". ")
