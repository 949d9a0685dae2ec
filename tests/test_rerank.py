"""The re-ranker's order, its rounding, and what becomes of candidates without vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from colbert_rerank.encoder import Encoder
from colbert_rerank.errors import InputError, MissingVectorsError, StoreMismatchError, UsageError
from colbert_rerank.maxsim import reference
from colbert_rerank.recipe import Recipe
from colbert_rerank.rerank import Reranker, rounded_score
from colbert_rerank.store import Store
from colbert_rerank.types import Document
from ingest.pipeline import IngestReport, ingest
from ingest.validation import InputReport
from tests.tiny import tiny_checkpoint, tiny_weights

TEXTS = {f"d{i}": f"document {i} about {word} and more" for i, word in enumerate(("tides", "moon", "sea", "wind"))}
TEXTS |= {"twin-a": "the very same words", "twin-b": "the very same words"}
LATE = "a document that came after the store was made"
FIRST = [(doc_id, 10.0 - i) for i, doc_id in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return Encoder.load(str(tiny_checkpoint(tmp_path_factory.mktemp("tiny"))), device="cpu")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, encoder: Encoder) -> Store:
    folder = tmp_path_factory.mktemp("store") / "s"
    docs = [Document(i, {"text": t}) for i, t in TEXTS.items()]
    ingest(docs, folder, encoder, recipe=Recipe(("text",)), report=IngestReport(InputReport()))
    return Store.open(folder)


def fetch(doc_ids: Sequence[str]) -> list[Document]:
    return [Document(i, {"text": TEXTS.get(i, LATE)}) for i in doc_ids if i != "gone"]


def test_scores_are_the_reference_over_the_stored_vectors(store: Store, encoder: Encoder) -> None:
    ranked = Reranker(store, encoder).rerank("what moves the tides", FIRST)
    Q = encoder.encode_queries(["what moves the tides"])[0]
    for document in ranked:
        want = reference.maxsim(Q, store.gather([document.doc_id]).values)
        assert document.score == pytest.approx(want, abs=1e-4)
    assert [d.score for d in ranked] == sorted((d.score for d in ranked), reverse=True)


def test_ties_go_by_document_id_descending(store: Store, encoder: Encoder) -> None:
    ranked = Reranker(store, encoder).rerank("very same", FIRST)
    twins = [d for d in ranked if d.doc_id.startswith("twin")]
    assert twins[0].score == twins[1].score
    assert [d.doc_id for d in twins] == ["twin-b", "twin-a"]


def test_a_score_does_not_depend_on_the_other_candidates(store: Store, encoder: Encoder) -> None:
    reranker = Reranker(store, encoder)
    together = {d.doc_id: d.score for d in reranker.rerank("sea wind", FIRST)}
    assert together == {i: reranker.rerank("sea wind", [(i, 1.0)])[0].score for i in TEXTS}
    assert together == {d.doc_id: d.score for d in reranker.rerank("sea wind", FIRST[::-1])}


def test_unscored_documents_follow_in_first_stage_order_with_finite_scores(store: Store, encoder: Encoder) -> None:
    reranker = Reranker(store, encoder)
    ranked = reranker.rerank("tides", [("x", 9.0), *FIRST, ("w", 0.5)])
    lowest = ranked[-3].score
    assert [d.doc_id for d in ranked[-2:]] == ["x", "w"]
    assert [d.score for d in ranked[-2:]] == [rounded_score(lowest - 1), rounded_score(lowest - 1.001)]
    assert reranker.report.missing["first_stage"] == 2
    assert [(d.doc_id, d.score) for d in reranker.rerank("tides", [("x", 9.0), ("w", 8.0)])] == [
        ("x", -1),
        ("w", -1.001),
    ]


def test_dropped_and_refused(store: Store, encoder: Encoder) -> None:
    reranker = Reranker(store, encoder, missing="drop")
    assert {d.doc_id for d in reranker.rerank("tides", [*FIRST, ("x", 0.1)])} == set(TEXTS)
    assert reranker.report.missing["dropped"] == 1
    with pytest.raises(MissingVectorsError, match="'x'"):
        Reranker(store, encoder, missing="error").rerank("tides", [*FIRST, ("x", 0.1)])


def test_encoding_what_is_missing_gives_what_the_store_would(store: Store, encoder: Encoder, tmp_path: Path) -> None:
    folder = tmp_path / "less"
    ingest(
        [Document("d0", {"text": TEXTS["d0"]})],
        folder,
        encoder,
        recipe=Recipe(("text",)),
        report=IngestReport(InputReport()),
    )
    less = Reranker(Store.open(folder), encoder, missing="encode")
    assert less.rerank("moon", FIRST, fetch=fetch) == Reranker(store, encoder).rerank("moon", FIRST)
    assert less.report.missing["encoded"] == len(TEXTS) - 1
    ranked = less.rerank("moon", [("gone", 3.0), ("d0", 2.0), ("late", 1.0)], fetch=fetch)
    assert ranked[-1].doc_id == "gone", "what the index does not hold either stays unscored"
    with pytest.raises(UsageError, match="fetch"):
        less.rerank("moon", FIRST)


def test_interpolation_is_over_z_scores_and_its_ends_are_the_two_orders(store: Store, encoder: Encoder) -> None:
    only_first = Reranker(store, encoder, interpolate=1.0).rerank("tides", FIRST)
    assert [d.doc_id for d in only_first] == [i for i, _ in FIRST]
    stage = np.array([s for _, s in FIRST])
    want = (stage - stage.mean()) / stage.std()
    assert [d.score for d in only_first] == pytest.approx(want.tolist(), abs=1e-6)
    only_maxsim = Reranker(store, encoder, interpolate=0.0).rerank("tides", FIRST)
    assert [d.doc_id for d in only_maxsim] == [d.doc_id for d in Reranker(store, encoder).rerank("tides", FIRST)]
    flat = [(i, 1.0) for i in TEXTS]
    assert {d.score for d in Reranker(store, encoder, interpolate=1.0).rerank("tides", flat)} == {0.0}


@pytest.mark.parametrize("query", ["", " \n\t"], ids=["empty", "blank"])
def test_an_empty_query_is_refused(query: str, store: Store, encoder: Encoder) -> None:
    with pytest.raises(InputError, match="empty"):
        Reranker(store, encoder).rerank(query, FIRST)


def test_no_candidates_and_a_candidate_given_twice(store: Store, encoder: Encoder) -> None:
    assert Reranker(store, encoder).rerank("tides", []) == []
    with pytest.raises(InputError, match="'d1' is given twice"):
        Reranker(store, encoder).rerank("tides", [("d1", 2.0), ("d1", 1.0)])


def test_a_store_of_another_model_is_refused_with_both_sides(store: Store, tmp_path: Path) -> None:
    other = Encoder.load(str(tiny_checkpoint(tmp_path / "m", tiny_weights(7))), device="cpu")
    with pytest.raises(StoreMismatchError, match=r"tensors: the store has .* this run"):
        Reranker(store, other)


@pytest.mark.parametrize("score", [20.1234567, 20.1234568, 1e-9, -1e-9, 31.9999999, 103.4567891])
def test_printed_scores_order_as_trec_eval_reads_them(score: float) -> None:
    near = np.nextafter(np.float32(score), np.float32(np.inf))
    one, other = rounded_score(score), rounded_score(float(near))
    assert (np.float32(one) < np.float32(other)) == (one < other)
    assert f"{rounded_score(-1e-9):.6f}" == "0.000000"
