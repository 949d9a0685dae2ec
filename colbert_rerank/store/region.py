"""The files of a generation, mapped one behind the other, so that their rows are one array.

Rows of any documents, in whatever segments they lie, are then taken in one call. Python's own mmap places a map where
the system likes, and before Python 3.13 keeps a descriptor of its file; here one stretch of addresses is reserved, and
the C library's mmap puts each file where it belongs in it. The reservation, and all maps with it, ends with the last
array over it. No file stays open: what was mapped is readable when a writer has since removed it, and after a fork.
"""

from __future__ import annotations

import ctypes
import errno
import math
import mmap
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from colbert_rerank.errors import StoreCorruptError, StoreReadError
from colbert_rerank.store import layout
from colbert_rerank.store.columns import Array

_MAP_FIXED = 0x10  # on Linux and macOS alike
_NO_RESERVE = 0x4000 if sys.platform == "linux" else 0x40
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64]

_NEAR = 16  # pages

# Why a sound file may not be readable, and what to do then.
_NO_DAMAGE = {
    errno.EMFILE: "The store is sound: raise this process's limit on open files (`ulimit -n`)",
    errno.EACCES: "Give this user the right to read the store",
    errno.ENOMEM: "The store is sound: raise the system's limit on maps (`vm.max_map_count`) above its number of files",
}


class Part(NamedTuple):
    """A file to map: its size, and where in it ``rows`` rows begin."""

    path: Path
    bytes: int
    offset: int
    rows: int


class Region:
    """``values`` [R, width]: the rows of all parts in order, with gaps between them that mean nothing.

    ``bases`` [parts] is the row at which each part begins.
    """

    def __init__(self, parts: Sequence[Part], width: int, dtype: str) -> None:
        """Map ``parts``, of rows of ``width`` numbers of ``dtype``, after comparing each file's size.

        Raises StoreCorruptError; StoreReadError where a file may be sound and this process cannot read it.
        """
        row = width * np.dtype(dtype).itemsize
        self._parts = parts
        self._places: list[int] = []
        end = 0
        for part in parts:
            self._places.append(_place(part, row, end))
            end = self._places[-1] + part.bytes
        size = max(end, row)
        self._memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE, mmap.PROT_READ)
        self._bytes = np.frombuffer(self._memory, np.uint8)
        for part, place in zip(parts, self._places, strict=True):
            self._map(part, place)
        self.bases: npt.NDArray[np.int64] = np.array(
            [(place + part.offset) // row for part, place in zip(parts, self._places, strict=True)], dtype=np.int64
        )
        self.values: Array = self._bytes[: size // row * row].view(dtype).reshape(-1, width)

    def file(self, number: int) -> Array:
        """The bytes of one part's file."""
        place = self._places[number]
        return self._bytes[place : place + self._parts[number].bytes]

    def rows(self, number: int) -> Array:
        """The rows of one part."""
        base = int(self.bases[number])
        return self.values[base : base + self._parts[number].rows]

    def prefetch(self, begins: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> None:
        """Let the system read these spans of bytes all at once, before they are touched one after the other.

        They are counted from the first byte of ``values``.
        """
        order = np.argsort(begins)
        first, last = begins[order] // mmap.PAGESIZE, -(-ends[order] // mmap.PAGESIZE)
        apart = np.flatnonzero(first[1:] > last[:-1] + _NEAR) + 1  # what lies near by is read with it
        for start, stop in zip(np.r_[0, apart].tolist(), np.r_[apart, first.size].tolist(), strict=True):
            begin, end = int(first[start]), int(last[start:stop].max(initial=0))
            if end > begin:
                self._memory.madvise(mmap.MADV_WILLNEED, begin * mmap.PAGESIZE, (end - begin) * mmap.PAGESIZE)

    def _map(self, part: Part, place: int) -> None:
        try:
            with part.path.open("rb") as file:
                found = os.fstat(file.fileno()).st_size
                if found != part.bytes:
                    raise StoreCorruptError(
                        f"{part.path}: it has {found} bytes, the manifest says {part.bytes}: truncated or replaced. "
                        f"{layout.RESTORE}"
                    )
                if part.bytes:
                    self._fix(file.fileno(), part.bytes, place)
        except FileNotFoundError:
            raise StoreCorruptError(f"{part.path}: this file of the store is missing. {layout.RESTORE}") from None
        except OSError as error:
            if error.errno in _NO_DAMAGE:
                reason = os.strerror(error.errno).lower()
                raise StoreReadError(f"{part.path}: {reason}. {_NO_DAMAGE[error.errno]}") from None
            raise StoreCorruptError(f"{part.path}: this file of the store cannot be read: {error}") from None

    def _fix(self, descriptor: int, size: int, place: int) -> None:
        """Let ``size`` bytes at ``place`` be those of a file."""
        address = self._bytes[place:].ctypes.data
        if place % mmap.PAGESIZE == 0:
            _mmap(address, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor)
            return
        before = place % mmap.PAGESIZE  # a copy, since a file can only be mapped where a page begins
        _mmap(address - before, before + size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        copied = os.preadv(descriptor, [(ctypes.c_char * size).from_address(address)], 0)
        if copied != size:
            raise OSError(errno.EIO, os.strerror(errno.EIO))


def _place(part: Part, row: int, end: int) -> int:
    """The first place from ``end`` on, if there is one at a page's begin, at which the part's rows begin with a row."""
    page = -(-end // mmap.PAGESIZE)
    common = math.gcd(mmap.PAGESIZE, row)
    if part.offset % common:
        start = page * mmap.PAGESIZE
        return start + (-start - part.offset) % row
    cycle = row // common
    # the number k of a page for which k * PAGESIZE + offset is a multiple of a row
    first = -(part.offset // common) * pow(mmap.PAGESIZE // common, -1, cycle) % cycle
    return (page + (first - page) % cycle) * mmap.PAGESIZE


def _mmap(address: int, size: int, protection: int, flags: int, descriptor: int = -1) -> None:
    if _LIBC.mmap(address, size, protection, flags | _MAP_FIXED, descriptor, 0) != address:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
