"""The command line: parse, call one library function, print."""

from __future__ import annotations

import sys
from importlib import import_module

import click

import colbert_rerank

# name -> (module, attribute). Loaded when named: `--help` imports neither torch nor opensearch-py, and the write path
# registers its commands here without being imported from here.
COMMANDS = {
    "demo": ("ingest.cli.demo", "demo"),
    "eval": ("colbert_rerank.cli.evaluate", "evaluate"),
    "ingest": ("ingest.cli.ingest", "ingest"),
    "rerank": ("colbert_rerank.cli.rerank", "rerank"),
    "run": ("colbert_rerank.cli.run", "run"),
}


class LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(module), attribute)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(colbert_rerank.__version__, prog_name="colbert-rerank")
def cli() -> None:
    """Re-rank BM25's candidates by late interaction (ColBERT), from token vectors stored by document id.

    \b
    Try it:  colbert-rerank demo
    """


def main() -> None:
    """The console script: an error becomes one line and an exit status: 2 where the arguments are at fault."""
    if sys.platform == "win32":
        sys.exit("colbert-rerank does not run on Windows itself; install it in WSL 2 (wsl --install) and run it there")
    from colbert_rerank.cli.output import fail
    from colbert_rerank.errors import ColbertRerankError, UsageError

    try:
        sys.exit(cli.main(standalone_mode=False))
    except click.Abort:  # Ctrl-C
        fail("interrupted; what was committed is kept, and the same command goes on from there", 130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except UsageError as error:
        fail(str(error), 2)
    except ColbertRerankError as error:
        fail(str(error), 1)
