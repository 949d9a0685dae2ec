"""From a source of documents to a store and a first stage's index: vectors first, postings then.

Documents are encoded a unit at a time. While one unit is sealed, committed and posted in the background, the next is
read and encoded. What the store already holds with the same text is not encoded again, so that an interrupted ingest
goes on where it stopped when the same command is run again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from colbert_rerank import identity
from colbert_rerank.encoder import Encoder, Tokens
from colbert_rerank.errors import (
    BulkError,
    BulkFailure,
    InputError,
    OpenSearchError,
    StoreWriteError,
)
from colbert_rerank.recipe import Recipe, content_hash, fields_hash
from colbert_rerank.store import Manifest, Store, StoreWriter, layout, writing
from colbert_rerank.store.unit import UNKNOWN, Unit
from colbert_rerank.types import Document, Index
from ingest import losses
from ingest.admission import (
    ForeignIndex,
    check_encoder,
    check_identity,
    check_index,
    is_empty,
    new_manifest,
    open_first_stage,
    unreadable,
    without,
)
from ingest.failures import check_failures
from ingest.first_stage import Bm25FirstStage, FirstStage, FirstStageOpener, Posting
from ingest.upkeep import embedded_index, follow
from ingest.validation import InputReport, validated

_log = logging.getLogger(__name__)

READ_AHEAD = 512  # documents looked up in the store, and tokenized, at once
POST_AHEAD = 10_000  # stored documents held back until the next unit is posted
# Tokens of one unit, by device: what a kill may cost, about a minute of work.
UNIT_TOKENS = {"cpu": 262_144, "cuda": 4_194_304, "mps": 1_048_576}
PAGE_TOKENS = {"cpu": 8192, "cuda": 524_288, "mps": 65_536}  # the same of page images, whose networks are larger


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
    again: int = 0  # among the unchanged: to be posted once more, since they are not known to be in the index
    to_post: int = 0  # among the committed: to be posted, too
    posted: int = 0
    owed: int = 0  # stored before, not known to be in the index, and not among the documents of this ingest so far
    refused: list[BulkFailure] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def unposted(self) -> int:
        """How many documents that this ingest stored, or found stored, are not in the index yet that it fills."""
        return self.again + self.to_post - self.posted

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
    first_stage: FirstStageOpener | None = None,
    index: Index | None = None,
    index_name: str = "",
    codec: str | None = None,
    sketches: str | None = None,
    allow_other_index: bool = False,
    progress: Callable[[IngestReport], None] = lambda report: None,
) -> Manifest:
    """Ingest ``documents`` into the store in ``folder`` and into a first stage's index; return the store's manifest.

    ``first_stage`` opens the index to fill; ``index`` instead is the one that the documents are read from, which is
    their first stage already. With neither, the BM25 index beside the store is filled. ``index_name`` is what the user
    calls it, such as an alias, for a search to call it by the same.

    ``codec`` and ``sketches`` say how vectors are stored: by default in float16, or as the store does already.

    Raises StoreMismatchError where the store was made with another model, recipe, codec or index, and where a new one
    is to fill an index that is not empty. ``allow_other_index`` accepts that, and another index that is empty or a copy
    (`check_copy`). Raises StoreWriteError; InputError under ``on_error="stop"``, with everything before it stored;
    BulkError, at the end, where the first stage refused documents. All that was encoded is stored at KeyboardInterrupt,
    too, and when the first stage is lost.
    """
    check_encoder(encoder, recipe)
    with writing(folder, new_manifest(encoder, recipe, codec, sketches)) as writer:
        empty = writer.alone and is_empty(writer.manifest)
        if not empty:
            check_identity(writer, encoder, recipe, codec, sketches)
            writer.remember(model=identity.model_name(encoder), choices=identity.choices_made(encoder))
        stage = open_first_stage(first_stage, writer, empty or allow_other_index) if first_stage else None
        origin = stage.origin if stage else index.origin if index else None
        if empty:  # a first ingest that failed does not bind the next one
            writer.renew(new_manifest(encoder, recipe, codec, sketches, origin, writer.manifest.store_id, index_name))
        check_index(writer, origin, stage, index, index_name, allow_other_index)
        if origin is None:
            bm25 = embedded_index(writer)
            follow(writer, bm25)
            stage = Bm25FirstStage(bm25)
        writer.begin(getattr(documents, "name", ""))
        writer.share()
        before = writer.store()
        unposted = [segment.entry.file for segment in before.segments if not segment.entry.posted]
        report.owed = int(_live_in(before, unposted).sum())
        guarded = stage is not None and not stage.ours and not allow_other_index
        found = validated(documents, recipe, report.input)
        encode_all(found, before, writer, encoder, stage, guarded, report, progress)
        if stage:
            with report.timed("post"):
                stage.finish()
                if report.owed:
                    report.owed = _owed(writer.store(), unposted, stage)
        if not report.refused and not report.owed:
            writer.mark_posted(*unposted)
        with report.timed("write"):
            losses.settle(writer)
            writer.finish()
        if report.refused:
            raise BulkError(report.refused)
        return writer.manifest


def _live_in(store: Store, names: Collection[str]) -> npt.NDArray[np.bool_]:
    """Which live documents are in the segments of these names."""
    numbers = [number for number, segment in enumerate(store.segments) if segment.entry.file in names]
    return np.isin(store.index.columns[layout.SEGMENT_NUMBERS], numbers)


def _owed(store: Store, unposted: Collection[str], first_stage: FirstStage) -> int:
    """How many documents of these segments the index does not hold as they were ingested, by asking it for them."""
    ids = store.index.ids(_live_in(store, unposted))
    recipe = store.manifest.recipe
    held = {
        d.doc_id: (content_hash(recipe.content(d.fields)), fields_hash(d.doc_id, d.fields))
        for d in first_stage.fetch(ids)
    }
    return sum(
        held.get(i) != (s.content_hash, s.fields_hash) for i, s in zip(ids, store.describe(ids), strict=True) if s
    )


def encode_all(
    documents: Iterator[tuple[Document, str]],
    before: Store,
    writer: StoreWriter,
    encoder: Encoder,
    first_stage: FirstStage | None,
    guarded: bool,
    report: IngestReport,
    progress: Callable[[IngestReport], None],
) -> None:
    """Encode unit after unit here; seal and post each in the background, one at a time.

    ``before`` is the store as it was.
    """
    row_bytes = writer.manifest.dim * np.dtype(writer.manifest.vector_dtype).itemsize
    tokens_of = PAGE_TOKENS if writer.manifest.recipe.pages else UNIT_TOKENS
    limit = min(layout.UNIT_BYTES // row_bytes, tokens_of[encoder.device.type])
    hashed = first_stage is not None
    foreign = ForeignIndex(first_stage, before, writer.store) if first_stage and guarded else None
    sealing: Future[None] | None = None
    work: _Work | None = None  # at hand, until it is handed over
    matrices: dict[int, npt.NDArray[np.floating]] = {}
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="seal") as background:
        try:
            try:
                for work in _works(documents, before, encoder, limit, hashed, foreign, report, progress):
                    tokens = [t for t in work.tokens if t]
                    with report.timed("encode"):
                        dtype, recipe = writer.manifest.vector_dtype, writer.manifest.recipe
                        for batch in encoder.encode_batches(tokens, dtype, pool_factor=recipe.pool_factor):
                            matrices.update(batch)
                            report.encoded += len(batch)
                            report.rows += sum(map(len, batch.values()))
                            progress(report)
                    unit, postings = _unit(writer, before, work, matrices)
                    _wait(sealing)
                    sealing = background.submit(_seal, unit, postings, work.again, before, writer, first_stage, report)
                    work, matrices = None, {}
            except InputError:
                _wait(sealing)  # that what came before could not be stored is the graver error
                raise
            _wait(sealing)
        except (KeyboardInterrupt, OpenSearchError):
            if first_stage:
                first_stage.stop()  # what is left to post is posted when the ingest is started again
            last = None
            if work:
                _log.warning("storing what is encoded so far; an interrupt now gives that up")
                unit, postings = _unit(writer, before, work, matrices)
                last = background.submit(_seal, unit, postings, work.again, before, writer, first_stage, report)
            for future in (sealing, last):
                if future and isinstance(error := future.exception(), StoreWriteError):
                    raise error from None
            raise


def _wait(sealing: Future[None] | None) -> None:
    if sealing:
        sealing.result()


def _unit(
    writer: StoreWriter, before: Store, work: _Work, matrices: Mapping[int, npt.NDArray[np.floating]]
) -> tuple[Unit, list[Posting]]:
    """The documents of ``work`` that have their vectors: in ``matrices``, by number of those encoded, or stored."""
    unit, postings = writer.unit(), []
    kept = iter(before.stored_rows([r.document.doc_id for r in work.new if r.rows >= 0]))
    numbers = count()
    for document, text, digest, fields_digest, rows in work.new:
        vectors = matrices.get(next(numbers)) if rows < 0 else next(kept)
        if vectors is None:
            continue
        unit.add(
            document.doc_id,
            vectors,
            digest,
            fields_hash=fields_digest,
            seq_no=document.seq_no,
            primary_term=document.primary_term,
        )
        postings.append(Posting(document.doc_id, text, document.fields))
    return unit, postings


def _seal(
    unit: Unit,
    postings: Sequence[Posting],
    again: Sequence[Posting],
    before: Store,
    writer: StoreWriter,
    first_stage: FirstStage | None,
    report: IngestReport,
) -> None:
    """Vectors first: what the first stage can return has a matrix. Both in one order, of all who write to the store."""
    with ExitStack() as order:
        names = []
        if len(unit):
            with report.timed("write"):
                names = [order.enter_context(writer.committing(unit, posted=first_stage is None))]
            report.committed += len(unit)
        else:
            order.enter_context(writer.changing())
        if first_stage is None:
            return
        report.to_post += len(unit)
        owed = _still_owed(again, writer.store(), before) if again and writer.overtaken else again
        with report.timed("post"):
            try:
                first_stage.post([*owed, *postings], writer.manifest.content)
            except BulkError as error:
                report.refused.extend(error.failures)
                check_failures(report.refused)
                names = []
                report.posted -= len(error.failures)
        report.posted += len(again) + len(postings)
        writer.mark_posted(*names)


def _still_owed(again: Sequence[Posting], now: Store, before: Store) -> list[Posting]:
    """Without those that another process has replaced or deleted since."""
    at = now.lookup([posting.doc_id for posting in again])
    names = [segment.entry.file for segment in now.segments]
    files = before.manifest.files
    return [p for p, found, n in zip(again, at.found, at.segments, strict=True) if found and names[n] in files]


def _works(
    documents: Iterator[tuple[Document, str]],
    before: Store,
    encoder: Encoder,
    limit: int,
    hashed: bool,
    foreign: ForeignIndex | None,
    report: IngestReport,
    progress: Callable[[IngestReport], None],
) -> Iterator[_Work]:
    """Group documents into units of at most ``limit`` tokens, leaving out what is stored as it is.

    An input error ends the unit at hand first and is raised then, so that nothing before it is lost. So does a document
    that would replace another one in a ``foreign`` index.
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
        refused = {}
        if foreign:
            refused["id taken in the index"] = foreign.taken([document for document, _ in chunk])
        if encoder.checkpoint.reader:
            refused["unreadable page"] = unreadable(chunk, encoder)
        for cause, why in refused.items():
            chunk, refusal = without(chunk, why, cause, report.input)
            broken = refusal or broken
        fresh = _sift(chunk, before, hashed, work.again, report)
        with report.timed("tokenize"):
            stride = before.manifest.recipe.stride
            ready = iter(_tokenized(encoder, [read for read in fresh if read.rows < 0], stride))
        for read in fresh:
            one = next(ready) if read.rows < 0 else None
            size = one.size if one else read.rows
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


def _tokenized(encoder: Encoder, reads: Sequence[_Read], stride: int) -> list[Tokens]:
    """All are texts, or all are pages: `validated` has seen to that."""
    if not reads:
        return []
    pages = [read.document.page for read in reads if read.document.page is not None]
    texts = [read.text for read in reads]
    return encoder.tokenize_pages(pages) if pages else encoder.tokenize_documents(texts, stride=stride)


def _sift(
    chunk: Sequence[tuple[Document, str]], before: Store, hashed: bool, again: list[Posting], report: IngestReport
) -> list[_Read]:
    """The documents to store: new ones, and those whose text has changed, or (where ``hashed``) another field."""
    fresh = []
    stored = before.describe([document.doc_id for document, _ in chunk])
    for (document, text), known in zip(chunk, stored, strict=True):
        digest = content_hash(before.manifest.recipe.content(document.fields))
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
            report.again += hashed
    return fresh
