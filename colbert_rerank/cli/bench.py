"""`colbert-rerank bench`."""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import closing, nullcontext
from pathlib import Path

import click

from colbert_rerank.cli.help import Command
from colbert_rerank.cli.options import FOLDER, SERVER, OpenSearchOptions, opensearch_options, refuse
from colbert_rerank.cli.output import output_options, say
from colbert_rerank.cli.progress import working
from colbert_rerank.errors import UsageError


@click.command(cls=Command)
@click.option("--json", "file", metavar="FILE", type=click.Path(path_type=Path), help="Write the figures there, too.")
@click.option(
    "--k", default=1000, show_default=True, type=click.IntRange(1), help="Candidates, where a row names no number."
)
@click.option("--repeats", default=30, show_default=True, type=click.IntRange(1), help="Of each measurement, in turns.")
@click.option(
    "--peer",
    "peers",
    multiple=True,
    metavar="NAME=PYTHON",
    help="A Python that has maxsim_cpu, pylate, late_interaction_kernels or flash_maxsim, to compare with; by default "
    "this one.",
)
@click.option(
    "--model", metavar="NAME", help="With --opensearch: re-rank its candidates with this model, such as starter."
)
@click.option("--cross-encoder", is_flag=True, help="Beside a cross-encoder, too: takes minutes on a CPU.")
@click.option(
    "--work", type=FOLDER, help="A folder for 40 times the last cache; by default the system's temporary one."
)
@opensearch_options
@output_options
def bench(
    file: Path | None,
    k: int,
    repeats: int,
    peers: tuple[str, ...],
    model: str | None,
    cross_encoder: bool,
    work: Path | None,
    server: OpenSearchOptions,
) -> None:
    """Measure how fast this machine scores, beside other libraries.

    Candidates are drawn afresh each time, from stores of random vectors ten times as large as the last cache. With
    --opensearch also beside that server, where two indices whose names begin with colbert-rerank-bench are made, and
    deleted at the end.

    \b
    Examples:
      colbert-rerank bench
      colbert-rerank bench --peer pylate=other-venv/bin/python --json bench.json
      colbert-rerank bench --opensearch URL --model starter --cross-encoder
    """
    if server.opensearch is None:
        refuse((*SERVER, "model"), "only with --opensearch URL")
    from colbert_rerank.bench import measure
    from colbert_rerank.bench.rows import LABELS
    from colbert_rerank.encoder import Encoder

    pythons = dict.fromkeys(LABELS, sys.executable)
    for peer in peers:
        name, equals, python = peer.partition("=")
        if not equals or name not in LABELS:
            raise UsageError(f"--peer {peer}: expected NAME=PYTHON, of {', '.join(LABELS)}")
        if shutil.which(python) is None:
            raise UsageError(f"--peer {peer}: {python} is no program that can be run")
        pythons[name] = python
    if file and not file.absolute().parent.is_dir():
        raise UsageError(f"--json {file}: the folder {file.parent} is not there")
    with working("measuring"), closing(server.connect()) if server.opensearch else nullcontext() as client:
        found = measure(
            k=k,
            repeats=repeats,
            peers=pythons,
            client=client,
            encoder=Encoder.load(model, device="cpu") if model else None,
            with_cross_encoder=cross_encoder,
            work=work,
            progress=say,
        )
    for row in found["rows"]:
        click.echo(_line(row))
    if file:
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _line(row: dict[str, object]) -> str:
    if "missing" in row:
        return f"{row['name']}: not measured: {str(row['missing']).removeprefix('not yet measured: ')}"
    found = [f"{row[side]} {_figure(row, side)}" for side in ("ours", "peer") if row[side]]
    if "ratio" in row:
        found.append(f"ratio {row['ratio']:.2f}")
    if "queries_per_second" in row:
        found.append(f"{row['queries_per_second']:,.0f} queries a second")
    return f"{row['name']}: {'; '.join(found)}"


def _figure(row: dict[str, object], side: str) -> str:
    if f"{side}_flops" in row:
        return f"{row[f'{side}_flops']:.3g} operations"
    return f"{row[f'{side}_ms']:.2f} ms ({row[f'{side}_p10_ms']:.2f} to {row[f'{side}_p90_ms']:.2f})"
