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

# Spaces and commas stand between measures, save within the brackets of one: "RR(rel=2)@10, nDCG(dcg='exp-log2')@10".
_SEPARATOR = re.compile(r"[\s,]+(?![^()]*\))")


class Evaluation(NamedTuple):
    """``mean[measure]`` over the judged queries, and ``per_query[measure][query_id]``."""

    mean: Mapping[str, float]
    per_query: Mapping[str, Mapping[str, float]]


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
    import ir_measures

    parsed = [_measure(name) for name in measures]
    judged = [ir_measures.Qrel(qrel.query_id, qrel.doc_id, qrel.relevance) for qrel in qrels]
    if not judged:
        raise InputError("there are no judgements to evaluate against")
    ranked = _ranked(run, {qrel.query_id for qrel in judged})
    try:
        mean, values = ir_measures.calc(parsed, judged, ranked)
    except (ValueError, RuntimeError, subprocess.CalledProcessError) as error:
        raise UsageError(f"ir-measures cannot compute {', '.join(map(str, parsed))}: {error}") from error
    per_query: dict[str, dict[str, float]] = {str(measure): {} for measure in parsed}
    for value in sorted(values, key=lambda value: str(value.query_id)):
        per_query[str(value.measure)][value.query_id] = float(value.value)
    return Evaluation({str(measure): float(mean[measure]) for measure in parsed}, per_query)


def _ranked(run: Iterable[ScoredDoc], judged_queries: set[str]) -> list[Any]:
    """ir-measures rows in trec_eval's order, with scores n, n - 1, .. 1: no provider has a tie left to break."""
    import ir_measures

    by_query: dict[str, list[ScoredDoc]] = {}
    has_rows = False
    for row in run:
        has_rows = True
        if row.query_id in judged_queries:
            by_query.setdefault(row.query_id, []).append(row)
    if has_rows and not by_query:
        raise InputError("the run and the judgements have no query in common. Check that both are of the same topics")
    return [
        ir_measures.ScoredDoc(query_id, row.doc_id, float(len(rows) - i))
        for query_id, rows in by_query.items()
        for i, row in enumerate(as_trec_eval_ranks(rows))
    ]


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
