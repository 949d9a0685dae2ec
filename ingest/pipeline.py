"""From a source of documents to a store and a first stage's index: vectors first, postings then.

Documents are encoded a unit at a time. While one unit is sealed, committed and posted in the background, the next is
read and encoded. What the store already holds with the same text is not encoded again, so that an interrupted ingest
goes on where it stopped when the same command is run again.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from colbert_rerank import binding, identity
from colbert_rerank.candidates import bm25
from colbert_rerank.candidates.bm25 import Bm25Index
from colbert_rerank.encoder import Encoder, Tokens
from colbert_rerank.errors import BulkError, BulkFailure, InputError, StoreMismatchError
from colbert_rerank.recipe import Recipe, content_hash
from colbert_rerank.store import Manifest, Store, StoreWriter, layout, writing
from colbert_rerank.store.unit import Unit
from colbert_rerank.types import Document, Origin
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
    unchanged: int = 0
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
    document: Document
    text: str
    hash: bytes
    tokens: Tokens


class _Work(NamedTuple):
    """One unit of work: documents to encode, and documents that are stored but not known to be in the index."""

    new: list[_Read]
    again: list[Posting]


def ingest(
    documents: Iterable[Document],
    folder: Path,
    encoder: Encoder,
    *,
    recipe: Recipe,
    report: IngestReport,
    first_stage: FirstStage | None = None,
    origin: Origin | None = None,
    dtype: str = "float16",
    allow_other_index: bool = False,
    progress: Callable[[IngestReport], None] = lambda report: None,
) -> Manifest:
    """Ingest ``documents`` into the store in ``folder`` and into a first stage's index; return the store's manifest.

    ``first_stage`` is the index to fill; ``origin`` instead names the index that the documents are read from, which is
    their first stage already. With neither, the BM25 index beside the store is filled.

    Raises StoreMismatchError where the store was made with another model, recipe, dtype or index; StoreWriteError;
    InputError under ``on_error="stop"``, with everything before it stored; BulkError, at the end, where the
    first stage refused documents.
    """
    belongs_to = first_stage.origin if first_stage else origin
    with writing(folder, new_manifest(encoder, recipe, dtype, belongs_to)) as writer:
        _check_store(writer, encoder, recipe, dtype, belongs_to, allow_other_index)
        if belongs_to is None:
            first_stage = Bm25FirstStage(_bm25_beside(writer))
        writer.begin()
        _encode_all(validated(documents, recipe, report.input), writer, encoder, first_stage, report, progress)
        if first_stage:
            with report.timed("post"):
                first_stage.finish()
        if not report.refused and not report.owed:
            writer.mark_posted()
        with report.timed("write"):
            writer.finish()
        if report.refused:
            raise BulkError(report.refused)
        return writer.manifest


def _bm25_beside(writer: StoreWriter) -> Bm25Index:
    """The BM25 index beside the store. Where it was lost, or is an older copy, nothing stored counts as posted."""
    index, manifest = Bm25Index.create_or_open(writer.folder, writer.manifest), writer.manifest
    behind = manifest.segments and index.content != manifest.content
    if behind and (not index.content or all(s.posted for s in manifest.segments)):
        writer.rebind(index.origin)
    return index


def _unposted(store: Store) -> int:
    """How many live documents are in segments that are not known to be in the first stage's index."""
    numbers = [number for number, segment in enumerate(store.segments) if not segment.entry.posted]
    return int(np.isin(store.index.columns[layout.SEGMENT_NUMBERS], numbers).sum())


def new_manifest(encoder: Encoder, recipe: Recipe, dtype: str, origin: Origin | None) -> Manifest:
    """The manifest of an empty store that belongs to ``origin``, or to the BM25 index beside it."""
    store_id = uuid.uuid4().hex
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

    def encoded(count: int, rows: int) -> None:
        report.encoded += count
        report.rows += rows
        progress(report)

    row_bytes = writer.manifest.dim * np.dtype(writer.manifest.dtype).itemsize
    limit = min(layout.UNIT_BYTES // row_bytes, UNIT_TOKENS[encoder.device.type])
    before = Store(writer.folder, writer.manifest)
    report.owed = _unposted(before)
    sealing: Future[None] | None = None
    # Leaving the block, by an error too, waits for the unit in the background: what was encoded is kept.
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="seal") as background:
        try:
            for work in _works(documents, before, encoder, limit, report, progress):
                unit = writer.unit()
                with report.timed("encode"):
                    matrices = encoder.encode_tokens([r.tokens for r in work.new], unit.dtype, encoded)
                for (document, _, digest, _), matrix in zip(work.new, matrices, strict=True):
                    unit.add(document.doc_id, matrix, digest, document.seq_no, document.primary_term)
                if sealing:
                    sealing.result()
                postings = work.again + [Posting(r.document.doc_id, r.text, r.document.fields) for r in work.new]
                sealing = background.submit(_seal, unit, postings, writer, first_stage, report)
        except InputError:
            if sealing:
                sealing.result()  # that what came before could not be stored is the graver error
            raise
    if sealing:
        sealing.result()


def _seal(
    unit: Unit, postings: Sequence[Posting], writer: StoreWriter, first_stage: FirstStage | None, report: IngestReport
) -> None:
    """Vectors first: what the first stage can return has a matrix."""
    name = None
    if len(unit):
        with report.timed("write"):
            name = writer.commit(unit, posted=first_stage is None)
    if first_stage is None:
        return
    with report.timed("post"):
        try:
            first_stage.post(postings, writer.manifest.content)
        except BulkError as error:
            report.refused.extend(error.failures)
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
    report: IngestReport,
    progress: Callable[[IngestReport], None],
) -> Iterator[_Work]:
    """Group documents into units of at most ``limit`` tokens to encode, leaving out what is stored with the same text.

    An input error ends the unit at hand first and is raised then, so that nothing before it is lost.
    """
    work, tokens = _Work([], []), 0
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
        fresh = _sift(chunk, before, work.again, report)
        with report.timed("tokenize"):
            ready = encoder.tokenize_documents([text for _, text, _ in fresh])
        for (document, text, digest), one in zip(fresh, ready, strict=True):
            if work.new and tokens + len(one.ids) > limit:
                yield work
                work, tokens = _Work([], []), 0
            work.new.append(_Read(document, text, digest, one))
            tokens += len(one.ids)
            report.truncated += one.truncated > 0
        if len(work.again) >= POST_AHEAD:
            yield work
            work, tokens = _Work([], []), 0
        progress(report)
    if work.new or work.again:
        yield work
    if broken:
        raise broken


def _sift(
    chunk: Sequence[tuple[Document, str]], before: Store, again: list[Posting], report: IngestReport
) -> list[tuple[Document, str, bytes]]:
    """The documents to encode: new ones, and those whose text has changed."""
    fresh = []
    stored = before.describe([document.doc_id for document, _ in chunk])
    for (document, text), known in zip(chunk, stored, strict=True):
        digest = content_hash(text)
        if known and not known.posted:
            report.owed -= 1
        if known is None or known.content_hash != digest:
            fresh.append((document, text, digest))
            continue
        report.unchanged += 1
        if not known.posted:
            again.append(Posting(document.doc_id, text, document.fields))
    return fresh


def _check_store(
    writer: StoreWriter,
    encoder: Encoder,
    recipe: Recipe,
    dtype: str,
    origin: Origin | None,
    allow_other_index: bool,
) -> None:
    manifest, folder = writer.manifest, writer.folder
    advice = "Ingest into another folder, or with what this store was made with"
    given = identity.query_identity(encoder.checkpoint)
    identity.check(folder, "model", manifest.query_identity, given, advice)
    given = identity.document_identity(encoder.checkpoint, recipe)
    identity.check(folder, "way of making texts", manifest.document_identity, given, advice)
    if manifest.dtype != dtype:
        raise StoreMismatchError(f"{folder}: holds {manifest.dtype} vectors, {dtype} was asked for. {advice}")
    wanted = origin or bm25.origin_of(manifest.store_id)
    if manifest.origin and binding.same(manifest.origin, wanted):
        return
    if not allow_other_index:
        raise StoreMismatchError(
            f"{folder}: belongs to {binding.named(manifest.origin)}, not to {binding.named(wanted)}. Ingest into "
            "another folder; or, if the index was made again, pass --allow-other-index to fill it from this store"
        )
    writer.rebind(wanted)
