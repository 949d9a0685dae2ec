"""What a store takes: an ingest of the same model, recipe, dtype and index as those before; and which documents."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence

from colbert_rerank import binding, identity
from colbert_rerank.candidates import bm25
from colbert_rerank.encoder import Encoder
from colbert_rerank.errors import CheckpointError, IndexNotFoundError, InputError, StoreMismatchError, UsageError
from colbert_rerank.pooling import check_pooling
from colbert_rerank.recipe import Recipe, fields_hash
from colbert_rerank.store import Manifest, Store, StoreWriter, ids, layout
from colbert_rerank.store import manifest as manifests
from colbert_rerank.store.codecs import check_sketches
from colbert_rerank.store.ids import IdIndex
from colbert_rerank.store.unit import UNKNOWN
from colbert_rerank.types import BM25, Document, Index, Origin
from ingest.first_stage import FirstStage, FirstStageOpener
from ingest.validation import InputReport


def new_manifest(
    encoder: Encoder,
    recipe: Recipe,
    codec: str | None,
    sketches: str | None = None,
    origin: Origin | None = None,
    store_id: str = "",
    index_name: str = "",
) -> Manifest:
    """The manifest of an empty store that belongs to ``origin``, or to the BM25 index beside it.

    ``index_name`` is what the user calls that index, such as an alias.
    """
    check_sketches(codec or "float16", sketches or "", encoder.dim)
    store_id = store_id or uuid.uuid4().hex
    return Manifest(
        store_id=store_id,
        dim=encoder.dim,
        codec=codec or "float16",
        sketches=sketches or "",
        query_identity=identity.query_identity(encoder.checkpoint),
        document_identity=identity.document_identity(encoder.checkpoint, recipe),
        provenance=identity.provenance(encoder) | ({"index": index_name} if index_name else {}),
        origin=origin or bm25.origin_of(store_id),
    )


def is_empty(manifest: Manifest) -> bool:
    return not any(segment.documents for segment in manifest.segments)


def check_encoder(encoder: Encoder, recipe: Recipe) -> None:
    """Raises UsageError for a model that reads no such documents, CheckpointError for one that no one has trained."""
    if recipe.pages and recipe.stride:
        raise UsageError("windows are of long texts, and these documents are page images")
    encoder.tokenize_pages([]) if recipe.pages else encoder.tokenize_documents([], stride=recipe.stride)
    if recipe.pool_factor > 1:
        check_pooling()
    if not encoder.checkpoint.trained:
        raise CheckpointError(
            f"{encoder.checkpoint.name}: its projection was drawn at random and is not trained, so a store of its "
            "vectors could rank nothing. Train it first"
        )


def check_identity(
    writer: StoreWriter, encoder: Encoder, recipe: Recipe, codec: str | None, sketches: str | None
) -> None:
    """Raises StoreMismatchError for another model or recipe, and for other codecs where they are stated."""
    manifest, folder = writer.manifest, writer.folder
    advice = f"Ingest into another folder, or with what this store was made with ({identity.described(manifest)})"
    given = identity.query_identity(encoder.checkpoint)
    identity.check(folder, "model", manifest.query_identity, given, advice)
    given = identity.document_identity(encoder.checkpoint, recipe)
    identity.check(folder, "way of making texts", manifest.document_identity, given, advice)
    for what, held, asked in (("vectors", manifest.codec, codec), ("sketches", manifest.sketches, sketches)):
        if asked is not None and held != asked:
            raise StoreMismatchError(
                f"{folder}: holds {held or 'no'} {what}, {asked} was asked for. Leave the option out to go on with "
                "what it holds, or ingest into another folder"
            )


def open_first_stage(first_stage: FirstStageOpener, writer: StoreWriter, make: bool) -> FirstStage:
    """The index to fill. None is made for an ingest that would be refused, as it would be another than the store's."""
    try:
        return first_stage(make and writer.alone)
    except IndexNotFoundError:
        raise StoreMismatchError(
            f"{writer.folder}: belongs to {binding.named(writer.manifest.origin)}, and the index to fill is not there. "
            "To have it made and filled from this store, pass --allow-other-index; else ingest into another folder"
        ) from None


class ForeignIndex:
    """An index to fill that is not ours: what its owner, or another store, has put there is not replaced unasked.

    ``store`` tells what it has put there itself, as it was before this ingest, and ``now`` with what other processes
    have added to it since.
    """

    def __init__(self, first_stage: FirstStage, store: Store, now: Callable[[], Store]) -> None:
        self._now, self._newest = now, store
        self._first_stage = first_stage
        self._store = store
        self._posted = [segment for segment in store.segments if segment.entry.posted]
        self._places = IdIndex(ids.build([segment.columns for segment in self._posted]))

    def taken(self, documents: Sequence[Document]) -> dict[str, str]:
        """Of those to post under whose id there is another document than the store has put there, by id, why not."""
        new = {d.doc_id: fields_hash(d.doc_id, d.fields) for d in documents}
        stored = {i: s for i, s in zip(new, self._store.describe(list(new)), strict=True) if s}
        to_post = [i for i, h in new.items() if i not in stored or not stored[i].posted or stored[i].fields_hash != h]
        # what is stored may have been posted before that could be noted; or only what was stored before it was
        ours = {i: {new[i], *([stored[i].fields_hash] if i in stored else [])} for i in to_post}
        for doc_id, before in zip(to_post, self._posted_hashes(to_post), strict=True):
            ours[doc_id].add(before)
        there = {d.doc_id: fields_hash(d.doc_id, d.fields) for d in self._first_stage.fetch(to_post)}
        others = [i for i, held in there.items() if held not in ours[i]]
        if others:
            others = self._of_no_mate(others)
        index = binding.named(self._first_stage.origin)
        return {
            doc_id: f"{index} has another document {doc_id!r} already, which would be replaced. Give this one "
            "another id, or pass --allow-other-index to let it be replaced"
            for doc_id in others
        }

    def _of_no_mate(self, doc_ids: Sequence[str]) -> list[str]:
        """Those under whose id there is another document than this store holds by now."""
        there: dict[str, bytes] | None = None
        while there is None or manifests.load(self._store.folder).content != self._newest.manifest.content:
            self._newest = self._now()  # what is posted after this is committed after this, and seen above
            there = {d.doc_id: fields_hash(d.doc_id, d.fields) for d in self._first_stage.fetch(doc_ids)}
        stored = zip(doc_ids, self._newest.describe(doc_ids), strict=True)
        return [i for i, s in stored if i in there and not (s and s.fields_hash == there[i])]

    def _posted_hashes(self, doc_ids: Sequence[str]) -> Iterator[bytes]:
        """The hash of the fields that each document was last posted with; zeros, which is none, where it was not."""
        at = self._places.lookup(doc_ids)
        for found, number, ordinal in zip(at.found.tolist(), at.segments.tolist(), at.ordinals.tolist(), strict=True):
            hashes = self._posted[number].columns.get(layout.FIELD_HASHES) if found else None
            yield UNKNOWN if hashes is None else hashes[ordinal].tobytes()


def check_index(
    writer: StoreWriter,
    origin: Origin | None,
    first_stage: FirstStage | None,
    index: Index | None,
    index_name: str,
    allowed: bool,
) -> None:
    """Refuse an index that may hold other documents under the store's ids; rebind the store to one that may not."""
    manifest, folder = writer.manifest, writer.folder
    wanted = origin or bm25.origin_of(manifest.store_id)
    held = first_stage.count() if first_stage and not allowed and writer.alone else 0
    if manifest.origin and binding.same(manifest.origin, wanted):
        writer.extend(binding.joined(manifest.origin, wanted))
        if held and first_stage and first_stage.ours and is_empty(manifest):
            raise StoreMismatchError(
                f"{folder} is a new store, but {binding.named(wanted)} holds {held:,} documents already. To replace "
                "them would make the store they belong to wrong without a sound. Choose another --index; or, if that "
                "store is gone or of the same documents, pass --allow-other-index"
            )
        return
    if not writer.alone:
        raise StoreMismatchError(
            f"{folder}: another ingest into it is under way, with {binding.named(manifest.origin)}, not "
            f"{binding.named(wanted)}. Name the same index, or wait for it to end"
        )
    if not allowed:
        advice = "Ingest into another folder"
        if origin is None and manifest.origin and manifest.origin.kind != BM25:
            advice = "To go on with that one, give --opensearch URL. Else ingest into another folder"
        to_do = "to go on from it" if index else "to fill it from this store"
        raise StoreMismatchError(
            f"{folder}: belongs to {binding.named(manifest.origin)}, not to {binding.named(wanted)}. {advice}; or, if "
            f"the index was made again, pass --allow-other-index {to_do}"
        )
    compared = index or (first_stage if first_stage and first_stage.count() else None)
    if compared:
        binding.check_copy(Store(folder, manifest), compared)
    writer.rebind(wanted, index_name)


def unreadable(chunk: Sequence[tuple[Document, str]], encoder: Encoder) -> dict[str, str]:
    """Of pages that the model does not read, by id, why not."""
    found = {}
    for document, _ in chunk:
        try:
            if document.page is not None:
                encoder.tokenize_pages([document.page])
        except InputError as error:
            found[document.doc_id] = str(error)
    return found


def without(
    chunk: list[tuple[Document, str]], refused: Mapping[str, str], cause: str, report: InputReport
) -> tuple[list[tuple[Document, str]], InputError | None]:
    """Without the documents ``refused``, by id with the reason: up to the first, with its error, or all others."""
    kept = []
    for document, text in chunk:
        if document.doc_id not in refused:
            kept.append((document, text))
            continue
        report.accepted -= 1
        try:
            report.refuse(cause, refused[document.doc_id], document.where)
        except InputError as error:
            return kept, error
    return kept, None
