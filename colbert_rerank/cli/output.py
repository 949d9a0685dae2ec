"""What the command line says: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn, TypeVar

import click

from colbert_rerank.cli.help import section

F = TypeVar("F", bound=Callable[..., Any])

_log = logging.getLogger("colbert_rerank.cli")
_PACKAGES = ("colbert_rerank", "ingest")
# Whose infos are shown without --verbose: `binding` answers what --allow-other-index asks for; to learn takes long; and
# what becomes of a service is told by nothing else.
_BINDING = "colbert_rerank.binding"
_SERVING = ("colbert_rerank.serve.stores", "colbert_rerank.serve.running")
_SPOKEN = (_log.name, _BINDING, "colbert_rerank.store.codebook", *_SERVING)
_NOTICE = logging.ERROR + 5
logging.addLevelName(_NOTICE, "NOTICE")


# C0 and C1 controls, and the marks that change the direction of text.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class _State:
    """How this process talks; set by `configure` and by the options that every command has."""

    json = False
    quiet = False


def output_options(command: F) -> F:
    """``-q``, ``-v`` and ``--log-format``, the same for every command."""
    option = section("Messages")
    for add in (
        option(
            "--log-format",
            type=click.Choice(["text", "json"]),
            default="text",
            show_default=True,
            expose_value=False,
            callback=lambda ctx, param, value: configure(value),
            is_eager=True,
            help="On stderr: text, or one JSON object a line.",
        ),
        option("-v", "--verbose", is_flag=True, expose_value=False, callback=_verbose, help="Say more on the way."),
        option(
            "-q",
            "--quiet",
            is_flag=True,
            expose_value=False,
            callback=_quiet,
            help="Only results, errors, and what must be known.",
        ),
    ):
        command = add(command)
    return command


def configure(log_format: str = "text") -> None:
    """Begin anew: messages of this package on stderr, those of others nowhere."""
    _State.json = log_format == "json"
    _State.quiet = False
    handler = _Stderr()
    handler.setFormatter(_JsonFormatter() if _State.json else _TextFormatter())
    for name in _PACKAGES:
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(logging.WARNING)
    for name in _SPOKEN:
        logging.getLogger(name).setLevel(logging.INFO)
    root = logging.getLogger()
    if not root.handlers:  # else Python would print the warnings of libraries as a last resort
        root.addHandler(logging.NullHandler())
    # set before the libraries are loaded: their bars and notes would stand between ours
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def say(message: str, **data: object) -> None:
    """A message for people, with its figures for machines."""
    _log.info(message, extra={"data": data})


def warn(message: str, **data: object) -> None:
    _log.warning(message, extra={"data": data})


def warn_always(message: str, **data: object) -> None:
    """A warning that changes what the results mean: --quiet shows it, too."""
    (notice if _State.quiet else warn)(message, **data)


def notice(message: str, **data: object) -> None:
    """What must be said, --quiet or not: that something will be changed, or was left out."""
    _log.log(_NOTICE, message, extra={"data": data})


def hint(message: str) -> None:
    """What to do next; for people only."""
    if not _State.json:
        _log.info(message)


def fail(message: str, status: int) -> NoReturn:
    if sys.stderr.isatty() and status == 130:
        click.echo(err=True)  # the terminal has just shown ^C
    _log.error(message)
    sys.exit(status)


def fail_to_parse(error: click.ClickException) -> NoReturn:
    """As click does it: the usage and then the error, or only that where messages are for machines."""
    if _State.json:
        fail(error.format_message(), error.exit_code)
    error.show()
    sys.exit(error.exit_code)


def is_quiet() -> bool:
    return _State.quiet


def is_terminal() -> bool:
    """Whether someone is watching stderr."""
    return sys.stderr.isatty() and not _State.json and not _State.quiet


def table(
    title: str, head: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[int] = (0,), err: bool = False
) -> None:
    """Print a table on stdout; columns in ``left`` are aligned left, all others right. A terminal cuts its lines.

    Documents come from anywhere: what would move the cursor or turn the line round is shown as U+FFFD.
    """
    rows = [[_CONTROL.sub("\ufffd", str(cell)) for cell in row] for row in rows]
    if title:
        click.echo(_styled(title, err, bold=True), err=err)
    widths = [max(len(str(row[i])) for row in [head, *rows]) for i in range(len(head))]
    for number, row in enumerate([head, *rows]):
        cells = [c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        line = "  ".join(["", *cells]).rstrip()[: line_width()]
        click.echo(_styled(line, err, dim=True) if number == 0 else line, err=err)


def line_width() -> int | None:
    """The columns of the terminal that results go to; ``None`` where they go elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def pairs(found: Mapping[str, object]) -> None:
    """Print names and what they say, a line each, on stdout; counts with their thousands apart."""
    width = max(map(len, found))
    for name, value in found.items():
        click.echo(f"{name.ljust(width)}  {f'{value:,}' if isinstance(value, int) else value}")


def figures(values: Mapping[str, float]) -> list[str]:
    return [f"{value:.4f}" for value in values.values()]


def _styled(text: str, err: bool, **style: bool) -> str:
    stream = sys.stderr if err else sys.stdout
    return click.style(text, **style) if stream.isatty() and not os.environ.get("NO_COLOR") else text


class _Stderr(logging.Handler):
    """Looks stderr up each time: a progress bar that is being shown puts itself in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(self.format(record) + "\n")
        sys.stderr.flush()


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        marks = {logging.WARNING: "Warning: ", logging.ERROR: "Error: "}
        return marks.get(record.levelno, "") + record.getMessage()


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        data = getattr(record, "data", {})
        return json.dumps(
            {
                "time": datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="seconds"),
                "level": record.levelname.lower(),
                "message": record.getMessage(),
                **data,
            },
            ensure_ascii=False,
            default=str,
        )


def _quiet(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        _State.quiet = True
        _set_level(logging.ERROR)
        logging.getLogger(_BINDING).setLevel(logging.WARNING)  # what an other index lacks changes the results


def _verbose(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        _set_level(logging.DEBUG)


def _set_level(level: int) -> None:
    for name in (*_PACKAGES, *_SPOKEN):
        logging.getLogger(name).setLevel(level)
