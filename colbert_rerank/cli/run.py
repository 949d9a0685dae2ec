"""`colbert-rerank run`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from colbert_rerank.cli.evaluate import DEFAULT_MEASURES
from colbert_rerank.cli.options import (
    FOLDER,
    FirstStageOptions,
    ModelOptions,
    OpenSearchOptions,
    first_stage_options,
    model_options,
    open_reranker,
    opensearch_options,
    ranking_options,
)
from colbert_rerank.cli.output import figures, output_options, progress, say, table, warn

if TYPE_CHECKING:
    from colbert_rerank.rerank import Report
    from colbert_rerank.types import ScoredDoc


@click.command()
@click.option("--topics", required=True, help="Queries: BEIR JSONL, TSV or TREC SGML; - for stdin.")
@click.option("--store", required=True, type=FOLDER, help="The token store.")
@click.option("--output", required=True, help="The run file to write; - for stdout.")
@click.option("--k", default=1000, show_default=True, type=click.IntRange(1), help="Candidates a query.")
@click.option("--tag", default="colbert-rerank", show_default=True, help="The run's last column.")
@click.option("--qrels", help="Judgements; with them the run is measured.")
@click.option("--measures", default=DEFAULT_MEASURES, show_default=True, help="As ir-measures names them.")
@first_stage_options
@opensearch_options
@model_options
@ranking_options
@output_options
def run(
    topics: str,
    store: Path,
    output: str,
    k: int,
    tag: str,
    qrels: str | None,
    measures: str,
    first_stage: FirstStageOptions,
    server: OpenSearchOptions,
    model: ModelOptions,
    missing: Any,
    interpolate: float | None,
) -> None:
    """Re-rank the first stage's top k for every topic and write a TREC run.

    \b
    Examples:
      colbert-rerank run --topics queries.jsonl --store DIR --output run.txt --qrels qrels/test.tsv
      colbert-rerank run --topics topics.txt --store DIR --opensearch URL --index NAME --output run.txt
      colbert-rerank run --topics queries.tsv --store DIR --candidates bm25.txt --k 100 --output run.txt
    """
    from colbert_rerank import trec
    from colbert_rerank.evaluate import evaluate, parse_measures

    names = parse_measures(measures)
    queries = list(trec.read_topics(topics))
    judged = list(trec.read_qrels(qrels)) if qrels else None
    reranker = open_reranker(store, model, missing, interpolate)
    candidates = first_stage.open(reranker.store, server)
    before: list[ScoredDoc] = []
    after: list[ScoredDoc] = []

    def rows() -> Iterator[ScoredDoc]:
        with progress("queries", len(queries)) as update:
            for done, ranking in enumerate(reranker.run(queries, candidates, k), start=1):
                if judged is not None:
                    before.extend(ranking.first_stage)
                    after.extend(ranking.ranked)
                update(done, "")
                yield from ranking.ranked

    written = trec.write_run(rows(), output, tag)
    say(f"{written:,} lines in {output}", lines=written, output=output)
    describe(reranker.report)
    if judged is not None:
        stages = {"first stage": evaluate(before, judged, names), "re-ranked": evaluate(after, judged, names)}
        table("", ["", *names], [[stage, *figures(means)] for stage, means in stages.items()])


def describe(report: Report) -> None:
    """Say what a re-ranker did: what was left out or cut, and where the time went."""
    say(
        f"{report.queries:,} queries, {report.scored:,} of {report.candidates:,} candidates scored",
        queries=report.queries,
        candidates=report.candidates,
        scored=report.scored,
    )
    for name, count in sorted(report.missing.items()):
        if count:
            warn(f"{count:,} candidates without vectors: {name.replace('_', ' ')}", **{f"missing_{name}": count})
    if report.empty:
        warn(f"{report.empty:,} queries found no candidate", empty=report.empty)
    if report.truncated_queries:
        warn(f"{report.truncated_queries:,} queries were longer than the model reads, and cut")
    times = report.median_ms()
    say("median ms a query: " + ", ".join(f"{stage} {ms:.2f}" for stage, ms in times.items()), median_ms=times)
