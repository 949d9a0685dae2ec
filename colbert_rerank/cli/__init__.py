"""The command line: parse, call one library function, print."""

from __future__ import annotations

import io
import signal
import sys
import warnings
from importlib import import_module
from types import FrameType
from typing import Any, NoReturn

import click

import colbert_rerank

# name -> (module, attribute), in the order of use. Loaded when named: `--help` imports neither torch nor opensearch-py,
# and the write path registers its commands here without being imported from here.
COMMANDS = {
    "demo": ("ingest.cli.demo", "demo"),
    "ingest": ("ingest.cli.ingest", "ingest"),
    "audit": ("ingest.cli.sync", "audit"),
    "sync": ("ingest.cli.sync", "sync"),
    "rerank": ("colbert_rerank.cli.rerank", "rerank"),
    "run": ("colbert_rerank.cli.run", "run"),
    "explain": ("colbert_rerank.cli.explain", "explain"),
    "eval": ("colbert_rerank.cli.evaluate", "evaluate"),
    "serve": ("colbert_rerank.cli.serve", "serve"),
    "model": ("colbert_rerank.cli.model", "model"),
    "store": ("colbert_rerank.cli.store", "store"),
    "index": ("colbert_rerank.cli.index", "index"),
    "opensearch": ("colbert_rerank.cli.opensearch", "opensearch"),
    "elasticsearch": ("colbert_rerank.cli.elasticsearch", "elasticsearch"),
    "bench": ("colbert_rerank.cli.bench", "bench"),
    "doctor": ("colbert_rerank.cli.doctor", "doctor"),
}

_KEPT = "interrupted; what was stored is kept, and the same command goes on from there"
AFTER_INTERRUPT = {
    "demo": _KEPT,
    "ingest": _KEPT,
    "index": _KEPT,
    "sync": _KEPT,
    "run": "interrupted; no run was written, and the same command starts it again",
}


class TerminateError(KeyboardInterrupt):
    """SIGTERM, which containers and timeouts send: it is handled as Ctrl-C is, and has an exit status of its own."""


class InterruptError(Exception):
    """Ctrl-C, or a request to end; the message says what became of the work."""

    def __init__(self, message: str, signalled: KeyboardInterrupt) -> None:
        super().__init__(message)
        number = signal.SIGTERM if isinstance(signalled, TerminateError) else signal.SIGINT
        self.status = 128 + number  # as shells count


class LazyGroup(click.Group):
    """Its commands are those of the table ``commands_by_name``."""

    commands_by_name = COMMANDS

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands_by_name)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.commands_by_name:
            return None
        module, attribute = self.commands_by_name[cmd_name]
        command: click.Command = getattr(import_module(module), attribute)
        return command


class Root(LazyGroup):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:  # click would print an empty line and forget which command it was
            raise InterruptError(AFTER_INTERRUPT.get(str(ctx.invoked_subcommand), "interrupted"), error) from None


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(colbert_rerank.__version__, prog_name="colbert-rerank")
def cli() -> None:
    """Re-rank BM25's candidates by late interaction (ColBERT), from token vectors stored by document id.

    \b
    Try it:      colbert-rerank demo
    Your own:    colbert-rerank ingest corpus.jsonl --store DIR
                 colbert-rerank rerank "a question" --store DIR
    A TREC run:  colbert-rerank run --topics queries.jsonl --store DIR --output run.txt
                 colbert-rerank eval run.txt --qrels qrels.txt
    """


def main() -> None:
    """The console script: an error becomes one line and an exit status: 2 where the arguments are at fault."""
    if sys.platform == "win32":
        sys.exit("colbert-rerank does not run on Windows itself; install it in WSL 2 (wsl --install) and run it there")
    from colbert_rerank.cli import output
    from colbert_rerank.errors import ColbertRerankError, UsageError

    signal.signal(signal.SIGTERM, _terminate)
    output.configure()
    if not sys.warnoptions:  # what libraries tell their programmers is not for users; python -W shows it
        warnings.simplefilter("ignore")
    try:
        sys.exit(cli.main(prog_name="colbert-rerank", standalone_mode=False))
    except InterruptError as error:
        output.fail(str(error), error.status)
    except click.ClickException as error:
        output.fail_to_parse(error)
    except UsageError as error:
        output.fail(str(error), 2)
    except ColbertRerankError as error:
        output.fail(str(error), 1)
    except OSError as error:  # inputs, stores and servers have errors of their own: mostly it is our output
        sys.stdout = io.StringIO()  # what could not be written is not tried again at exit
        what = f"{error.filename}: " if error.filename else "cannot write the output: " if error.errno else ""
        output.fail(f"{what}{error.strerror or error}", 1)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise TerminateError
