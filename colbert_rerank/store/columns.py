"""HDF5 files as sets of named, checksummed, contiguous arrays, read through a memory map.

HDF5 is asked where a dataset lies (`dataset.id.get_offset()`), never for its bytes: no HDF5 handle stays open, the
library's global lock is not taken, and a fork or a thread can read on. HDF5 itself reads the header out of the same
map, so that what was opened stays readable when a writer has since replaced and removed the file.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt
import xxhash

from colbert_rerank.errors import StoreCorruptError
from colbert_rerank.store import layout
from colbert_rerank.store.image import Image, Window

Array = npt.NDArray[Any]

# What h5py and NumPy raise when a header is not what it should be.
_UNREADABLE = (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError, OverflowError, MemoryError)

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_HEAD = 48  # bytes of a superblock of version 2


class Rows(NamedTuple):
    """A large dataset: ``chunks`` [rows, width] of ``dtype``, which are joined in the file."""

    name: str
    chunks: Sequence[Array]
    width: int
    dtype: str

    @property
    def shape(self) -> tuple[int, int]:
        return sum(map(len, self.chunks)), self.width

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class Placement(NamedTuple):
    """Where a written file keeps its large datasets, by name, and a digest of all its small ones."""

    offsets: dict[str, int]
    columns: str


def write(path: Path, columns: Mapping[str, Array], rows: Sequence[Rows]) -> Placement:
    """Write ``columns`` and the large datasets ``rows``."""
    image = Image()
    # HDF5 aligns what is at least as large as the threshold: the rows, and not the columns, which are smaller. With
    # less than a page of rows, or none, everything is aligned for NumPy, which copies an array that is not.
    threshold = min((one.nbytes for one in rows if one.nbytes >= mmap.PAGESIZE), default=0)
    with h5py.File(
        image,
        "w",
        libver=("v108", "v110"),  # the oldest headers that carry checksums of their own
        alignment_threshold=threshold or 1,
        alignment_interval=layout.ALIGNMENT if threshold else 8,
    ) as file:
        file.attrs["format"] = layout.FORMAT
        for name in sorted(columns):
            data = np.ascontiguousarray(columns[name])
            dataset = file.create_dataset(name, data=data, dtype=data.dtype.newbyteorder("<"), track_times=False)
            # of a fixed length: a string of variable length would lie in a heap that HDF5 keeps no checksum of
            dataset.attrs[layout.CHECKSUM] = np.bytes_(checksum(data))
        offsets = {one.name: _allocate(file, one) for one in rows}
    with path.open("wb") as out:
        for place, page in image.pages():
            out.seek(place)
            out.write(page)
        for one in rows:
            out.seek(offsets[one.name])
            for chunk in one.chunks:
                out.write(raw_bytes(chunk))
        out.truncate(image.end)
    return Placement(offsets, digest(columns))


def digest(columns: Mapping[str, Array]) -> str:
    """XXH3-64 over the names and checksums of all columns, in order of name."""
    return _digest({name: checksum(data) for name, data in columns.items()})


def _digest(checksums: Mapping[str, str]) -> str:
    return xxhash.xxh3_64_hexdigest("".join(f"{n}:{checksums[n]}\n" for n in sorted(checksums)).encode())


def check_header(path: Path, file: Array) -> None:
    """Compare the beginning of a mapped file with what HDF5 writes there. Raises StoreCorruptError."""
    head = file[:_HEAD].tobytes()
    sound = head.startswith(_SIGNATURE) and len(head) == _HEAD
    if sound and head[8] in (2, 3):  # superblocks that tell where the file ends
        sound = int.from_bytes(head[28:36], "little") == file.size
    if not sound:
        raise StoreCorruptError(f"{path}: its header is not that of a file of this store. {layout.RESTORE}")


def read(
    path: Path,
    mapped: Array,
    required: Mapping[str, str],
    verify: str,
    optional: Mapping[str, str] | None = None,
) -> dict[str, Array]:
    """The columns of a file, of its mapped bytes [size] uint8, as named with their dtypes; others are skipped.

    Raises StoreCorruptError where one is missing, of another type, damaged, or where the digest of all columns is not
    ``verify``.
    """
    found, damaged = read_marked(path, mapped, required, verify, optional)
    if damaged:
        raise damage(path, next(iter(damaged)))
    return found


def damage(path: Path, name: str) -> StoreCorruptError:
    return StoreCorruptError(f"{path}: column {name} is damaged, its checksum does not match. {layout.RESTORE}")


def read_marked(
    path: Path,
    mapped: Array,
    required: Mapping[str, str],
    verify: str,
    optional: Mapping[str, str] | None = None,
) -> tuple[dict[str, Array], dict[str, str]]:
    """The same, and the recorded checksums of those that are damaged, for which nothing is raised."""
    expected = {**required, **(optional or {})}
    found: dict[str, Array] = {}
    sums = {}
    try:
        with h5py.File(Window(mapped.data), "r") as file:
            for name, dataset in file.items():
                if dataset is None:  # it has a name, and what HDF5 says of it is damaged
                    raise StoreCorruptError(f"{path}: the header of dataset {name} is damaged. {layout.RESTORE}")
                if layout.CHECKSUM not in dataset.attrs:  # rows, or what a later version keeps beside columns
                    continue
                sums[name] = dataset.attrs[layout.CHECKSUM].decode("ascii")
                if name in expected:
                    if dataset.dtype != np.dtype(expected[name]):
                        raise TypeError(f"column {name} is {dataset.dtype}, expected {expected[name]}")
                    found[name] = view(mapped, dataset.id.get_offset() or 0, dataset.shape, dataset.dtype)
    except _UNREADABLE as error:
        raise StoreCorruptError(f"{path}: not a readable HDF5 file of this store: {error}. {layout.RESTORE}") from None
    if missing := sorted(set(required) - set(found)):
        raise StoreCorruptError(f"{path}: the columns {missing} are missing. {layout.RESTORE}")
    if _digest(sums) != verify:
        raise StoreCorruptError(f"{path}: this is not the file that the manifest lists. {layout.RESTORE}")
    return found, {name: sums[name] for name, data in found.items() if checksum(data) != sums[name]}


def view(mapped: Array, offset: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    """A read-only array over the map's bytes, which lives as long as the array. Raises ValueError where they end."""
    count = math.prod(shape)
    if count == 0:
        return np.empty(shape, dtype)
    return np.frombuffer(mapped, dtype, count=count, offset=offset).reshape(shape)


def raw_bytes(data: Array) -> memoryview:
    """The array's bytes, in C order."""
    return np.ascontiguousarray(data).reshape(-1).view(np.uint8).data


def _allocate(file: h5py.File, rows: Rows) -> int:
    """Make a large dataset, allocated early and not filled; return its place in the file."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.CONTIGUOUS)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    plist.set_obj_track_times(False)
    kind = h5py.h5t.py_create(np.dtype(rows.dtype).newbyteorder("<"))
    dataset = h5py.h5d.create(file.id, rows.name.encode(), kind, h5py.h5s.create_simple(rows.shape), plist)
    return int(dataset.get_offset() or 0)  # no rows, no place


def checksum(data: Array) -> str:
    """As it is recorded beside a column: XXH3-64 of its bytes."""
    return xxhash.xxh3_64_hexdigest(raw_bytes(data))
