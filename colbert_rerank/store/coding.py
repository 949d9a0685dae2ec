"""From documents' vectors to the datasets of a segment: rows, how far they are off, and checksums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from colbert_rerank.errors import NonFiniteError
from colbert_rerank.store import layout
from colbert_rerank.store.codecs import Codec, Floats, decode, distances, encode
from colbert_rerank.store.columns import Array, Rows, raw_bytes

CHECKSUMS = {layout.VALUES: layout.BLOCK_CHECKSUMS, layout.SKETCHES: layout.SKETCH_CHECKSUMS}


class Coded(NamedTuple):
    """Documents one after the other: their rows by dataset, and by column how far each document's rows are off."""

    rows: Mapping[str, Array]
    errors: Mapping[str, Array]


def code(vectors: npt.NDArray[Any], counts: npt.NDArray[np.int64], codecs: Mapping[str, Codec]) -> Coded:
    """Documents of ``counts`` [n] of the ``vectors`` [sum, dim] each, as ``codecs``, by dataset, make rows of them.

    Raises NonFiniteError for numbers that a codec cannot hold.
    """
    values = codecs[layout.VALUES]
    rows = encode(values, vectors)
    _check_finite(values, rows, counts)
    errors = {}
    if not isinstance(values, Floats):
        errors[layout.MAX_ERRORS] = _greatest(distances(values, vectors, rows), counts)
    sketched = sketch(rows, counts, codecs)
    return Coded({layout.VALUES: rows, **sketched.rows}, {**errors, **sketched.errors})


def sketch(values: Array, counts: npt.NDArray[np.int64], codecs: Mapping[str, Codec]) -> Coded:
    """The sketches alone, if there are any, of documents whose rows of ``values`` are there.

    They are made of what the values decode to, and their errors are those against it. Raises NonFiniteError.
    """
    codec = codecs.get(layout.SKETCHES)
    if codec is None:
        return Coded({}, {})
    exact = decode(codecs[layout.VALUES], values)
    rows = encode(codec, exact)
    _check_finite(codec, rows, counts)
    errors = _greatest(distances(codec, exact, rows), counts)
    return Coded({layout.SKETCHES: rows}, {layout.SKETCH_ERRORS: errors})


def _check_finite(codec: Codec, rows: Array, counts: npt.NDArray[np.int64]) -> None:
    if not isinstance(codec, Floats):
        return
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        number = int(np.searchsorted(np.cumsum(counts), int(np.argmin(finite)), side="right"))
        raise NonFiniteError(
            f"the vectors of document number {number} of a unit hold NaN, infinity, or what {codec.name} cannot hold"
        )


def datasets(
    rows: Mapping[str, Sequence[Array]], codecs: Mapping[str, Codec]
) -> tuple[list[Rows], dict[str, npt.NDArray[np.uint64]]]:
    """The large datasets of a segment, values first, and the columns of their blocks' checksums."""
    large = [Rows(name, rows[name], codec.width, codec.dtype) for name, codec in codecs.items()]
    return large, {CHECKSUMS[one.name]: block_checksums(one.chunks) for one in large}


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


def _greatest(distances: npt.NDArray[np.float64], counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """The greatest of each document's distances, rounded up; 0 of a document without rows."""
    greatest = np.zeros(counts.size)
    filled = np.flatnonzero(counts)
    if filled.size:
        greatest[filled] = np.maximum.reduceat(distances, (np.cumsum(counts) - counts)[filled])
    return np.nextafter(
        greatest.astype(np.float32), np.float32(np.inf), where=greatest > 0, out=np.zeros_like(greatest, np.float32)
    )
