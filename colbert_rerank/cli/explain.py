"""`colbert-rerank explain`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from colbert_rerank.cli.first_stage import (
    ElasticsearchOptions,
    FirstStageOptions,
    elasticsearch_options,
    first_stage_options,
)
from colbert_rerank.cli.help import Command
from colbert_rerank.cli.opening import open_reranker, open_store, verify_option
from colbert_rerank.cli.options import (
    FOLDER,
    OpenSearchOptions,
    StoreModelOptions,
    opensearch_options,
    store_model_options,
)
from colbert_rerank.cli.output import output_options, table, warn_always


@click.command(cls=Command)
@click.argument("query")
@click.argument("doc_id")
@click.option("--store", required=True, type=FOLDER, help="The token store.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, not a table.")
@first_stage_options
@opensearch_options
@elasticsearch_options
@store_model_options
@verify_option
@output_options
def explain(
    query: str,
    doc_id: str,
    store: Path,
    as_json: bool,
    first_stage: FirstStageOptions,
    server: OpenSearchOptions,
    elastic: ElasticsearchOptions,
    model: StoreModelOptions,
    verify: str,
) -> None:
    """Say which tokens of a document a query's chose.

    For each token of the query: the document's token that is nearest, how near, and its share of the score. Where
    tokens cannot be told, because the text has changed since it was encoded or vectors are pooled, that is said, and
    the rows of the store are numbered.

    \b
    Examples:
      colbert-rerank explain "how do tides work" 7067032 --store DIR
      colbert-rerank explain "how do tides work" 7067032 --store DIR --opensearch URL --index NAME
    """
    from colbert_rerank import explanation

    opened, candidates = first_stage.open(open_store(store, verify), server, elastic)
    reranker = open_reranker(opened, model)
    texts = [opened.manifest.recipe.text(document.fields) for document in candidates.fetch([doc_id])]
    found = explanation.explain(reranker, query, doc_id, texts[0] if texts else None)
    total = sum(match.similarity for match in found.matches)
    if as_json:
        matches = [
            {
                "query_token": match.query_token,
                "row": match.row,
                "document_token": found.tokens[match.row] if found.tokens else None,
                "similarity": match.similarity,
                "share": match.similarity / total if total else 0.0,
            }
            for match in found.matches
        ]
        said = {"doc_id": doc_id, "score": found.score, "matches": matches, "tokens": found.tokens}
        click.echo(json.dumps(said | {"why_not": found.why_not or None}, ensure_ascii=False))
        return
    if found.why_not:
        warn_always(f"document {doc_id!r}: its tokens cannot be told, {found.why_not}")
    rows = [
        [
            match.query_token,
            found.tokens[match.row] if found.tokens else "?",
            str(match.row),
            f"{match.similarity:.6f}",
            f"{100 * match.similarity / total:.1f} %" if total else "",
        ]
        for match in found.matches
    ]
    table(f"{doc_id}: {found.score:.6f}", ["query", "document", "row", "similarity", "share"], rows, left=(0, 1))
