"""`colbert-rerank index`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from colbert_rerank.cli.help import Command
from colbert_rerank.cli.options import FOLDER, refuse
from colbert_rerank.cli.output import hint, output_options, pairs, say


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def index() -> None:
    """Find documents by their vectors, past what BM25 finds."""


@index.command(cls=Command)
@click.option("--store", required=True, type=FOLDER, help="The token store.")
@click.option(
    "--kind",
    type=click.Choice(["centroids", "ivfpq", "hnsw", "flat"]),
    default="centroids",
    show_default=True,
    help="What is kept of each vector; all but centroids are searched by FAISS.",
)
@click.option(
    "--partitions",
    metavar="N",
    type=click.IntRange(1),
    help="Centroids to learn; by default those of the store's residuals, or the power of two below 16 sqrt(vectors); "
    "for ivfpq the one above 8 sqrt(vectors).",
)
@click.option(
    "--subquantizers",
    metavar="N",
    type=click.IntRange(1),
    help="For ivfpq: bytes of a vector; by default one for 8 dimensions.",
)
@click.option("--again", is_flag=True, help="Learn anew, and leave nothing of the index that is there.")
@output_options
def build(store: Path, kind: str, partitions: int | None, subquantizers: int | None, again: bool) -> None:
    """Make an index of a store's vectors, or go on.

    centroids keeps each token as the number of its nearest centroid, two bytes, and looks at all of them. FAISS finds
    the vectors nearest to each token of a query among those of the nearest partitions, by codes (ivfpq), by a graph
    that is held in memory (hnsw), or among all that the store has, and keeps nothing (flat).

    Run it again after `ingest` and `store compact`, and it adds what is new: until then searches with --retriever
    refuse the index.

    \b
    Examples:
      colbert-rerank index build --store DIR
      colbert-rerank rerank "how do tides work" --store DIR --retriever centroids
      colbert-rerank index build --store DIR --kind ivfpq
      colbert-rerank rerank "how do tides work" --store DIR --retriever faiss
    """
    from colbert_rerank.cli.progress import progress
    from colbert_rerank.retrieval import centroids, faiss_files
    from colbert_rerank.retrieval.faiss_index import FaissIndex
    from colbert_rerank.store import Store

    opened = Store.open(store)
    by_centroids = kind == centroids.RETRIEVER
    if by_centroids:
        refuse(("subquantizers",), "only with --kind ivfpq")
    done, lacking = 0, centroids.lacking if by_centroids else faiss_files.lacking
    with progress("vectors", opened.manifest.rows if again else lacking(opened)) as update:

        def more(count: int) -> None:
            nonlocal done
            done += count
            update(done)

        if by_centroids:
            added = centroids.build(opened, partitions=partitions, again=again, progress=more)
        else:
            settings = faiss_files.Settings(partitions, subquantizers)
            added = faiss_files.build(opened, kind, settings, again=again, progress=more)
    found = centroids.CentroidIndex(opened) if by_centroids else FaissIndex(opened)
    by = f"{len(found.centroids):,} centroids" if isinstance(found, centroids.CentroidIndex) else kind
    say(
        f"{store}: {added:,} vectors added; {len(found.documents):,} documents by {by}",
        added=added,
        documents=len(found.documents),
        kind=kind,
    )
    retriever = centroids.RETRIEVER if by_centroids else faiss_files.RETRIEVER
    hint(f"search with it: colbert-rerank rerank QUERY --store {store} --retriever {retriever}")
    if not by_centroids and faiss_files.is_mostly_dead(opened):
        hint("more than half of its vectors are of documents that were deleted; --again leaves them out")


@index.command(cls=Command)
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("--json", "as_json", is_flag=True, help="One JSON object an index.")
@output_options
def info(folder: Path, as_json: bool) -> None:
    """Say what the indices of a store cover.

    \b
    Examples:
      colbert-rerank index info my-store
    """
    from colbert_rerank.retrieval import centroids, faiss_files
    from colbert_rerank.retrieval.state import folder_of, load
    from colbert_rerank.store import Store

    opened = Store.open(folder)
    modules = [one for one in (centroids, faiss_files) if load(folder_of(opened, one.RETRIEVER))]
    for number, module in enumerate(modules or [centroids]):  # which says how to make one
        found = module.facts(opened)
        if as_json:
            click.echo(json.dumps(found))
            continue
        if number:
            click.echo()
        pairs(found)
