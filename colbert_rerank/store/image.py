"""A file of HDF5's in memory, where only what HDF5 wrote takes room: headers and columns, but not the values.

HDF5 is kept from the disk: where a write of its own fails, h5py raises no OSError and HDF5 keeps the file open. So all
bytes of a store reach the disk by plain writes, whose errors are the system's own.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

_PAGE = 64 * 1024


class Image(io.RawIOBase):
    """The file object that h5py writes to. ``end`` is the size that HDF5 gave the file."""

    def __init__(self) -> None:
        self.end = 0
        self._at = 0
        self._pages: dict[int, bytearray] = {}

    def pages(self) -> Iterator[tuple[int, memoryview]]:
        """What was written, as (place in the file, bytes), in order; all other bytes are zeros."""
        for number in sorted(self._pages):
            place = number * _PAGE
            yield place, memoryview(self._pages[number])[: max(0, self.end - place)]

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.end}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def truncate(self, size: int | None = None) -> int:
        self.end = self._at if size is None else size
        return self.end

    def write(self, data: Any) -> int:
        source = memoryview(data).cast("B")
        for page, inside, part in self._spans(len(source)):
            self._pages.setdefault(page, bytearray(_PAGE))[inside] = source[part]
        self.end = max(self.end, self._at)
        return len(source)

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer).cast("B")
        count = min(len(target), max(0, self.end - self._at))
        for page, inside, part in self._spans(count):
            found = self._pages.get(page)
            target[part] = found[inside] if found else bytes(part.stop - part.start)
        return count

    def _spans(self, count: int) -> Iterator[tuple[int, slice, slice]]:
        """Walk over the next ``count`` bytes: (page, where in it, where in the caller's buffer)."""
        done = 0
        while done < count:
            page, inside = divmod(self._at, _PAGE)
            size = min(count - done, _PAGE - inside)
            yield page, slice(inside, inside + size), slice(done, done + size)
            done += size
            self._at += size


class Window(io.RawIOBase):
    """A file object over bytes in memory, which are not copied, for h5py to read from."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._data)}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer).cast("B")
        part = self._data[self._at : self._at + len(target)]
        target[: len(part)] = part
        self._at += len(part)
        return len(part)
