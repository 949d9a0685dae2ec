"""`colbert-rerank rerank`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from colbert_rerank.cli.first_stage import (
    ElasticsearchOptions,
    FirstStageOptions,
    RetrieverOptions,
    elasticsearch_options,
    first_stage_options,
    retriever_options,
)
from colbert_rerank.cli.help import Command
from colbert_rerank.cli.opening import open_reranker, open_store, residency_options, verify_option
from colbert_rerank.cli.options import (
    FOLDER,
    OpenSearchOptions,
    StoreModelOptions,
    opensearch_options,
    ranking_options,
    store_model_options,
)
from colbert_rerank.cli.output import line_width, output_options, table, warn_always
from colbert_rerank.cli.report import warn_of_gaps
from colbert_rerank.errors import UsageError

if TYPE_CHECKING:
    from colbert_rerank.recipe import Recipe
    from colbert_rerank.types import Candidates, ScoredDoc

SHOWN = 72  # characters of a document's text, where no terminal cuts the line
ID_SHOWN = 36  # characters of an id on a terminal: a UUID stays whole


@click.command(cls=Command)
@click.argument("query")
@click.option("--store", required=True, type=FOLDER, help="The token store.")
@click.option("--k", metavar="N", default=100, show_default=True, type=click.IntRange(1), help="Candidates to re-rank.")
@click.option("--top", metavar="N", default=10, show_default=True, type=click.IntRange(1), help="Documents to show.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a document, not a table.")
@retriever_options
@first_stage_options
@opensearch_options
@elasticsearch_options
@store_model_options
@verify_option
@residency_options("mmap")
@ranking_options
@output_options
def rerank(
    query: str,
    store: Path,
    k: int,
    top: int,
    as_json: bool,
    retriever: RetrieverOptions,
    first_stage: FirstStageOptions,
    server: OpenSearchOptions,
    elastic: ElasticsearchOptions,
    model: StoreModelOptions,
    verify: str,
    **options: Any,
) -> None:
    """Search with one query and re-rank what is found.

    \b
    Examples:
      colbert-rerank rerank "how do tides work" --store DIR
      colbert-rerank rerank "how do tides work" --store DIR --retriever centroids
      colbert-rerank rerank "how do tides work" --store DIR --opensearch URL --index NAME --k 1000
      colbert-rerank rerank "how do tides work" --store DIR --elasticsearch URL --index NAME --allow-other-index
    """
    from colbert_rerank.types import Query

    if not query.strip():
        raise UsageError("the query is empty; give it some text")
    opened, candidates = first_stage.open(open_store(store, verify), server, elastic)
    reranker = open_reranker(opened, model, **options)
    candidates = retriever.candidates(reranker, candidates)
    (ranking,) = reranker.run([Query("", query)], candidates, k, allow_other_index=first_stage.allow_other_index)
    if not ranking.first_stage:
        warn_always("the first stage found nothing for this query")
        return
    warn_of_gaps(reranker)
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
                        "scored": document.scored,
                        "exact": document.exact,
                        "first_stage_rank": before,
                        "first_stage_score": score,
                    },
                    ensure_ascii=False,
                )
            )
        return
    shown = ranking.ranked[:top]
    # between the fields a mark, so that a title does not run into the text
    texts = _texts(candidates, shown, opened.manifest.recipe._replace(separator=" | "))
    rows = [
        [
            str(rank),
            _shown_id(d.doc_id),
            f"{'' if d.exact else '~'}{d.score:.6f}" if d.scored else "unscored",
            str(was[d.doc_id][0]),
            texts.get(d.doc_id, ""),
        ]
        for rank, d in enumerate(shown, start=1)
    ]
    table("", ["rank", "id", "score", "first stage", "text"], rows, left=(1, 4))


def _shown_id(doc_id: str) -> str:
    """On a terminal without the middle of a long id, which would push the text away; for scripts as it is."""
    if line_width() is None or len(doc_id) <= ID_SHOWN:
        return doc_id
    kept = (ID_SHOWN - 1) // 2  # at the end as much, where the URLs of one site begin to differ
    return doc_id[: ID_SHOWN - 1 - kept] + "…" + doc_id[-kept:]


def _texts(candidates: Candidates, shown: list[ScoredDoc], recipe: Recipe) -> dict[str, str]:
    texts = {d.doc_id: " ".join(recipe.text(d.fields).split()) for d in candidates.fetch([s.doc_id for s in shown])}
    return {doc_id: text if len(text) <= SHOWN else text[: SHOWN - 1] + "…" for doc_id, text in texts.items()}
