"""A plane of a store: the rows that one codec made of all documents, over all segments of a generation."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from colbert_rerank.store import layout
from colbert_rerank.store.columns import Array
from colbert_rerank.store.ids import ranges
from colbert_rerank.store.region import Region
from colbert_rerank.store.segment import Segment, blocks

# Bytes that this machine may not hold in memory, so that they are read from the disk again and again.
_LARGE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2

_MUCH = 64 << 20  # bytes, from which on it pays to copy them in threads
_THREADS = min(4, os.cpu_count() or 1)


class Plane:
    """The large dataset ``name`` of all segments. Safe to share between threads and to use after a fork.

    With ``verify``, the checksum of each block is compared before a row of it is given out for the first time; ``sums``
    are those of all blocks of all segments, or ``None``, and then each segment is asked for its own.
    """

    def __init__(
        self, name: str, region: Region, segments: Sequence[Segment], sums: Array | None, *, verify: bool
    ) -> None:
        self.name = name
        self._region = region
        self._segments = segments
        self._verify = verify
        # The blocks of all segments, one behind the other, of which none was touched yet.
        self._first_blocks = np.cumsum([0, *(blocks(segment.rows[name]) for segment in segments)])
        self._untouched = np.ones(int(self._first_blocks[-1]), dtype=bool)
        self._sums = sums if sums is not None and sums.shape == self._untouched.shape else None

    @property
    def values(self) -> Array:
        """The rows of all segments [.., width], as they are mapped, and gaps between them that mean nothing."""
        return self._region.values

    @property
    def row_counts(self) -> npt.NDArray[np.int64]:
        """How many rows each segment has."""
        return np.array([len(segment.rows[self.name]) for segment in self._segments], dtype=np.int64)

    def locate(
        self, segments: npt.NDArray[np.int64], starts: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """Where in `values` these spans begin, verified and, as far as may be, in memory. Raises StoreCorruptError."""
        self._touch(segments, starts, counts)
        return self._region.bases[segments] + starts

    def take(
        self, segments: npt.NDArray[np.int64], starts: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]
    ) -> Array:
        """The rows [sum of counts, width] of these spans, copied in one piece. Raises StoreCorruptError."""
        rows = ranges(self.locate(segments, starts, counts), counts)
        taken = np.empty((rows.size, self.values.shape[1]), dtype=self.values.dtype)
        take_rows(self.values, rows, taken, _MUCH)
        return taken

    def pieces(self, size: int) -> Iterator[Array]:
        """All rows of all segments in order, mapped, at most ``size`` at once; verified. Raises StoreCorruptError."""
        for number, count in enumerate(self.row_counts.tolist()):
            for start in range(0, count, size):
                piece = min(size, count - start)
                (at,) = self.locate(np.array([number]), np.array([start]), np.array([piece])).tolist()
                yield self.values[at : at + piece]

    def touch_all(self) -> None:
        """Verify all rows, which are in memory then as far as they fit. Raises StoreCorruptError."""
        for segment in self._segments:
            segment.verify(self.name)
        self._untouched[:] = False

    def _touch(
        self, segments: npt.NDArray[np.int64], starts: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]
    ) -> None:
        """Have the system read these rows, and verify what no one has touched before. Raises StoreCorruptError."""
        row = self._region.values.strides[0]
        some = counts > 0
        base = self._first_blocks[segments[some]]
        first = base + starts[some] * row // layout.BLOCK
        last = base + ((starts + counts)[some] * row - 1) // layout.BLOCK
        may_have_left = self._region.values.nbytes > _LARGE  # memory, since it was touched
        if not may_have_left and not self._is_left(first, last):
            return
        touched = np.unique(ranges(first, last - first + 1))
        if not may_have_left:
            touched = touched[self._untouched[touched]]
        if not touched.size:
            return
        owners = np.searchsorted(self._first_blocks, touched, side="right") - 1
        inside = touched - self._first_blocks[owners]
        begins = self._region.bases[owners] * row + inside * layout.BLOCK
        self._region.prefetch(begins, np.minimum(begins + layout.BLOCK, self._region.values.nbytes))
        if self._verify:
            fresh = self._untouched[touched]
            for number in np.unique(owners[fresh]).tolist():
                begin, end = self._first_blocks[number : number + 2].tolist()
                sums = None if self._sums is None else self._sums[begin:end]
                self._segments[number].verify(self.name, inside[fresh & (owners == number)].tolist(), sums)
        self._untouched[touched] = False

    def _is_left(self, first: npt.NDArray[np.int64], last: npt.NDArray[np.int64]) -> bool:
        """Whether one of these blocks may be untouched: quickly, as most often none is, and documents span few."""
        ends = self._untouched[first].any() or self._untouched[last].any()
        return bool(ends or (last - first > 1).any())


def take_rows(values: Array, rows: npt.NDArray[np.int64], out: Array, much: int) -> None:
    """Copy ``values[rows]`` to ``out``, from ``much`` bytes on in threads: each waits for memory of its own."""
    if out.nbytes < much:
        _copy(values, rows, out)
        return
    with ThreadPoolExecutor(_THREADS) as pool:  # one that is kept would not outlive a fork
        parts = zip(np.array_split(rows, _THREADS), np.array_split(out, _THREADS), strict=True)
        list(pool.map(lambda part: _copy(values, *part), parts))


def _copy(values: Array, rows: npt.NDArray[np.int64], out: Array) -> None:
    # Without "clip", which clips nothing here, NumPy would copy everything twice.
    np.take(values, rows, axis=0, out=out, mode="clip")
