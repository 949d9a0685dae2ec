"""Measures of a run against judgements, through ir-measures, in trec_eval's order of the documents."""

from __future__ import annotations

import re
import subprocess
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from colbert_rerank.errors import InputError, UsageError
from colbert_rerank.trec import as_trec_eval_ranks
from colbert_rerank.types import Qrel, ScoredDoc

QUERIES_AT_ONCE = 100
# Spaces and commas stand between measures, save within the brackets of one: "RR(rel=2)@10, nDCG(dcg='exp-log2')@10".
_SEPARATOR = re.compile(r"[\s,]+(?![^()]*\))")


class Evaluation(NamedTuple):
    """``mean[measure]`` over the judged queries, and ``per_query[measure][query_id]``.

    ``absent`` are the judged queries of which the run has no row; ``unjudged`` those of the run that were left out.
    """

    mean: Mapping[str, float]
    per_query: Mapping[str, Mapping[str, float]]
    absent: Sequence[str]
    unjudged: Sequence[str]


def parse_measures(text: str) -> list[str]:
    """The measures in ``"nDCG@10 RR(rel=2)@10 R@100"``, each as ir-measures writes it.

    Raises UsageError for one that ir-measures does not know or cannot compute here, and where none is named.
    """
    names = [name for name in _SEPARATOR.split(text.strip()) if name]
    if not names:
        raise UsageError("no measure is named. Name some, for example 'nDCG@10 RR@10 R@100'")
    return list(dict.fromkeys(str(_measure(name)) for name in names))


def evaluate(run: Iterable[ScoredDoc], qrels: Iterable[Qrel], measures: Sequence[str]) -> dict[str, float]:
    """The mean of each measure over the judged queries: see ``evaluate_queries``."""
    return dict(evaluate_queries(run, qrels, measures).mean)


def evaluate_queries(run: Iterable[ScoredDoc], qrels: Iterable[Qrel], measures: Sequence[str]) -> Evaluation:
    """Each measure for each judged query, and its mean, as ``trec_eval -c`` takes it.

    A query of the run without judgements is left out. A query with judgements but no rows counts as 0 (or as what the
    measure says of an empty ranking). Within a query, documents are ordered as trec_eval orders them whatever the
    measure: ir-measures computes RR@k in another place than nDCG@k, and that one breaks ties the other way round.

    Raises UsageError for a measure that cannot be computed, InputError where there are no judgements or none of the
    run's queries is judged.
    """
    evaluator = Evaluator(qrels, measures)
    by_query: dict[str, list[ScoredDoc]] = {}
    for row in run:
        by_query.setdefault(row.query_id, []).append(row)
    for rows in by_query.values():
        evaluator.add(rows)
    return evaluator.result()


class Evaluator:
    """`evaluate_queries`, query by query: of a run of millions of rows only the figures are kept."""

    def __init__(self, qrels: Iterable[Qrel], measures: Sequence[str]) -> None:
        self._measures = [_measure(name) for name in measures]
        self._qrels: dict[str, list[Qrel]] = {}
        for qrel in qrels:
            self._qrels.setdefault(qrel.query_id, []).append(qrel)
        if not self._qrels:
            raise InputError("there are no judgements to evaluate against")
        self._values: dict[str, dict[str, float]] = {str(measure): {} for measure in self._measures}
        self._waiting: dict[str, list[ScoredDoc]] = {}
        self._judged: set[str] = set()  # that were added
        self._unjudged: list[str] = []

    def add(self, rows: Sequence[ScoredDoc]) -> None:
        """Take all rows of one query, in any order."""
        if rows and rows[0].query_id in self._qrels:
            self._waiting[rows[0].query_id] = list(rows)
            self._judged.add(rows[0].query_id)
        elif rows:
            self._unjudged.append(rows[0].query_id)
        if len(self._waiting) == QUERIES_AT_ONCE:
            self._compute(self._waiting)
            self._waiting = {}

    def result(self) -> Evaluation:
        """The measures over all judged queries; those that were not added have empty rankings."""
        if self._unjudged and not self._judged:
            raise InputError(
                "the run and the judgements have no query in common. Check that both are of the same topics"
            )
        absent = [query_id for query_id in self._qrels if query_id not in self._judged]
        self._compute(self._waiting | {query_id: [] for query_id in absent})
        per_query = {name: dict(sorted(values.items())) for name, values in self._values.items()}
        mean = {}
        for measure in self._measures:
            total = measure.aggregator()
            for value in per_query[str(measure)].values():
                total.add(value)
            mean[str(measure)] = float(total.result())
        return Evaluation(mean, per_query, absent, self._unjudged)

    def _compute(self, rankings: Mapping[str, Sequence[ScoredDoc]]) -> None:
        import ir_measures

        qrels = [ir_measures.Qrel(*qrel) for query_id in rankings for qrel in self._qrels[query_id]]
        # In trec_eval's order, with scores n, n - 1, .. 1: no provider has a tie left to break.
        run = [
            ir_measures.ScoredDoc(query_id, row.doc_id, float(len(rows) - i))
            for query_id, rows in rankings.items()
            for i, row in enumerate(as_trec_eval_ranks(rows))
        ]
        try:
            for value in ir_measures.iter_calc(self._measures, qrels, run):
                self._values[str(value.measure)][value.query_id] = float(value.value)
        except (ValueError, RuntimeError, subprocess.CalledProcessError) as error:
            raise UsageError(f"ir-measures cannot compute {', '.join(map(str, self._measures))}: {error}") from error


def _measure(name: str) -> Any:
    import ir_measures

    try:
        with warnings.catch_warnings():
            # ir-measures 0.4 reads measures through ast.Num and its like, which Python 3.12 deprecates.
            warnings.simplefilter("ignore", DeprecationWarning)
            measure = ir_measures.parse_measure(name)
            measure.validate_params()
            computable = ir_measures.DefaultPipeline.supports(measure)
    except (NameError, ValueError, AssertionError, TypeError, AttributeError) as error:
        raise UsageError(f"unknown measure {name!r}: {error}. Examples: nDCG@10, RR(rel=2)@10, R@100, AP") from error
    if not computable or measure.params.get("cutoff", 1) < 1:
        raise UsageError(f"the measure {name!r} cannot be computed here. Examples: nDCG@10, RR(rel=2)@10, R@100, AP")
    return measure
