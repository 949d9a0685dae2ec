"""Measures equal trec_eval's own, ties and missing queries included."""

from __future__ import annotations

import math
import warnings

import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from colbert_rerank.errors import InputError, UsageError
from colbert_rerank.evaluate import evaluate, evaluate_queries, parse_measures
from colbert_rerank.types import Qrel, ScoredDoc

QRELS = [
    Qrel("19335", "1017759", 0),
    Qrel("19335", "1082489", 2),
    Qrel("19335", "109063", 1),
    Qrel("47923", "1300452", 3),
]
RUN = [
    ScoredDoc("19335", "1017759", 12.5),
    ScoredDoc("19335", "109063", 11.0),
    ScoredDoc("19335", "1082489", 10.0),
    ScoredDoc("99999", "1300452", 1.0),
]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("nDCG@10 RR@10 R@100", ["nDCG@10", "RR@10", "R@100"]),
        (" nDCG@10,RR(rel=2)@10 , R(rel=2)@100\n", ["nDCG@10", "RR(rel=2)@10", "R(rel=2)@100"]),
        ("P( rel=2, judged_only=True )@10 AP", ["P(judged_only=True,rel=2)@10", "AP"]),
        ("nDCG(dcg='exp-log2')@10", ["nDCG(dcg='exp-log2')@10"]),
        ("MRR@10 RR@10", ["RR@10"]),
    ],
    ids=["spaces", "commas", "spaces-within-brackets", "quotes", "the-same-under-two-names"],
)
def test_measures_are_parsed_from_one_string(text: str, names: list[str]) -> None:
    parsed = parse_measures(text)
    assert [sorted(name) for name in parsed] == [sorted(name) for name in names]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "nDGC@10",
        "nDCG(x=1)@10",
        "nDCG@ten",
        "nDCG@-1",
        "nDCG@0",
        "nDCG@",
        "RR(rel=2",
        "R",
        "10",
        "a.b@1",
        "alpha_nDCG@10",
    ],
)
def test_an_unknown_measure_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="measure"):
        parse_measures(text)


def test_measures_are_parsed_without_a_warning_on_every_python() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        parse_measures("nDCG(dcg='exp-log2')@10 RR(rel=2)@10")
    assert not caught


def test_queries_without_rows_count_as_zero_and_queries_without_judgements_not_at_all() -> None:
    result = evaluate_queries(RUN, QRELS, ["RR@10", "RR(rel=2)@10", "R@100", "P@2"])
    assert result.per_query == {
        "RR@10": {"19335": 1 / 2, "47923": 0.0},
        "RR(rel=2)@10": {"19335": 1 / 3, "47923": 0.0},
        "R@100": {"19335": 1.0, "47923": 0.0},
        "P@2": {"19335": 1 / 2, "47923": 0.0},
    }
    assert list(result.mean) == ["RR@10", "RR(rel=2)@10", "R@100", "P@2"]
    assert result.mean == pytest.approx({"RR@10": 1 / 4, "RR(rel=2)@10": 1 / 6, "R@100": 1 / 2, "P@2": 1 / 4})
    assert evaluate(RUN, QRELS, ["RR@10"]) == {"RR@10": 1 / 4}


def test_ndcg_is_the_textbook_one() -> None:
    found = evaluate(RUN, QRELS, ["nDCG@10"])["nDCG@10"]
    gained = 1 / math.log2(3) + 2 / math.log2(4)
    assert found == pytest.approx(gained / (2 + 1 / math.log2(3)) / 2)


ties = st.dictionaries(
    st.sampled_from(["9", "10", "100", "d1", "é", "日本"]),
    st.sampled_from([1.0, 2.0, 16.0000001, 16.0000002, -1.0]),
    min_size=1,
)


@given(ties, st.dictionaries(st.sampled_from(["9", "10", "100", "é", "x"]), st.integers(0, 3), min_size=1))
def test_every_measure_orders_ties_as_trec_eval_does(scores: dict[str, float], grades: dict[str, int]) -> None:
    run = [ScoredDoc("q", doc_id, score) for doc_id, score in scores.items()]
    qrels = [Qrel("q", doc_id, grade) for doc_id, grade in grades.items()]
    ours = evaluate(run, qrels, ["nDCG@5", "RR", "RR@1000", "R@5", "AP"])
    evaluator = pytrec_eval.RelevanceEvaluator({"q": grades}, {"ndcg_cut.5", "recip_rank", "recall.5", "map"})
    theirs = evaluator.evaluate({"q": scores})["q"]
    assert ours == {
        "nDCG@5": theirs["ndcg_cut_5"],
        "RR": theirs["recip_rank"],
        "RR@1000": theirs["recip_rank"],
        "R@5": theirs["recall_5"],
        "AP": theirs["map"],
    }


def test_a_run_and_qrels_of_different_topics_are_refused() -> None:
    with pytest.raises(InputError, match="no query in common"):
        evaluate([ScoredDoc("019335", "1017759", 1.0)], QRELS, ["nDCG@10"])


def test_an_empty_run_scores_zero() -> None:
    assert evaluate([], QRELS, ["nDCG@10", "RR@10"]) == {"nDCG@10": 0.0, "RR@10": 0.0}


def test_qrels_without_judgements_are_refused() -> None:
    with pytest.raises(InputError, match="no judgements"):
        evaluate(RUN, [], ["nDCG@10"])
