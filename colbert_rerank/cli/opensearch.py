"""`colbert-rerank opensearch`: re-ranking in the middle of its searches."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from colbert_rerank.cli.help import Command
from colbert_rerank.cli.options import FILE, OpenSearchOptions, opensearch_options
from colbert_rerank.cli.output import hint, output_options, say
from colbert_rerank.cli.service import MASK, service_token, service_url
from colbert_rerank.connection import SERVICE_TOKEN
from colbert_rerank.errors import UsageError

if TYPE_CHECKING:
    from colbert_rerank.opensearch_rerank.requests import Changes

F = TypeVar("F", bound=Callable[..., Any])
QUERY = "how do tides work"
STATES = {"ok": "ok", "wrong": "WRONG", "note": "note"}


def _checked(ctx: click.Context, param: click.Parameter, name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name):
        raise UsageError(f"--name {name!r}: letters, digits, '-', '_' and '.' make a name that OpenSearch takes")
    return name


_name = click.option(
    "--name",
    metavar="NAME",
    default="colbert",
    show_default=True,
    callback=_checked,
    help="Of connector, model and search pipeline.",
)
_token = click.option("--token-file", type=FILE, help=f"With the service's token, or its first; else ${SERVICE_TOKEN}.")
_text_field = click.option(
    "--text-field",
    "fields",
    metavar="NAME",
    multiple=True,
    help="Field to search; by default all text, if ours made it.",
)
_dry_run = click.option("--dry-run", is_flag=True, help="Print the requests that change something, and send none.")
_other_index = click.option(
    "--allow-other-index", is_flag=True, help="Take a store that was made from another index, of the same documents."
)
_index = click.option("--index", metavar="NAME", required=True, help="The index, alias or pattern that is searched.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def opensearch() -> None:
    """Have OpenSearch re-rank in the middle of a search."""


@opensearch.command(cls=Command)
@click.option("--url", metavar="URL", required=True, help="The re-ranking service, as OpenSearch reaches it.")
@click.option("--store", metavar="NAME", required=True, help="The store, as the service calls it.")
@_index
@_name
@_token
@click.option("--id-field", metavar="NAME", default="", help="Field with the ids; by default doc_id if ours, else _id.")
@click.option("--add-alias", is_flag=True, help="Add doc_id to the index's mapping, as an alias of _id (changes it).")
@click.option("--qualified-ids", is_flag=True, help="Send INDEX/ID: of several indices, one store and one connector.")
@_other_index
@_text_field
@click.option(
    "--oversample", metavar="N", default=10, show_default=True, type=click.IntRange(1), help="Re-rank N times the hits."
)
@click.option(
    "--read-timeout",
    metavar="S",
    default=5,
    show_default=True,
    type=click.IntRange(1),
    help="Whole seconds after which a search goes on without the service.",
)
@click.option(
    "--deadline-ms",
    metavar="N",
    type=click.IntRange(1),
    help="Milliseconds by which the service answers with what it has scored.",
)
@click.option("--strict", is_flag=True, help="Let a search fail where re-ranking fails.")
@_dry_run
@opensearch_options
@output_options
def setup(
    url: str,
    store: str,
    index: str,
    name: str,
    token_file: Path | None,
    id_field: str,
    add_alias: bool,
    qualified_ids: bool,
    allow_other_index: bool,
    fields: tuple[str, ...],
    oversample: int,
    read_timeout: int,
    deadline_ms: int | None,
    strict: bool,
    dry_run: bool,
    server: OpenSearchOptions,
) -> None:
    """Make what OpenSearch needs to re-rank.

    That is: two cluster settings, added to where the service's address is not allowed yet, a connector, a model and a
    search pipeline. No plugin is needed beyond those of the standard distribution. What is there already is kept, and
    `teardown` takes it all away again.

    \b
    Examples:
      colbert-rerank opensearch setup --opensearch URL --url http://reranker:8080 --store articles --index articles
      colbert-rerank opensearch setup --opensearch URL --url http://10.0.0.5:8080 --store all --index 'a,b' \\
        --qualified-ids --token-file TOKEN --dry-run
    """
    from colbert_rerank.candidates.doc_id_alias import without_doc_id
    from colbert_rerank.indices import origin_of
    from colbert_rerank.opensearch_rerank.searched import beyond_window, searched
    from colbert_rerank.opensearch_rerank.setup import Wanted
    from colbert_rerank.opensearch_rerank.setup import setup as run
    from mappings import DOC_ID

    if add_alias and (id_field or qualified_ids):
        raise UsageError("--add-alias makes doc_id, which then is the field with the ids: name no other")
    if deadline_ms is not None and deadline_ms >= 1000 * read_timeout:
        raise UsageError(
            f"--deadline-ms {deadline_ms}: OpenSearch waits {read_timeout} s for an answer (--read-timeout); a "
            "deadline has to be below that"
        )
    service, token = service_url(url), service_token(token_file)
    changes = _changes(server, dry_run)
    found = searched(changes.client, index, id_field=id_field, fields=fields, qualified=qualified_ids)
    if too_many := beyond_window(found.infos, oversample):
        raise UsageError(f"--oversample {oversample}: {too_many}")
    without_alias = without_doc_id(changes.client, index) if add_alias else []
    if add_alias:
        found = found._replace(id_field=DOC_ID)
    wanted = Wanted(
        name,
        service,
        store,
        token,
        found.id_field,
        oversample,
        read_timeout,
        strict,
        deadline_ms,
        without_alias,
        origin_of(found.infos, qualified=qualified_ids),
        allow_other_index,
    )
    for line in run(changes, wanted):
        _say(line, dry_run)
    if dry_run:
        return
    click.echo(f"POST /{index}/_search?search_pipeline={name}")
    click.echo(json.dumps(found.body(QUERY, 10), ensure_ascii=False, indent=2))
    hint("this search is re-ranked; for _id and _source in its hits leave out stored_fields and _source: it is slower")
    hint(f"try it: colbert-rerank opensearch doctor --opensearch {server.shown_url} --index {index} --name {name}")


@opensearch.command(cls=Command)
@_index
@_name
@click.option("--query", metavar="TEXT", default=QUERY, show_default=True, help="What is searched for to try it.")
@_text_field
@_other_index
@click.option(
    "--url", metavar="URL", help="The service, as setup was given it: only there is its token sent from here."
)
@_token
@click.option("--json", "as_json", is_flag=True, help="One JSON list.")
@opensearch_options
@output_options
def doctor(
    index: str,
    name: str,
    query: str,
    fields: tuple[str, ...],
    allow_other_index: bool,
    url: str | None,
    token_file: Path | None,
    as_json: bool,
    server: OpenSearchOptions,
) -> None:
    """Try the re-ranking in OpenSearch, and say what is wrong.

    It asks the service through OpenSearch and from here, searches with and without the pipeline, and changes nothing.
    The exit status is 1 where something is wrong.

    \b
    Examples:
      colbert-rerank opensearch doctor --opensearch URL --index articles --query "how do tides work"
      colbert-rerank opensearch doctor --opensearch URL --index articles --url http://10.0.0.5:8080 --token-file TOKEN
    """
    from colbert_rerank.opensearch_rerank.doctor import examine

    service, token = service_url(url) if url else "", service_token(token_file)
    findings = examine(
        server.connect(),
        name,
        index,
        query,
        fields=fields,
        service=service,
        token=token,
        allow_other_index=allow_other_index,
    )
    found = list(findings)
    if as_json:
        click.echo(json.dumps([finding._asdict() for finding in found], ensure_ascii=False, indent=1))
    else:
        for finding in found:
            click.echo(f"{STATES[finding.state]:<6} {finding.check:<10} {finding.message}")
    if any(finding.state == "wrong" for finding in found):
        raise click.exceptions.Exit(1)


@opensearch.command(cls=Command)
@_name
@_dry_run
@opensearch_options
@output_options
def teardown(name: str, dry_run: bool, server: OpenSearchOptions) -> None:
    """Take away what setup made.

    Searches that name the pipeline fail from then on. What was added to the cluster's settings is taken back, unless
    another pipeline of ours needs it.

    \b
    Examples:
      colbert-rerank opensearch teardown --opensearch URL --name colbert
    """
    from colbert_rerank.opensearch_rerank.teardown import teardown as run

    for line in run(_changes(server, dry_run), name):
        _say(line, dry_run)


def _say(line: str, dry_run: bool) -> None:
    if not dry_run:
        say(line)


def _changes(server: OpenSearchOptions, dry_run: bool) -> Changes:
    from colbert_rerank.opensearch_rerank.requests import Changes

    return Changes(server.connect(), dry_run=dry_run, shown=_show if dry_run else None)


def _show(method: str, path: str, body: Any) -> None:
    """As the console of Dashboards takes it; no secret is printed."""
    click.echo(f"{method} {path}")
    if body is not None:
        if "credential" in body:
            body = body | {"credential": dict.fromkeys(body["credential"], MASK)}
        click.echo(json.dumps(body, ensure_ascii=False, indent=2))
