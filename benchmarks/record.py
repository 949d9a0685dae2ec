"""What every measurement records beside its figures: the machine, the versions, the commit."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "h5py", "tantivy", "opensearch-py", "ir-measures")


def write(path: Path, rows: list[dict[str, Any]], **more: Any) -> None:
    path.write_text(json.dumps({**environment(), **more, "rows": rows}, indent=1) + "\n", encoding="utf-8")


def environment() -> dict[str, Any]:
    return {
        "machine": {
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
            "system": f"{platform.system()} {platform.machine()}",
        },
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "commit": _commit(),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


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
