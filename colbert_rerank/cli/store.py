"""`colbert-rerank store`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from colbert_rerank.cli.help import Command
from colbert_rerank.cli.options import FOLDER
from colbert_rerank.cli.output import output_options, say
from colbert_rerank.errors import StoreCorruptError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def store() -> None:
    """Look at a store: what it holds, and whether it is sound."""


@store.command(cls=Command)
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
    width = max(map(len, found))
    for name, value in found.items():
        shown = ", ".join(f"{k} {v}" for k, v in value.items()) or "none" if isinstance(value, dict) else value
        click.echo(f"{name.ljust(width)}  {f'{shown:,}' if isinstance(shown, int) else shown}")


@store.command(cls=Command)
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@output_options
def verify(folder: Path, as_json: bool) -> None:
    """Read a whole store and compare every checksum.

    Each damaged file is named; the exit status is 1 where there is one.

    \b
    Examples:
      colbert-rerank store verify my-store
    """
    from colbert_rerank.cli.progress import working
    from colbert_rerank.store import Store
    from colbert_rerank.store.inspection import damages

    with working(f"reading {folder}"):
        found = [*damages(folder), *_first_stage_damages(folder)]
    if as_json:
        click.echo(json.dumps({"store": str(folder), "damages": found}, ensure_ascii=False))
    for damage in [] if as_json else found:
        click.echo(damage)
    if found:
        raise StoreCorruptError(f"{folder}: {len(found)} of its files {'is' if len(found) == 1 else 'are'} damaged")
    opened = Store.open(folder)
    say(f"{folder}: sound; {len(opened):,} documents, {opened.manifest.rows:,} token vectors")


def _first_stage_damages(folder: Path) -> list[str]:
    """What is wrong with the BM25 index beside the store, if there is one."""
    from colbert_rerank.candidates.bm25 import Bm25Index
    from colbert_rerank.errors import StoreError
    from colbert_rerank.store import manifest as manifests
    from colbert_rerank.types import BM25

    manifest = manifests.load(folder)
    if manifest.origin is None or manifest.origin.kind != BM25:
        return []
    try:
        Bm25Index.open_for(folder, manifest)
    except StoreError as error:
        return [str(error)]
    return []
