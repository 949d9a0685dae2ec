"""A unit of ingest: documents collected in memory until they are worth a segment of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from colbert_rerank.errors import NonFiniteError, UsageError
from colbert_rerank.recipe import HASH_BYTES
from colbert_rerank.store import layout
from colbert_rerank.store.columns import Array, raw_bytes

UNKNOWN = bytes(HASH_BYTES)  # a hash that was not taken


class Unit:
    """Documents for one segment, in memory. Ids must be new within the unit."""

    def __init__(self, dim: int, dtype: str) -> None:
        self.dim = dim
        self.dtype = np.dtype(dtype)
        self.values: list[Array] = []
        self.rows = 0
        self._ids: list[bytes] = []
        self._hashes: list[bytes] = []
        self._field_hashes: list[bytes] = []
        self._seq_nos: list[int] = []
        self._primary_terms: list[int] = []

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def nbytes(self) -> int:
        return self.rows * self.dim * self.dtype.itemsize

    def add(
        self,
        doc_id: str,
        matrix: npt.NDArray[Any],
        content_hash: bytes,
        *,
        fields_hash: bytes = UNKNOWN,
        seq_no: int = -1,
        primary_term: int = -1,
    ) -> None:
        """Append one document; ``matrix`` [T, dim] is cast to the store's dtype.

        Raises NonFiniteError where it holds NaN or infinity, or does once cast, naming the id; UsageError for an id
        or a shape that the store does not take.
        """
        try:
            key = doc_id.encode("utf-8")
        except UnicodeEncodeError:
            raise UsageError(f"document id {doc_id!a} holds half of a surrogate pair, which is no character") from None
        if not 0 < len(key) <= layout.ID_LIMIT:
            raise UsageError(f"document id {doc_id!r} has {len(key)} bytes, expected 1 to {layout.ID_LIMIT}")
        if matrix.ndim != 2 or matrix.shape[1] != self.dim:
            raise UsageError(f"document {doc_id!r}: its matrix is {list(matrix.shape)}, expected [T, {self.dim}]")
        for hash_ in (content_hash, fields_hash):
            if len(hash_) != HASH_BYTES:
                raise UsageError(f"document {doc_id!r}: one of its hashes has {len(hash_)} bytes, not {HASH_BYTES}")
        with np.errstate(over="ignore"):  # what overflows becomes infinity, which is refused below
            values = np.ascontiguousarray(matrix, dtype=self.dtype)
        if not np.isfinite(values).all():
            raise NonFiniteError(
                f"document {doc_id!r}: its vectors hold NaN, infinity, or what {self.dtype} cannot hold"
            )
        self.values.append(values)
        self.rows += len(values)
        self._ids.append(key)
        self._hashes.append(content_hash)
        self._field_hashes.append(fields_hash)
        self._seq_nos.append(seq_no)
        self._primary_terms.append(primary_term)

    def columns(self) -> dict[str, Array]:
        """All datasets of the segment but the values."""
        columns: dict[str, Array] = {
            layout.ROW_COUNTS: np.array([len(v) for v in self.values], dtype=np.uint32),
            layout.ID_LENGTHS: np.array([len(i) for i in self._ids], dtype=np.uint16),
            layout.ID_BYTES: np.frombuffer(b"".join(self._ids), dtype=np.uint8),
            layout.CONTENT_HASHES: np.frombuffer(b"".join(self._hashes), dtype=np.uint8).reshape(-1, HASH_BYTES),
            layout.BLOCK_CHECKSUMS: block_checksums(self.values),
        }
        if any(h != UNKNOWN for h in self._field_hashes):
            columns[layout.FIELD_HASHES] = np.frombuffer(b"".join(self._field_hashes), dtype=np.uint8).reshape(
                -1, HASH_BYTES
            )
        if any(s >= 0 for s in self._seq_nos):
            columns[layout.SEQ_NOS] = np.array(self._seq_nos, dtype=np.int64)
            columns[layout.PRIMARY_TERMS] = np.array(self._primary_terms, dtype=np.int64)
        return columns


def block_checksums(chunks: Sequence[Array]) -> npt.NDArray[np.uint64]:
    """XXH3-64 of each `layout.BLOCK` bytes of the chunks' bytes, joined."""
    sums = []
    digest, room = xxhash.xxh3_64(), layout.BLOCK
    for chunk in chunks:
        data = raw_bytes(chunk)
        while len(data):
            digest.update(data[:room])
            taken = min(room, len(data))
            data, room = data[taken:], room - taken
            if not room:
                sums.append(digest.intdigest())
                digest, room = xxhash.xxh3_64(), layout.BLOCK
    if room < layout.BLOCK:
        sums.append(digest.intdigest())
    return np.array(sums, dtype=np.uint64)
