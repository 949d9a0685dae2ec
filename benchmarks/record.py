"""What every measurement records beside its figures: the machine, the versions, the commit."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from colbert_rerank import machine


def parser(doc: str | None, name: str) -> argparse.ArgumentParser:
    """Options that nearly all have: a folder for the stores, and the file to write, called ``name``."""
    found = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--work", type=Path, required=True, help="a folder for the stores")
    found.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / f"{name}.json")
    return found


def write(path: Path, rows: list[dict[str, Any]], **more: Any) -> None:
    path.write_text(json.dumps({**environment(), **more, "rows": rows}, indent=1) + "\n", encoding="utf-8")


def environment() -> dict[str, Any]:
    return {**machine.environment(), "commit": _commit()}


def _commit() -> str:
    """The commit that is measured. Ends the program where the package has changes beyond it."""
    here = Path(__file__).parent
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
    changed = subprocess.run(
        ["git", "status", "--porcelain", "--", "../colbert_rerank", "../ingest", "../mappings"],
        cwd=here,
        capture_output=True,
        text=True,
        check=True,
    )
    if changed.stdout.strip():
        sys.exit("the package has changes that are not committed: commit them, or the figures are of nothing known")
    return head.stdout.strip()
