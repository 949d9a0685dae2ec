"""Vectors that leave a store, and come back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from colbert_rerank.encoder import Encoder
from colbert_rerank.errors import IndexBehindError, InputError, NonFiniteError, StoreMismatchError, UsageError
from colbert_rerank.recipe import Recipe
from colbert_rerank.store import Store, exchange
from colbert_rerank.types import CODECS
from ingest.importing import import_arrays
from ingest.validation import id_problem
from tests.collection import bm25_of, documents, ingested
from tests.ingest.test_validation import BAD_IDS
from tests.store import stores

UNITS = [stores.random_docs([f"a{i}" for i in range(20)], 1), stores.random_docs(["a3", "b 日本", 'c"\\'], 2)]
MODEL = UNITS[0] | UNITS[1]
ROWS = sum(len(doc.matrix) for doc in MODEL.values())
RECIPE = Recipe(("text",))
MADE = {
    "dim": 8,
    "origin": None,
    "provenance": {},
    "query_identity": {"dim": 8},
    "document_identity": {"fields": ["text"], "separator": " "},
}

NOT_CLOSED = b"\x93NUMPY\x01\x00" + (80).to_bytes(2, "little") + b"{'descr': '<i8'".ljust(80)


def falling(dtype: str) -> npt.NDArray[np.integer]:
    """Offsets that begin and end where they should."""
    return np.array([0, ROWS, 1, *[ROWS] * 20], dtype)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    stores.make(tmp_path / "store", UNITS, merge=False)
    return Store.open(tmp_path / "store")


@pytest.fixture
def arrays(store: Store, tmp_path: Path) -> Path:
    exchange.export_arrays(store, tmp_path / "arrays")
    return tmp_path / "arrays"


def test_arrays_are_what_numpy_reads(arrays: Path) -> None:
    ids = json.loads((arrays / "ids.json").read_text(encoding="utf-8"))
    vectors, offsets = np.load(arrays / "vectors.npy"), np.load(arrays / "offsets.npy")
    assert sorted(ids) == sorted(MODEL)
    assert vectors.dtype == np.float16
    for i, doc_id in enumerate(ids):
        assert np.array_equal(vectors[offsets[i] : offsets[i + 1]], MODEL[doc_id].matrix)


def test_what_is_exported_is_imported(arrays: Path, tmp_path: Path, store: Store) -> None:
    assert import_arrays(arrays, tmp_path / "again", recipe=RECIPE) == len(MODEL)
    again = Store.open(tmp_path / "again", verify="open")
    stores.assert_holds(again, MODEL)
    assert again.manifest.query_identity == store.manifest.query_identity
    assert again.manifest.document_identity == store.manifest.document_identity
    assert again.manifest.store_id != store.manifest.store_id


@pytest.mark.parametrize("codec", CODECS)
def test_into_any_codec(arrays: Path, tmp_path: Path, codec: str) -> None:
    import_arrays(arrays, tmp_path / "again", recipe=RECIPE, codec=codec)
    again = Store.open(tmp_path / "again", verify="open")
    assert (again.manifest.codec, len(again)) == (codec, len(MODEL))


def test_some_documents(store: Store, tmp_path: Path) -> None:
    assert exchange.export_arrays(store, tmp_path / "some", ["b 日本", "a3"]) == 2
    found = exchange.read_arrays(tmp_path / "some")
    assert found.ids == ["b 日本", "a3"]
    with pytest.raises(InputError, match=r"the store holds no document 'x' \(2 ids are not there\)"):
        exchange.export_arrays(store, tmp_path / "none", ["a3", "x", "y"])
    assert not (tmp_path / "none").exists()
    with pytest.raises(UsageError, match="is there already"):
        exchange.export_arrays(store, tmp_path / "some")


def test_an_empty_store(tmp_path: Path) -> None:
    stores.make(tmp_path / "store", [{"a": UNITS[0]["a0"]}])
    store = Store.open(tmp_path / "store")
    assert exchange.export_arrays(store, tmp_path / "none", []) == 0
    assert import_arrays(tmp_path / "none", tmp_path / "again", recipe=RECIPE) == 0


def test_bodies_of_bulk_hold_the_same_numbers(store: Store) -> None:
    found = {}
    for body in exchange.export_bulk(store, 'the "field"'):
        action, document, end = body.split("\n")
        assert end == ""
        (name, rows), *others = json.loads(document)["doc"].items()
        assert (name, others) == ('the "field"', [])
        found[json.loads(action)["update"]["_id"]] = np.array(rows, np.float32).reshape(-1, 8)
    assert found.keys() == MODEL.keys()
    assert all(np.array_equal(found[i], MODEL[i].matrix.astype(np.float32)) for i in MODEL)


def test_lists_for_pylate(store: Store, tmp_path: Path) -> None:
    assert exchange.export_pylate(store, tmp_path / "vectors.pt", ["a5", "a3"]) == 2
    loaded = torch.load(tmp_path / "vectors.pt", weights_only=True)
    assert loaded["documents_ids"] == ["a5", "a3"]
    for doc_id, tensor in zip(["a5", "a3"], loaded["documents_embeddings"], strict=True):
        assert np.array_equal(tensor.numpy(), MODEL[doc_id].matrix.astype(np.float32))


def broken(arrays: Path, name: str, content: object) -> Path:
    if isinstance(content, np.ndarray):
        np.save(arrays / name, content)
    elif content is None:
        (arrays / name).unlink()
    elif isinstance(content, bytes):
        (arrays / name).write_bytes(content)
    else:
        (arrays / name).write_text(json.dumps(content), encoding="utf-8")
    return arrays


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vectors.npy", None, "not a folder of arrays"),
        ("ids.json", None, "not a folder of arrays"),
        ("ids.json", ["a", "a"], "must be a list of texts, each once"),
        ("ids.json", [1, 2], "must be a list of texts, each once"),
        ("ids.json", 7, "must be a list of texts, each once"),
        ("ids.json", ["a"], r"offsets.npy: is int64 \[23\], expected int64 \[2\]"),
        ("ids.json", b'["a"', r"ids.json: cannot be read \(Expecting ',' .*, expected JSON in UTF-8"),
        ("ids.json", b'["\xff"]', r"ids.json: cannot be read \('utf-8' codec can't decode"),
        ("ids.json", b"[" * 100_000, "ids.json: cannot be read"),
        ("vectors.npy", np.zeros((3, 8)), r"vectors.npy: is float64 \[3, 8\]"),
        ("vectors.npy", np.zeros(3, np.float16), "expected float16 or float32"),
        ("vectors.npy", np.ones((), np.float32), "expected float16 or float32"),
        ("vectors.npy", b"", r"vectors.npy: cannot be read \(No data left in file\)"),
        ("vectors.npy", b"PK\x05\x06" + bytes(18), r"vectors.npy: cannot be read \(an archive\), expected one array"),
        ("offsets.npy", NOT_CLOSED, "offsets.npy: cannot be read"),
        ("offsets.npy", np.zeros(23), r"offsets.npy: is float64 \[23\], expected int64 \[23\]"),
        ("offsets.npy", np.zeros((), np.int64), r"offsets.npy: is int64 \[\], expected int64 \[23\]"),
        ("offsets.npy", np.zeros(23, "m8[s]"), r"is timedelta64\[s\] \[23\], expected int64 \[23\]"),
        ("offsets.npy", np.zeros(23, bool), r"is bool \[23\], expected int64 \[23\]"),
        ("offsets.npy", np.zeros(23, object), "offsets.npy: cannot be read"),
        ("offsets.npy", np.arange(23), f"offsets.npy: must rise from 0 to {ROWS}, the number of vectors"),
        ("offsets.npy", falling("i8"), f"must rise from 0 to {ROWS}"),
        ("offsets.npy", falling("u4"), f"must rise from 0 to {ROWS}"),
        ("content_hashes.npy", np.zeros((), "u1"), r"content_hashes.npy: is uint8 \[\], expected uint8 \[22, 16\]"),
        ("content_hashes.npy", np.zeros((22, 8), "u1"), r"is uint8 \[22, 8\], expected uint8 \[22, 16\]"),
        ("content_hashes.npy", np.zeros((22, 16)), r"is float64 \[22, 16\], expected uint8 \[22, 16\]"),
        ("fields_hashes.npy", np.full(22, "a"), r"fields_hashes.npy: is <U1 \[22\], expected uint8 \[22, 16\]"),
        ("fields_hashes.npy", np.full(22, None), "fields_hashes.npy: cannot be read"),
        ("seq_nos.npy", np.zeros(3), r"seq_nos.npy: is float64 \[3\], expected int64 \[22\]"),
        ("seq_nos.npy", np.zeros((), "i8"), r"seq_nos.npy: is int64 \[\], expected int64 \[22\]"),
        ("seq_nos.npy", np.full(22, np.nan), r"seq_nos.npy: is float64 \[22\], expected int64 \[22\]"),
        ("seq_nos.npy", np.full(22, 1 << 63, "u8"), r"seq_nos.npy: is uint64 \[22\], expected int64 \[22\]"),
        ("seq_nos.npy", np.full(22, -2), r"seq_nos.npy: holds -2, expected -1 \(unknown\) or more"),
        ("primary_terms.npy", np.full(22, "7"), r"primary_terms.npy: is <U1 \[22\], expected int64 \[22\]"),
        ("store.json", b"{", r"store.json: cannot be read \(Expecting property name"),
        ("store.json", {"dim": 8}, "does not say what the vectors were made with"),
        ("store.json", [], "does not say what the vectors were made with"),
        ("store.json", MADE | {"document_identity": {}}, "does not say what the vectors were made with"),
        ("store.json", MADE | {"query_identity": {}}, "it names no fields, or no model"),
        ("store.json", MADE | {"dim": float("inf")}, "does not say what the vectors were made with"),
        ("store.json", MADE | {"origin": [1, 2, 3]}, "a name in it is no text"),
        ("store.json", MADE | {"document_identity": {"fields": [7], "separator": " "}}, "a name in it is no text"),
    ],
)
def test_arrays_that_do_not_fit(arrays: Path, tmp_path: Path, name: str, content: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        import_arrays(broken(arrays, name, content), tmp_path / "again", recipe=RECIPE)
    assert not (tmp_path / "again").exists()


def test_vectors_longer_than_a_cosine_has_them(arrays: Path, tmp_path: Path) -> None:
    vectors = np.load(arrays / "vectors.npy").astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[3] *= 3
    np.save(arrays / "vectors.npy", vectors)
    made = json.loads((arrays / "store.json").read_text(encoding="utf-8"))
    made["query_identity"]["similarity"] = "cosine"
    with pytest.raises(InputError, match="has a vector of length 3; the model's similarity is the cosine"):
        import_arrays(broken(arrays, "store.json", made), tmp_path / "again", recipe=RECIPE)
    assert not (tmp_path / "again").exists()
    made["query_identity"]["similarity"] = "dot"
    assert import_arrays(broken(arrays, "store.json", made), tmp_path / "again", recipe=RECIPE) == len(MODEL)


@pytest.mark.parametrize("doc_id", [one[0] for one in BAD_IDS.values()], ids=BAD_IDS)
def test_ids_that_an_ingest_refuses(arrays: Path, tmp_path: Path, doc_id: str) -> None:
    ids = json.loads((arrays / "ids.json").read_text(encoding="utf-8"))
    ids[7] = doc_id
    _, message = id_problem(doc_id) or ("", "")
    with pytest.raises(InputError) as refusal:
        import_arrays(broken(arrays, "ids.json", ids), tmp_path / "again", recipe=RECIPE)
    assert str(refusal.value) == f"{arrays / 'ids.json'}[7]: {message}"
    assert not (tmp_path / "again").exists()


def test_nothing_is_imported_over_a_store(arrays: Path, store: Store) -> None:
    with pytest.raises(UsageError, match="is there already, and not empty"):
        import_arrays(arrays, store.folder, recipe=RECIPE)
    stores.assert_holds(Store.open(store.folder), MODEL)


def test_vectors_that_are_no_numbers(arrays: Path, tmp_path: Path) -> None:
    vectors = np.load(arrays / "vectors.npy")
    vectors[5, 3] = np.nan
    np.save(arrays / "vectors.npy", vectors)
    with pytest.raises(NonFiniteError, match="its vectors hold NaN"):
        import_arrays(arrays, tmp_path / "again", recipe=RECIPE)
    assert not [*tmp_path.glob("again*")], "nothing is left of it"


def test_vectors_made_elsewhere(tmp_path: Path, tiny: Path, tiny_encoder: Encoder) -> None:
    some = list(documents(5))
    ours = ingested(tmp_path / "store", tiny_encoder, some, recipe=RECIPE)
    exchange.export_arrays(ours, tmp_path / "arrays")
    for name in ("store.json", *exchange.DESCRIBED):
        (tmp_path / "arrays" / name).unlink()
    with pytest.raises(UsageError, match="say it with --model and --fields"):
        import_arrays(tmp_path / "arrays", tmp_path / "again", recipe=RECIPE)
    import_arrays(tmp_path / "arrays", tmp_path / "again", model=str(tiny), recipe=RECIPE)
    again = Store.open(tmp_path / "again")
    assert again.manifest.query_identity == ours.manifest.query_identity
    ids = [d.doc_id for d in some]
    assert np.array_equal(again.gather(ids).values, ours.gather(ids).values)


def test_an_imported_store_gets_its_bm25_index_without_encoding(tmp_path: Path, tiny_encoder: Encoder) -> None:
    some = list(documents(8))
    exchange.export_arrays(ingested(tmp_path / "store", tiny_encoder, some, recipe=RECIPE), tmp_path / "arrays")
    import_arrays(tmp_path / "arrays", tmp_path / "again", recipe=RECIPE)
    before = Store.open(tmp_path / "again").manifest.segments[0].columns
    with pytest.raises(IndexBehindError, match=r"no BM25 index yet, as after `store import`\. Ingest its documents"):
        bm25_of(Store.open(tmp_path / "again"))
    after = ingested(tmp_path / "again", tiny_encoder, some, recipe=RECIPE).manifest
    assert [s.columns for s in after.segments] == [before]
    assert after.complete
    assert len(bm25_of(Store.open(tmp_path / "again"))) == 8


def test_another_model_than_made_them_is_refused(tmp_path: Path, tiny_encoder: Encoder) -> None:
    ingested(tmp_path / "store", tiny_encoder, list(documents(3)), recipe=RECIPE)
    exchange.export_arrays(Store.open(tmp_path / "store"), tmp_path / "arrays")
    with pytest.raises(StoreMismatchError, match="Leave --model out, or name the one that made them"):
        import_arrays(tmp_path / "arrays", tmp_path / "again", model="starter", recipe=RECIPE)
    shutil.rmtree(tmp_path / "arrays")
