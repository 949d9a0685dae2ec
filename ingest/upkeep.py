"""What is done to a store between ingests: documents are deleted, segments compacted, damage is cut out.

The BM25 index beside a store follows each step: first the store, then the index, and until both are done the index is
refused as behind. An index of OpenSearch is its owner's: what is deleted here is not deleted there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from colbert_rerank.candidates.bm25 import Bm25Index
from colbert_rerank.candidates.bm25_files import FILL_AGAIN
from colbert_rerank.errors import StoreCorruptError, StoreMismatchError
from colbert_rerank.store import StoreWriter, codebook, files, ids, layout, rewriting, writing
from colbert_rerank.store.columns import Array
from colbert_rerank.store.ids import IdIndex
from colbert_rerank.store.inspection import staged
from colbert_rerank.store.merge import Part
from colbert_rerank.store.segment import OTHER_INDEX, Segment, blocks, is_index_of, map_segments, read_index, row_shapes
from colbert_rerank.store.unit import id_bytes
from ingest import losses

SKETCH_AGAIN = "`store compact --sketches` makes sketches again"


@dataclass
class Deletion:
    """``unknown`` are the ids under which the store held nothing."""

    deleted: int = 0
    unknown: list[str] = field(default_factory=list)


@dataclass
class Compaction:
    """Bytes of the store's files before and after; and those of a generation for another index that was not ended."""

    before: int
    after: int
    given_up: int = 0


@dataclass
class Repair:
    """What was done to a damaged store.

    ``unlisted`` are files that were no part of it, and removed; ``damages`` are, by file, what was found; ``bm25`` is
    what is wrong with the index beside it, if anything is; ``lost`` are the ids of the documents that went with the
    damages, in the order in which the store held them, and ``unnamed`` counts those whose ids went, too.
    """

    unlisted: list[str] = field(default_factory=list)
    damages: dict[str, str] = field(default_factory=dict)
    bm25: str = ""
    lost: list[str] = field(default_factory=list)
    unnamed: int = 0
    accepted: list[str] = field(default_factory=list)


def delete(folder: Path, doc_ids: Iterable[str]) -> Deletion:
    """Delete documents from the store in ``folder``, all of them or, at an error, none.

    Raises StoreNotFoundError, StoreWriteError, UsageError for what cannot be an id.
    """
    report = Deletion()
    with writing(folder, None) as writer, writer.changing():
        index = _embedded_index(writer)  # what is wrong with it is told before anything is deleted
        unit = writer.unit()
        known = IdIndex(ids.build([one.columns for one in writer.opened()]))
        wanted = list(dict.fromkeys(doc_ids))
        for doc_id, found in zip(wanted, known.lookup(wanted).found.tolist(), strict=True):
            if found:
                unit.delete(doc_id)
                report.deleted += 1
            else:
                id_bytes(doc_id)  # what cannot be an id is a slip, and not a document that has gone already
                report.unknown.append(doc_id)
        if len(unit):
            writer.commit(unit, posted=not writer.manifest.embedded)
        if index:
            follow(writer, index)
        writer.finish()
    return report


def compact(folder: Path, codec: str | None = None, sketches: str | None = None) -> Compaction:
    """Write the store's segments anew without what is no longer live, or with other codecs (see `StoreWriter`).

    The statistics of the BM25 index beside it forget those documents, too.

    Raises StoreNotFoundError, StoreWriteError, StoreCorruptError, and UsageError for a codec that does not suit.
    """
    with rewriting(folder) as writer:
        before = writer.manifest.bytes
        given_up, _ = staged(folder, writer.manifest) or (0, "")
        files.discard(folder / layout.NEXT)
        if index := _embedded_index(writer):
            follow(writer, index)
        writer.compact(codec, sketches)
        if index:
            with writer.changing():
                index.compact(writer.manifest.recipe.text)
        return Compaction(before, writer.manifest.bytes, given_up)


def repair(folder: Path, *, accept_losses: bool = False) -> Repair:
    """Cut out what is damaged of the store in ``folder``; the documents that are sound stay.

    A damaged column is made again from the id index, where that repeats it to the bit (`Segment.mend`). Of another one
    that documents can do without nothing is known afterwards, as of a document's text, which the next ingest then
    encodes again. The BM25 index, damaged or lost, is only reported: it holds texts, which the store does not.

    That documents are lost stays known until they are here again (`losses`), and that ingests were interrupted until
    they are run to their end; with ``accept_losses`` both are forgotten.

    The files that it cuts from are kept in the folder ``damaged``, which is no part of the store. Raises
    StoreCorruptError where the manifest, or the vectors' codebook, is what is damaged, or the folder of all segments is
    missing: without it nothing can be read.
    """
    report = Repair()
    with rewriting(folder) as writer:
        report.unlisted = list(writer.swept)
        _check_codebooks(writer, report)
        index = _sound_index(writer, report)
        entries = writer.manifest.segments
        places = _places(writer, report)
        readable: dict[int, Segment] = {}
        gone: dict[int, npt.NDArray[np.bool_]] = {}  # which of a segment's documents
        for number, entry in enumerate(entries):
            try:
                (one,) = map_segments(folder, [entry], row_shapes(writer.manifest))[1]
                found = one.mend(writer.manifest, number, places)
                lost = _damaged_documents(one)
                if layout.SKETCHES in one.rows and [*one.damaged(layout.SKETCHES)]:
                    report.damages[layout.SKETCHES] = f"of {entry.file}, and dropped. {SKETCH_AGAIN}"
                readable[number] = one
                if lost.any():
                    found.append(f"the vectors of {lost.sum():,} of its {lost.size:,} documents")
                if found:
                    gone[number] = lost
                    report.damages[entry.file] = "; ".join(found)
            except StoreCorruptError as error:
                gone[number] = np.ones(entry.documents, dtype=bool)
                report.damages[entry.file] = _reason(error)
        if places and len(readable) == len(entries) and not is_index_of([*readable.values()], places):
            _index_again(writer, report, OTHER_INDEX)
            places = None
        if layout.SKETCHES in report.damages and writer.manifest.sketches:
            writer.drop_sketches()
        if gone or report.damages:
            files.discard(folder / layout.NEXT)  # a generation that was being made of what is damaged: it is made anew
        if gone:
            live = _live(len(entries), places, readable)
            report.unnamed = sum(mask.size for number, mask in gone.items() if number not in live)
            report.lost = [i for number, mask in gone.items() for i, at in live.get(number, ()) if mask[at]]
            known = {doc_id for documents in live.values() for doc_id, _ in documents}
            left = ids.build([one.columns for one in readable.values()])
            # what a lost tombstone had buried would come back, too
            buried = [*report.lost, *(i for i in IdIndex(left).ids() if i not in known)]
            kept = {
                entries[number].file: Part(readable[number], np.flatnonzero(~mask), verified=True)
                if number in readable
                else None
                for number, mask in gone.items()
            }
            files.keep_aside([folder / layout.SEGMENTS / file for file in kept], folder / losses.DAMAGED)
            complete = not report.lost and not report.unnamed
            if not complete:
                losses.note(folder, report.lost, report.unnamed)
            writer.salvage(kept, buried, posted=not writer.manifest.embedded, complete=complete)
        if index:
            follow(writer, index)
        if accept_losses:
            report.accepted = [*writer.manifest.unfinished]
            writer.forget(*report.accepted)
            losses.forget(folder)
        writer.finish()
    return report


def embedded_index(writer: StoreWriter) -> Bm25Index:
    """The BM25 index beside the store. Where it was lost, or is an older copy, nothing stored counts as posted."""
    with writer.changing():
        manifest = writer.manifest
        index = Bm25Index.create_or_open(writer.folder, manifest, verify=writer.alone)  # else another has just done so
        behind = manifest.segments and index.content != manifest.content
        if behind and index.content and all(s.posted for s in manifest.segments):
            index.clear()  # an older copy: of what was deleted since no tombstone need be left
        if behind and not index.content:
            writer.rebind(index.origin)
    return index


def follow(writer: StoreWriter, index: Bm25Index) -> None:
    """Let the BM25 index beside a store forget the documents that tombstones have buried since it was written."""
    with writer.changing():
        _follow(writer, index)


def _follow(writer: StoreWriter, index: Bm25Index) -> None:
    if all(entry.posted for entry in writer.manifest.segments):
        return
    opened = writer.opened()
    pending = {n: one for n, one in enumerate(opened) if not one.entry.posted and layout.DELETED in one.columns}
    if not pending:
        return
    newest = ids.build([one.columns for one in opened], tombstones=True)
    places = zip(newest[layout.SEGMENT_NUMBERS].tolist(), newest[layout.ORDINALS].tolist(), strict=True)
    buried = [
        doc_id
        for doc_id, (number, ordinal) in zip(IdIndex(newest).ids(), places, strict=True)
        if number in pending and pending[number].columns[layout.DELETED][ordinal]
    ]
    if not buried:
        return
    index.delete(buried, writer.manifest.content)
    for one in pending.values():
        if one.columns[layout.DELETED].all():
            writer.mark_posted(one.entry.file)


def _embedded_index(writer: StoreWriter) -> Bm25Index | None:
    """The index beside the store; ``None`` where it has none, or it was lost: none is made here, with nothing in it.

    Raises StoreCorruptError, StoreMismatchError.
    """
    if not writer.manifest.embedded or not (writer.folder / layout.BM25 / layout.BM25_STATE).exists():
        return None
    return embedded_index(writer)


def _sound_index(writer: StoreWriter, report: Repair) -> Bm25Index | None:
    """The index beside the store; where it is damaged or lost, the report says so."""
    try:
        index = _embedded_index(writer)
    except (StoreCorruptError, StoreMismatchError) as error:
        report.bm25 = str(error)
        return None
    # beside a store that was imported there is none yet
    if index is None and writer.manifest.embedded and any(entry.posted for entry in writer.manifest.segments):
        report.bm25 = f"it is lost: {FILL_AGAIN}"
    return index


def _check_codebooks(writer: StoreWriter, report: Repair) -> None:
    """Drop sketches whose codebook is damaged. Raises StoreCorruptError where it is that of the vectors."""
    for book in writer.manifest.codebooks:
        try:
            codebook.read(writer.folder, book, writer.manifest.dim)
        except StoreCorruptError as error:
            if book.codec == writer.manifest.codec:
                raise StoreCorruptError(
                    f"{writer.folder / layout.SEGMENTS / book.file}: {_reason(error)}. Without this codebook no vector "
                    f"can be read. {layout.BEGIN_AGAIN}"
                ) from None
            report.damages[book.file] = f"{_reason(error)}. The sketches are dropped. {SKETCH_AGAIN}"
            writer.drop_sketches()


def _places(writer: StoreWriter, report: Repair) -> dict[str, Array] | None:
    """The columns of the id index, where it is sound, as far as it tells by itself."""
    entry, segments = writer.manifest.index, writer.manifest.segments
    if entry is None:
        return None
    try:
        places = read_index(writer.folder, entry)
    except StoreCorruptError as error:
        _index_again(writer, report, _reason(error))
        return None
    numbers, documents = places[layout.SEGMENT_NUMBERS], np.array([one.documents for one in segments])
    if (numbers >= documents.size).any() or (places[layout.ORDINALS] >= documents[numbers]).any():
        _index_again(writer, report, OTHER_INDEX)
        return None
    return places


def _index_again(writer: StoreWriter, report: Repair, why: str) -> None:
    """Let the writer make the id index again when it ends."""
    if writer.manifest.index:
        report.damages[writer.manifest.index.file] = f"{why}. The id index is made again"
        writer.drop_index()


def _live(
    count: int, places: Mapping[str, Array] | None, readable: Mapping[int, Segment]
) -> dict[int, list[tuple[str, int]]]:
    """The live documents of each of ``count`` segments, in its order: their ids, and which of its documents they are.

    By the id index; where that is lost as well, by the segments that are ``readable``, and the others are missing.
    """
    numbers: npt.NDArray[np.int64] = np.arange(count)
    if places is None:
        places = ids.build([one.columns for one in readable.values()])
        numbers = np.array(list(readable), dtype=np.int64)
    found: dict[int, list[tuple[str, int]]] = {number: [] for number in numbers.tolist()}
    at = zip(numbers[places[layout.SEGMENT_NUMBERS]].tolist(), places[layout.ORDINALS].tolist(), strict=True)
    for doc_id, (number, ordinal) in zip(IdIndex(places).ids(), at, strict=True):
        found[number].append((doc_id, ordinal))
    for documents in found.values():  # the index is in order of hash
        documents.sort(key=lambda one: one[1])
    return found


def _damaged_documents(one: Segment) -> npt.NDArray[np.bool_]:
    """Which documents [n] have vectors in a block that is not as it was written. Raises StoreCorruptError."""
    counts = one.columns[layout.ROW_COUNTS].astype(np.int64)
    ends = np.cumsum(counts)
    rows = one.rows[layout.VALUES]
    bad = np.zeros(blocks(rows) + 1, dtype=bool)
    bad[list(one.damaged(layout.VALUES))] = True
    until = np.concatenate([[0], np.cumsum(bad)])  # how many bad blocks come before each
    size = rows.shape[1] * rows.dtype.itemsize
    first, last = (ends - counts) * size // layout.BLOCK, (ends * size - 1) // layout.BLOCK
    lost: npt.NDArray[np.bool_] = (counts > 0) & (until[last + 1] > until[first])
    return lost


def _reason(error: StoreCorruptError) -> str:
    return str(error).removesuffix(layout.RESTORE).rstrip(". ").rpartition(": ")[2]
