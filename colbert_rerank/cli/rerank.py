"""`colbert-rerank rerank`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

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
from colbert_rerank.cli.output import output_options, table

if TYPE_CHECKING:
    from colbert_rerank.types import Candidates, ScoredDoc

SHOWN = 60  # characters of a document's text


@click.command()
@click.argument("query")
@click.option("--store", required=True, type=FOLDER, help="The token store.")
@click.option("--k", default=100, show_default=True, type=click.IntRange(1), help="Candidates to re-rank.")
@click.option("--top", default=10, show_default=True, type=click.IntRange(1), help="Documents to show.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a document instead of a table.")
@first_stage_options
@opensearch_options
@model_options
@ranking_options
@output_options
def rerank(
    query: str,
    store: Path,
    k: int,
    top: int,
    as_json: bool,
    first_stage: FirstStageOptions,
    server: OpenSearchOptions,
    model: ModelOptions,
    missing: Any,
    interpolate: float | None,
) -> None:
    """Find candidates for one query, re-rank them, and show the best.

    \b
    Examples:
      colbert-rerank rerank "how do tides work" --store DIR
      colbert-rerank rerank "how do tides work" --store DIR --opensearch URL --index NAME --k 1000
    """
    from colbert_rerank.types import Query

    reranker = open_reranker(store, model, missing, interpolate)
    candidates = first_stage.open(reranker.store, server)
    (ranking,) = reranker.run([Query("", query)], candidates, k)
    was = {d.doc_id: (rank, d.score) for rank, d in enumerate(ranking.first_stage, start=1)}
    if as_json:
        for rank, document in enumerate(ranking.ranked[:top], start=1):
            before, score = was[document.doc_id]
            click.echo(
                json.dumps(
                    {
                        "rank": rank,
                        "doc_id": document.doc_id,
                        "score": document.score,
                        "first_stage_rank": before,
                        "first_stage_score": score,
                    },
                    ensure_ascii=False,
                )
            )
        return
    if not ranking.ranked:
        click.echo("No candidates: the first stage found nothing for this query.")
        return
    shown = ranking.ranked[:top]
    texts = _texts(candidates, shown, reranker.store.manifest.recipe.text) if first_stage.candidates is None else {}
    rows = [
        [str(rank), d.doc_id, f"{d.score:.6f}", str(was[d.doc_id][0]), texts.get(d.doc_id, "")]
        for rank, d in enumerate(shown, start=1)
    ]
    table("", ["rank", "id", "score", "was", "text"], rows, left=(1, 4))


def _texts(candidates: Candidates, shown: list[ScoredDoc], text: Any) -> dict[str, str]:
    return {d.doc_id: " ".join(text(d.fields).split())[:SHOWN] for d in candidates.fetch([s.doc_id for s in shown])}
