"""`colbert-rerank index`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from colbert_rerank.cli.help import Command
from colbert_rerank.cli.options import FOLDER
from colbert_rerank.cli.output import hint, output_options, say


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def index() -> None:
    """Find documents by their vectors, past what BM25 finds."""


@index.command(cls=Command)
@click.option("--store", required=True, type=FOLDER, help="The token store.")
@click.option(
    "--partitions",
    metavar="N",
    type=click.IntRange(1),
    help="Centroids to learn; by default those of the store's residuals, or the power of two below 16 sqrt(vectors).",
)
@click.option("--again", is_flag=True, help="Learn anew, and leave nothing of the index that is there.")
@output_options
def build(store: Path, partitions: int | None, again: bool) -> None:
    """Make an index of a store's vectors, or go on.

    Each token is kept as the number of its nearest centroid: two bytes. Run it again after `ingest` and `store
    compact`, and it adds what is new: until then searches with --retriever centroids refuse the index.

    \b
    Examples:
      colbert-rerank index build --store DIR
      colbert-rerank rerank "how do tides work" --store DIR --retriever centroids
    """
    from colbert_rerank.cli.progress import progress
    from colbert_rerank.retrieval.centroids import CentroidIndex, build, lacking
    from colbert_rerank.store import Store

    opened = Store.open(store)
    rows = opened.manifest.rows if again else lacking(opened)
    done = 0
    with progress("vectors", rows) as update:

        def more(count: int) -> None:
            nonlocal done
            done += count
            update(done)

        added = build(opened, partitions=partitions, again=again, progress=more)
    found = CentroidIndex(opened)
    say(
        f"{store}: {added:,} vectors added; {len(found.documents):,} documents by {len(found.centroids):,} centroids",
        added=added,
        documents=len(found.documents),
        centroids=len(found.centroids),
    )
    hint(f"search with it: colbert-rerank rerank QUERY --store {store} --retriever centroids")


@index.command(cls=Command)
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@output_options
def info(folder: Path, as_json: bool) -> None:
    """Say what the index of a store covers.

    \b
    Examples:
      colbert-rerank index info my-store
    """
    from colbert_rerank.retrieval.centroids import facts
    from colbert_rerank.store import Store

    found = facts(Store.open(folder))
    if as_json:
        click.echo(json.dumps(found))
        return
    width = max(map(len, found))
    for name, value in found.items():
        click.echo(f"{name.ljust(width)}  {f'{value:,}' if isinstance(value, int) else value}")
