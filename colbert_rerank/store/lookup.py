"""The compiled lookup of ids (native/lookup.c) over an index's columns."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from colbert_rerank.native import address, library
from colbert_rerank.store import layout
from colbert_rerank.store.columns import Array

COLUMNS = (layout.SEGMENT_NUMBERS, layout.ORDINALS, layout.ROW_STARTS, layout.ROW_COUNTS)


class _Index(ctypes.Structure):
    """As in lookup.c."""

    _fields_ = (
        ("documents", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("hashes", "id_starts", "ids", *COLUMNS, "hash")),
    )


class _Found(ctypes.Structure):
    """As in lookup.c."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in ("found", *COLUMNS))


class Lookup:
    """An index's columns as the library reads them; ``id_starts`` [documents + 1] over the bytes of all ids."""

    def __init__(self, columns: Mapping[str, Array], id_starts: npt.NDArray[np.int64]) -> None:
        self._kept = [columns[layout.ID_HASHES], id_starts, columns[layout.ID_BYTES], *(columns[n] for n in COLUMNS)]
        self._index = _Index(self._kept[0].size, *map(address, self._kept), hash_address())

    @staticmethod
    def of(columns: Mapping[str, Array], id_starts: npt.NDArray[np.int64]) -> Lookup | None:
        """``None`` where the library is not there, or these are no columns that it could read."""
        documents = columns[layout.ID_HASHES].size
        sizes = {id_starts.size - 1, *(columns[name].size for name in COLUMNS)}
        whole = columns[layout.ID_BYTES].size == id_starts[-1] and sizes == {documents}
        plain = all(c.flags.c_contiguous and c.flags.aligned and c.dtype.isnative for c in columns.values())
        return Lookup(columns, id_starts) if whole and plain and is_compiled() else None

    def __call__(self, doc_ids: Sequence[str]) -> tuple[npt.NDArray[np.bool_], list[npt.NDArray[np.int64]]] | None:
        """Which ids [n] were found, and for each of `COLUMNS` what it says of them, zeros where they were not.

        ``None`` where one holds a zero itself, with which ids are told apart here.
        """
        count = len(doc_ids)
        asked = "\0".join((*doc_ids, "")).encode("utf-8", "surrogatepass")
        found = np.zeros(count, dtype=np.bool_)
        numbers = np.zeros((len(COLUMNS), count), dtype=np.int64)
        into = _Found(address(found), *(address(column) for column in numbers))
        native: Any = library()
        done = native.ids_lookup(ctypes.byref(self._index), asked, len(asked), count, ctypes.byref(into))
        return (found, list(numbers)) if done == count else None


def is_compiled() -> bool:
    """Whether ids are looked up by the library here."""
    return library() is not None and hash_address() is not None


@lru_cache(maxsize=1)
def hash_address() -> int | None:
    """The address of the hash function within the xxhash package; ``None`` where it keeps it to itself."""
    try:
        module = importlib.import_module("xxhash._xxhash")
        function = ctypes.CDLL(str(module.__file__)).XXH3_64bits
    except (ImportError, OSError, AttributeError):
        return None
    function.restype, function.argtypes = ctypes.c_uint64, (ctypes.c_char_p, ctypes.c_size_t)
    probes = (b"", b"1", b"doc-17", bytes(range(100)), bytes(1000))
    if any(function(probe, len(probe)) != xxhash.xxh3_64_intdigest(probe) for probe in probes):
        return None
    return ctypes.cast(function, ctypes.c_void_p).value
