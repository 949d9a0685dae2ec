"""A unit of ingest: documents collected in memory until they are worth a segment of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from colbert_rerank.errors import NonFiniteError, UsageError
from colbert_rerank.recipe import HASH_BYTES
from colbert_rerank.store import layout
from colbert_rerank.store.codecs import Codec
from colbert_rerank.store.coding import code, datasets
from colbert_rerank.store.columns import Array, Rows

UNKNOWN = bytes(HASH_BYTES)  # a hash that was not taken
SHOWN = 60  # characters of an id that is too long


class StoredRows(NamedTuple):
    """A document's rows as codecs have made them, by dataset, and the errors that the codecs made, by column."""

    rows: Mapping[str, Array]
    errors: Mapping[str, float]


class Unit:
    """Documents for one segment, in memory. Ids must be new within the unit."""

    def __init__(self, dim: int, dtype: str) -> None:
        """Of vectors of ``dim`` dimensions, which are kept as ``dtype`` until they are coded."""
        self.dim = dim
        self.dtype = np.dtype(dtype)
        self.rows = 0
        self._vectors: list[Array | StoredRows] = []
        self._counts: list[int] = []
        self._ids: list[bytes] = []
        self._hashes: list[bytes] = []
        self._field_hashes: list[bytes] = []
        self._seq_nos: list[int] = []
        self._primary_terms: list[int] = []
        self._deleted: list[bool] = []

    def __len__(self) -> int:
        return len(self._ids)

    def add(
        self,
        doc_id: str,
        vectors: npt.NDArray[Any] | StoredRows,
        content_hash: bytes,
        *,
        fields_hash: bytes = UNKNOWN,
        seq_no: int = -1,
        primary_term: int = -1,
    ) -> None:
        """Append one document, of ``vectors`` [T, dim], or of rows that this store has coded before.

        Raises NonFiniteError where there is NaN or infinity, or is once cast to the unit's dtype, naming the id;
        UsageError for an id or a shape that the store does not take.
        """
        for hash_ in (content_hash, fields_hash):
            if len(hash_) != HASH_BYTES:
                raise UsageError(f"document {doc_id!r}: one of its hashes has {len(hash_)} bytes, not {HASH_BYTES}")
        key = id_bytes(doc_id)
        kept = vectors if isinstance(vectors, StoredRows) else self._cast(doc_id, vectors)
        count = len(kept.rows[layout.VALUES] if isinstance(kept, StoredRows) else kept)
        self._append(key, kept, count, content_hash, fields_hash, seq_no, primary_term)

    def delete(self, doc_id: str) -> None:
        """Append a tombstone: what the store held under this id is no longer part of it. Raises UsageError."""
        self._append(id_bytes(doc_id), None, 0, UNKNOWN, UNKNOWN, -1, -1)

    def vectors(self) -> Array:
        """All that is not coded yet, [n, dim]."""
        plain = [v for v in self._vectors if not isinstance(v, StoredRows)]
        return np.concatenate(plain) if plain else np.empty((0, self.dim), self.dtype)

    def coded(self, codecs: Mapping[str, Codec]) -> tuple[list[Rows], dict[str, Array]]:
        """The segment's large datasets, as these codecs make them, and all its other ones."""
        rows, errors = self._rows(codecs)
        large, checksums = datasets(rows, codecs)
        columns: dict[str, Array] = {
            layout.ROW_COUNTS: np.array(self._counts, dtype=np.uint32),
            layout.ID_LENGTHS: np.array([len(i) for i in self._ids], dtype=np.uint16),
            layout.ID_BYTES: np.frombuffer(b"".join(self._ids), dtype=np.uint8),
            layout.CONTENT_HASHES: np.frombuffer(b"".join(self._hashes), dtype=np.uint8).reshape(-1, HASH_BYTES),
        }
        if any(h != UNKNOWN for h in self._field_hashes):
            columns[layout.FIELD_HASHES] = np.frombuffer(b"".join(self._field_hashes), dtype=np.uint8).reshape(
                -1, HASH_BYTES
            )
        if any(s >= 0 for s in self._seq_nos):
            columns[layout.SEQ_NOS] = np.array(self._seq_nos, dtype=np.int64)
            columns[layout.PRIMARY_TERMS] = np.array(self._primary_terms, dtype=np.int64)
        if any(self._deleted):
            columns[layout.DELETED] = np.array(self._deleted, dtype=np.uint8)
        return large, columns | errors | checksums

    def _rows(self, codecs: Mapping[str, Codec]) -> tuple[dict[str, list[Array]], dict[str, Array]]:
        """The rows of all documents by dataset, in chunks, and the errors [n] by column."""
        stored = [isinstance(v, StoredRows) for v in self._vectors]
        counts = np.array(self._counts, dtype=np.int64)[np.logical_not(stored)]
        coded = code(self.vectors(), counts, codecs)
        if not any(stored):
            return {name: [one] for name, one in coded.rows.items()}, dict(coded.errors)
        rows: dict[str, list[Array]] = {name: [] for name in codecs}
        errors: dict[str, Array] = {name: np.full(len(self), np.inf, np.float32) for name in coded.errors}
        bounds = np.cumsum([0, *counts])
        number = 0
        for i, vectors in enumerate(self._vectors):
            if isinstance(vectors, StoredRows):
                one = vectors
            else:
                span = slice(bounds[number], bounds[number + 1])
                one = StoredRows(
                    {name: r[span] for name, r in coded.rows.items()},
                    {name: float(e[number]) for name, e in coded.errors.items()},
                )
                number += 1
            for name in codecs:
                rows[name].append(one.rows[name])
            for name, error in one.errors.items():
                errors[name][i] = error
        return rows, errors

    def _cast(self, doc_id: str, vectors: npt.NDArray[Any]) -> Array:
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise UsageError(f"document {doc_id!r}: its matrix is {list(vectors.shape)}, expected [T, {self.dim}]")
        with np.errstate(over="ignore"):  # what overflows becomes infinity, which is refused below
            values = np.ascontiguousarray(vectors, dtype=self.dtype)
        if not np.isfinite(values).all():
            raise NonFiniteError(
                f"document {doc_id!r}: its vectors hold NaN, infinity, or what {self.dtype} cannot hold"
            )
        return values

    def _append(
        self,
        key: bytes,
        vectors: Array | StoredRows | None,
        count: int,
        content_hash: bytes,
        fields_hash: bytes,
        seq_no: int,
        primary_term: int,
    ) -> None:
        self._deleted.append(vectors is None)
        self._vectors.append(np.empty((0, self.dim), self.dtype) if vectors is None else vectors)
        self._counts.append(count)
        self.rows += count
        self._ids.append(key)
        self._hashes.append(content_hash)
        self._field_hashes.append(fields_hash)
        self._seq_nos.append(seq_no)
        self._primary_terms.append(primary_term)


def id_bytes(doc_id: str) -> bytes:
    """An id as a store holds it. Raises UsageError for what it does not take."""
    try:
        key = doc_id.encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError(f"document id {doc_id!a} holds half of a surrogate pair, which is no character") from None
    if not 0 < len(key) <= layout.ID_LIMIT:
        shown = repr(doc_id[:SHOWN]) + ("..." if len(doc_id) > SHOWN else "")
        raise UsageError(f"document id {shown} has {len(key)} bytes, expected 1 to {layout.ID_LIMIT} of UTF-8")
    return key
