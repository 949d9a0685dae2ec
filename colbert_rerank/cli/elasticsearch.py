"""`colbert-rerank elasticsearch`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from colbert_rerank.cli.help import Command
from colbert_rerank.cli.options import FILE
from colbert_rerank.cli.output import hint, output_options
from colbert_rerank.cli.service import MASK, service_token, service_url
from colbert_rerank.connection import SERVICE_TOKEN
from colbert_rerank.errors import UsageError

QUERY = "how do tides work"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def elasticsearch() -> None:
    """Have Elasticsearch re-rank in the middle of a search."""


@elasticsearch.command(cls=Command)
@click.option("--dry-run", is_flag=True, help="Print the requests; nothing else can be done yet.")
@click.option("--url", metavar="URL", required=True, help="The re-ranking service, as Elasticsearch reaches it.")
@click.option("--store", metavar="NAME", required=True, help="The store, as the service calls it.")
@click.option("--index", metavar="NAME", default="my-index", show_default=True, help="The index to search.")
@click.option(
    "--inference-id", metavar="NAME", default="colbert", show_default=True, help="What the endpoint is to be called."
)
@click.option(
    "--id-field", metavar="NAME", default="doc_id", show_default=True, help="Keyword field that repeats the id."
)
@click.option("--text-field", metavar="NAME", default="text", show_default=True, help="Field to search.")
@click.option(
    "--k", metavar="N", default=100, show_default=True, type=click.IntRange(1, 10_000), help="Candidates to re-rank."
)
@click.option("--strict", is_flag=True, help="Let a search fail where re-ranking fails.")
@click.option(
    "--api-key-file", type=FILE, help=f"With the service's token, printed as asterisks; else ${SERVICE_TOKEN}."
)
@output_options
def setup(
    dry_run: bool,
    url: str,
    store: str,
    index: str,
    inference_id: str,
    id_field: str,
    text_field: str,
    k: int,
    strict: bool,
    api_key_file: Path | None,
) -> None:
    """Print the requests that let a service re-rank.

    One makes an inference endpoint of Elasticsearch's service `custom` (8.19 or newer), the other is a search with the
    retriever `text_similarity_reranker`, which sends it the ids of what BM25 finds. Both go into Kibana's console as
    they are, once the key stands in its place.

    \b
    Examples:
      colbert-rerank elasticsearch setup --dry-run --url http://reranker:8080 --store articles --index articles
    """
    from mappings import inference_endpoint, reranking_search

    if not dry_run:
        raise UsageError(
            "elasticsearch setup sends nothing yet, it prints with --dry-run: the part of Elasticsearch that these "
            "requests are for (inference, rerankers) cannot be had for this package's tests, and what was not tried is "
            "not done to your cluster. Send what is printed yourself"
        )
    key = MASK if service_token(api_key_file) else ""
    _print(f"PUT _inference/rerank/{_part(inference_id)}", inference_endpoint(service_url(url), store, api_key=key))
    click.echo()
    search = reranking_search(
        QUERY,
        text_field=text_field,
        inference_id=inference_id,
        id_field=id_field,
        size=min(10, k),
        window=k,
        strict=strict,
    )
    _print(f"POST {_part(index)}/_search", search)
    hint(f"put the service's key in the place of {key or 'CHANGE_ME'}, and your query in that of {QUERY!r}, twice")
    if not strict:
        hint("allow_rerank_failures came with 8.19 and 9.1: for an older Elasticsearch print it with --strict")
    hint("Elasticsearch shows a score s of 0 or more as s + 1, and one below 0 as exp(s)")


def _part(name: str) -> str:
    """A name as a part of a path."""
    from urllib.parse import quote

    return quote(name, safe=",*")


def _print(request: str, body: dict[str, Any]) -> None:
    click.echo(request)
    click.echo(json.dumps(body, ensure_ascii=False, indent=2))
