"""The scorers for PyTerrier, which run without Java."""

from __future__ import annotations

import unittest
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt
import pytest

from colbert_rerank.checkpoints import Choices
from colbert_rerank.encoder import Encoder
from colbert_rerank.errors import InputError, MissingVectorsError, StoreMismatchError
from colbert_rerank.integrations.pyterrier import ColbertStoreScorer, ColbertTextScorer
from colbert_rerank.rerank import Missing, Reranker
from colbert_rerank.store import Store
from tests.collection import RECIPE, documents, ingested, queries
from tests.integrations.given import GIVEN, IDS, QUERY, SCORES, TEXTS, expected

Opened = Callable[..., Reranker]
OUT = ["qid", "query", "docno", "score", "rank"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Encoder) -> Store:
    """A store of all documents that are given."""
    return ingested(tmp_path_factory.mktemp("whole") / "store", tiny_encoder, GIVEN)


def frame(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"qid": "q1", "query": QUERY, "docno": IDS, **columns})


def pairs(found: pd.DataFrame) -> list[tuple[str, float]]:
    return [*zip(found["docno"].tolist(), found["score"].tolist(), strict=True)]


def in_rank_order(found: pd.DataFrame) -> None:
    """The rows come query by query, and count from 0 in each."""
    for _, rows in found.groupby("qid", sort=False):
        assert rows["rank"].tolist() == [*range(len(rows))]


@pytest.mark.parametrize("missing", ["first_stage", "encode", "drop"])
def test_results_are_ordered_and_scored_as_the_re_ranker_does(opened: Opened, missing: Missing) -> None:
    given = frame(score=SCORES, rank=range(len(IDS)), text=TEXTS, title="a title")
    before = given.copy()
    found = ColbertStoreScorer(opened(missing=missing)).transform(given)
    assert pairs(found) == [(d.doc_id, d.score) for d in expected(opened(missing=missing), SCORES)]
    assert [*found.columns] == ["qid", "query", "docno", "text", "title", "score", "rank"]
    assert found.index.tolist() == [*range(len(found))]
    in_rank_order(found)
    texts = dict(zip(IDS, TEXTS, strict=True))
    assert found["text"].tolist() == [texts[docno] for docno in found["docno"]]
    pd.testing.assert_frame_equal(given, before)


def test_ids_without_vectors_may_be_an_error(opened: Opened) -> None:
    with pytest.raises(MissingVectorsError):
        ColbertStoreScorer(opened(missing="error")).transform(frame())


@pytest.mark.parametrize("missing", ["first_stage", "encode"])
def test_first_stage_order_is_that_of_the_scores_that_came(opened: Opened, missing: Missing) -> None:
    shuffled = frame(score=SCORES).sample(frac=1, random_state=7)
    assert shuffled["docno"].tolist() != IDS
    scorer = ColbertStoreScorer(opened(missing=missing, interpolate=0.3))
    assert pairs(scorer.transform(shuffled)) == pairs(scorer.transform(frame(score=SCORES)))
    assert pairs(scorer.transform(frame(score=SCORES))) == [
        (d.doc_id, d.score) for d in scorer.reranker.rerank(QUERY, [*zip(IDS, SCORES, strict=True)], fetch=lambda _: [])
    ]
    unscored = ColbertStoreScorer(opened()).transform(frame())
    assert pairs(unscored) == [(d.doc_id, d.score) for d in expected(opened())]


def test_several_queries_keep_apart(opened: Opened) -> None:
    asked = queries(3)
    frames = [frame(score=SCORES).assign(qid=q.query_id, query=q.text) for q in asked]
    together = pd.concat(frames).sample(frac=1, random_state=3)
    scorer = ColbertStoreScorer(opened())
    found = scorer.transform(together)
    assert {*found["qid"].unique()} == {q.query_id for q in asked}
    in_rank_order(found)
    for query, alone in zip(asked, frames, strict=True):
        assert pairs(found[found["qid"] == query.query_id]) == pairs(scorer.transform(alone))


def test_equal_scores_are_ranked_as_trec_eval_does(tmp_path: Path, tiny_encoder: Encoder, one_thread: None) -> None:
    twins = [documents(1)[0]._replace(doc_id=i) for i in ("a", "c", "b")]
    reranker = Reranker(ingested(tmp_path / "store", tiny_encoder, twins), tiny_encoder)
    given = pd.DataFrame({"qid": "1", "query": QUERY, "docno": ["b", "a", "c"], "text": RECIPE.text(twins[0].fields)})
    for scorer in (ColbertStoreScorer(reranker), ColbertTextScorer(reranker)):
        found = scorer.transform(given)
        assert found["docno"].tolist() == ["c", "b", "a"]
        assert found["rank"].tolist() == [0, 1, 2]
        assert found["score"].nunique() == 1


def test_texts_have_the_scores_they_would_have_if_they_were_stored(
    opened: Opened, whole: Store, tiny_encoder: Encoder
) -> None:
    """Twenty of them are, under the same ids: what is stored is not looked at."""
    given = frame(body=TEXTS)
    want = pairs(ColbertStoreScorer(Reranker(whole, tiny_encoder)).transform(given))
    assert pairs(ColbertTextScorer(opened(), text_attr="body").transform(given)) == want
    swapped = given.assign(docno=IDS[::-1])
    name = dict(zip(IDS, IDS[::-1], strict=True))
    by_text = ColbertTextScorer(opened(), text_attr="body").transform(swapped)
    assert sorted(pairs(by_text)) == sorted((name[docno], score) for docno, score in want)
    mixed = ColbertTextScorer(opened(interpolate=0.3)).transform(frame(score=SCORES, text=TEXTS))
    stored = ColbertStoreScorer(Reranker(whole, tiny_encoder, interpolate=0.3)).transform(frame(score=SCORES))
    assert pairs(mixed) == pairs(stored)


def test_empty_texts_go_by_the_policy(opened: Opened) -> None:
    given = frame(text=["", " ", *TEXTS[2:]])
    found = ColbertTextScorer(opened()).transform(given)
    assert found["docno"].tolist()[-2:] == IDS[:2]
    assert len(ColbertTextScorer(opened(missing="drop")).transform(given)) == len(IDS) - 2
    with pytest.raises(MissingVectorsError, match=r"2 of 24 candidates have no vectors in .* and no text"):
        ColbertTextScorer(opened(missing="error")).transform(given)
    with pytest.raises(InputError, match=f"candidate '{IDS[0]}' has None for its text"):
        ColbertTextScorer(opened()).transform(frame(text=pd.Series([None, *TEXTS[1:]], dtype=object)))
    stored = ColbertStoreScorer(opened(missing="encode")).transform(
        frame(text=pd.Series([None, *TEXTS[1:]], dtype=object))
    )
    assert stored["docno"].tolist()[-1] == IDS[0], "no text came along"


def test_texts_that_the_store_is_not_made_of_are_refused(
    tmp_path: Path, store: Store, tiny: Path, tiny_encoder: Encoder
) -> None:
    other = Encoder.load(str(tiny), device="cpu", choices=Choices(document_length=32))
    with pytest.raises(StoreMismatchError, match="way of making texts"):
        ColbertTextScorer(Reranker(store, other)).transform(frame(text=TEXTS))


@pytest.mark.parametrize("columns", [["qid", "query", "docno"], OUT, [*OUT, "text", "title"]])
def test_empty_frames_have_the_columns_of_others(opened: Opened, columns: list[str]) -> None:
    scorer = ColbertStoreScorer(opened())
    found = scorer.transform(pd.DataFrame(columns=columns))
    assert [*found.columns] == pt.inspect.transformer_outputs(scorer, columns)
    full = scorer.transform(frame().assign(**{c: 1.0 for c in columns if c not in ("qid", "query", "docno")})[columns])
    assert [*found.columns] == [*full.columns]
    assert found.dtypes[["score", "rank"]].to_dict() == full.dtypes[["score", "rank"]].to_dict()
    pt.validate.result_frame(found, extra_columns=["query", "score", "rank"])


def test_what_they_need_and_give_can_be_inspected(opened: Opened) -> None:
    by_id, by_text = ColbertStoreScorer(opened()), ColbertTextScorer(opened(), text_attr="body")
    assert pt.inspect.transformer_inputs(by_id) == [["qid", "docno", "query"]]
    assert pt.inspect.transformer_inputs(by_text) == [["qid", "docno", "query", "body"]]
    assert pt.inspect.transformer_outputs(by_text, ["qid", "docno", "query", "body"]) == [
        *("qid", "docno", "query", "body", "score", "rank")
    ]
    with pytest.raises(pt.validate.InputValidationError, match="body"):
        by_text.transform(frame())
    with pytest.raises(pt.validate.InputValidationError, match="query"):
        by_id.transform(pd.DataFrame(columns=["qid", "docno"]))
    assert {a.name: a.value for a in pt.inspect.transformer_attributes(by_text)} == {
        "reranker": by_text.reranker,
        "text_attr": "body",
    }
    other = pt.inspect.transformer_apply_attributes(by_text, text_attr="text")
    assert isinstance(other, ColbertTextScorer)
    assert other.text_attr == "text"
    assert pt.inspect.subtransformers(by_id) == {}


@pytest.mark.parametrize("kind", [ColbertStoreScorer, ColbertTextScorer])
def test_pyterrier_s_own_test_case_holds(
    opened: Opened, kind: type[ColbertStoreScorer | ColbertTextScorer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PT_TEST_TRANSFORMER_REPORTS", "0")
    monkeypatch.setattr(pt.documentation, "_cached_objects_inv", {})  # else it is fetched, to link to a page about it

    class Case(pt.testing.TransformerTestCase):
        @staticmethod
        def get_transformer() -> pt.Transformer:
            return kind(opened())

    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(Case).run(result)
    assert result.testsRun == 2
    assert result.wasSuccessful(), [*result.failures, *result.errors]


def test_an_experiment_runs_over_them(opened: Opened, whole: Store, tiny_encoder: Encoder) -> None:
    asked = queries(2)
    topics = pd.DataFrame([{"qid": q.query_id, "query": q.text} for q in asked])
    rows = pd.concat([frame(score=SCORES, text=TEXTS).assign(qid=q.query_id).drop(columns="query") for q in asked])
    first = pt.Transformer.from_df(pt.model.add_ranks(rows))
    by_id, by_text = ColbertStoreScorer(Reranker(whole, tiny_encoder)), ColbertTextScorer(opened())
    qrels = pd.DataFrame([{"qid": q.query_id, "docno": IDS[n], "label": 1} for n, q in enumerate(asked)])
    options: dict[str, Any] = {"eval_metrics": ["recip_rank", "ndcg"], "names": ["first", "id", "text"]}
    systems = [first, first >> by_id, first >> by_text]
    table = pt.Experiment(systems, topics, qrels, plan="tree", **options)
    rows_of = {name: row for name, *row in table.itertuples(index=False)}
    assert rows_of["id"] == rows_of["text"] != rows_of["first"]
    places = []
    for n, query in enumerate(asked):
        ranked = by_id.reranker.rerank(query.text, [*zip(IDS, SCORES, strict=True)])
        places.append([d.doc_id for d in ranked].index(IDS[n]) + 1)
    assert rows_of["id"][0] == pytest.approx(sum(1 / place for place in places) / len(places))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There are shared pipeline components", UserWarning)
        again = pt.Experiment(systems, topics, qrels, batch_size=1, **options)
    pd.testing.assert_frame_equal(table, again)
    assert not pt.java.started()


def test_pipelines_combine_them(opened: Opened) -> None:
    topics = pd.DataFrame({"qid": ["q1"], "query": [QUERY]})
    first = pt.Transformer.from_df(pt.model.add_ranks(frame(score=SCORES, text=TEXTS).drop(columns="query")))
    by_id = ColbertStoreScorer(opened(missing="drop"))
    best = (first >> by_id % 5).transform(topics)
    assert pairs(best) == [(d.doc_id, d.score) for d in expected(opened(missing="drop"), SCORES)[:5]]
    summed = (first >> (by_id + ColbertTextScorer(opened()))).transform(topics)
    scores = dict(pairs(summed))
    for docno, score in pairs(best):
        assert scores[docno] == pytest.approx(2 * score), "a text that is stored has the same score again"
    assert repr(by_id) == f"ColbertStoreScorer({str(by_id.reranker.store.folder)!r})"


def test_a_list_of_rows_gives_a_list(opened: Opened) -> None:
    rows = [{"qid": "q1", "query": QUERY, "docno": docno} for docno in IDS]
    found = [*ColbertStoreScorer(opened())(rows)]
    assert [(row["docno"], row["score"], row["rank"]) for row in found] == [
        (d.doc_id, d.score, rank) for rank, d in enumerate(expected(opened()))
    ]


def test_rows_that_cannot_be_paired_are_refused(opened: Opened) -> None:
    for scorer in (ColbertStoreScorer(opened()), ColbertTextScorer(opened())):
        given = frame(text=TEXTS)
        with pytest.raises(InputError, match=r"qid 'q1': .*is given twice"):
            scorer.transform(pd.concat([given, given]))
        with pytest.raises(InputError, match="qid 'q1': document 1 of 24: its id 0 is not a string"):
            scorer.transform(given.assign(docno=range(len(IDS))))
        with pytest.raises(InputError, match="qid 'q1': document 1 of 24: it has no id"):
            scorer.transform(given.assign(docno=pd.Series([None, *IDS[1:]], dtype=object)))
        with pytest.raises(InputError, match="qid 'q1': it has more than one query"):
            scorer.transform(given.assign(query=[QUERY, *["another"] * (len(IDS) - 1)]))
        with pytest.raises(InputError, match="a row of the frame has no qid"):
            scorer.transform(given.assign(qid=pd.Series([None, *["q1"] * (len(IDS) - 1)], dtype=object)))
        with pytest.raises(InputError, match="qid 'q1': query is empty"):
            scorer.transform(given.assign(query=" "))
        with pytest.raises(InputError, match=r"qid 'q1': .* first-stage score nan, not a finite number"):
            scorer.transform(given.assign(score=[float("nan"), *SCORES[1:]]))
