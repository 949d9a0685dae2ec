"""Several segments made into one, without the documents that are no longer live."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from colbert_rerank.store import codebook, ids, layout
from colbert_rerank.store.codecs import Codec, decode
from colbert_rerank.store.coding import Coded, code, datasets, sketch
from colbert_rerank.store.columns import Array, Rows
from colbert_rerank.store.segment import UNKNOWN, Segment

_ERRORS = (layout.MAX_ERRORS, layout.SKETCH_ERRORS)
# What columns that may be missing say of documents where they are.
_MISSING = UNKNOWN | {
    layout.DELETED: np.zeros(1, dtype=np.uint8),
    layout.MAX_ERRORS: np.zeros(1, dtype=np.float32),
    layout.SKETCH_ERRORS: np.full(1, np.inf, dtype=np.float32),
}


class Part(NamedTuple):
    """A segment, and the ordinals of those of its documents that are kept, rising.

    With ``verified`` their checksums have been compared.
    """

    segment: Segment
    kept: npt.NDArray[np.int64]
    verified: bool = False

    @property
    def whole(self) -> bool:
        return self.kept.size == self.segment.entry.documents

    @property
    def rows(self) -> int:
        """How many rows are kept."""
        if self.whole:
            return self.segment.entry.rows
        return int(self.segment.columns[layout.ROW_COUNTS][self.kept].sum(dtype=np.int64))


def join(parts: Sequence[Part], codecs: Mapping[str, Codec]) -> tuple[list[Rows], dict[str, Array]]:
    """The large datasets and the columns of one segment of what ``parts`` keep, as it is, in their order.

    Raises StoreCorruptError where a checksum does not match.
    """
    rows = {name: [chunk for part in parts for chunk in _kept_rows(part, name)] for name in codecs}
    large, checksums = datasets(rows, codecs)
    return large, _columns(parts) | checksums


def recode(parts: Sequence[Part], before: Codec, codecs: Mapping[str, Codec]) -> tuple[list[Rows], dict[str, Array]]:
    """The same with other codecs; ``before`` tells what the rows of ``parts`` stand for.

    Where it is the codec of the values now as well, these stay as they are, and only sketches are made anew.
    """
    columns = _columns(parts)
    coded: list[Coded] = []
    for part in parts:
        counts = part.segment.columns[layout.ROW_COUNTS][part.kept].astype(np.int64)
        chunks = [*_kept_rows(part, layout.VALUES)]
        values = np.concatenate(chunks) if chunks else np.empty((0, before.width), before.dtype)
        if codecs[layout.VALUES].name == before.name:
            sketched = sketch(values, counts, codecs)
            coded.append(Coded({layout.VALUES: values, **sketched.rows}, sketched.errors))
        else:
            coded.append(code(decode(before, values), counts, codecs))
    large, checksums = datasets({name: [c.rows[name] for c in coded] for name in codecs}, codecs)
    if codecs[layout.VALUES].name != before.name:
        columns.pop(layout.MAX_ERRORS, None)
    columns.pop(layout.SKETCH_ERRORS, None)
    for name in _ERRORS:
        if any(name in c.errors for c in coded):
            columns[name] = np.concatenate([c.errors[name] for c in coded])
    return large, columns | checksums


def sample(segments: Sequence[Segment], codec: Codec) -> npt.NDArray[np.float32]:
    """Vectors drawn from all segments, as many as a codebook learns of. Raises StoreCorruptError."""
    total = sum(segment.entry.rows for segment in segments)
    size, rng = codebook.sample_size(total), np.random.default_rng(codebook.SEED)
    # with replacement where a permutation of all rows would take more memory than the sample
    few = total < 4 * size
    drawn = np.sort(rng.permutation(total)[:size]) if few else np.unique(rng.integers(0, total, size))
    taken: list[npt.NDArray[np.float32]] = []
    first = 0
    for segment in segments:
        rows = segment.rows[layout.VALUES]
        segment.verify()
        mine = drawn[(drawn >= first) & (drawn < first + len(rows))] - first
        taken.append(decode(codec, rows[mine]))
        first += len(rows)
    return np.concatenate(taken) if taken else np.empty((0, codec.dim), np.float32)


def live_parts(segments: Sequence[Segment], *, oldest: bool = True) -> list[Part]:
    """Of each segment the live documents, and the tombstones that are needed.

    That is all of them where there are older segments than these, unless these are the ``oldest``; and those that the
    first stage's index has not followed yet.
    """
    live = ids.build([one.columns for one in segments], tombstones=True)
    parts = []
    for number, one in enumerate(segments):
        kept = np.sort(live[layout.ORDINALS][live[layout.SEGMENT_NUMBERS] == number]).astype(np.int64)
        deleted = one.columns.get(layout.DELETED)
        if deleted is not None and oldest and one.entry.posted:
            kept = kept[deleted[kept] == 0]
        parts.append(Part(one, kept))
    return parts


def neighbours(parts: Sequence[Part], row_bytes: int, *, unposted: bool = True) -> list[list[Part]]:
    """Neighbours, while what they keep fits one unit, and all of them are posted, or, with ``unposted``, none."""
    groups: list[list[Part]] = []
    size = 0
    for part in parts:
        nbytes = part.rows * row_bytes
        posted = part.segment.entry.posted
        alike = bool(groups) and groups[-1][-1].segment.entry.posted == posted and (posted or unposted)
        if alike and size + nbytes <= layout.UNIT_BYTES:
            groups[-1].append(part)
            size += nbytes
        else:
            groups.append([part])
            size = nbytes
    return groups


def _kept_rows(part: Part, name: str) -> Iterator[Array]:
    if not part.verified:
        part.segment.verify(name)
    rows = part.segment.rows[name]
    if part.whole:
        yield rows
        return
    counts = part.segment.columns[layout.ROW_COUNTS].astype(np.int64)
    starts = np.cumsum(counts) - counts
    for i in part.kept.tolist():
        yield rows[starts[i] : starts[i] + counts[i]]


def _columns(parts: Sequence[Part]) -> dict[str, Array]:
    """The small columns, but for the checksums of what is large."""
    joined: dict[str, Array] = {}
    for name in (layout.ROW_COUNTS, layout.ID_LENGTHS, layout.CONTENT_HASHES):
        joined[name] = np.concatenate([part.segment.columns[name][part.kept] for part in parts])
    joined[layout.ID_BYTES] = np.concatenate([_id_bytes(part) for part in parts])
    for name, unknown in _MISSING.items():
        found = [_column(part.segment, name) for part in parts]
        if any(column is not None for column in found):
            joined[name] = np.concatenate(
                [
                    np.repeat(unknown, part.kept.size, axis=0) if column is None else column[part.kept]
                    for part, column in zip(parts, found, strict=True)
                ]
            )
    if layout.DELETED in joined and not joined[layout.DELETED].any():
        del joined[layout.DELETED]
    return joined


def _column(segment: Segment, name: str) -> Array | None:
    if name in (layout.SEQ_NOS, layout.PRIMARY_TERMS) and not segment.entry.numbered:
        return None
    return segment.columns.get(name)


def _id_bytes(part: Part) -> Array:
    lengths = part.segment.columns[layout.ID_LENGTHS].astype(np.int64)
    mask = np.zeros(lengths.size, dtype=bool)
    mask[part.kept] = True
    taken: Array = part.segment.columns[layout.ID_BYTES][np.repeat(mask, lengths)]
    return taken
