"""`colbert-rerank store`: what changes a store."""

from __future__ import annotations

import json
from pathlib import Path

import click

from colbert_rerank.cli.help import Command
from colbert_rerank.cli.options import FOLDER
from colbert_rerank.cli.output import notice, output_options, say, warn
from colbert_rerank.cli.progress import working
from colbert_rerank.errors import StoreCorruptError, UsageError
from colbert_rerank.types import CODECS

_FOLDER = click.argument("folder", metavar="DIR", type=FOLDER)
_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object.")
SHOWN = 10  # names
LOST = 3  # exit status: 1 is an error, 2 a wrong argument


@click.command(cls=Command)
@_FOLDER
@click.argument("doc_ids", metavar="[ID]...", nargs=-1)
@click.option("--ids", metavar="FILE", help="A file of ids, one a line; - is stdin.")
@_JSON
@output_options
def delete(folder: Path, doc_ids: tuple[str, ...], ids: str | None, as_json: bool) -> None:
    """Delete documents from a store, and from the BM25 index beside it.

    An index of OpenSearch is left as it is. Room is made by `store compact`.

    \b
    Examples:
      colbert-rerank store delete my-store article-17 article-18
      colbert-rerank store delete my-store --ids gone.txt
    """
    from colbert_rerank.lines import read_ids
    from ingest.upkeep import delete as run

    wanted = [*doc_ids, *(read_ids(ids) if ids else [])]
    if not wanted:
        raise UsageError("no ids: give them as arguments, or in a file with --ids")
    done = run(folder, wanted)
    if as_json:
        click.echo(json.dumps({"deleted": done.deleted, "unknown": done.unknown}, ensure_ascii=False))
    if done.unknown:
        warn(f"{len(done.unknown):,} of the ids are not in {folder}: {_some(done.unknown)}")
    say(f"{folder}: {done.deleted:,} documents deleted")


@click.command(cls=Command)
@_FOLDER
@click.option("--codec", type=click.Choice(CODECS), help="Code the vectors anew, which must be floats so far.")
@click.option(
    "--sketches",
    type=click.Choice([*CODECS, "none"]),
    help="Make sketches for `--rescore` and `--exact-top`, or drop them.",
)
@output_options
def compact(folder: Path, codec: str | None, sketches: str | None) -> None:
    """Make room: write anew without what was deleted, or recoded.

    Of replaced documents only the newest is kept, too, and the statistics of the BM25 index beside the store forget
    what has gone. With --codec or --sketches all vectors are coded anew. Until it is done the store is what it was, so
    the disk needs room for both.

    \b
    Examples:
      colbert-rerank store compact my-store
      colbert-rerank store compact my-store --codec int8
      colbert-rerank store compact my-store --sketches residual1
    """
    from ingest.upkeep import compact as run

    with working(f"writing {folder}"):
        done = run(folder, codec, "" if sketches == "none" else sketches)
    if done.given_up:
        notice(
            f"{folder}: {done.given_up:,} bytes are given up that a `sync --switch` had made and not brought to its end"
        )
    say(f"{folder}: {done.before:,} bytes before, {done.after:,} now")


@click.command(cls=Command)
@_FOLDER
@click.option(
    "--accept-losses", is_flag=True, help="What was lost, or never brought by an interrupted ingest, is to be missing."
)
@_JSON
@output_options
def repair(folder: Path, accept_losses: bool, as_json: bool) -> None:
    """Cut out what is damaged, and name what is lost with it.

    Documents whose vectors are sound stay. Ingest the lost ones again; with what was only forgotten of a document, such
    as the hash of its text, the next ingest does that by itself. Until they are there again the store is not complete.
    The exit status is 3 where documents are lost; it is 1 where ids are lost that no one can name any more, and where
    the BM25 index is damaged or lost, which only the same ingest makes anew.

    \b
    Examples:
      colbert-rerank store repair my-store
      colbert-rerank store repair my-store --json
    """
    from colbert_rerank.candidates.bm25_files import FILL_AGAIN
    from colbert_rerank.store.layout import BM25
    from ingest.upkeep import repair as run

    with working(f"reading {folder}"):
        done = run(folder, accept_losses=accept_losses)
    if as_json:
        click.echo(json.dumps(vars(done), ensure_ascii=False))
    else:
        for file in done.unlisted:
            click.echo(f"removed {file}, which was no part of the store")
        for file, damage in done.damages.items():
            click.echo(f"damaged {file}: {damage}")
        if done.bm25:
            click.echo(f"damaged {BM25}: {done.bm25}")
        for doc_id in done.lost:
            click.echo(f"lost {doc_id}")
    if done.unnamed:
        raise StoreCorruptError(
            f"{folder}: up to {done.unnamed:,} documents are lost whose ids are lost as well, and of some an older "
            "version may be back. Ingest everything again: what is still here is not encoded twice"
        )
    if done.accepted:
        notice(f"{folder}: it counts as complete without what is missing of {', '.join(map(repr, done.accepted))}")
    if not done.damages and not done.bm25:
        say(f"{folder}: nothing is damaged")
    elif not done.lost:
        say(f"{folder}: no document is lost")
    else:
        say(f"{folder}: {len(done.lost):,} documents are lost; ingest them again. All others are sound")
    if done.bm25:
        raise StoreCorruptError(
            f"{folder}: its BM25 index is not repaired here. Remove {folder / BM25}, if it is there, and ingest again: "
            f"{FILL_AGAIN}"
        )
    if done.lost:
        click.get_current_context().exit(LOST)


@click.command("import", cls=Command)
@click.argument("source", metavar="ARRAYS", type=FOLDER)
@click.option("--store", "folder", required=True, type=FOLDER, help="The folder of the new store.")
@click.option("--model", metavar="NAME", help="What made the vectors, where ARRAYS is not of `store export`.")
@click.option("--fields", metavar="NAMES", default="title,text", show_default=True, help="Of which fields, then.")
@click.option("--codec", type=click.Choice(CODECS), help="How to store them; by default as they are.")
@output_options
def import_(source: Path, folder: Path, model: str | None, fields: str, codec: str | None) -> None:
    """Make a store of vectors that are there already.

    ARRAYS is a folder with vectors.npy [sum T, d], offsets.npy [n + 1] and ids.json, as `store export` writes it.

    \b
    Examples:
      colbert-rerank store import arrays --store my-store
      colbert-rerank store import pylate-arrays --store my-store --model lightonai/GTE-ModernColBERT-v1 --fields text
    """
    from colbert_rerank.recipe import Recipe
    from ingest.importing import import_arrays

    recipe = Recipe(tuple(name.strip() for name in fields.split(",") if name.strip()))
    with working(f"writing {folder}"):
        count = import_arrays(source, folder, model=model, recipe=recipe, codec=codec)
    say(f"{folder}: {count:,} documents")


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (" ..." if len(names) > SHOWN else "")
