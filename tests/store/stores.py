"""Small stores for the tests, and the plain dict that they are compared with."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from colbert_rerank.store import Manifest, Store, Stored, StoreWriter, layout, writing
from colbert_rerank.store.unit import UNKNOWN, Unit

BLANK = "0" * 16


class Doc(NamedTuple):
    """What a store is to hold under one id."""

    matrix: npt.NDArray[Any]
    content_hash: bytes = bytes(16)
    seq_no: int = -1
    primary_term: int = -1
    fields_hash: bytes = UNKNOWN


def new_manifest(dim: int = 8, codec: str = "float16", sketches: str = "") -> Manifest:
    identity = {"fields": ["title", "text"], "separator": " "}
    provenance = {"model": "tests"}
    return Manifest("a store of the tests", dim, codec, {"dim": dim}, identity, provenance, sketches=sketches)


def random_docs(
    ids: Sequence[str], seed: int, *, dim: int = 8, dtype: str = "float16", rows: int = 5
) -> dict[str, Doc]:
    """Documents of 0 to ``rows`` rows that differ in every value between seeds."""
    rng = np.random.default_rng(seed)
    return {
        doc_id: Doc(
            rng.standard_normal((i % (rows + 1), dim)).astype(dtype),
            rng.bytes(16),
            seed * 1000 + i,
            seed,
            rng.bytes(16) if i % 3 else UNKNOWN,
        )
        for i, doc_id in enumerate(ids)
    }


def commit(writer: StoreWriter, docs: Mapping[str, Doc], *, posted: bool = True) -> str:
    unit = writer.unit()
    for doc_id, doc in docs.items():
        add(unit, doc_id, doc)
    return writer.commit(unit, posted=posted)


def add(unit: Unit, doc_id: str, doc: Doc) -> None:
    unit.add(
        doc_id,
        doc.matrix,
        doc.content_hash,
        fields_hash=doc.fields_hash,
        seq_no=doc.seq_no,
        primary_term=doc.primary_term,
    )


def make(folder: Path, units: Sequence[Mapping[str, Doc]], *, merge: bool = True, finish: bool = True) -> None:
    """A store of ``units``; without ``merge`` each stays a segment of its own."""
    first = next(iter(units[0].values())).matrix
    with writing(folder, new_manifest(first.shape[1], str(first.dtype))) as writer:
        for number, docs in enumerate(units):
            commit(writer, docs, posted=merge or number % 2 == 0)  # what differs in this is not merged
        if finish:
            writer.finish()


def assert_holds(store: Store, model: Mapping[str, Doc], ids: Sequence[str] | None = None) -> None:
    """The store gives for ``ids`` (all of the model's, unless told) what the model holds, bit for bit."""
    asked = list(model) if ids is None else list(ids)
    known = [doc_id for doc_id in asked if doc_id in model]
    at = store.lookup(asked)
    assert at.found.tolist() == [doc_id in model for doc_id in asked]
    assert at.row_counts[at.found].tolist() == [len(model[doc_id].matrix) for doc_id in known]

    gathered = store.gather(asked)
    assert gathered.found.tolist() == at.found.tolist()
    assert gathered.values.dtype == np.dtype(store.manifest.vector_dtype)
    assert gathered.values.shape == (sum(len(model[i].matrix) for i in known), store.manifest.dim)
    assert gathered.offsets.tolist() == np.cumsum([0, *(len(model[i].matrix) for i in known)]).tolist()
    assert gathered.values.tobytes() == b"".join(model[i].matrix.tobytes() for i in known)

    for doc_id, stored in zip(asked, store.describe(asked), strict=True):
        assert (stored is None) == (doc_id not in model)
        if stored:
            doc = model[doc_id]
            assert stored == Stored(
                doc.content_hash, doc.fields_hash, doc.seq_no, doc.primary_term, len(doc.matrix), stored.posted
            )
    if ids is None:
        assert len(store) == len(model)
        assert sorted(store.index.ids()) == sorted(model)


def read_manifest(folder: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((folder / layout.MANIFEST).read_bytes())
    return data


def sign(folder: Path, data: Mapping[str, Any]) -> None:
    """Write a manifest with the checksum that docs/store-format.md defines, by code of its own."""
    blank = json.dumps({**data, "checksum": BLANK}, sort_keys=True)
    text = blank.replace(BLANK, xxhash.xxh3_64_hexdigest(blank.encode()), 1)
    (folder / layout.MANIFEST).write_text(text, encoding="utf-8")


def edit(path: Path, change: Callable[[bytearray], None]) -> None:
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)


def segment_files(folder: Path) -> list[Path]:
    """The listed segments, in the manifest's order."""
    return [folder / layout.SEGMENTS / entry["file"] for entry in read_manifest(folder)["segments"]]


def index_file(folder: Path) -> Path:
    return folder / layout.SEGMENTS / str(read_manifest(folder)["index"]["file"])
