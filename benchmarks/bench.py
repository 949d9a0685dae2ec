"""`colbert-rerank bench`, recorded with the commit that it measures.

    python -m benchmarks.bench [--as NAME] [OPTIONS OF colbert-rerank bench]

On a machine with a GPU the figures go to a file of their own, of which only the rows of the GPU are shown; elsewhere to
the one that is named.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from benchmarks import record
from colbert_rerank.cli import main as colbert_rerank

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    commit = record.environment()["commit"]  # before hours are spent on figures of nothing known
    name = "bench_gpu" if torch.cuda.is_available() else "bench"
    if sys.argv[1:2] == ["--as"]:
        name = sys.argv[2]
        del sys.argv[1:3]
    path = RESULTS / f"{name}.json"
    sys.argv[1:1] = ["bench", "--json", str(path)]
    try:
        colbert_rerank()
    except SystemExit as end:
        if end.code:
            raise
    if "--help" in sys.argv:
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({"commit": commit, **found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
