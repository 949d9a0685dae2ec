"""`colbert-rerank doctor`."""

from __future__ import annotations

import json

import click

from colbert_rerank.cli.help import Command
from colbert_rerank.cli.output import output_options


@click.command(cls=Command)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@output_options
def doctor(as_json: bool) -> None:
    """Say how scores are computed here, and what is missing.

    That is whether the compiled kernel is in use and with which instruction set, the device, and optional libraries.

    \b
    Examples:
      colbert-rerank doctor
      colbert-rerank doctor --json
    """
    from colbert_rerank.machine import facts

    found = facts()
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False, indent=1))
        return
    width = max(map(len, found))
    for name, value in found.items():
        click.echo(f"{name:<{width}}  {value}")
