"""What commands open: a store, and the re-ranker over it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from colbert_rerank.cli.help import section
from colbert_rerank.cli.options import StoreModelOptions

if TYPE_CHECKING:
    from colbert_rerank.rerank import Reranker
    from colbert_rerank.store import Store

F = TypeVar("F", bound=Callable[..., Any])


def verify_option(command: F) -> F:
    """``--verify``: when the vectors' checksums are compared."""
    add = section("Store")(
        "--verify",
        type=click.Choice(["touch", "open", "off"]),
        default="touch",
        show_default=True,
        help="Compare the checksums of vectors when they are first read, all at once before, or never.",
    )
    typed: F = add(command)
    return typed


def open_store(folder: Path, verify: Any) -> Store:
    """The store in ``folder``; says so where its last ingest did not come to its end.

    Raises StoreNotFoundError where there are no documents to search.
    """
    from colbert_rerank.cli.output import warn_always
    from colbert_rerank.errors import StoreNotFoundError
    from colbert_rerank.store import Store
    from colbert_rerank.store.manifest import unindexed

    opened = Store.open(folder, verify=verify)
    if not len(opened):
        raise StoreNotFoundError(f"{folder}: this store holds no documents yet: put some into it with `ingest`")
    if not opened.manifest.complete and not unindexed(folder, opened.manifest):
        warn_always(
            f"{folder}: the last ingest was interrupted, is under way, or left documents out of the index; the store "
            f"holds {len(opened):,} documents",
            documents=len(opened),
        )
    return opened


def open_reranker(store: Store, model: StoreModelOptions, **ranking: Any) -> Reranker:
    """The re-ranker over ``store``; ``ranking`` is what `ranking_options` gave."""
    encoder = model.load(store)
    from colbert_rerank.rerank import Reranker

    return Reranker(store, encoder, **ranking)
