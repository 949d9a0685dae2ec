"""`colbert-rerank serve`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from colbert_rerank.cli.help import Command, section
from colbert_rerank.cli.opening import open_store, residency_options, verify_option
from colbert_rerank.cli.options import (
    FILE,
    OpenSearchOptions,
    StoreModelOptions,
    opensearch_options,
    store_model_options,
)
from colbert_rerank.cli.output import output_options, say
from colbert_rerank.connection import SERVICE_TOKEN
from colbert_rerank.errors import UsageError

if TYPE_CHECKING:
    from colbert_rerank.encoder import Encoder
    from colbert_rerank.serve.auth import Tokens
    from colbert_rerank.serve.stores import ServedStore
    from colbert_rerank.store import Store
    from colbert_rerank.types import Candidates

_service, _limits = section("Service"), section("Limits")


@click.command(cls=Command)
@click.option(
    "--store", "stores", required=True, multiple=True, metavar="NAME=DIR", help="A token store and its name; several."
)
@_service("--host", metavar="ADDRESS", default="127.0.0.1", show_default=True, help="Where to listen.")
@_service("--port", metavar="N", default=8080, show_default=True, type=click.IntRange(0, 65535), help="0: any.")
@_service("--token-file", type=FILE, help=f"Bearer tokens, one a line, one of which must come; else ${SERVICE_TOKEN}.")
@_service("--no-auth", is_flag=True, help="Let anybody ask who can reach the address, by whatever name.")
@_service(
    "--refresh",
    metavar="S",
    type=click.FloatRange(min=0.1),
    default=5.0,
    show_default=True,
    help="Seconds between two looks for a new generation of a store.",
)
@_service(
    "--grace",
    metavar="S",
    type=click.IntRange(0),
    default=30,
    show_default=True,
    help="Seconds that requests have to end after SIGTERM.",
)
@_limits(
    "--max-body", metavar="BYTES", type=click.IntRange(1), default=16 << 20, show_default=True, help="Of a request."
)
@_limits(
    "--max-documents", metavar="N", type=click.IntRange(1), default=10_000, show_default=True, help="Of a request."
)
@_limits(
    "--max-texts",
    metavar="N",
    type=click.IntRange(1),
    default=1_000,
    show_default=True,
    help="Documents of a request whose texts have to be encoded.",
)
@_limits("--waiting", metavar="N", type=click.IntRange(1), default=256, show_default=True, help="Requests; more: 429.")
@_limits(
    "--batch-tokens",
    metavar="N",
    type=click.IntRange(1),
    default=4096,
    show_default=True,
    help="Requests are encoded together up to so many tokens.",
)
@opensearch_options
@store_model_options
@verify_option
@residency_options("auto")
@output_options
def serve(
    stores: tuple[str, ...],
    host: str,
    port: int,
    token_file: Path | None,
    no_auth: bool,
    refresh: float,
    grace: int,
    max_body: int,
    max_documents: int,
    max_texts: int,
    waiting: int,
    batch_tokens: int,
    server: OpenSearchOptions,
    model: StoreModelOptions,
    verify: str,
    **residency: Any,
) -> None:
    """Re-rank over HTTP, by document id or text.

    \b
    Examples:
      colbert-rerank serve --store articles=DIR
      curl http://127.0.0.1:8080/v1/stores/articles/rerank -H 'content-type: application/json' \\
        -d '{"query": "how do tides work", "documents": ["7067032", "7067056"]}'
    """
    from colbert_rerank.serve.running import listen, run

    folders = _folders(stores)
    tokens = _tokens(token_file, no_auth)
    from colbert_rerank.serve.auth import check_bind

    check_bind(host, tokens)
    from colbert_rerank.serve.engine import Engine
    from colbert_rerank.serve.metrics import Metrics
    from colbert_rerank.serve.service import Limits

    with listen(host, port) as listening:  # before the model is loaded, which takes a while
        served, metrics = _open(folders, model, server, verify, residency), Metrics()
        engine = Engine(
            served,
            next(iter(served.values())).reranker.encoder,
            waiting=waiting,
            batch_tokens=batch_tokens,
            observe=metrics.batch,
        )
        limits = Limits(max_body, max_documents, max_texts, refresh)
        run(engine, metrics, tokens, limits, listening, grace, ready=lambda url: _say_where(url, served, tokens))


def _say_where(url: str, served: dict[str, ServedStore], tokens: Tokens) -> None:
    needed = "a token is needed" if tokens else "no token is needed"
    names = ", ".join(f"{name} ({len(store.reranker.store):,} documents)" for name, store in served.items())
    say(f"listening at {url}, {needed}: {names}", url=url, stores=list(served))


def _folders(stores: tuple[str, ...]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for given in stores:
        name, separator, folder = given.partition("=")
        if not separator or not folder or not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
            raise UsageError(
                f"--store {given!r}: expected NAME=DIR, and a name of letters, digits, '-', '_' and '.', as it is part "
                "of a URL"
            )
        if name in found:
            raise UsageError(f"--store {given!r}: {name!r} is named twice")
        found[name] = Path(folder)
    return found


def _tokens(file: Path | None, no_auth: bool) -> Tokens:
    from colbert_rerank.connection import read_tokens
    from colbert_rerank.serve.auth import Tokens

    return Tokens(read_tokens(file), no_auth=no_auth)


def _open(
    folders: dict[str, Path],
    model: StoreModelOptions,
    server: OpenSearchOptions,
    verify: str,
    residency: dict[str, Any],
) -> dict[str, ServedStore]:
    """Stores of the same model share its encoder."""
    from colbert_rerank import identity
    from colbert_rerank.serve.stores import ServedStore

    encoders: dict[str, Encoder] = {}
    served = {}
    for name, folder in folders.items():
        store = open_store(folder, verify)
        made_with = repr(identity.made_with(store.manifest))
        if made_with not in encoders:
            encoders[made_with] = model.load(store)
        first_stage = partial(_with_candidates, server)
        served[name] = ServedStore(name, store, encoders[made_with], residency, first_stage)
    return served


def _with_candidates(server: OpenSearchOptions, store: Store) -> tuple[Store, Candidates | None]:
    """A store with the first stage that it was made for, where that is at hand: only searches by text need it.

    Raises OpenSearchError where that is not to be reached now, and StoreMismatchError.
    """
    from colbert_rerank.binding import check_origin, index_name
    from colbert_rerank.candidates.bm25 import open_beside
    from colbert_rerank.candidates.opensearch import OpenSearchCandidates
    from colbert_rerank.errors import StoreError
    from colbert_rerank.types import BM25, QUALIFIED

    origin = store.manifest.origin
    if origin is None or origin.kind == BM25:
        try:
            return open_beside(store)
        except StoreError:  # none was made, or it is behind
            return store, None
    index = index_name(store.manifest)
    if not server.opensearch or index is None:
        return store, None
    fields, qualified = store.manifest.recipe.fields, origin.kind == QUALIFIED
    candidates = OpenSearchCandidates(server.connect(), index, fields=fields, qualified_ids=qualified)
    check_origin(store, candidates)
    return store, candidates
