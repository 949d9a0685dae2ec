"""Which keys were seen, for collections of many millions."""

from __future__ import annotations

from array import array

import xxhash

_FIRST_SLOTS = 1 << 12
_EMPTY = 0


class IdSet:
    """A set of strings that keeps only their 64-bit hashes: 12 to 24 bytes a key, 36 while the table grows.

    Ten million ids take 134 MB (201 MB at the last growth before that); a Python set of them takes over 1 GB.
    Two different ids share a hash with a probability of 3 in a million for a whole collection of ten million.
    """

    def __init__(self) -> None:
        self._slots = array("Q", [_EMPTY]) * _FIRST_SLOTS
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, key: str) -> bool:
        return _slot_of(self._slots, _digest(key))[1]

    def add(self, key: str) -> bool:
        """Add ``key``; false where it was there already."""
        if not _insert(self._slots, _digest(key)):
            return False
        self._count += 1
        if 3 * self._count > 2 * len(self._slots):
            self._grow()
        return True

    def _grow(self) -> None:
        slots = array("Q", [_EMPTY]) * (2 * len(self._slots))
        for digest in self._slots:
            if digest != _EMPTY:
                _insert(slots, digest)
        self._slots = slots


def _digest(key: str) -> int:
    # surrogatepass: a key that is not valid Unicode is refused elsewhere, with a message of its own.
    return xxhash.xxh3_64_intdigest(key.encode("utf-8", "surrogatepass")) or 1


def _insert(slots: array[int], digest: int) -> bool:
    slot, held = _slot_of(slots, digest)
    if held:
        return False
    slots[slot] = digest
    return True


def _slot_of(slots: array[int], digest: int) -> tuple[int, bool]:
    """Where ``digest`` is, or the free slot that it would take, and whether it is there."""
    mask = len(slots) - 1
    slot = digest & mask
    while (held := slots[slot]) != _EMPTY:
        if held == digest:
            return slot, True
        slot = (slot + 1) & mask
    return slot, False
