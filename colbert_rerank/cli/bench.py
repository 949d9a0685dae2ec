"""`colbert-rerank bench`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from colbert_rerank.cli.help import Command
from colbert_rerank.cli.options import FOLDER
from colbert_rerank.cli.output import output_options, say
from colbert_rerank.cli.progress import working
from colbert_rerank.errors import UsageError


@click.command(cls=Command)
@click.option("--json", "file", metavar="FILE", type=click.Path(path_type=Path), help="Write the figures there, too.")
@click.option("--k", default=1000, show_default=True, type=click.IntRange(1), help="Candidates of a query.")
@click.option("--repeats", default=30, show_default=True, type=click.IntRange(1), help="Of each measurement, in turns.")
@click.option(
    "--peer",
    "peers",
    multiple=True,
    metavar="NAME=PYTHON",
    help="A Python that has maxsim_cpu or pylate, to compare with; by default this one.",
)
@click.option("--work", type=FOLDER, help="A folder for a few gigabytes; by default the system's temporary one.")
@output_options
def bench(file: Path | None, k: int, repeats: int, peers: tuple[str, ...], work: Path | None) -> None:
    """Measure how fast this machine scores, beside other libraries.

    Candidates are drawn afresh each time, from stores of random vectors ten times as large as the last cache.

    \b
    Examples:
      colbert-rerank bench
      colbert-rerank bench --peer pylate=other-venv/bin/python --json bench.json
    """
    from colbert_rerank.bench import measure
    from colbert_rerank.bench.peers import LABELS

    pythons = dict.fromkeys(LABELS, sys.executable)
    for peer in peers:
        name, equals, python = peer.partition("=")
        if not equals or name not in LABELS:
            raise UsageError(f"--peer {peer}: expected NAME=PYTHON, of {', '.join(LABELS)}")
        pythons[name] = python
    with working("measuring"):
        found = measure(k=k, repeats=repeats, peers=pythons, work=work, progress=say)
    for row in found["rows"]:
        click.echo(_line(row))
    if file:
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _line(row: dict[str, object]) -> str:
    if "missing" in row:
        return f"{row['name']}: not measured: {row['missing']}"
    return (
        f"{row['name']}: {row['ours']} {row['ours_ms']:.2f} ms ({row['ours_p10_ms']:.2f} to {row['ours_p90_ms']:.2f}); "
        f"{row['peer']} {row['peer_ms']:.2f} ms ({row['peer_p10_ms']:.2f} to {row['peer_p90_ms']:.2f}); "
        f"ratio {row['ratio']:.2f}"
    )
