"""HDF5 files as sets of named, checksummed, contiguous arrays, read through a memory map.

HDF5 is asked where a dataset lies (`dataset.id.get_offset()`), never for its bytes: no HDF5 handle stays open, the
library's global lock is not taken, and a fork or a thread can read on. HDF5 itself reads the header out of the same
map, so that what was opened stays readable when a writer has since replaced and removed the file. Before Python 3.13
a map keeps a descriptor of its file open: one for each mapped file, out of those that `ulimit -n` allows.
"""

from __future__ import annotations

import errno
import math
import mmap
import os
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt
import xxhash

from colbert_rerank.errors import StoreCorruptError, StoreReadError
from colbert_rerank.store import layout
from colbert_rerank.store.image import Image

Array = npt.NDArray[Any]

# What h5py and NumPy raise when a header is not what it should be.
_UNREADABLE = (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError, OverflowError, MemoryError)

# Why a sound file may not be readable, and what to do then.
_NO_DAMAGE = {
    errno.EMFILE: "The store is sound: raise this process's limit (`ulimit -n`) well above its number of segments",
    errno.EACCES: "Give this user the right to read the store",
}


class Placement(NamedTuple):
    """Where a written file keeps its large dataset, and a digest of all its small ones."""

    values_offset: int
    columns: str


def write(
    path: Path, columns: Mapping[str, Array], values: list[Array] | None, shape: tuple[int, int], dtype: str
) -> Placement:
    """Write ``columns`` and, where given, the chunks of ``values`` [rows, d], which are joined in the file."""
    nbytes = shape[0] * shape[1] * np.dtype(dtype).itemsize
    image, offset = Image(), 0
    # HDF5 aligns what is at least as large as the threshold: the values, and not the columns, which are smaller. With
    # less than a page of values, or none, everything is aligned for NumPy, which copies an array that is not.
    large = nbytes >= mmap.PAGESIZE
    with h5py.File(
        image,
        "w",
        libver=("v108", "v110"),  # the oldest headers that carry checksums of their own
        alignment_threshold=nbytes if large else 1,
        alignment_interval=layout.ALIGNMENT if large else 8,
    ) as file:
        file.attrs["format"] = layout.FORMAT
        for name in sorted(columns):
            data = np.ascontiguousarray(columns[name])
            dataset = file.create_dataset(name, data=data, dtype=data.dtype.newbyteorder("<"), track_times=False)
            # of a fixed length: a string of variable length would lie in a heap that HDF5 keeps no checksum of
            dataset.attrs[layout.CHECKSUM] = np.bytes_(_checksum(data))
        if values is not None:
            offset = _allocate(file, shape, dtype)
    with path.open("wb") as out:
        for place, page in image.pages():
            out.seek(place)
            out.write(page)
        out.seek(offset)
        for chunk in values or ():
            out.write(raw_bytes(chunk))
        out.truncate(image.end)
    return Placement(offset, digest(columns))


def digest(columns: Mapping[str, Array]) -> str:
    """XXH3-64 over the names and checksums of all columns, in order of name."""
    return _digest({name: _checksum(data) for name, data in columns.items()})


def _digest(checksums: Mapping[str, str]) -> str:
    return xxhash.xxh3_64_hexdigest("".join(f"{n}:{checksums[n]}\n" for n in sorted(checksums)).encode())


def map_file(path: Path, size: int) -> mmap.mmap:
    """Map a whole file, which the manifest lists with ``size`` bytes.

    Raises StoreCorruptError; StoreReadError where the file may be sound and this process cannot read it.
    """
    try:
        return _map(path, size)
    except FileNotFoundError:
        raise StoreCorruptError(f"{path}: this file of the store is missing. {layout.RESTORE}") from None
    except (OSError, ValueError) as error:  # a ValueError for an empty file
        number = getattr(error, "errno", None)
        if number == errno.EMFILE and _allow_more_files():
            return map_file(path, size)
        if number in _NO_DAMAGE:
            raise StoreReadError(f"{path}: {os.strerror(number).lower()}. {_NO_DAMAGE[number]}") from None
        raise StoreCorruptError(f"{path}: this file of the store cannot be read: {error}") from None


def _map(path: Path, size: int) -> mmap.mmap:
    with path.open("rb") as file:
        found = os.fstat(file.fileno()).st_size
        if found != size:
            raise StoreCorruptError(
                f"{path}: it has {found} bytes, the manifest says {size}: truncated or replaced. {layout.RESTORE}"
            )
        if sys.version_info >= (3, 13):
            return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ, trackfd=False)
        return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)


def _allow_more_files() -> bool:
    """Raise the limit on this process's open files as far as its user may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft != hard


def read(
    path: Path,
    mapped: mmap.mmap,
    required: Mapping[str, str],
    verify: str,
    optional: Mapping[str, str] | None = None,
) -> dict[str, Array]:
    """The columns of the file ``mapped``, as named with their dtypes; columns that are not named are skipped.

    Raises StoreCorruptError where one is missing, of another type, damaged, or where the digest of all columns is not
    ``verify``.
    """
    expected = {**required, **(optional or {})}
    found: dict[str, Array] = {}
    sums = {}
    try:
        with h5py.File(mapped, "r") as file:
            for name, dataset in file.items():
                if layout.CHECKSUM not in dataset.attrs:  # the values, or what a later version keeps beside columns
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
    for name, data in found.items():
        if _checksum(data) != sums[name]:
            raise StoreCorruptError(f"{path}: column {name} is damaged, its checksum does not match. {layout.RESTORE}")
    return found


def view(mapped: mmap.mmap, offset: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    """A read-only array over the map's bytes, which lives as long as the array. Raises ValueError where they end."""
    count = math.prod(shape)
    if count == 0:
        return np.empty(shape, dtype)
    return np.frombuffer(mapped, dtype, count=count, offset=offset).reshape(shape)


def raw_bytes(data: Array) -> memoryview:
    """The array's bytes, in C order."""
    return np.ascontiguousarray(data).reshape(-1).view(np.uint8).data


def _allocate(file: h5py.File, shape: tuple[int, int], dtype: str) -> int:
    """Make the values' dataset, allocated early and not filled; return its place in the file."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.CONTIGUOUS)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    plist.set_obj_track_times(False)
    kind = h5py.h5t.py_create(np.dtype(dtype).newbyteorder("<"))
    dataset = h5py.h5d.create(file.id, layout.VALUES.encode(), kind, h5py.h5s.create_simple(shape), plist)
    return int(dataset.get_offset() or 0)  # no rows, no place


def _checksum(data: Array) -> str:
    return xxhash.xxh3_64_hexdigest(raw_bytes(data))
