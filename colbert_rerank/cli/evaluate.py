"""`colbert-rerank eval`."""

from __future__ import annotations

import click

from colbert_rerank.cli.help import Command
from colbert_rerank.cli.output import figures, output_options, table
from colbert_rerank.cli.report import warn_of_coverage

DEFAULT_MEASURES = "nDCG@10 RR@10 R@100"


@click.command(cls=Command)
@click.argument("run")
@click.option("--qrels", metavar="FILE", required=True, help="Judgements: TREC qrels, or a BEIR TSV.")
@click.option(
    "--measures", metavar="NAMES", default=DEFAULT_MEASURES, show_default=True, help="As ir-measures names them."
)
@click.option("--by-query", is_flag=True, help="A line for each query as well.")
@output_options
def evaluate(run: str, qrels: str, measures: str, by_query: bool) -> None:
    """Measure a TREC run file.

    \b
    Example:  colbert-rerank eval run.txt --qrels qrels/test.tsv --measures "nDCG@10 RR(rel=2)@10"
    """
    from colbert_rerank import trec
    from colbert_rerank.evaluate import evaluate_queries, parse_measures

    names = parse_measures(measures)
    result = evaluate_queries(trec.read_run(run), trec.read_qrels(qrels), names)
    warn_of_coverage(result)
    if by_query:
        queries = sorted(result.per_query[names[0]], key=_by_number)
        rows = [[q, *(f"{result.per_query[m][q]:.4f}" for m in names)] for q in queries]
        table("", ["query", *names], [*rows, ["all", *figures(result.mean)]])
    else:
        table("", ["", *names], [[run, *figures(result.mean)]])


def _by_number(query_id: str) -> tuple[bool, int, str]:
    """Most query ids are numbers: 2 before 10, and what is none after them."""
    number = query_id.isascii() and query_id.isdecimal()
    return not number, int(query_id) if number else 0, query_id
