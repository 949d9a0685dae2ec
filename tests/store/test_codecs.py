"""Codecs against what docs/store-format.md says of them, in plain Python; and scores against decoded vectors."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colbert_rerank.errors import NonFiniteError, UsageError
from colbert_rerank.maxsim import packed, reference
from colbert_rerank.store import Store, codebook, codecs, layout, writing
from colbert_rerank.store.codecs import Codec
from colbert_rerank.types import CODECS, RESIDUALS
from tests.store import stores
from tests.store.stores import Doc

LOSSY = [name for name in CODECS if name not in ("float16", "float32")]
Matrix = npt.NDArray[np.float32]


def vectors(seed: int, count: int, dim: int, scale: float = 1.0, *, unit_length: bool = False) -> Matrix:
    found = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32) * np.float32(scale)
    return found / np.linalg.norm(found, axis=1, keepdims=True) if unit_length else found


def make_codec(name: str, dim: int, *, unit_length: bool = False, scale: float = 1.0) -> Codec:
    if name not in RESIDUALS:
        return codecs.plain(name, dim)
    sample = vectors(99, 500, dim, scale, unit_length=unit_length)
    return codecs.Residual(name, codebook.train(name, sample, len(sample)))


def codes_of(data: bytes, bits: int, dim: int) -> list[int]:
    """The first of them in the highest bits of the first byte."""
    whole = int.from_bytes(data, "big")
    width = 8 * len(data)
    return [(whole >> (width - (i + 1) * bits)) & ((1 << bits) - 1) for i in range(dim)]


def by_the_book(codec: Codec, row: bytes) -> list[float]:
    """One row decoded, by docs/store-format.md."""
    dim = codec.dim
    if codec.name == "float32":
        return list(struct.unpack(f"<{dim}f", row))
    if codec.name == "float16":
        return list(struct.unpack(f"<{dim}e", row))
    if codec.name == "int8":
        *steps, scale = struct.unpack(f"<{dim}bf", row)
        return [step * scale for step in steps]
    if codec.name == "binary":
        (scale,) = struct.unpack("<f", row[-4:])
        return [scale if code else -scale for code in codes_of(row[:-4], 1, dim)]
    assert isinstance(codec, codecs.Residual)
    (number,) = struct.unpack("<H", row[:2])
    weights = codec.book.weights.tolist()
    centroid = codec.book.centroids[number].tolist()
    decoded = [c + weights[code] for c, code in zip(centroid, codes_of(row[2:], codec.bits, dim), strict=True)]
    length = math.sqrt(sum(x * x for x in decoded)) if codec.book.unit_length else 1.0
    return [x / length for x in decoded]


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize(
    ("dim", "scale", "unit_length"), [(16, 1, True), (13, 1, True), (5, 300, False), (32, 1e-3, False)]
)
def test_rows_are_what_the_format_says(name: str, dim: int, scale: float, unit_length: bool) -> None:
    codec = make_codec(name, dim, unit_length=unit_length, scale=scale)
    given = vectors(1, 70, dim, scale, unit_length=unit_length)
    rows = codecs.encode(codec, given)
    assert rows.shape == (70, codec.width)
    assert (codec.width, codec.dtype) == codecs.row_of(name, dim)
    expected = [by_the_book(codec, row.tobytes()) for row in rows]
    np.testing.assert_allclose(codecs.decode(codec, rows), expected, rtol=1e-5, atol=1e-6 * scale)


# A bound on the length of the difference, relative to the vector's: what each codec is for.
@pytest.mark.parametrize(("name", "most"), [("float16", 1e-3), ("int8", 0.03), ("residual4", 0.25), ("residual2", 0.6)])
@pytest.mark.parametrize("scale", [1, 300])
def test_decoded_vectors_are_near(name: str, most: float, scale: float) -> None:
    codec = make_codec(name, 64, scale=scale)
    given = vectors(2, 200, 64, scale)
    off = codecs.distances(codec, given, codecs.encode(codec, given)) / np.linalg.norm(given, axis=1)
    assert off.max() < most


def test_more_bits_are_nearer() -> None:
    given = vectors(3, 300, 32, unit_length=True)
    means = [
        codecs.distances(codec, given, codecs.encode(codec, given)).mean()
        for codec in (
            make_codec(name, 32, unit_length=True) for name in ("int8", "residual4", "residual2", "residual1")
        )
    ]
    assert means == sorted(means)


@pytest.mark.parametrize("name", LOSSY)
def test_edges(name: str) -> None:
    codec = make_codec(name, 8)
    given = np.array([[0.0] * 8, [-0.0] * 8, [1e-44] * 8, [3e38] * 8, [-3e38, 1, 0, 0, 0, 0, 0, 3e38]], np.float32)
    if name in RESIDUALS:
        given = given[:3]  # a residual codec is for vectors such as it has learnt of
    decoded = codecs.decode(codec, codecs.encode(codec, given))
    assert np.isfinite(decoded).all()
    if name in ("int8", "binary"):
        assert not decoded[:2].any(), "zero is zero"
    assert codecs.encode(codec, given[:0]).shape == (0, codec.width)
    assert codecs.decode(codec, codecs.encode(codec, given[:0])).shape == (0, 8)


def test_int8_is_exact_where_the_steps_are() -> None:
    given = np.arange(-127, 128, dtype=np.float32)[None].repeat(2, axis=0) * np.array([[0.5], [64]], np.float32)
    codec = codecs.plain("int8", 255)
    assert np.array_equal(codecs.decode(codec, codecs.encode(codec, given)), given)


@given(
    name=st.sampled_from(CODECS),
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=8),
    dim=st.integers(1, 20),
    similarity=st.sampled_from(["dot", "l2"]),
    tile=st.sampled_from([1, 3, 64]),
    unit_length=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_scores_are_those_of_decoded_vectors(
    name: str, lengths: list[int], dim: int, similarity: str, tile: int, unit_length: bool
) -> None:
    codec = make_codec(name, dim, unit_length=unit_length)
    offsets = np.cumsum([0, *lengths])
    rows = codecs.encode(codec, vectors(5, int(offsets[-1]), dim, unit_length=unit_length))
    query = vectors(6, 4, dim)
    decoded = np.array([by_the_book(codec, row.tobytes()) for row in rows]).reshape(-1, dim)
    expected = reference.scores(query, decoded, offsets, similarity)
    found = packed.scores(query, rows, offsets, "cpu", similarity, tile=tile, codec=codec)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def docs_of(seed: int, ids: list[str], *, dim: int = 16, rows: int = 9) -> dict[str, Doc]:
    rng = np.random.default_rng(seed)
    found = {i: vectors(seed * 1000 + n, int(rng.integers(0, rows)), dim, unit_length=True) for n, i in enumerate(ids)}
    return {i: Doc(matrix, rng.bytes(16), seed, 1, rng.bytes(16)) for i, matrix in found.items()}


def make(folder: Path, codec: str, sketches: str = "", units: int = 3) -> dict[str, Doc]:
    new = stores.new_manifest(16, codec, sketches)
    model: dict[str, Doc] = {}
    with writing(folder, new) as writer:
        for seed in range(units):
            docs = docs_of(seed, [f"d{i}" for i in range(seed * 20, seed * 20 + 30)])  # some replace others
            stores.commit(writer, docs)
            model |= docs
        writer.finish()
    return model


def matrices(store: Store, ids: list[str], *, sketches: bool = False) -> dict[str, Any]:
    gathered = store.gather(ids, sketches=sketches)
    assert gathered.found.all()
    return dict(zip(ids, gathered.matrices(), strict=True))


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("sketches", ["", "residual1", "binary"])
def test_a_store_of_each(tmp_path: Path, name: str, sketches: str) -> None:
    model = make(tmp_path, name, sketches)
    store = Store.open(tmp_path, verify="open")
    assert (store.manifest.codec, store.manifest.sketches, len(store)) == (name, sketches, len(model))
    found = matrices(store, list(model))
    rows = dict(zip(model, store.stored_rows(list(model)), strict=True))
    for doc_id, doc in model.items():
        assert found[doc_id].shape == doc.matrix.shape
        off = np.linalg.norm(found[doc_id] - doc.matrix, axis=1).max(initial=0)
        if name in LOSSY:
            assert off <= rows[doc_id].errors[layout.MAX_ERRORS] <= off * (1 + 1e-4) + 1e-6
        else:
            assert off <= (1e-3 if name == "float16" else 0)
    if sketches:
        for doc_id, sketch in matrices(store, list(model), sketches=True).items():
            off = np.linalg.norm(found[doc_id] - sketch, axis=1).max(initial=0)
            assert off <= rows[doc_id].errors[layout.SKETCH_ERRORS] <= off * (1 + 1e-4) + 1e-6
    else:
        with pytest.raises(UsageError, match="has no sketches"):
            store.gather(list(model), sketches=True)


def test_scores_are_off_by_no_more_than_the_errors_say(tmp_path: Path) -> None:
    model = make(tmp_path, "residual2")
    store = Store.open(tmp_path)
    query = vectors(7, 5, 16, unit_length=True)
    gathered = store.gather(list(model))
    found = packed.scores(query, gathered.values, gathered.offsets, codec=gathered.codec)
    for doc_id, score, stored in zip(model, found.tolist(), store.stored_rows(list(model)), strict=True):
        if len(model[doc_id].matrix):
            bound = stored.errors[layout.MAX_ERRORS] * np.linalg.norm(query, axis=1).sum()
            assert abs(score - reference.maxsim(query, model[doc_id].matrix)) <= bound + 1e-5


def test_rows_that_are_stored_are_put_into_another_unit_as_they_are(tmp_path: Path) -> None:
    model = make(tmp_path, "residual2", "binary")
    before = Store.open(tmp_path)
    kept, new = list(model)[:20], docs_of(9, ["x", "y"])
    stored = before.stored_rows(kept)
    with writing(tmp_path, before.manifest) as writer:
        unit = writer.unit()
        for doc_id, rows in zip(kept[:10], stored[:10], strict=True):
            unit.add(doc_id, rows, b"another content.")
        for doc_id, doc in new.items():
            stores.add(unit, doc_id, doc)
        for doc_id, rows in zip(kept[10:], stored[10:], strict=True):
            unit.add(doc_id, rows, b"another content.")
        writer.commit(unit, posted=True)
        writer.finish()
    after = Store.open(tmp_path, verify="open")
    for one, other in zip(stored, after.stored_rows(kept), strict=True):
        assert one.errors == other.errors
        assert all(np.array_equal(one.rows[name], other.rows[name]) for name in one.rows)
    assert [s.content_hash for s in after.describe(kept) if s] == [b"another content."] * 20
    assert [m.shape for m in matrices(after, ["x", "y"]).values()] == [d.matrix.shape for d in new.values()]


def test_errors_that_are_not_known_stay_so(tmp_path: Path) -> None:
    model = make(tmp_path, "residual2", "binary")
    before = Store.open(tmp_path)
    (stored,) = before.stored_rows(list(model)[:1])
    with writing(tmp_path, before.manifest) as writer:
        unit = writer.unit()
        unit.add("old", stored._replace(errors={}), bytes(16))
        stores.add(unit, "new", next(doc for doc in model.values() if len(doc.matrix)))
        writer.commit(unit, posted=True)
        writer.finish()
    old, new = Store.open(tmp_path).stored_rows(["old", "new"])
    for name in (layout.MAX_ERRORS, layout.SKETCH_ERRORS):
        assert (old.errors[name], 0 < new.errors[name] < math.inf) == (math.inf, True)


@pytest.mark.parametrize("name", [n for n in CODECS if n != "float32"])
def test_a_store_is_compacted_to_another_codec(tmp_path: Path, name: str) -> None:
    model, sketches = make(tmp_path, "float32"), "" if name == "residual1" else "residual1"
    with writing(tmp_path, Store.open(tmp_path).manifest) as writer:
        writer.compact(name, sketches)
    store = Store.open(tmp_path, verify="open")
    assert (store.manifest.codec, store.manifest.sketches) == (name, sketches)
    exact = codecs.decode(
        codec := store.codec, codecs.encode(codec, np.concatenate([d.matrix for d in model.values()]))
    )
    assert np.array_equal(np.concatenate(store.gather(list(model)).matrices()), exact)
    described = {i: s.content_hash for i, s in zip(model, store.describe(list(model)), strict=True) if s}
    assert described == {i: d.content_hash for i, d in model.items()}
    assert {p.name for p in (tmp_path / layout.SEGMENTS).iterdir()} == store.manifest.files


def test_what_is_coded_is_not_coded_otherwise(tmp_path: Path) -> None:
    make(tmp_path, "int8")
    before = Store.open(tmp_path).manifest
    with (
        pytest.raises(UsageError, match="coded as int8, and to code them as binary would lose twice"),
        writing(tmp_path, before) as writer,
    ):
        writer.compact("binary")
    assert Store.open(tmp_path).manifest == before


@pytest.mark.parametrize("name", [n for n in CODECS if n not in ("residual1", "binary")])
def test_sketches_are_made_anew_and_vectors_stay_as_they_are(tmp_path: Path, name: str) -> None:
    model = make(tmp_path, name)
    before = Store.open(tmp_path).stored_rows(list(model))
    for sketches in ("residual1", "", *(("binary", "binary") if name != "residual2" else ())):
        with writing(tmp_path, Store.open(tmp_path).manifest) as writer:
            writer.compact(sketches=sketches)
        store = Store.open(tmp_path, verify="open")
        assert store.manifest.sketches == sketches
        for one, other in zip(before, store.stored_rows(list(model)), strict=True):
            assert np.array_equal(one.rows[layout.VALUES], other.rows[layout.VALUES])
            assert one.errors.get(layout.MAX_ERRORS) == other.errors.get(layout.MAX_ERRORS)


def test_sketches_that_save_nothing_are_refused(tmp_path: Path) -> None:
    make(tmp_path, "int8")
    before = Store.open(tmp_path).manifest
    for sketches in ("int8", "float16", "float32"):
        with (
            writing(tmp_path, before) as writer,
            pytest.raises(UsageError, match="are not smaller than vectors of int8"),
        ):
            writer.compact(sketches=sketches)
    assert Store.open(tmp_path).manifest == before


def test_numbers_that_another_codec_cannot_hold_change_nothing(tmp_path: Path) -> None:
    doc = Doc(np.array([[1e5, 1, 2, 3]], np.float32))
    with writing(tmp_path, stores.new_manifest(4, "float32")) as writer:
        stores.commit(writer, {"a": doc})
        writer.finish()
        before = writer.manifest
        with pytest.raises(NonFiniteError, match="what float16 cannot hold"):
            writer.compact("float16")
    assert Store.open(tmp_path).manifest == before
    stores.assert_holds(Store.open(tmp_path), {"a": doc})


def test_a_codebook_learnt_of_little_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path, "residual2")
    (record,) = (r for r in caplog.records if r.levelname == "WARNING")
    assert "is learnt of" in record.message
    assert "store compact --codec residual2" in record.message
