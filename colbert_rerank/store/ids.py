"""From document ids to places: one sorted index over all segments of a generation, without a Python dict.

Ids are looked up by their 64-bit hash and then compared byte by byte, so that two ids of one hash are told apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from colbert_rerank.store import layout
from colbert_rerank.store.columns import Array
from colbert_rerank.store.lookup import COLUMNS, Lookup

DTYPES = {
    layout.ID_HASHES: "<u8",
    layout.SEGMENT_NUMBERS: "<u4",
    layout.ORDINALS: "<u4",
    layout.ROW_STARTS: "<u8",
    layout.ROW_COUNTS: "<u4",
    layout.ID_LENGTHS: "<u2",
    layout.ID_BYTES: "|u1",
}


class Locations(NamedTuple):
    """Where documents lie, one entry an id asked for; the other arrays are zeros where ``found`` is false."""

    found: npt.NDArray[np.bool_]
    segments: npt.NDArray[np.int64]
    ordinals: npt.NDArray[np.int64]
    row_starts: npt.NDArray[np.int64]
    row_counts: npt.NDArray[np.int64]


class IdIndex:
    """The live documents of a generation, sorted by the hash of their ids."""

    def __init__(self, columns: Mapping[str, Array]) -> None:
        self.columns = columns
        self._hashes = columns[layout.ID_HASHES]
        self._starts = np.concatenate([[0], np.cumsum(columns[layout.ID_LENGTHS], dtype=np.int64)])
        self._native = Lookup.of(columns, self._starts)

    def __len__(self) -> int:
        return int(self._hashes.size)

    def ids(self, which: npt.NDArray[np.bool_] | None = None) -> list[str]:
        """All ids, in the order of the index; or those of ``which`` [m]."""
        if which is not None:
            return self.ids_at(np.flatnonzero(which))
        whole = self.columns[layout.ID_BYTES].data
        return [str(whole[a:b], "utf-8") for a, b in pairwise(self._starts.tolist())]

    def ids_at(self, places: npt.NDArray[np.int64]) -> list[str]:
        """The ids at these places of the index."""
        whole = self.columns[layout.ID_BYTES].data
        bounds = zip(self._starts[places].tolist(), self._starts[places + 1].tolist(), strict=True)
        return [str(whole[a:b], "utf-8") for a, b in bounds]

    def lookup(self, doc_ids: Sequence[str]) -> Locations:
        """Where these ids lie."""
        if self._native is not None and (at := self._native(doc_ids)) is not None:
            found, columns = at
            return Locations(found, *columns)
        return self.search(doc_ids)

    def search(self, doc_ids: Sequence[str]) -> Locations:
        """The same by NumPy, for where nothing was compiled: binary search over the hashes."""
        keys = [doc_id.encode("utf-8", "surrogatepass") for doc_id in doc_ids]
        asked = _Keys(np.frombuffer(b"".join(keys), dtype=np.uint8), np.fromiter(map(len, keys), np.int64, len(keys)))
        hashes = hash_ids(keys, len(keys))
        order = np.argsort(hashes)  # neighbours are looked for one after the other, while they are in the cache
        places = np.empty_like(order)
        places[order] = np.searchsorted(self._hashes, hashes[order], side="left")
        found = np.zeros(len(keys), dtype=bool)
        left = np.arange(len(keys))
        while left.size:  # more than once only where two ids share a hash
            left = left[places[left] < len(self)]
            left = left[self._hashes[places[left]] == hashes[left]]
            same = self._equal(places[left], asked, left)
            found[left[same]] = True
            left = left[~same]
            places[left] += 1
        places[~found] = 0
        return Locations(found, *(np.where(found, self._take(name, places), 0) for name in COLUMNS))

    def _take(self, name: str, places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        if not len(self):
            return np.zeros(places.size, dtype=np.int64)
        taken: npt.NDArray[np.int64] = self.columns[name][places].astype(np.int64)
        return taken

    def _equal(
        self, places: npt.NDArray[np.int64], asked: _Keys, which: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.bool_]:
        """Whether the id stored at each of ``places`` is the one that was asked for."""
        starts = self._starts[places]
        sizes = self._starts[places + 1] - starts
        same: npt.NDArray[np.bool_] = sizes == asked.lengths[which]
        starts, which, sizes = starts[same], which[same], sizes[same]
        if not sizes.size:
            return same
        stored = self.columns[layout.ID_BYTES][ranges(starts, sizes)]
        whole = which.size == asked.lengths.size  # then all ids are compared, in their order
        given = asked.bytes if whole else asked.bytes[ranges(asked.starts[which], sizes)]
        same[same] = np.logical_and.reduceat(stored == given, np.cumsum(sizes) - sizes)
        return same


class _Keys:
    """Ids as they are compared: their bytes, one behind the other."""

    def __init__(self, joined: npt.NDArray[np.uint8], lengths: npt.NDArray[np.int64]) -> None:
        self.bytes = joined
        self.lengths = lengths
        self.starts = np.cumsum(lengths) - lengths


def ranges(starts: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """``starts[0]``, ``starts[0] + 1`` and so on, ``counts[0]`` numbers, then those of the next."""
    ends = np.cumsum(counts)
    numbers: npt.NDArray[np.int64] = np.repeat(starts - ends + counts, counts) + np.arange(ends[-1] if ends.size else 0)
    return numbers


def hash_ids(keys: Iterable[bytes | memoryview], count: int) -> npt.NDArray[np.uint64]:
    return np.fromiter(map(xxhash.xxh3_64_intdigest, keys), dtype=np.uint64, count=count)


def build(segments: Sequence[Mapping[str, Array]], *, tombstones: bool = False) -> dict[str, Array]:
    """The index columns over the segments' columns, in the manifest's order: of one id's documents the last is live,
    unless it is a tombstone; with ``tombstones``, those that are the last of their id are listed as well.

    Made with little more memory than twice what is returned: an id is a slice of all ids' bytes, looked at and let go,
    and one column is put in order after the other.
    """
    whole = _joined([c[layout.ID_BYTES] for c in segments], np.uint8).data
    lengths = _joined([c[layout.ID_LENGTHS] for c in segments], np.uint16)
    bounds = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).data

    def key(place: int) -> memoryview:
        return whole[bounds[place] : bounds[place + 1]]

    hashes = hash_ids(map(key, range(lengths.size)), lengths.size)
    order = _live(hashes, key)
    if not tombstones and any(layout.DELETED in c for c in segments):
        deleted = [c.get(layout.DELETED, np.zeros(c[layout.ROW_COUNTS].size, np.uint8)) for c in segments]
        order = order[np.concatenate(deleted)[order] == 0]
    counts = [c[layout.ROW_COUNTS] for c in segments]
    numbers = np.arange(len(segments), dtype=np.uint32)
    gathered = bytearray()
    for place in order.data:
        gathered += key(place)
    return {
        layout.ID_HASHES: hashes[order],
        layout.SEGMENT_NUMBERS: np.repeat(numbers, [c.size for c in counts])[order],
        layout.ORDINALS: _joined([np.arange(c.size, dtype=np.uint32) for c in counts], np.uint32)[order],
        layout.ROW_STARTS: _joined([np.cumsum(c, dtype=np.uint64) - c for c in counts], np.uint64)[order],
        layout.ROW_COUNTS: _joined(counts, np.uint32)[order],
        layout.ID_LENGTHS: lengths[order],
        layout.ID_BYTES: np.frombuffer(gathered, dtype=np.uint8),
    }


def repeated(found: Mapping[str, Array], number: int, index: Mapping[str, Array]) -> dict[str, Array]:
    """The columns of ids and rows of a segment, ``number`` in the manifest's list, as the id index repeats them.

    It lists live documents only. Of the others they say what was ``found``, be it right or not: checksums tell.
    """
    again = {name: found[name].copy() for name in (layout.ROW_COUNTS, layout.ID_LENGTHS, layout.ID_BYTES)}
    which = np.flatnonzero(index[layout.SEGMENT_NUMBERS] == number)
    at = index[layout.ORDINALS][which]
    for name in (layout.ROW_COUNTS, layout.ID_LENGTHS):
        again[name][at] = index[name][which]
    lengths, listed = (c[layout.ID_LENGTHS].astype(np.int64) for c in (again, index))
    if lengths.sum() == again[layout.ID_BYTES].size:  # else ids are not where they seem to be
        starts, sources = (np.cumsum(sizes) - sizes for sizes in (lengths, listed))
        taken = index[layout.ID_BYTES][ranges(sources[which], listed[which])]
        again[layout.ID_BYTES][ranges(starts[at], lengths[at])] = taken
    return again


def _live(hashes: npt.NDArray[np.uint64], key: Callable[[int], memoryview]) -> npt.NDArray[np.int64]:
    """Places in order of hash; where an id occurs more than once, only its last."""
    order: npt.NDArray[np.int64] = np.argsort(
        hashes, kind="stable"
    )  # which keeps equal hashes in the order they were written
    ordered = hashes[order]
    live = np.ones(order.size, dtype=bool)
    left: npt.NDArray[np.int64] = np.arange(order.size)
    step = 0
    while left.size:  # each is compared with the next of its hash, with the next but one, until it is found again
        step += 1
        left = left[left + step < order.size]
        left = left[ordered[left + step] == ordered[left]]
        pairs = zip(order[left].data, order[left + step].data, strict=True)
        again = np.fromiter((key(a) == key(b) for a, b in pairs), dtype=bool, count=left.size)
        live[left[again]] = False
        left = left[~again]
    newest: npt.NDArray[np.int64] = order[live]
    return newest


def _joined(parts: list[Array], dtype: npt.DTypeLike) -> Array:
    return np.concatenate(parts) if parts else np.empty(0, dtype)
