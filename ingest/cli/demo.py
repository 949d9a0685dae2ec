"""`colbert-rerank demo`."""

from __future__ import annotations

import time
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import click

from colbert_rerank.cli.evaluate import DEFAULT_MEASURES
from colbert_rerank.cli.help import Command
from colbert_rerank.cli.options import (
    FOLDER,
    SERVER,
    ModelOptions,
    OpenSearchOptions,
    model_options,
    next_command,
    opensearch_options,
    refuse,
)
from colbert_rerank.cli.output import figures, line_width, output_options, say, table
from colbert_rerank.cli.progress import progress
from ingest.cli.ingest import keeping

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from colbert_rerank.report import Report
    from colbert_rerank.rerank import Ranking
    from colbert_rerank.types import Candidates, Document, ScoredDoc

INDEX = "colbert-rerank-demo"
EXAMPLE_DEPTH = 5


@click.command(cls=Command)
@click.option("--store", type=FOLDER, help="Where to put the store; by default demo-store (or demo-store-opensearch).")
@click.option("--k", metavar="N", default=100, show_default=True, type=click.IntRange(1), help="Candidates a query.")
@opensearch_options
@model_options
@output_options
def demo(store: Path | None, k: int, server: OpenSearchOptions, model: ModelOptions) -> None:
    """Re-rank a bundled collection and show BM25 beside ColBERT.

    1,890 Wikipedia paragraphs and 100 multi-hop questions (MuSiQue, CC BY 4.0; Wikipedia text CC BY-SA). Everything it
    needs is in the package. With --opensearch URL the first stage is that server, in the index colbert-rerank-demo.

    \b
    Examples:
      colbert-rerank demo
      colbert-rerank demo --opensearch http://localhost:9200
    """
    from colbert_rerank import trec
    from colbert_rerank.evaluate import evaluate_queries, parse_measures
    from colbert_rerank.recipe import Recipe
    from colbert_rerank.rerank import Reranker
    from colbert_rerank.store import Store
    from ingest.first_stage import opensearch
    from ingest.pipeline import IngestReport, ingest
    from ingest.sources import SourceOptions, open_source
    from ingest.validation import InputReport
    from mappings import index_body

    collection = Path(str(files("colbert_rerank") / "data" / "musique_mini"))
    recipe = Recipe()
    folder = store or Path("demo-store-opensearch" if server.opensearch else "demo-store")
    seconds: dict[str, float] = {}
    clock = time.perf_counter()
    if not server.opensearch:
        refuse(SERVER, "only with --opensearch URL")
    client = server.connect() if server.opensearch else None
    encoder = model.load()
    first_stage = opensearch(client, INDEX, index_body(recipe.fields)) if client else None
    seconds["load the model"] = time.perf_counter() - clock

    clock = time.perf_counter()
    report = IngestReport(InputReport())
    source = open_source(str(collection), SourceOptions(), report.input)
    with progress("documents", 1890) as update, keeping(report):
        ingest(
            source,
            folder,
            encoder,
            recipe=recipe,
            report=report,
            first_stage=first_stage,
            allow_other_index=True,  # an index of this name can only hold these documents
            progress=lambda r: update(r.encoded + r.unchanged, size=r.rows * encoder.dim * 2, free=r.unchanged),
        )
    seconds["ingest"] = time.perf_counter() - clock

    opened = Store.open(folder)
    reranker = Reranker(opened, encoder)
    candidates: Candidates
    if client:
        from colbert_rerank.candidates.opensearch import OpenSearchCandidates

        candidates = OpenSearchCandidates(client, INDEX, fields=recipe.fields)
    else:
        from colbert_rerank.candidates.bm25 import Bm25Index

        candidates = Bm25Index.open_for(folder, opened.manifest)
    queries = list(trec.read_topics(str(collection / "queries.jsonl")))
    with progress("queries", len(queries)) as update:
        rankings = []
        for ranking in reranker.run(queries, candidates, k):
            rankings.append(ranking)
            update(len(rankings))

    measures = parse_measures(DEFAULT_MEASURES)
    qrels = list(trec.read_qrels(str(collection / "qrels" / "test.tsv")))
    before = evaluate_queries((d for r in rankings for d in r.first_stage), qrels, measures)
    after = evaluate_queries((d for r in rankings for d in r.ranked), qrels, measures)
    stage = "BM25 (OpenSearch)" if client else "BM25 (embedded)"
    click.echo()
    table(
        f"{len(opened):,} documents, {len(queries)} queries, top {k} re-ranked",
        ["", *measures],
        [[stage, *figures(before.mean)], [f"ColBERT ({model.model})", *figures(after.mean)]],
    )
    click.echo()
    _times(seconds, report.encoded, reranker.report)
    relevant = {(q.query_id, q.doc_id) for q in qrels if q.relevance > 0}
    gain = {
        r.query.query_id: after.per_query[measures[0]][r.query.query_id]
        - before.per_query[measures[0]][r.query.query_id]
        for r in rankings
    }
    ordered = sorted(rankings, key=lambda r: gain[r.query.query_id])
    for title, ranking in (("The greatest gain", ordered[-1]), ("The greatest loss", ordered[0])):
        click.echo()
        _example(title, ranking, gain[ranking.query.query_id], relevant, candidates)
    click.echo()
    command = next_command('rerank "who founded Publix"', folder, server)
    click.echo(f"Now ask it something:  {command}")
    say(f"the store is in {folder}; delete it when you are done", store=str(folder))


def _times(seconds: Mapping[str, float], encoded: int, report: Report) -> None:
    rows = [[stage, f"{s:.1f} s"] for stage, s in seconds.items()]
    if encoded:
        rows[-1][0] += f" ({encoded / seconds['ingest']:.0f} documents/s)"
    means = report.mean_ms() | {"together, overlapping": report.wall_ms()}
    rows += [[f"{stage}, mean a query", f"{ms:.2f} ms"] for stage, ms in means.items()]
    table("Time", ["stage", ""], rows)


def _example(title: str, ranking: Ranking, gain: float, relevant: set[tuple[str, str]], candidates: Candidates) -> None:
    lists = (ranking.first_stage[:EXAMPLE_DEPTH], ranking.ranked[:EXAMPLE_DEPTH])
    wanted = sorted({d.doc_id for shown in lists for d in shown})
    titles = {d.doc_id: _title(d) for d in candidates.fetch(wanted)}

    def cell(shown: Sequence[ScoredDoc], rank: int) -> str:
        if rank >= len(shown):
            return ""
        query_id, doc_id = shown[rank][:2]
        return ("* " if (query_id, doc_id) in relevant else "  ") + titles.get(doc_id, doc_id)

    rows = [[str(rank + 1), cell(lists[0], rank), cell(lists[1], rank)] for rank in range(EXAMPLE_DEPTH)]
    click.echo(f"{title} (nDCG@10 {gain:+.2f}): {ranking.query.text}")
    table("", ["", "BM25", "ColBERT (* relevant)"], rows, left=(1, 2))


def _title(document: Document) -> str:
    room = ((line_width() or 100) - 12) // 2  # two columns of titles beside the rank
    return str(document.fields.get("title", document.doc_id))[: min(room, 44)]
