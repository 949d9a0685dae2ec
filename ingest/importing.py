"""Vectors that were made elsewhere, or exported from another store, become a store."""

from __future__ import annotations

import shutil
import uuid
from dataclasses import replace
from pathlib import Path

import numpy as np

from colbert_rerank import identity
from colbert_rerank.candidates.bm25 import origin_of
from colbert_rerank.depth import LONGEST
from colbert_rerank.encoder import Encoder
from colbert_rerank.errors import InputError, UsageError
from colbert_rerank.recipe import HASH_BYTES, Recipe
from colbert_rerank.store import files, layout, writing
from colbert_rerank.store.columns import Array
from colbert_rerank.store.exchange import DESCRIBED, IDS, Arrays, manifest_of, read_arrays
from colbert_rerank.store.manifest import Manifest
from colbert_rerank.types import BM25
from ingest.admission import new_manifest
from ingest.validation import id_problem


def import_arrays(
    source: Path, folder: Path, *, recipe: Recipe, model: str | None = None, codec: str | None = None
) -> int:
    """Make a store in ``folder`` of the arrays in ``source``; return the number of documents.

    What `export_arrays` wrote says itself what made it; of other vectors ``model`` and ``recipe`` do. A store that had
    a BM25 index beside it gets one by the next ingest, which encodes nothing again.

    Raises UsageError where there is a store already or no one says what made the vectors, InputError, NonFiniteError,
    StoreWriteError.
    """
    arrays = read_arrays(source)
    for number, doc_id in enumerate(arrays.ids):
        if problem := id_problem(doc_id):
            raise InputError(problem[1], where=f"{source / IDS}[{number}]")
    new = _manifest(arrays, source, model, recipe, codec or str(arrays.vectors.dtype))
    if arrays.vectors.shape[1] != new.dim:
        raise InputError(f"has {arrays.vectors.shape[1]} dimensions, the model makes {new.dim}", where=str(source))
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is there already, and not empty; import into a new folder")
    half = folder.with_name(f"{folder.name}.importing")  # it becomes the store when all of it is there
    shutil.rmtree(half, ignore_errors=True)
    try:
        _fill(half, new, arrays)
        files.move(half, folder)
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return len(arrays.ids)


def _fill(folder: Path, new: Manifest, arrays: Arrays) -> None:
    posted = new.origin is not None and new.origin.kind != BM25
    with writing(folder, new) as writer:
        writer.begin("import")
        unit, columns = writer.unit(), _columns(arrays)
        limit = layout.UNIT_BYTES // (new.dim * unit.dtype.itemsize)
        cosine = new.query_identity.get("similarity") == "cosine"
        for number, doc_id in enumerate(arrays.ids):
            begin, end = arrays.offsets[number : number + 2].tolist()
            if len(unit) and unit.rows + end - begin > limit:
                writer.commit(unit, posted=posted)
                unit = writer.unit()
            content, fields, seq_no, term = (column[number] for column in columns)
            unit.add(
                doc_id,
                arrays.vectors[begin:end],
                content.tobytes(),
                fields_hash=fields.tobytes(),
                seq_no=int(seq_no),
                primary_term=int(term),
            )
            longest = np.linalg.norm(arrays.vectors[begin:end].astype(np.float64), axis=1).max(initial=0)
            if cosine and longest > LONGEST:  # once in a store, no score would tell
                raise InputError(
                    f"document {doc_id!r} has a vector of length {longest:.3g}; the model's similarity is the cosine, "
                    "and its vectors have length 1. Normalize them, or name the model that made them"
                )
        if len(unit):
            writer.commit(unit, posted=posted)
        writer.finish()


def _manifest(arrays: Arrays, source: Path, model: str | None, recipe: Recipe, codec: str) -> Manifest:
    store_id = uuid.uuid4().hex
    if arrays.made_with is None:
        if model is None:
            raise UsageError(f"{source}: no store.json says what made these vectors; say it with --model and --fields")
        return new_manifest(Encoder.load(model), recipe, codec, store_id=store_id)
    made = manifest_of(arrays.made_with, store_id, codec)
    if model is not None:
        encoder = Encoder.load(model)
        advice = "Leave --model out, or name the one that made them"
        given = identity.query_identity(encoder.checkpoint)
        identity.check(source, "model", made.query_identity, given, advice)
    if made.origin is None or made.origin.kind == BM25:
        made = replace(made, origin=origin_of(store_id))
    return made


def _columns(arrays: Arrays) -> list[Array]:
    """Content hashes, fields hashes, sequence numbers and primary terms; zeros and -1 where no one says."""
    hashes, numbers = np.zeros((len(arrays.ids), HASH_BYTES), np.uint8), np.full(len(arrays.ids), -1)
    unknown = (hashes, hashes, numbers, numbers)
    return [arrays.described.get(name, column) for name, column in zip(DESCRIBED, unknown, strict=True)]
