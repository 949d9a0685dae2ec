"""The re-ranker's order, its rounding, and what becomes of candidates without vectors."""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from colbert_rerank.encoder import Encoder
from colbert_rerank.errors import InputError, MissingVectorsError, NonFiniteError, StoreMismatchError, UsageError
from colbert_rerank.maxsim import reference
from colbert_rerank.recipe import Recipe, content_hash
from colbert_rerank.rerank import DECIMALS, Missing, Reranker, rounded_score, rounded_scores
from colbert_rerank.store import RowRanges, Store, writing
from colbert_rerank.types import Document, Origin, Query, ScoredDoc
from ingest.admission import new_manifest
from ingest.upkeep import compact
from tests.collection import RECIPE, FakeFirstStage, bm25_of, documents, ingested, queries
from tests.tiny import DIM, tiny_checkpoint, tiny_weights

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = {f"d{i}": f"document {i} about {word} and more" for i, word in enumerate(("tides", "moon", "sea", "wind"))}
TEXTS |= {"twin-a": "the very same words", "twin-b": "the very same words", "twin-ä": "the very same words"}
LATE = "a document that came after the store was made"
FIRST = [(doc_id, 10.0 - i) for i, doc_id in enumerate(TEXTS)]
REAL = 60


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Encoder) -> Store:
    docs = [Document(i, {"text": t}) for i, t in TEXTS.items()]
    return ingested(tmp_path_factory.mktemp("few") / "store", tiny_encoder, docs)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Encoder) -> Store:
    return ingested(tmp_path_factory.mktemp("real") / "store", tiny_encoder, documents(REAL))


def fetch(doc_ids: Sequence[str]) -> list[Document]:
    return [Document(i, {"text": TEXTS.get(i, LATE)}) for i in doc_ids if i != "gone"]


def in_order(ranked: Sequence[ScoredDoc]) -> list[ScoredDoc]:
    """As trec_eval orders a run: score falling, then id falling."""
    return sorted(sorted(ranked, key=lambda d: d.doc_id, reverse=True), key=lambda d: -d.score)


def test_scores_are_the_reference_over_the_stored_vectors(real: Store, tiny_encoder: Encoder) -> None:
    candidates = [(d.doc_id, 0.0) for d in documents(REAL)]
    for query in queries(4):
        ranked = Reranker(real, tiny_encoder).rerank(query.text, candidates)
        Q = tiny_encoder.encode_queries([query.text])[0]
        assert len(ranked) == REAL
        for document in ranked:
            want = reference.maxsim(Q, real.gather([document.doc_id]).values)
            assert document.score == pytest.approx(want, abs=1e-4)
        assert ranked == in_order(ranked)
        assert len({d.score for d in ranked}) > REAL // 2, "scores that do not differ order nothing"


def test_scores_of_the_starter_are_the_reference_too(tmp_path: Path, starter_encoder: Encoder) -> None:
    some = documents(8)
    store = ingested(tmp_path / "store", starter_encoder, some)
    query = queries(1)[0].text
    Q = starter_encoder.encode_queries([query])[0]
    for document in Reranker(store, starter_encoder).rerank(query, [(d.doc_id, 0.0) for d in some]):
        want = reference.maxsim(Q, store.gather([document.doc_id]).values)
        assert document.score == pytest.approx(want, abs=1e-4)


def test_ties_go_by_document_id_descending(store: Store, tiny_encoder: Encoder) -> None:
    ranked = Reranker(store, tiny_encoder).rerank("very same", FIRST)
    twins = [d for d in ranked if d.doc_id.startswith("twin")]
    assert len({d.score for d in twins}) == 1
    assert [d.doc_id for d in twins] == ["twin-ä", "twin-b", "twin-a"]


@settings(deadline=None, max_examples=30)
@given(chosen=st.lists(st.sampled_from([d.doc_id for d in documents(REAL)]), unique=True, min_size=1))
def test_a_score_does_not_depend_on_the_other_candidates(real: Store, tiny_encoder: Encoder, chosen: list[str]) -> None:
    reranker = Reranker(real, tiny_encoder)
    query = queries(1)[0].text
    whole = {d.doc_id: d for d in reranker.rerank(query, [(d.doc_id, 0.0) for d in documents(REAL)])}
    ranked = reranker.rerank(query, [(doc_id, -i) for i, doc_id in enumerate(chosen)])
    assert {d.doc_id for d in ranked} == set(chosen)
    assert all(whole[d.doc_id] == d for d in ranked)
    assert ranked == in_order(ranked)


def test_runs_are_identical_when_repeated(real: Store, tiny: Path, tiny_encoder: Encoder) -> None:
    asked = queries(8)
    before = list(Reranker(real, tiny_encoder).run(asked, bm25_of(real), 20))
    assert [r.query for r in before] == asked
    assert sum(len(r.ranked) for r in before) > 100
    for ranking in before:
        assert {d.doc_id for d in ranking.first_stage} == {d.doc_id for d in ranking.ranked}
        assert {d.query_id for d in ranking.ranked} == {ranking.query.query_id}
        assert ranking.ranked == in_order(ranking.ranked)
    again = Reranker.open(real.folder, str(tiny), device="cpu")
    backwards = list(again.run(asked[::-1], bm25_of(again.store), 20))[::-1]
    assert repr(backwards) == repr(before)


@given(st.floats(-1e6, 1e6))
def test_a_score_is_of_single_precision_and_six_decimals(score: float) -> None:
    got = rounded_score(score)
    assert got == round(float(np.float32(score)), DECIMALS)
    assert math.copysign(1, got) == 1 or got < 0, "no minus zero"
    assert float(f"{got:.6f}") == got, "what is printed is what was sorted"


@given(st.lists(st.floats(allow_nan=False) | st.floats(-64, 64, width=32) | st.integers(-(2**24), 2**24).map(float)))
@example([k / 2**21 for k in range(-65, 66)])  # halves of the last decimal among them
def test_scores_are_rounded_together_as_one_by_one(scores: list[float]) -> None:
    with np.errstate(over="ignore"):  # of single precision, to infinity, as both do
        found = rounded_scores(np.array(scores, dtype=np.float64))
        assert [*map(repr, found.tolist())] == [repr(rounded_score(score)) for score in scores]


@given(st.floats(-64, 64, width=32), st.integers(0, 3))
def test_what_trec_eval_takes_for_equal_is_not_printed_as_different(score: float, steps: int) -> None:
    """trec_eval reads a run's scores as float; where two of ours collapse there, its tie rule must be ours."""
    other = np.float32(score)
    for _ in range(steps):
        other = np.nextafter(other, np.float32(np.inf))
    one, two = rounded_score(score), rounded_score(float(other))
    assert one <= two
    assert (np.float32(one) < np.float32(two)) == (one < two)


def test_unscored_documents_follow_in_first_stage_order_with_finite_scores(store: Store, tiny_encoder: Encoder) -> None:
    reranker = Reranker(store, tiny_encoder)
    unknown = [(f"x{i}", 20.0 - i) for i in range(5)]
    mixed = [*unknown[:2], *FIRST[:3], unknown[2], *FIRST[3:], *unknown[3:]]
    ranked = reranker.rerank("tides", mixed)
    scored, unscored = ranked[: len(FIRST)], ranked[len(FIRST) :]
    assert scored == reranker.rerank("tides", FIRST)
    assert [d.doc_id for d in unscored] == ["x0", "x1", "x2", "x3", "x4"]
    assert {d.scored for d in scored} == {True}
    assert {d.scored for d in unscored} == {False}, "their scores mean nothing, and callers must be able to see it"
    lowest = scored[-1].score
    assert [d.score for d in unscored] == [rounded_score(lowest - 1 - i * 0.001) for i in range(5)]
    assert ranked == in_order(ranked)
    assert reranker.report.missing == {"first_stage": 5}
    assert (reranker.report.candidates, reranker.report.scored) == (len(mixed) + len(FIRST), 2 * len(FIRST))


def test_unscored_documents_stay_apart_however_many_there_are(store: Store, tiny_encoder: Encoder) -> None:
    many = [(f"x{i:05}", float(-i)) for i in range(3000)]
    ranked = Reranker(store, tiny_encoder).rerank("tides", [*FIRST, *many])
    assert [d.doc_id for d in ranked[len(FIRST) :]] == [i for i, _ in many]
    assert ranked == in_order(ranked)
    assert len({f"{d.score:.6f}" for d in ranked[len(FIRST) :]}) == len(many)


def test_nothing_scored_at_all(store: Store, tiny_encoder: Encoder) -> None:
    ranked = Reranker(store, tiny_encoder).rerank("tides", [("x", 9.0), ("w", 8.0)])
    assert [(d.doc_id, d.score) for d in ranked] == [("x", -1), ("w", -1.001)]
    assert Reranker(store, tiny_encoder, missing="drop").rerank("tides", [("x", 9.0)]) == []


def test_dropped(store: Store, tiny_encoder: Encoder) -> None:
    reranker = Reranker(store, tiny_encoder, missing="drop")
    assert reranker.rerank("tides", [("x", 11.0), *FIRST, ("y", 0.1)]) == reranker.rerank("tides", FIRST)
    assert reranker.report.missing == {"dropped": 2}


def test_refused(store: Store, tiny_encoder: Encoder) -> None:
    reranker = Reranker(store, tiny_encoder, missing="error")
    assert len(reranker.rerank("tides", FIRST)) == len(FIRST)
    with pytest.raises(MissingVectorsError, match=r"2 of 9 candidates have no vectors in .*store, among .*'x', 'y'"):
        reranker.rerank("tides", [("x", 11.0), *FIRST, ("y", 0.1)])


def test_encoding_what_is_missing_gives_what_the_store_would(
    real: Store, tiny_encoder: Encoder, tmp_path: Path
) -> None:
    half = ingested(tmp_path / "half", tiny_encoder, documents(REAL // 2))
    late = {d.doc_id: d for d in documents(REAL)}
    candidates = [(i, 0.0) for i in late]
    less = Reranker(half, tiny_encoder, missing="encode")
    query = queries(1)[0].text
    asked: list[str] = []

    def texts(doc_ids: Sequence[str]) -> list[Document]:
        asked.extend(doc_ids)
        return [late[i] for i in reversed(doc_ids)]

    assert less.rerank(query, candidates, fetch=texts) == Reranker(real, tiny_encoder).rerank(query, candidates)
    assert asked == [d.doc_id for d in documents(REAL // 2, REAL // 2)], "only what is missing"
    assert less.report.missing == {"encoded": REAL // 2, "first_stage": 0}


def test_encoding_goes_by_the_recipe_and_the_dtype_of_the_store(tiny_encoder: Encoder, tmp_path: Path) -> None:
    some = [Document("a", {"b": "one", "c": "two", "text": "no"}), Document("z", {"c": "three", "b": "four"})]
    recipe = Recipe(("c", "b"), " | ")
    whole = ingested(tmp_path / "whole", tiny_encoder, some, recipe=recipe, codec="float32")
    part = ingested(tmp_path / "part", tiny_encoder, some[:1], recipe=recipe, codec="float32")
    candidates = [("z", 1.0), ("a", 0.5)]
    encode = Reranker(part, tiny_encoder, missing="encode")
    assert encode.rerank("two", candidates, fetch=lambda _: some) == Reranker(whole, tiny_encoder).rerank(
        "two", candidates
    )


def test_what_cannot_be_encoded_either_stays_unscored(store: Store, tiny_encoder: Encoder) -> None:
    def partly(doc_ids: Sequence[str]) -> list[Document]:
        return [Document("late", {"text": LATE}), Document("blank", {"text": " "}), Document("other", {"text": "a"})]

    reranker = Reranker(store, tiny_encoder, missing="encode")
    ranked = reranker.rerank("moon", [("gone", 3.0), ("d0", 2.0), ("blank", 1.5), ("late", 1.0)], fetch=partly)
    assert {d.doc_id for d in ranked[:2]} == {"d0", "late"}
    assert [d.doc_id for d in ranked[2:]] == ["gone", "blank"]
    assert reranker.report.missing == {"encoded": 1, "first_stage": 2}


def test_encoding_needs_texts(store: Store, tiny_encoder: Encoder) -> None:
    reranker = Reranker(store, tiny_encoder, missing="encode")
    assert len(reranker.rerank("moon", FIRST)) == len(FIRST), "not where nothing is missing"
    with pytest.raises(UsageError, match="missing='encode' needs the candidates' texts: pass fetch"):
        reranker.rerank("moon", [*FIRST, ("x", 1.0)])


@pytest.mark.parametrize("missing", ["first_stage", "encode", "drop", "error"])
def test_a_stored_document_without_rows_counts_as_one_without_vectors(
    missing: Missing, tiny_encoder: Encoder, tmp_path: Path
) -> None:
    rows = np.eye(DIM, dtype=np.float16)[:2]
    with writing(tmp_path / "store", new_manifest(tiny_encoder, RECIPE, "float16")) as writer:
        unit = writer.unit()
        unit.add("none", rows[:0], content_hash("none"))
        unit.add("two", rows, content_hash("two"))
        writer.commit(unit, posted=True)
        writer.finish()
    reranker = Reranker(Store.open(tmp_path / "store"), tiny_encoder, missing=missing)
    candidates = [("none", 2.0), ("two", 1.0)]
    if missing == "error":
        with pytest.raises(MissingVectorsError, match=r"1 of 2 candidates have no vectors .*'none'"):
            reranker.rerank("tides", candidates)
        return
    ranked = reranker.rerank("tides", candidates, fetch=fetch)
    assert all(math.isfinite(d.score) for d in ranked)
    expected = {
        "first_stage": (["two", "none"], {"first_stage": 1}),
        "drop": (["two"], {"dropped": 1}),
        "encode": (["two", "none"], {"encoded": 1, "first_stage": 0}),
    }
    assert (sorted((d.doc_id for d in ranked), reverse=True), reranker.report.missing) == expected[missing]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=["nan", "inf", "minus-inf"])
def test_vectors_that_are_not_finite_name_their_document(
    store: Store, tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    def broken(self: Store, doc_ids: Sequence[str], *, sketches: bool = False) -> RowRanges:
        found = self.gather(doc_ids, sketches=sketches)
        place = [i for i, ok in zip(doc_ids, found.found, strict=True) if ok].index("d2")
        found.values[found.offsets[place] : found.offsets[place + 1]] = value
        return found.ranges

    monkeypatch.setattr(Store, "ranges", broken)
    with pytest.raises(NonFiniteError, match="document 'd2': its vectors hold NaN or infinity"):
        Reranker(store, tiny_encoder).rerank("tides", [("unknown", 11.0), *FIRST])


def test_interpolation_is_over_z_scores(store: Store, tiny_encoder: Encoder) -> None:
    plain = {d.doc_id: d.score for d in Reranker(store, tiny_encoder).rerank("tides", FIRST)}
    stage = np.array([s for _, s in FIRST])
    late = np.array([plain[i] for i, _ in FIRST])
    want = 0.3 * (stage - stage.mean()) / stage.std() + 0.7 * (late - late.mean()) / late.std()
    ranked = Reranker(store, tiny_encoder, interpolate=0.3).rerank("tides", FIRST)
    assert {d.doc_id: d.score for d in ranked} == pytest.approx(
        dict(zip([i for i, _ in FIRST], want.tolist(), strict=True)), abs=1e-5
    )
    assert ranked == in_order(ranked)


def test_the_ends_of_interpolation_are_the_two_orders(store: Store, tiny_encoder: Encoder) -> None:
    only_first = Reranker(store, tiny_encoder, interpolate=1.0).rerank("tides", FIRST)
    assert [d.doc_id for d in only_first] == [i for i, _ in FIRST]
    only_maxsim = Reranker(store, tiny_encoder, interpolate=0.0).rerank("tides", FIRST)
    assert [d.doc_id for d in only_maxsim] == [d.doc_id for d in Reranker(store, tiny_encoder).rerank("tides", FIRST)]


@pytest.mark.parametrize("score", [1.0, 0.1, 1e300, 0.0], ids=str)
def test_first_stage_scores_that_do_not_differ_say_nothing(store: Store, tiny_encoder: Encoder, score: float) -> None:
    """0.1 is not its own mean in floating point: a spread of one rounding is no spread."""
    flat = [(i, score) for i in list(TEXTS)[:3]]
    assert {d.score for d in Reranker(store, tiny_encoder, interpolate=1.0).rerank("tides", flat)} == {0.0}


def test_interpolation_of_one_scored_document(store: Store, tiny_encoder: Encoder) -> None:
    ranked = Reranker(store, tiny_encoder, interpolate=0.5).rerank("tides", [("x", 7.0), ("d0", 3.0)])
    assert [(d.doc_id, d.score) for d in ranked] == [("d0", 0.0), ("x", -1.0)]


BAD_CANDIDATES: dict[str, tuple[Any, str]] = {
    "nan": (("d1", math.nan), "candidate 'd1' has the first-stage score nan, not a finite number"),
    "infinite": (("d1", -math.inf), "candidate 'd1' has the first-stage score -inf, not"),
    "of-a-search-sorted-by-a-field": (("d1", None), "first-stage score None, .*pass minus the rank"),
    "score-as-text": (("d1", "2.5"), "first-stage score '2.5', not"),
    "id-of-a-number": ((45638119, 1.0), "query: the candidate id 45638119 is not a string"),
    "ids-alone": ("d1", "the candidate 'd1' is no pair"),
    "a-triple": (("d1", 1.0, "text"), "is no pair of a document id and a first-stage score"),
    "a-hit": ({"_id": "d1", "_score": 1.0}, "is no pair"),
    "turned-round": ((1.0, "d1"), "the candidate id 1.0 is not a string"),
}


@pytest.mark.parametrize(("candidate", "message"), BAD_CANDIDATES.values(), ids=BAD_CANDIDATES)
def test_what_is_no_candidate_is_refused(store: Store, tiny_encoder: Encoder, candidate: Any, message: str) -> None:
    for interpolate in (None, 0.5):
        reranker = Reranker(store, tiny_encoder, interpolate=interpolate)
        with pytest.raises(InputError, match=message):
            reranker.rerank("tides", [("d0", 1.0), candidate])
        assert reranker.report.queries == 0


@pytest.mark.parametrize("query", [None, 5, b"tides", ["tides"]], ids=repr)
def test_what_is_no_query_is_refused(store: Store, tiny_encoder: Encoder, query: Any) -> None:
    with pytest.raises(InputError, match=f"query: {re.escape(repr(query))} is not a text"):
        Reranker(store, tiny_encoder).rerank(query, FIRST)


def test_candidates_that_are_none_are_refused(store: Store, tiny_encoder: Encoder) -> None:
    nothing: Any = None
    with pytest.raises(InputError, match="the candidates None are no pairs of a document id and"):
        Reranker(store, tiny_encoder).rerank("tides", nothing)


def test_candidates_are_pairs_of_any_kind(store: Store, tiny_encoder: Encoder) -> None:
    reranker = Reranker(store, tiny_encoder)
    kinds: list[Any] = [["d0", 3], ("d1", np.float32(2.0)), ScoredDoc("q", "d2", 1.0)[1:3]]
    assert reranker.rerank("tides", kinds) == reranker.rerank("tides", [("d0", 3.0), ("d1", 2.0), ("d2", 1.0)])


@pytest.mark.parametrize("query", ["", " \n\t", "\u3000"], ids=["empty", "blank", "wide-space"])
def test_an_empty_query_is_refused(query: str, store: Store, tiny_encoder: Encoder) -> None:
    with pytest.raises(InputError, match="query is empty; give it some text"):
        Reranker(store, tiny_encoder).rerank(query, FIRST)


def test_a_query_of_bytes_that_are_no_text_is_refused(store: Store, tiny_encoder: Encoder) -> None:
    """What Python makes of an argument in Latin-1 on a UTF-8 terminal."""
    with pytest.raises(InputError, match=r"query is not text that UTF-8 can hold: 'caf\\udce9'"):
        Reranker(store, tiny_encoder).rerank("caf\udce9", FIRST)


def test_a_bad_query_is_found_before_the_first_is_searched(real: Store, tiny_encoder: Encoder) -> None:
    reranker = Reranker(real, tiny_encoder)
    with pytest.raises(InputError, match="query 'blank' is empty"):
        next(reranker.run([*queries(2), Query("blank", " ")], bm25_of(real), 5))
    assert reranker.report.queries == 0


def test_no_candidates(store: Store, tiny_encoder: Encoder) -> None:
    reranker = Reranker(store, tiny_encoder, missing="error")
    assert reranker.rerank("tides", []) == []
    assert (reranker.report.queries, reranker.report.empty) == (1, 1)


def test_a_candidate_given_twice(store: Store, tiny_encoder: Encoder) -> None:
    with pytest.raises(InputError, match="query: candidate 'd1' is given twice"):
        Reranker(store, tiny_encoder).rerank("tides", [("d0", 3.0), ("d1", 2.0), ("d1", 1.0)])


def test_a_truncated_query_is_counted(store: Store, tiny_encoder: Encoder) -> None:
    reranker = Reranker(store, tiny_encoder)
    for words in (29, 30, 500):
        reranker.rerank("tides " * words, FIRST)
    assert (reranker.report.queries, reranker.report.truncated_queries) == (3, 2)
    assert {len(times) for times in reranker.report.seconds.values()} == {3}


def test_a_store_of_another_model_is_refused_with_both_sides(
    store: Store, tiny_encoder: Encoder, tmp_path: Path
) -> None:
    other = Encoder.load(str(tiny_checkpoint(tmp_path / "m", tiny_weights(7))), device="cpu")
    ours, theirs = tiny_encoder.checkpoint.tensor_hash, other.checkpoint.tensor_hash
    assert ours != theirs
    with pytest.raises(StoreMismatchError) as refusal:
        Reranker(store, other)
    message = str(refusal.value)
    assert f"tensors: the store has '{ours}', this run '{theirs}'" in message
    assert f"Search with what it was made with (model '{tiny_encoder.checkpoint.name}')" in message
    assert str(store.folder) in message


@pytest.mark.parametrize("interpolate", [-0.1, 1.1, math.nan], ids=str)
def test_an_interpolation_out_of_range(store: Store, tiny_encoder: Encoder, interpolate: float) -> None:
    with pytest.raises(UsageError, match=f"interpolate={interpolate}: expected 0"):
        Reranker(store, tiny_encoder, interpolate=interpolate)


def test_an_unknown_policy(store: Store, tiny_encoder: Encoder) -> None:
    with pytest.raises(UsageError, match="missing='skip': expected one of first_stage, encode, drop, error"):
        Reranker(store, tiny_encoder, missing="skip")  # type: ignore[arg-type]


def test_candidates_of_another_index_are_refused_before_anything_is_searched(
    store: Store, real: Store, tiny_encoder: Encoder
) -> None:
    class Unsearched(FakeFirstStage):
        def search(self, queries: Sequence[Query], k: int) -> Iterator[list[ScoredDoc]]:
            raise AssertionError("it was searched")

    reranker = Reranker(store, tiny_encoder)
    with pytest.raises(StoreMismatchError, match=r"made from BM25 index .* come from OpenSearch index 'other'"):
        next(reranker.run([Query("1", "moon")], Unsearched(Origin("opensearch", "other", "u")), 5))
    with pytest.raises(StoreMismatchError, match="this is not a copy"):
        next(reranker.run([Query("1", "moon")], bm25_of(real), 5, allow_other_index=True))


def test_mean_times_add_up_however_candidates_came(store: Store, tiny_encoder: Encoder) -> None:
    reranker = Reranker(store, tiny_encoder)
    reranker.report.seconds["candidates"] = deque([0.3, 0.0, 0.0])  # three queries in one batch
    assert reranker.report.mean_ms() == {"candidates": pytest.approx(100)}


def test_vectors_made_on_the_fly_must_be_finite(store: Store, tiny_encoder: Encoder) -> None:
    reranker = Reranker(store, tiny_encoder, missing="encode")
    with (
        patch.object(
            Reranker, "_encode", return_value={"late": np.array([[1.0] * DIM, [-np.inf] * DIM], dtype=np.float32)}
        ),
        pytest.raises(NonFiniteError, match="'late'"),
    ):
        reranker.rerank("moon", [*FIRST, ("late", 1.0)], fetch=fetch)


@pytest.fixture(scope="module")
def sketched(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Encoder) -> Store:
    folder = tmp_path_factory.mktemp("sketched") / "store"
    ingested(folder, tiny_encoder, documents(REAL))
    compact(folder, sketches="binary")
    return Store.open(folder)


@pytest.mark.parametrize("rescore", [1, 5, 20, REAL, 10 * REAL])
def test_a_cascade_scores_the_best_again_and_keeps_them_above_the_others(
    sketched: Store, tiny_encoder: Encoder, rescore: int
) -> None:
    query, candidates = queries(1)[0].text, [(d.doc_id, 0.0) for d in documents(REAL)]
    exact = {d.doc_id: d.score for d in Reranker(sketched, tiny_encoder).rerank(query, candidates)}
    (Q,) = tiny_encoder.encode_queries([query])
    gathered = sketched.gather([i for i, _ in candidates], sketches=True)
    rough = dict(zip((i for i, _ in candidates), (reference.maxsim(Q, m) for m in gathered.matrices()), strict=True))
    ranked = Reranker(sketched, tiny_encoder, rescore=rescore).rerank(query, candidates)
    assert ranked == in_order(ranked)
    assert {d.doc_id for d in ranked} == exact.keys()
    best = sorted(rough, key=lambda i: -rough[i])[:rescore]
    assert {d.doc_id for d in ranked[:rescore]} == set(best)
    assert all(d.score == exact[d.doc_id] for d in ranked[:rescore]), "the exact scores, to the bit"
    others = [d.doc_id for d in ranked[rescore:]]
    assert [d.exact for d in ranked] == [i < rescore for i in range(len(ranked))]
    assert others == sorted(others, key=lambda i: -rough[i]), "in the order of their sketches"
    if rescore >= REAL:
        assert [d.doc_id for d in ranked] == [
            d.doc_id for d in Reranker(sketched, tiny_encoder).rerank(query, candidates)
        ]


def test_a_cascade_with_candidates_that_have_no_vectors(sketched: Store, tiny_encoder: Encoder) -> None:
    candidates = [("unknown", 9.0), *((d.doc_id, 0.0) for d in documents(10)), ("unheard", -1.0)]
    ranked = Reranker(sketched, tiny_encoder, rescore=3).rerank("tides", candidates)
    assert [d.doc_id for d in ranked[-2:]] == ["unknown", "unheard"]
    assert [d.scored for d in ranked] == [True] * 10 + [False] * 2
    assert ranked == in_order(ranked)


def test_a_cascade_needs_sketches(store: Store, sketched: Store, tiny_encoder: Encoder) -> None:
    with pytest.raises(UsageError, match=r"a cascade begins with sketches, and .* has none; `store compact --sketches"):
        Reranker(store, tiny_encoder, rescore=10)
    with pytest.raises(UsageError, match="rescore=0: expected 1 or more"):
        Reranker(sketched, tiny_encoder, rescore=0)


def in_first_stage_order() -> list[tuple[str, float]]:
    return [(d.doc_id, float(-place)) for place, d in enumerate(documents(REAL))]


def document_texts() -> list[str]:
    return [RECIPE.text(d.fields) for d in documents(REAL)]


@pytest.mark.parametrize("codec", ["float16", "float32", "int8", "binary"])
@pytest.mark.parametrize("interpolate", [None, 0.4])
def test_texts_have_the_scores_of_documents_that_are_stored(
    codec: str, interpolate: float | None, tmp_path: Path, tiny_encoder: Encoder
) -> None:
    store = ingested(tmp_path / "store", tiny_encoder, documents(REAL), codec=codec)
    reranker = Reranker(store, tiny_encoder, interpolate=interpolate)
    query, candidates = queries(1)[0].text, in_first_stage_order()
    assert reranker.rerank_texts(query, candidates, document_texts()) == reranker.rerank(query, candidates)
    elsewhere = [(f"not-stored-{i}", score) for i, score in candidates]
    by_text = reranker.rerank_texts(query, elsewhere, document_texts())
    assert [d.score for d in by_text] == [d.score for d in reranker.rerank(query, candidates)]


def test_texts_are_scored_by_their_vectors_whatever_sketches_the_store_has(
    sketched: Store, tiny_encoder: Encoder
) -> None:
    query, candidates = queries(1)[0].text, in_first_stage_order()
    exact = Reranker(sketched, tiny_encoder).rerank(query, candidates)
    for options in ({"rescore": 3}, {"exact_top": 3}):
        reranker = Reranker(sketched, tiny_encoder, **options)  # type: ignore[arg-type]
        assert reranker.rerank_texts(query, candidates, document_texts()) == exact


@pytest.mark.parametrize("missing", ["first_stage", "encode", "drop", "error"])
def test_empty_texts_are_candidates_without_vectors(store: Store, tiny_encoder: Encoder, missing: Missing) -> None:
    reranker = Reranker(store, tiny_encoder, missing=missing)
    candidates, texts = [("d0", 3.0), ("d1", 2.0), ("x", 1.0)], ["", "moon", " \n"]
    if missing == "error":
        with pytest.raises(
            MissingVectorsError, match=r"2 of 3 candidates have no vectors in .* and no text.*'d0', 'x'"
        ):
            reranker.rerank_texts("moon", candidates, texts)
        return
    ranked = reranker.rerank_texts("moon", candidates, texts)
    assert [d.doc_id for d in ranked] == (["d1"] if missing == "drop" else ["d1", "d0", "x"])
    assert [d.scored for d in ranked] == [True, False, False][: len(ranked)]
    assert reranker.rerank_texts("moon", [], []) == []


def test_texts_that_cannot_be_paired_or_encoded_are_refused(store: Store, tiny_encoder: Encoder) -> None:
    reranker = Reranker(store, tiny_encoder)
    with pytest.raises(InputError, match="1 texts for 2 candidates"):
        reranker.rerank_texts("moon", [("a", 1.0), ("b", 0.0)], ["tides"])
    with pytest.raises(InputError, match="candidate 'b' has nan for its text"):
        reranker.rerank_texts("moon", [("a", 1.0), ("b", 0.0)], ["tides", math.nan])  # type: ignore[list-item]
    with pytest.raises(InputError, match="candidate 'a' has a text that UTF-8 cannot hold"):
        reranker.rerank_texts("moon", [("a", 1.0)], ["\ud800"])
    with pytest.raises(InputError, match="'a' is given twice"):
        reranker.rerank_texts("moon", [("a", 1.0), ("a", 0.0)], ["tides", "moon"])
