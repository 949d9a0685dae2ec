"""From a source of documents to a store and a first stage's index: vectors first, postings then.

Documents are encoded a unit at a time. While one unit is sealed, committed and posted in the background, the next is
read and encoded. What the store already holds with the same text is not encoded again, so that an interrupted ingest
goes on where it stopped when the same command is run again.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import compress, count, islice, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from colbert_rerank import binding, identity
from colbert_rerank.candidates import bm25
from colbert_rerank.candidates.bm25 import Bm25Index
from colbert_rerank.encoder import Encoder, Tokens
from colbert_rerank.errors import BulkError, BulkFailure, InputError, StoreMismatchError, StoreNotFoundError
from colbert_rerank.recipe import Recipe, content_hash, fields_hash
from colbert_rerank.store import Manifest, Store, StoreWriter, layout, writing
from colbert_rerank.store.manifest import load as load_manifest
from colbert_rerank.store.unit import UNKNOWN, Unit
from colbert_rerank.types import BM25, Document, Index, Origin
from ingest.failures import check_failures
from ingest.first_stage import Bm25FirstStage, FirstStage, Posting
from ingest.validation import InputReport, validated

READ_AHEAD = 512  # documents looked up in the store, and tokenized, at once
POST_AHEAD = 10_000  # stored documents held back until the next unit is posted
# Tokens of one unit, by device: what a kill may cost, about a minute of work.
UNIT_TOKENS = {"cpu": 262_144, "cuda": 4_194_304, "mps": 1_048_576}


@dataclass
class IngestReport:
    """What an ingest has done so far. ``seconds`` by stage: "write" and "post" run beside the others."""

    input: InputReport
    encoded: int = 0
    rows: int = 0  # token vectors of the documents encoded
    truncated: int = 0
    committed: int = 0  # documents in sealed segments, among those encoded and updated
    unchanged: int = 0
    updated: int = 0  # of the same text, with other fields: posted, not encoded
    posted: int = 0
    owed: int = 0  # stored before, not known to be in the index, and not among the documents of this ingest so far
    refused: list[BulkFailure] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


class _Read(NamedTuple):
    """A document to store and to post. ``rows`` is -1, or how many vectors the store has of the same text already."""

    document: Document
    text: str
    hash: bytes
    fields_hash: bytes
    rows: int


class _Work(NamedTuple):
    """One unit of work: documents to store, and documents that are stored but not known to be in the index.

    ``tokens`` has an entry for each of ``new``, ``None`` where the vectors are there.
    """

    new: list[_Read]
    tokens: list[Tokens | None]
    again: list[Posting]


def ingest(
    documents: Iterable[Document],
    folder: Path,
    encoder: Encoder,
    *,
    recipe: Recipe,
    report: IngestReport,
    first_stage: FirstStage | None = None,
    index: Index | None = None,
    dtype: str = "float16",
    allow_other_index: bool = False,
    progress: Callable[[IngestReport], None] = lambda report: None,
) -> Manifest:
    """Ingest ``documents`` into the store in ``folder`` and into a first stage's index; return the store's manifest.

    ``first_stage`` is the index to fill; ``index`` instead is the one that the documents are read from, which is their
    first stage already. With neither, the BM25 index beside the store is filled.

    Raises StoreMismatchError where the store was made with another model, recipe, dtype or index, and where a new one
    is to fill an index that is not empty. ``allow_other_index`` accepts that, and another index that is empty or a copy
    (`check_copy`). Raises StoreWriteError; InputError under ``on_error="stop"``, with everything before it stored;
    BulkError, at the end, where the first stage refused documents. After KeyboardInterrupt what was encoded is stored.
    """
    origin = first_stage.origin if first_stage else index.origin if index else None
    with writing(folder, new_manifest(encoder, recipe, dtype, origin)) as writer:
        if _is_empty(writer.manifest):  # a first ingest that failed does not bind the next one
            writer.renew(new_manifest(encoder, recipe, dtype, origin, writer.manifest.store_id))
        _check_identity(folder, writer.manifest, encoder, recipe, dtype)
        _check_index(writer, origin, first_stage, index, allow_other_index)
        if origin is None:
            first_stage = Bm25FirstStage(_bm25_beside(writer))
        writer.begin()
        _encode_all(validated(documents, recipe, report.input), writer, encoder, first_stage, report, progress)
        if first_stage:
            with report.timed("post"):
                first_stage.finish()
                if report.owed:
                    report.owed = _owed(Store(writer.folder, writer.manifest), first_stage)
        if not report.refused and not report.owed:
            writer.mark_posted()
        with report.timed("write"):
            writer.finish(complete=not report.owed)
        if report.refused:
            raise BulkError(report.refused)
        return writer.manifest


def check_store(folder: Path, encoder: Encoder, recipe: Recipe, dtype: str = "float16") -> Manifest | None:
    """The manifest of the store in ``folder``; ``None`` where there is none, or one without a document.

    To be asked before an index is made for an ingest that would be refused. Raises StoreMismatchError as `ingest` does,
    and StoreError where the store cannot be read.
    """
    try:
        manifest = load_manifest(folder)
    except StoreNotFoundError:
        return None
    if _is_empty(manifest):
        return None
    _check_identity(folder, manifest, encoder, recipe, dtype)
    return manifest


def other_index(folder: Path, manifest: Manifest, wanted: str, *, forgotten: bool = False) -> StoreMismatchError:
    """The error of an ingest of another index than the store's; ``forgotten``: no server was named."""
    held = manifest.origin
    advice = "Ingest into another folder"
    if forgotten and held and held.kind != BM25:
        advice = "To go on with that one, give --opensearch URL. Else ingest into another folder"
    return StoreMismatchError(
        f"{folder}: belongs to {binding.named(held)}, not to {wanted}. {advice}; or, if the index was made again, pass "
        "--allow-other-index to fill it from this store"
    )


def _is_empty(manifest: Manifest) -> bool:
    return not any(segment.documents for segment in manifest.segments)


def _bm25_beside(writer: StoreWriter) -> Bm25Index:
    """The BM25 index beside the store. Where it was lost, or is an older copy, nothing stored counts as posted."""
    index, manifest = Bm25Index.create_or_open(writer.folder, writer.manifest), writer.manifest
    behind = manifest.segments and index.content != manifest.content
    if behind and (not index.content or all(s.posted for s in manifest.segments)):
        writer.rebind(index.origin)
    return index


def _unposted(store: Store) -> npt.NDArray[np.bool_]:
    """Which live documents are in segments that are not known to be in the first stage's index."""
    numbers = [number for number, segment in enumerate(store.segments) if not segment.entry.posted]
    return np.isin(store.index.columns[layout.SEGMENT_NUMBERS], numbers)


def _owed(store: Store, first_stage: FirstStage) -> int:
    """How many of those documents the index does not hold as they were ingested, by asking it for them."""
    ids = list(compress(store.index.ids(), _unposted(store)))
    recipe = store.manifest.recipe
    held = {
        d.doc_id: (content_hash(recipe.text(d.fields)), fields_hash(d.doc_id, d.fields)) for d in first_stage.fetch(ids)
    }
    return sum(
        held.get(i) != (s.content_hash, s.fields_hash) for i, s in zip(ids, store.describe(ids), strict=True) if s
    )


def new_manifest(
    encoder: Encoder, recipe: Recipe, dtype: str, origin: Origin | None, store_id: str | None = None
) -> Manifest:
    """The manifest of an empty store that belongs to ``origin``, or to the BM25 index beside it."""
    store_id = store_id or uuid.uuid4().hex
    return Manifest(
        store_id=store_id,
        dim=encoder.dim,
        dtype=dtype,
        query_identity=identity.query_identity(encoder.checkpoint),
        document_identity=identity.document_identity(encoder.checkpoint, recipe),
        provenance=identity.provenance(encoder),
        origin=origin or bm25.origin_of(store_id),
    )


def _encode_all(
    documents: Iterator[tuple[Document, str]],
    writer: StoreWriter,
    encoder: Encoder,
    first_stage: FirstStage | None,
    report: IngestReport,
    progress: Callable[[IngestReport], None],
) -> None:
    """Encode unit after unit here; seal and post each in the background, one at a time."""
    row_bytes = writer.manifest.dim * np.dtype(writer.manifest.dtype).itemsize
    limit = min(layout.UNIT_BYTES // row_bytes, UNIT_TOKENS[encoder.device.type])
    before = Store(writer.folder, writer.manifest)
    report.owed = int(_unposted(before).sum())
    sealing: Future[None] | None = None
    hashed = first_stage is not None
    # Leaving the block, by an error too, waits for the unit in the background: what was encoded is kept.
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="seal") as background:
        try:
            for work in _works(documents, before, encoder, limit, hashed, report, progress):
                tokens = [t for t in work.tokens if t]
                matrices: dict[int, npt.NDArray[np.floating]] = {}
                try:
                    with report.timed("encode"):
                        for batch in encoder.encode_batches(tokens, writer.manifest.dtype):
                            matrices.update(batch)
                            report.encoded += len(batch)
                            report.rows += sum(map(len, batch.values()))
                            progress(report)
                    unit = _unit(writer, before, work, matrices)
                    postings = work.again + [Posting(r.document.doc_id, r.text, r.document.fields) for r in work.new]
                    if sealing:
                        sealing.result()
                except KeyboardInterrupt:
                    if first_stage:
                        first_stage.stop()
                    if sealing:
                        sealing.exception()  # waits; the interrupt is what is raised
                    _commit(_unit(writer, before, work, matrices), writer, report, posted=first_stage is None)
                    raise
                sealing = background.submit(_seal, unit, postings, writer, first_stage, report)
        except InputError:
            if sealing:
                sealing.result()  # that what came before could not be stored is the graver error
            raise
        except KeyboardInterrupt:
            if first_stage:
                first_stage.stop()  # what is left to post is posted when the ingest is started again
            raise
    if sealing:
        sealing.result()


def _unit(writer: StoreWriter, before: Store, work: _Work, matrices: Mapping[int, npt.NDArray[np.floating]]) -> Unit:
    """The documents of ``work`` that have their vectors: in ``matrices``, by number of those encoded, or stored."""
    unit = writer.unit()
    kept = iter(_stored(before, [r.document.doc_id for r in work.new if r.rows >= 0]))
    numbers = count()
    for document, _, digest, fields_digest, rows in work.new:
        matrix = matrices.get(next(numbers)) if rows < 0 else next(kept)
        if matrix is not None:
            unit.add(
                document.doc_id,
                matrix,
                digest,
                fields_hash=fields_digest,
                seq_no=document.seq_no,
                primary_term=document.primary_term,
            )
    return unit


def _commit(unit: Unit, writer: StoreWriter, report: IngestReport, *, posted: bool) -> str | None:
    if not len(unit):
        return None
    with report.timed("write"):
        name = writer.commit(unit, posted=posted)
    report.committed += len(unit)
    return name


def _seal(
    unit: Unit, postings: Sequence[Posting], writer: StoreWriter, first_stage: FirstStage | None, report: IngestReport
) -> None:
    """Vectors first: what the first stage can return has a matrix."""
    name = _commit(unit, writer, report, posted=first_stage is None)
    if first_stage is None:
        return
    with report.timed("post"):
        try:
            first_stage.post(postings, writer.manifest.content)
        except BulkError as error:
            report.refused.extend(error.failures)
            check_failures(report.refused)
            report.posted += len(postings) - len(error.failures)
            return
    report.posted += len(postings)
    if name:
        writer.mark_posted(name)


def _works(
    documents: Iterator[tuple[Document, str]],
    before: Store,
    encoder: Encoder,
    limit: int,
    hashed: bool,
    report: IngestReport,
    progress: Callable[[IngestReport], None],
) -> Iterator[_Work]:
    """Group documents into units of at most ``limit`` tokens, leaving out what is stored as it is.

    An input error ends the unit at hand first and is raised then, so that nothing before it is lost.
    """
    work, tokens = _Work([], [], []), 0
    broken: InputError | None = None
    while not broken:
        chunk: list[tuple[Document, str]] = []
        try:
            with report.timed("read"):
                chunk.extend(islice(documents, READ_AHEAD))
        except InputError as error:
            broken = error
        if not chunk:
            break
        fresh = _sift(chunk, before, hashed, work.again, report)
        with report.timed("tokenize"):
            ready = iter(encoder.tokenize_documents([read.text for read in fresh if read.rows < 0]))
        for read in fresh:
            one = next(ready) if read.rows < 0 else None
            size = len(one.ids) if one else read.rows
            if work.new and tokens + size > limit:
                yield work
                work, tokens = _Work([], [], []), 0
            work.new.append(read)
            work.tokens.append(one)
            tokens += size
            report.truncated += one is not None and one.truncated > 0
        if len(work.again) >= POST_AHEAD:
            yield work
            work, tokens = _Work([], [], []), 0
        progress(report)
    if work.new or work.again:
        yield work
    if broken:
        raise broken


def _sift(
    chunk: Sequence[tuple[Document, str]], before: Store, hashed: bool, again: list[Posting], report: IngestReport
) -> list[_Read]:
    """The documents to store: new ones, and those whose text has changed, or (where ``hashed``) another field."""
    fresh = []
    stored = before.describe([document.doc_id for document, _ in chunk])
    for (document, text), known in zip(chunk, stored, strict=True):
        digest = content_hash(text)
        if known and not known.posted:
            report.owed -= 1
        fields_digest = fields_hash(document.doc_id, document.fields) if hashed else UNKNOWN
        if known is None or known.content_hash != digest:
            fresh.append(_Read(document, text, digest, fields_digest, -1))
            continue
        if hashed and known.fields_hash != fields_digest:
            report.updated += 1
            fresh.append(_Read(document, text, digest, fields_digest, known.rows))
            continue
        report.unchanged += 1
        if not known.posted:
            again.append(Posting(document.doc_id, text, document.fields))
    return fresh


def _stored(store: Store, doc_ids: Sequence[str]) -> list[npt.NDArray[np.floating]]:
    """The matrices of documents that are in the store, each once."""
    _, values, offsets = store.gather(doc_ids)
    return [values[start:end] for start, end in pairwise(offsets.tolist())]


def _check_identity(folder: Path, manifest: Manifest, encoder: Encoder, recipe: Recipe, dtype: str) -> None:
    advice = "Ingest into another folder, or with what this store was made with"
    given = identity.query_identity(encoder.checkpoint)
    identity.check(folder, "model", manifest.query_identity, given, advice)
    given = identity.document_identity(encoder.checkpoint, recipe)
    identity.check(folder, "way of making texts", manifest.document_identity, given, advice)
    if manifest.dtype != dtype:
        raise StoreMismatchError(f"{folder}: holds {manifest.dtype} vectors, {dtype} was asked for. {advice}")


def _check_index(
    writer: StoreWriter, origin: Origin | None, first_stage: FirstStage | None, index: Index | None, allowed: bool
) -> None:
    """Refuse an index that may hold other documents under the store's ids; rebind the store to one that may not."""
    manifest, folder = writer.manifest, writer.folder
    wanted = origin or bm25.origin_of(manifest.store_id)
    held = first_stage.count() if first_stage and not allowed else 0
    if manifest.origin and binding.same(manifest.origin, wanted):
        if held and first_stage and first_stage.ours and _is_empty(manifest):
            raise StoreMismatchError(
                f"{folder} is a new store, but {binding.named(wanted)} holds {held:,} documents already. To replace "
                "them would make the store they belong to wrong without a sound. Choose another --index; or, if that "
                "store is gone or of the same documents, pass --allow-other-index"
            )
        return
    if not allowed:
        raise other_index(folder, manifest, binding.named(wanted), forgotten=origin is None)
    compared = index or (first_stage if first_stage and first_stage.count() else None)
    if compared:
        binding.check_copy(Store(folder, manifest), compared)
    writer.rebind(wanted)
