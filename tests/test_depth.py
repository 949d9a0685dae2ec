"""Adaptive depth: the first places are those of exact scores, whatever the sketches, and what is skipped is counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colbert_rerank.depth import deviation, surely_below
from colbert_rerank.device_rows import Mapped
from colbert_rerank.encoder import Encoder
from colbert_rerank.errors import UsageError
from colbert_rerank.maxsim import native, packed
from colbert_rerank.maxsim.native import isas
from colbert_rerank.maxsim.native import scores as native_scores
from colbert_rerank.report import Report
from colbert_rerank.rerank import Reranker, rounded_score
from colbert_rerank.scoring import Scorer
from colbert_rerank.store import Gathered, Store, layout, writing
from ingest.upkeep import compact
from tests.collection import documents, ingested, queries
from tests.store import stores

pytestmark = pytest.mark.usefixtures("one_thread")

Matrix = npt.NDArray[np.float32]
DIM = 16
REAL = 120
# The codecs of the vectors, and of the sketches beside them.
PAIRS = [
    ("float32", "float16"),
    ("float32", "int8"),
    ("float16", "int8"),
    ("float16", "residual4"),
    ("float16", "residual1"),
    ("float16", "binary"),
    ("int8", "residual2"),
    ("residual4", "binary"),
]


def unit_vectors(rng: np.random.Generator, count: int) -> Matrix:
    return of_length_1(rng.standard_normal((count, DIM)))


def of_length_1(vectors: npt.NDArray[Any]) -> Matrix:
    found: Matrix = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return found


def ragged_documents() -> dict[str, Matrix]:
    """Far apart, almost the same, the very same; without rows; and rows that int8 holds without error."""
    rng = np.random.default_rng(5)
    found = {f"far{i:02}": unit_vectors(rng, 1 + i % 7) for i in range(40)}
    for i in range(40):
        found[f"near{i:02}"] = of_length_1(found[f"far{i % 4:02}"] + rng.standard_normal(DIM) * 10.0 ** -(i % 8))
    found |= {f"twin{i}": found["far03"] for i in range(6)}
    found |= {f"even{i}": of_length_1(np.sign(unit_vectors(rng, 3))) for i in range(8)}
    return found | {"none": found["far00"][:0]}


def make(folder: Path, docs: dict[str, Matrix], codec: str, sketches: str) -> Store:
    """A store of two segments."""
    dim, ids = len(next(iter(docs.values()))[0]), list(docs)
    with writing(folder, stores.new_manifest(dim, codec, sketches)) as writer:
        for posted in (True, False):  # what differs in this is not merged
            stores.commit(writer, {i: stores.Doc(docs[i]) for i in ids[posted::2]}, posted=posted)
        writer.finish()
    return Store.open(folder)


@pytest.fixture(scope="module", params=PAIRS, ids="-".join)
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Store:
    made = make(tmp_path_factory.mktemp("depth") / "store", ragged_documents(), *request.param)
    assert len(made.segments) == 2
    return made


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Encoder) -> Store:
    folder = tmp_path_factory.mktemp("real") / "store"
    ingested(folder, tiny_encoder, documents(REAL))
    compact(folder, sketches="int8")
    return Store.open(folder)


def scorer(store: Store, encoder: Encoder, aggregation: str = "sum") -> tuple[Scorer, Report]:
    report = Report()
    return Scorer(
        store, Mapped(store, "cpu"), "cpu", replace(encoder.checkpoint.spec, aggregation=aggregation), report
    ), report


def in_print(ids: Sequence[str], scores: npt.NDArray[np.float64]) -> list[tuple[float, str]]:
    """Best first, ties by id descending, as `Reranker` orders them; those without vectors left out."""
    scored = [(rounded_score(s), i) for s, i in zip(scores.tolist(), ids, strict=True) if np.isfinite(s)]
    return sorted(scored, reverse=True)


@settings(deadline=None, max_examples=150)
@given(
    chosen=st.lists(st.sampled_from([*ragged_documents(), "unknown"]), unique=True, min_size=1),
    seed=st.integers(0, 2**32 - 1),
    like=st.sampled_from([*ragged_documents()]),
    length=st.integers(1, 8),
    top=st.integers(1, 30),
    aggregation=st.sampled_from(["sum", "mean"]),
)
def test_the_first_places_are_those_of_exact_scores(
    store: Store,
    tiny_encoder: Encoder,
    chosen: list[str],
    seed: int,
    like: str,
    length: int,
    top: int,
    aggregation: str,
) -> None:
    rng = np.random.default_rng(seed)
    Q = np.concatenate([ragged_documents()[like], unit_vectors(rng, 8)])[:length]
    one, report = scorer(store, tiny_encoder, aggregation)
    exact, (found, marked) = one.scores(Q, chosen), one.exact_top(Q, chosen, top)
    assert in_print(chosen, found)[:top] == in_print(chosen, exact)[:top]
    assert np.isneginf(found).tolist() == np.isneginf(exact).tolist()
    sketched = dict(zip(chosen, one.scores(Q, chosen, sketches=True).tolist(), strict=True))
    assert (found == exact)[marked].all()
    assert (~marked).sum() == report.skipped
    skipped = [i for i, a, b in zip(chosen, found, exact, strict=True) if a != b]
    order = [i for _, i in in_print(chosen, found)]
    scored = np.isfinite(exact).sum()
    assert set(skipped) <= set(order[scored - report.skipped :]), "which stand above"
    behind = order[scored - report.skipped :]
    assert [sketched[i] for i in behind] == pytest.approx(sorted((sketched[i] for i in behind), reverse=True), abs=2e-6)


def test_errors_are_those_that_were_stored(store: Store) -> None:
    ids = list(ragged_documents())[::-1]
    stored = [rows.errors[layout.SKETCH_ERRORS] for rows in store.stored_rows(ids)]
    assert store.sketch_errors(ids).tolist() == stored
    assert len(set(stored)) > 20


def test_scores_are_off_by_no_more_than_the_bound(store: Store) -> None:
    ids = list(ragged_documents())
    rows, sketches = (store.gather(ids, sketches=sketches) for sketches in (False, True))
    some = rows.counts > 0  # the others score minus infinity
    for seed in range(20):
        Q = np.concatenate([unit_vectors(np.random.default_rng(seed), 5), rows.matrices()[seed][:3]])
        bound = deviation(Q, store.sketch_errors(ids))[some]
        np.testing.assert_allclose(deviation(Q, store.sketch_errors(ids), "mean")[some], bound / len(Q))
        for path in (by_torch, *([by_kernel] if isas() else [])):
            off = np.abs(path(Q, rows)[some] - path(Q, sketches)[some])
            assert (off <= bound).all()
        assert (off > bound / 100).any(), "nor is it far more"


def by_torch(Q: Matrix, docs: Gathered) -> npt.NDArray[np.float64]:
    return packed.scores(Q, docs.values, docs.offsets, codec=docs.codec)


def by_kernel(Q: Matrix, docs: Gathered) -> npt.NDArray[np.float64]:
    return native_scores(Q, docs.ranges)


def test_rounding_alone_does_not_change_the_first_places(
    tmp_path: Path, tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that int8 holds without error, and so many equal numbers in each that their sums are off one way."""
    assert isas()
    monkeypatch.setattr(native, "isas", lambda: ("any",))  # others sum in many parts, and lose less
    rng, dim, count = np.random.default_rng(3), 4096, 200
    steps = np.float32(1 / 64 / 127) * (1 + rng.uniform(0, 1e-4, count).astype(np.float32))
    docs: dict[str, Matrix] = {
        f"{i:03}": np.full((1, dim), np.float32(127) * step, np.float32) for i, step in enumerate(steps)
    }
    store, ids = make(tmp_path / "store", docs, "float32", "int8"), list(docs)
    assert not store.sketch_errors(ids).any()
    one, _ = scorer(store, tiny_encoder)
    for number in rng.uniform(0.5, 1, 5):
        Q = np.full((1, dim), number / 64, np.float32)
        exact = in_print(ids, one.scores(Q, ids))
        assert exact[0] != in_print(ids, one.scores(Q, ids, sketches=True))[0]
        for top in (1, 3, 20):
            assert in_print(ids, one.exact_top(Q, ids, top).values)[:top] == exact[:top]


@given(st.floats(-1e5, 1e5), st.floats(0, 1e-3))
def test_what_is_surely_below_is_printed_below(score: float, less: float) -> None:
    assert rounded_score(np.nextafter(surely_below(score), -np.inf) - less) < rounded_score(score)


@pytest.mark.parametrize("missing", ["first_stage", "encode"])
def test_reranked_with_candidates_that_have_no_vectors(real: Store, tiny_encoder: Encoder, missing: Any) -> None:
    def fetch(doc_ids: Sequence[str]) -> list[Any]:
        return [d for d in documents(REAL + 10) if d.doc_id in doc_ids]

    candidates = [(d.doc_id, 0.0) for d in documents(REAL + 10)[::-1]]
    for query in queries(5):
        for top in (1, 10, 2 * REAL):
            whole = Reranker(real, tiny_encoder, missing=missing).rerank(query.text, candidates, fetch=fetch)
            one = Reranker(real, tiny_encoder, missing=missing, exact_top=top)
            ranked = one.rerank(query.text, candidates, fetch=fetch)
            assert ranked[:top] == whole[:top]
            assert {(d.doc_id, d.scored) for d in ranked} == {(d.doc_id, d.scored) for d in whole}
            assert ranked == sorted(sorted(ranked, key=lambda d: d.doc_id, reverse=True), key=lambda d: -d.score)
            assert one.report.scored == sum(d.scored for d in whole)
            assert (one.report.skipped > 0) == (top < REAL)


def test_most_of_those_that_int8_tells_apart_are_skipped(real: Store, tiny_encoder: Encoder) -> None:
    one = Reranker(real, tiny_encoder, exact_top=5)
    for query in queries(5):
        one.rerank(query.text, [(d.doc_id, 0.0) for d in documents(REAL)])
    assert 0.5 < one.report.skipped / one.report.scored <= 1 - 5 / REAL


def test_documents_whose_error_is_unknown_are_scored(real: Store, tiny_encoder: Encoder) -> None:
    store, ids = Store.open(real.folder), [d.doc_id for d in documents(REAL)]
    known = store.sketch_errors([*ids, "unheard"])
    assert np.isfinite(known).tolist() == [True] * REAL + [False]
    for segment in store.segments:
        cast(dict[str, Any], segment.columns).pop(layout.SKETCH_ERRORS)
    assert np.isposinf(store.sketch_errors(ids)).all()
    one = Reranker(store, tiny_encoder, exact_top=5)
    assert one.rerank("tides", [(i, 0.0) for i in ids]) == Reranker(store, tiny_encoder).rerank(
        "tides", [(i, 0.0) for i in ids]
    )
    assert one.report.skipped == 0


def test_what_is_refused(real: Store, tiny_encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exact_top=0: expected 1 or more"):
        Reranker(real, tiny_encoder, exact_top=0)
    with pytest.raises(UsageError, match="exact_top and interpolate: scores of sketches and of vectors have no common"):
        Reranker(real, tiny_encoder, exact_top=5, interpolate=0.5)
    with pytest.raises(UsageError, match=r"rescore and exact_top: .* choose one of them"):
        Reranker(real, tiny_encoder, exact_top=5, rescore=5)
    plain = ingested(tmp_path / "plain", tiny_encoder, documents(3))
    with pytest.raises(UsageError, match=r"exact_top=5: a cascade begins with sketches, and .* has none"):
        Reranker(plain, tiny_encoder, exact_top=5)


@pytest.mark.parametrize("similarity", ["dot", "l2"])
def test_only_the_cosine_bounds_how_far_sketches_are_off(real: Store, tiny_encoder: Encoder, similarity: str) -> None:
    checkpoint = tiny_encoder.checkpoint
    other = Encoder.load(replace(checkpoint, spec=replace(checkpoint.spec, similarity=similarity)), device="cpu")
    with pytest.raises(UsageError, match=f"exact_top=5: of the similarity '{similarity}' it is not known"):
        Reranker(real, other, exact_top=5)
