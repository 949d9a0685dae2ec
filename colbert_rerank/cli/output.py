"""What the command line shows: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

_log = logging.getLogger("colbert_rerank.cli")
_PLAIN_INTERVAL = 5.0  # seconds between progress lines where there is no terminal
_PACKAGES = ("colbert_rerank", "ingest")


class _State:
    """How this process talks; set once by the options that every command has."""

    json = False
    quiet = False


def output_options(command: F) -> F:
    """``-q``, ``-v`` and ``--log-format``, the same for every command."""
    for option in (
        click.option(
            "-q", "--quiet", is_flag=True, expose_value=False, callback=_quiet, help="Say only what is wrong."
        ),
        click.option(
            "-v", "--verbose", is_flag=True, expose_value=False, callback=_verbose, help="Say more on the way."
        ),
        click.option(
            "--log-format",
            type=click.Choice(["text", "json"]),
            default="text",
            expose_value=False,
            callback=_format,
            is_eager=True,
            help="Messages on stderr as text, or one JSON object a line.",
        ),
    ):
        command = option(command)
    return command


def say(message: str, **data: object) -> None:
    """A message for people, with its figures for machines."""
    _log.info(message, extra={"data": data})


def warn(message: str, **data: object) -> None:
    _log.warning(message, extra={"data": data})


def fail(message: str, status: int) -> NoReturn:
    if _State.json:
        click.echo(json.dumps({"level": "error", "message": message}), err=True)
    else:
        click.echo(f"Error: {message}", err=True)
    sys.exit(status)


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[int] = (0,)) -> None:
    """Print a table on stdout; columns in ``left`` are aligned left, all others right."""
    if title:
        click.echo(click.style(title, bold=True))
    widths = [max(len(str(row[i])) for row in [head, *rows]) for i in range(len(head))]
    for number, row in enumerate([head, *rows]):
        cells = [c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        click.echo("  " + click.style("  ".join(cells).rstrip(), dim=number == 0))


def figures(values: Mapping[str, float]) -> list[str]:
    return [f"{value:.4f}" for value in values.values()]


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Callable[[int, str], None]]:
    """A bar on a terminal, a line now and then elsewhere. Call what this yields with (done so far, detail)."""
    if _State.quiet:
        yield lambda done, detail: None
    elif sys.stderr.isatty() and not _State.json:
        with _bar(what, total) as update:
            yield update
    else:
        yield _lines(what, total)


@contextmanager
def _bar(what: str, total: int | None) -> Iterator[Callable[[int, str], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[detail]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total, detail="")
        yield lambda done, detail: bar.update(task, completed=done, detail=detail)


def _lines(what: str, total: int | None) -> Callable[[int, str], None]:
    last = time.monotonic()

    def update(done: int, detail: str) -> None:
        nonlocal last
        if time.monotonic() - last >= _PLAIN_INTERVAL:
            last = time.monotonic()
            of = f" of {total:,}" if total else ""
            say(f"{what}: {done:,}{of}{', ' + detail if detail else ''}", done=done, total=total)

    return update


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        data = getattr(record, "data", {})
        return json.dumps(
            {
                "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
                "level": record.levelname.lower(),
                "message": record.getMessage(),
                **data,
            },
            ensure_ascii=False,
            default=str,
        )


def _format(ctx: click.Context, param: click.Parameter, value: str) -> None:
    _State.json = value == "json"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if _State.json else logging.Formatter("%(message)s"))
    for name in _PACKAGES:
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(logging.INFO if name == "colbert_rerank" else logging.WARNING)
    # set before the libraries are loaded: their bars and notes would stand between ours
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def _quiet(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        _State.quiet = True
        for name in _PACKAGES:
            logging.getLogger(name).setLevel(logging.ERROR)


def _verbose(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        for name in _PACKAGES:
            logging.getLogger(name).setLevel(logging.DEBUG)
