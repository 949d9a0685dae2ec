"""What `sync` has found out about an index and a store does not say: texts that did not change with the document.

A document that is written again with the same text has another sequence number than the store knows. To write its
vectors anew for that would be waste, and to read its text at each comparison slow; so it is noted here. The file is no
part of the store: where it is lost, texts are read once more.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from colbert_rerank.store import files, layout
from colbert_rerank.types import Origin
from ingest.sources.opensearch import Version

_RECORD = np.dtype([("key", "S16"), ("seq_no", "<i8"), ("primary_term", "<i8"), ("content_hash", "V16")])


class Noted(NamedTuple):
    """By document, in order of key: the writing of it that was last compared, and the hash of the text it had."""

    records: npt.NDArray[np.void]

    def content_hashes(self, versions: Sequence[Version]) -> list[bytes | None]:
        """Of each of these writings, where it is known."""
        keys = np.array([_key(v.doc_id) for v in versions], dtype="S16")
        places = np.searchsorted(self.records["key"], keys)
        found: list[bytes | None] = []
        for version, key, place in zip(versions, keys, places.tolist(), strict=True):
            one = self.records[place : place + 1]
            same = one.size and one["key"][0] == key
            known = same and (int(one["seq_no"][0]), int(one["primary_term"][0])) == version[1:]
            found.append(one["content_hash"][0].tobytes() if known else None)
        return found


class Notes:
    """Collected on the way."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def add(self, version: Version, content_hash: bytes) -> None:
        one = np.array([(_key(version.doc_id), version.seq_no, version.primary_term, content_hash)], dtype=_RECORD)
        self._bytes += one.tobytes()

    def noted(self) -> Noted:
        records: npt.NDArray[np.void] = np.frombuffer(self._bytes, dtype=_RECORD)
        return Noted(records[np.argsort(records["key"], kind="stable")])


def load(folder: Path, origin: Origin) -> Noted:
    """What is noted beside the store in ``folder`` about this index: nothing, where the file is not sound."""
    try:
        with (folder / layout.VERSIONS).open("rb") as file, np.load(file) as found:  # which compares checksums
            if found["origin"].tolist() == list(origin):
                return Noted(found["records"].astype(_RECORD, casting="equiv"))
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        pass
    return Noted(np.empty(0, dtype=_RECORD))


def kept(folder: Path, origin: Origin, before: Noted, notes: Notes) -> Noted:
    """What a pass has noted, beside the store for the next one. Raises StoreWriteError."""
    noted = notes.noted()
    if not np.array_equal(noted.records, before.records):
        _save(folder, origin, noted)
    return noted


def _save(folder: Path, origin: Origin, noted: Noted) -> None:
    def fill(path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, origin=np.array(origin), records=noted.records)

    files.write_whole(folder / layout.VERSIONS, fill)


def _key(doc_id: str) -> bytes:
    return xxhash.xxh3_128_digest(doc_id.encode())
