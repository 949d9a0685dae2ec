"""What commands open: a store, and the re-ranker over it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from colbert_rerank.cli.help import section
from colbert_rerank.cli.options import StoreModelOptions
from colbert_rerank.errors import UsageError

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


def residency_options(default: str) -> Callable[[F], F]:
    """``--resident``, by default ``default``, and ``--memory-budget``: where a GPU finds the rows that it scores."""
    option = section("Store")

    def add(command: F) -> F:
        budget = option(
            "--memory-budget",
            metavar="SIZE",
            callback=lambda context, parameter, value: None if value is None else size_of(value),
            help="Most memory for vectors, such as 10GB: of the GPU, and pinned in the host. By default 70 % and 50 % "
            "of what is free.",
        )
        resident = option(
            "--resident",
            type=click.Choice(["auto", "gpu", "pinned", "mmap"]),
            default=default,
            show_default=True,
            help="Where a GPU finds vectors: in its memory, pinned in the host's, mapped, or the first that they fit.",
        )
        typed: F = resident(budget(command))
        return typed

    return add


def size_of(text: str) -> int:
    """Bytes, of a number and a unit: of 1000, or with an i of 1024."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(?:([KMGT])(i?))?B?", text.strip(), re.IGNORECASE)
    if not found:
        raise click.BadParameter(f"{text!r} is no size: give a number and a unit, such as 500MB or 10GiB")
    number, unit, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** (" KMGT".index(unit.upper()) if unit else 0))


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
    """The re-ranker over ``store``; ``ranking`` is what `ranking_options` and `residency_options` gave."""
    from colbert_rerank.cli.output import say

    encoder = model.load(store)
    from colbert_rerank.rerank import Reranker

    try:
        reranker = Reranker(store, encoder, **ranking)
    except UsageError as error:
        raise UsageError(_of_options(str(error))) from None
    if why := reranker.residence.why:
        say(f"store: {why}", residence=why)
    return reranker


def _of_options(message: str) -> str:
    """A message about arguments of `Reranker`, which it begins with, as one about the options that gave them."""
    names, colon, rest = message.partition(":")
    named = re.sub(r"\b(exact_top|interpolate|missing|rescore)\b(=?)", _option, names)
    return named + colon + rest


def _option(name: re.Match[str]) -> str:
    return f"--{name[1].replace('_', '-')}{' ' if name[2] else ''}"
