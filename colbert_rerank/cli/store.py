"""`colbert-rerank store`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from colbert_rerank.cli import LazyGroup
from colbert_rerank.cli.help import Command
from colbert_rerank.cli.options import FOLDER
from colbert_rerank.cli.output import hint, output_options, pairs, say, warn_always
from colbert_rerank.errors import StoreCorruptError, UsageError

# What changes a store is of the write path, which is not imported from here.
STORE_COMMANDS = {
    "info": ("colbert_rerank.cli.store", "info"),
    "verify": ("colbert_rerank.cli.store", "verify"),
    "delete": ("ingest.cli.upkeep", "delete"),
    "compact": ("ingest.cli.upkeep", "compact"),
    "repair": ("ingest.cli.upkeep", "repair"),
    "export": ("colbert_rerank.cli.store", "export"),
    "import": ("ingest.cli.upkeep", "import_"),
}


class StoreGroup(LazyGroup):
    commands_by_name = STORE_COMMANDS


@click.group(cls=StoreGroup, context_settings={"help_option_names": ["-h", "--help"]})
def store() -> None:
    """Look at a store, delete from it, make room, repair it, export it.

    \b
    What it holds, and whether it is sound:  info, verify
    What changes it:                         delete, compact, repair
    To and from other formats:               export, import
    """


@click.command(cls=Command)
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@output_options
def info(folder: Path, as_json: bool) -> None:
    """Print what a store holds and what it was made with.

    \b
    Examples:
      colbert-rerank store info my-store
      colbert-rerank store info my-store --json
    """
    from colbert_rerank.store import Store
    from colbert_rerank.store.inspection import facts

    found = facts(Store.open(folder))
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False, indent=1))
        return
    pairs(
        {
            name: ", ".join(f"{k} {v}" for k, v in value.items()) or "none" if isinstance(value, dict) else value
            for name, value in found.items()
        }
    )


@click.command(cls=Command)
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@output_options
def verify(folder: Path, as_json: bool) -> None:
    """Read a whole store and compare every checksum.

    Each damaged file is named; the exit status is 1 where there is one. That the BM25 index is behind the store, as
    while an ingest runs, is said and is no damage.

    \b
    Examples:
      colbert-rerank store verify my-store
    """
    from colbert_rerank.cli.progress import working
    from colbert_rerank.errors import IndexBehindError, StoreMismatchError
    from colbert_rerank.store import Store
    from colbert_rerank.store.inspection import damages

    behind, beside = None, []
    with working(f"reading {folder}"):
        try:  # first: where it cannot be looked at, the store is not read in vain
            _verify_first_stage(folder)
        except IndexBehindError as error:
            behind = str(error)
        except (StoreCorruptError, StoreMismatchError) as error:
            beside.append(str(error))
        found = [*damages(folder), *beside]
    if as_json:
        click.echo(json.dumps({"store": str(folder), "damages": found, "behind": behind}, ensure_ascii=False))
    for damage in [] if as_json else found:
        click.echo(damage)
    if behind:
        warn_always(behind)
    if found:
        raise StoreCorruptError(f"{folder}: {len(found)} of its files {'is' if len(found) == 1 else 'are'} damaged")
    opened = Store.open(folder)
    say(f"{folder}: sound; {len(opened):,} documents, {opened.manifest.rows:,} token vectors")


def _verify_first_stage(folder: Path) -> None:
    """Read the BM25 index beside the store, if there is one. Raises as `Bm25Index.verify` does."""
    from colbert_rerank.candidates.bm25 import Bm25Index
    from colbert_rerank.store import manifest as manifests

    manifest = manifests.load(folder)
    if manifest.embedded:
        Bm25Index.verify(folder, manifest)


@click.command(cls=Command)
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("--output", metavar="PATH", required=True, help="A new folder or file; for bodies of _bulk - is stdout.")
@click.option(
    "--format",
    type=click.Choice(["numpy", "pylate", "opensearch", "elasticsearch"]),
    default="numpy",
    show_default=True,
    help="A folder of arrays, one file for torch.load, or bodies of _bulk.",
)
@click.option("--ids", metavar="FILE", help="Only these documents: their ids, one a line; - is stdin.")
@click.option("--field", metavar="NAME", default="vectors", show_default=True, help="Of bodies of _bulk.")
@output_options
def export(folder: Path, output: str, format: str, ids: str | None, field: str) -> None:
    """Write a store's vectors in a form that others read.

    numpy: vectors.npy [sum T, d], offsets.npy [n + 1] and ids.json, which `store import` reads. pylate: documents_ids
    and documents_embeddings, the lists that PyLate's rank.rerank takes. opensearch and elasticsearch: lines for _bulk
    that add the vectors to documents of an index.

    \b
    Examples:
      colbert-rerank store export my-store --output arrays
      colbert-rerank store export my-store --format opensearch --output bulk.ndjson
    """
    from colbert_rerank.cli.progress import working
    from colbert_rerank.lines import read_ids
    from colbert_rerank.store import Store, exchange

    if output == "-" and format in ("numpy", "pylate"):
        raise UsageError(
            f"--format {format} makes {'a folder' if format == 'numpy' else 'a file'} and cannot go to stdout: give a "
            "path with --output. Bodies of _bulk can: --format opensearch or elasticsearch"
        )
    opened = Store.open(folder)
    wanted = read_ids(ids) if ids else None
    with working(f"writing {output}"):
        if format == "numpy":
            count = exchange.export_arrays(opened, Path(output), wanted)
        elif format == "pylate":
            count = exchange.export_pylate(opened, Path(output), wanted)
        else:
            if output != "-" and Path(output).exists():
                raise UsageError(f"{output} is there already; give a new file")
            exchange.known_ids(opened, wanted)  # before the file is made
            count = 0
            with click.open_file(output, "w", encoding="utf-8") as file:
                for body in exchange.export_bulk(opened, field, wanted):
                    file.write(body)
                    count += 1
    say(f"{output}: {count:,} documents")
    if format == "opensearch":
        hint(f"The field needs this mapping:  {json.dumps({field: exchange.OPENSEARCH_FIELD})}")
    if format == "elasticsearch":
        hint(f"The field needs this mapping:  {json.dumps({field: exchange.elasticsearch_field(opened.manifest.dim)})}")
