"""A sealed segment: written once, then only mapped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash

from colbert_rerank.errors import StoreCorruptError
from colbert_rerank.recipe import HASH_BYTES
from colbert_rerank.store import columns as hdf5
from colbert_rerank.store import files, ids, layout
from colbert_rerank.store.columns import Array
from colbert_rerank.store.manifest import IndexEntry, SegmentEntry

REQUIRED = {
    layout.ROW_COUNTS: "<u4",
    layout.ID_LENGTHS: "<u2",
    layout.ID_BYTES: "|u1",
    layout.CONTENT_HASHES: "|u1",
    layout.BLOCK_CHECKSUMS: "<u8",
}
OPTIONAL = {layout.FIELD_HASHES: "|u1", layout.SEQ_NOS: "<i8", layout.PRIMARY_TERMS: "<i8"}


class Segment:
    """One segment of a store, mapped; its values are checked block by block as they are first touched."""

    def __init__(self, folder: Path, entry: SegmentEntry, dim: int, dtype: str) -> None:
        self.path = folder / layout.SEGMENTS / entry.file
        self.entry = entry
        self._map = hdf5.map_file(self.path, entry.bytes)
        try:
            self.values: Array = hdf5.view(self._map, entry.values_offset, (entry.rows, dim), dtype)
        except ValueError:
            raise StoreCorruptError(
                f"{self.path}: its values end behind the file's end, by the manifest. {layout.RESTORE}"
            ) from None
        self._columns: dict[str, Array] | None = None
        self._unchecked: npt.NDArray[np.bool_] | None = None

    @property
    def columns(self) -> Mapping[str, Array]:
        """The small columns, read on first use. Raises StoreCorruptError."""
        if self._columns is None:
            found = hdf5.read(self.path, self._map, REQUIRED, self.entry.columns, OPTIONAL)
            n = self.entry.documents
            shapes: dict[str, tuple[int, ...]] = {
                layout.ROW_COUNTS: (n,),
                layout.ID_LENGTHS: (n,),
                layout.ID_BYTES: (int(found[layout.ID_LENGTHS].sum(dtype=np.int64)),),
                layout.CONTENT_HASHES: (n, HASH_BYTES),
                layout.BLOCK_CHECKSUMS: (-(-self.values.nbytes // layout.BLOCK),),
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

    def check(self, starts: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> None:
        """Verify the checksums of the blocks that these row ranges touch, each once. Raises StoreCorruptError."""
        sums = self.columns[layout.BLOCK_CHECKSUMS]
        if self._unchecked is None:
            self._unchecked = np.ones(sums.size, dtype=bool)
        if not self._unchecked.any():
            return
        width = self.values.strides[0]
        touched = np.zeros(sums.size + 1, dtype=np.int64)
        some = counts > 0
        np.add.at(touched, starts[some] * width // layout.BLOCK, 1)
        np.add.at(touched, ((starts + counts)[some] * width - 1) // layout.BLOCK + 1, -1)
        raw = hdf5.raw_bytes(self.values)
        for block in np.flatnonzero((np.cumsum(touched[:-1]) > 0) & self._unchecked).tolist():
            begin = block * layout.BLOCK
            if xxhash.xxh3_64_intdigest(raw[begin : begin + layout.BLOCK]) != int(sums[block]):
                raise StoreCorruptError(
                    f"{self.path}: the vectors at byte {self.entry.values_offset + begin} are damaged, their checksum "
                    f"does not match. {layout.RESTORE}"
                )
            self._unchecked[block] = False


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
    found = hdf5.read(path, hdf5.map_file(path, entry.bytes), ids.COLUMNS, entry.columns)
    sizes = dict.fromkeys(ids.COLUMNS, entry.documents)
    sizes[layout.ID_BYTES] = int(found[layout.ID_LENGTHS].sum(dtype=np.int64))
    for name, size in sizes.items():
        if found[name].shape != (size,):
            raise StoreCorruptError(f"{path}: column {name} has shape {found[name].shape}, not {(size,)}")
    return found


def index_fault(error: StoreCorruptError) -> str:
    """What `read_index` found wrong, without advice to restore a file that can be made from the others."""
    return str(error).removesuffix(layout.RESTORE).rstrip(". ")
