"""`colbert-rerank audit` and `sync`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from colbert_rerank.cli.help import Command
from colbert_rerank.cli.options import (
    FOLDER,
    OpenSearchOptions,
    StoreModelOptions,
    opensearch_options,
    store_encoder_options,
)
from colbert_rerank.cli.output import notice, output_options, say, warn, warn_always
from colbert_rerank.cli.progress import progress, working
from colbert_rerank.errors import OpenSearchError, UsageError

if TYPE_CHECKING:
    from colbert_rerank.store import Manifest, Store
    from ingest.alias import Alias
    from ingest.drift import Drift
    from ingest.pipeline import IngestReport
    from ingest.sources.opensearch import OpenSearchSource

SHOWN = 10  # ids
DRIFTED = 3  # exit status: 1 is an error, 2 a wrong argument
PAGE = 10_000  # documents without their text

_STORE = click.option("--store", "folder", required=True, type=FOLDER, help="The token store.")
_INDEX = click.option("--index", metavar="NAME", help="The index; by default the one that the store belongs to.")
_OTHER = click.option(
    "--allow-other-index", is_flag=True, help="Another index than the store's: a copy of it, changed or not."
)


@click.command(cls=Command)
@_STORE
@_INDEX
@_OTHER
@click.option("--json", "as_json", is_flag=True, help="One JSON object, with all ids.")
@opensearch_options
@output_options
def audit(folder: Path, index: str | None, allow_other_index: bool, as_json: bool, server: OpenSearchOptions) -> None:
    """Compare a store with its index: missing, stale, orphaned.

    Nothing is changed. The exit status is 3 where they differ. Documents are compared by sequence number; only of those
    that were written since is the text read.

    \b
    Examples:
      colbert-rerank audit --store my-store --opensearch http://localhost:9200
      colbert-rerank audit --store my-store --opensearch http://localhost:9200 --json
    """
    from colbert_rerank.store import Store
    from ingest.sync import audit as run

    with working("comparing"):
        source = _source(Store.open(folder), index, server)
        found = run(folder, source, allow_other_index=allow_other_index)
    if as_json:
        click.echo(json.dumps(_facts(found), ensure_ascii=False))
    else:
        for what, ids in (("missing", found.missing), ("stale", found.stale), ("orphaned", found.orphaned)):
            for doc_id in ids[:SHOWN]:
                click.echo(f"{what} {doc_id}")
            if len(ids) > SHOWN:
                click.echo(f"{what}: {len(ids) - SHOWN:,} more")
    say(f"{folder}: {_described(found)}")
    if not found.clean:
        click.get_current_context().exit(DRIFTED)


@click.command(cls=Command)
@_STORE
@_INDEX
@_OTHER
@click.option("--allow-deletions", is_flag=True, help="Delete more than a fifth of the store's documents, too.")
@click.option("--switch", metavar="ALIAS", help="Let ALIAS stand for --index, with the store, when all is done.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: what was found and done, with all ids.")
@opensearch_options
@store_encoder_options
@output_options
def sync(
    folder: Path,
    index: str | None,
    allow_other_index: bool,
    allow_deletions: bool,
    switch: str | None,
    as_json: bool,
    server: OpenSearchOptions,
    model: StoreModelOptions,
) -> None:
    """Let a store hold what its index holds, no more and no less.

    What is missing or has changed is encoded, what has gone is deleted from the store; documents that change meanwhile
    are seen to as well. The index is only read. Interrupted, the same command goes on. The exit status is 3 where the
    index changed faster than it could be followed.

    With --switch the store goes over to another index, filled by a reindex: searches by ALIAS and store go on as they
    were until everything is encoded, and then both change.

    \b
    Examples:
      colbert-rerank sync --store my-store --opensearch http://localhost:9200
      colbert-rerank sync --store my-store --opensearch http://localhost:9200 --index articles-v2 --switch articles
    """
    from colbert_rerank.store import Store
    from colbert_rerank.store.codecs import row_bytes
    from ingest.alias import Alias
    from ingest.cli.ingest import keeping
    from ingest.sync import SyncReport
    from ingest.sync import sync as run

    if switch and not index:
        raise UsageError("--switch needs the index that the alias is to stand for: --index NAME")
    opened = Store.open(folder)
    source = _source(opened, index, server)
    alias = Alias(source.client, switch) if switch else None
    if alias and index == alias.name:
        raise UsageError(f"--index {index} is the alias itself; name the index that it is to stand for")
    report = SyncReport()
    manifest = opened.manifest
    if alias:
        _check_alias(alias, manifest, source.origin.name)
    row_size = row_bytes((manifest.codec, manifest.sketches), manifest.dim)
    del opened  # whose files may be replaced
    with progress("documents", None) as update, keeping(report.ingest):

        def advance(done: IngestReport) -> None:
            update(done.encoded, size=done.rows * row_size)

        run(
            folder,
            lambda: model.encoder(Store.open(folder)),
            source,
            index_name=switch or index or "",
            allow_other_index=allow_other_index or bool(switch),
            allow_deletions=allow_deletions,
            report=report,
            progress=advance,
        )
    for cause, count in sorted(report.last.unusable.items()):
        what = "document of the index has" if count == 1 else "documents of the index have"
        warn(f"{count:,} {what} nothing to encode: {cause}", cause=cause, skipped=count)
    say(
        f"{folder}: {report.ingest.encoded:,} documents encoded ({len(report.first.missing):,} were missing, "
        f"{len(report.first.stale):,} stale), {report.buried:,} deleted; {report.last.documents:,} are in the index",
        encoded=report.ingest.encoded,
        deleted=report.buried,
        documents=report.last.documents,
    )
    if not report.last.clean:
        warn(f"the index goes on changing; the last pass still found {_described(report.last)}. Run it once more")
    if alias:
        _switch(alias, source.origin.name, folder)
    if as_json:
        done = {"encoded": report.ingest.encoded, "deleted": report.buried, "passes": report.passes}
        click.echo(json.dumps(_facts(report.last) | done | {"found": _facts(report.first)}, ensure_ascii=False))
    if not report.last.clean:
        click.get_current_context().exit(DRIFTED)


def _source(store: Store, index: str | None, server: OpenSearchOptions) -> OpenSearchSource:
    from colbert_rerank.binding import index_name
    from colbert_rerank.types import QUALIFIED
    from ingest.sources.opensearch import OpenSearchSource
    from ingest.sync import check_kind

    check_kind(store)
    origin = store.manifest.origin
    name = index or index_name(store.manifest) or ""
    return OpenSearchSource(
        server.connect(), name, page_docs=PAGE, qualified_ids=origin is not None and origin.kind == QUALIFIED
    )


def _check_alias(alias: Alias, manifest: Manifest, index: str) -> None:
    """Raises UsageError for an alias by which others search, and OpenSearchError where it cannot be switched."""
    from colbert_rerank.binding import index_name

    held = manifest.origin.name if manifest.origin else ""
    gone_over = held == index and alias.name == index_name(manifest)  # and the alias is to follow
    if alias.index not in (held, index) and not gone_over:
        raise UsageError(
            f"the alias {alias.name!r} stands for {alias.index!r}, and the store belongs to {held!r}: others search by "
            "it. Name an alias of the store's index"
        )
    if alias.index != index:
        alias.check(index)


def _switch(alias: Alias, index: str, folder: Path) -> None:
    try:
        switched = alias.switch(index)
    except (OpenSearchError, UsageError):
        warn_always(
            f"{folder} belongs to {index} now, and the alias {alias.name} is not known to: searches by it are refused "
            "until it does, as by the same command, run again"
        )
        raise
    if switched:
        notice(f"{alias.name} stands for {index} now")
    else:
        say(f"{alias.name} stands for {index} already")


def _facts(found: Drift) -> dict[str, object]:
    facts: dict[str, object] = dict(vars(found))
    return {"clean": found.clean, "documents": found.documents, **facts}


def _described(found: Drift) -> str:
    parts = [f"{found.documents:,} documents in the index"]
    lists: Sequence[tuple[str, list[str]]] = (
        ("missing", found.missing),
        ("stale", found.stale),
        ("orphaned", found.orphaned),
    )
    parts += [f"{len(ids):,} {what}" for what, ids in lists]
    if found.unusable:
        parts.append(f"{found.unusable.total():,} with nothing to encode")
    if found.moved:
        parts.append(f"{found.moved:,} changed meanwhile")
    return ", ".join(parts)
