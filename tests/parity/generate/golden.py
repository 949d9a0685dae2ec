"""Writing what a peer made of the shared texts: a JSON file to read in a diff, an NPZ file with the rows."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
CHECKPOINTS = HERE.parent / "checkpoints"
GOLDEN = HERE.parent / "golden"

Texts = dict[str, str]
# A record of each text (its name, text, ids, how many of them were attended to, rows) and its rows [n, dim].
Encoded = tuple[list[dict[str, Any]], list[torch.Tensor]]


def texts() -> tuple[Texts, Texts]:
    """The shared queries and documents, each text by its name."""
    shared = json.loads((HERE / "texts.json").read_text(encoding="utf-8"))
    return shared["queries"], shared["documents"]


def record(name: str, text: str, ids: list[int], attended: int, rows: torch.Tensor) -> dict[str, Any]:
    return {"name": name, "text": text, "ids": ids, "attended": attended, "rows": len(rows)}


def write(
    name: str,
    *,
    folders: tuple[str, ...],
    packages: tuple[str, ...],
    settings: dict[str, Any],
    encoded: dict[str, Encoded],
    scores: dict[str, list[list[float]]],
) -> None:
    """Write ``golden/NAME.json`` and ``golden/NAME.npz``; ``folders`` are those of the checkpoint and what it needs."""
    files = sorted(path for folder in folders for path in (CHECKPOINTS / folder).rglob("*") if path.is_file())
    kinds = {kind: records for kind, (records, _) in encoded.items()}
    data = {
        "python": platform.python_version(),
        "packages": {package: version(package) for package in packages},
        "sha256": {path.relative_to(CHECKPOINTS).as_posix(): sha256(path) for path in files},
        "settings": settings,
        **kinds,
        **scores,
    }
    arrays = {f"{kind}:{i}": r.numpy() for kind, (_, rows) in encoded.items() for i, r in enumerate(rows)}
    if {array.dtype for array in arrays.values()} != {np.dtype(np.float32)}:
        raise SystemExit("expected rows in float32 only")
    GOLDEN.mkdir(parents=True, exist_ok=True)
    path = GOLDEN / f"{name}.json"
    path.write_text(by_entry(data), encoding="utf-8")
    np.savez(GOLDEN / f"{name}.npz", allow_pickle=False, **arrays)
    print(f"{', '.join(f'{len(records)} {kind}' for kind, records in kinds.items())}: {path}")


def by_entry(data: dict[str, Any]) -> str:
    """JSON with one line per query, document and row of scores: a change can be read in a diff."""
    lines = [f" {json.dumps(k)}: {_by_line(v) if isinstance(v, list) else json.dumps(v)}" for k, v in data.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _by_line(items: list[Any]) -> str:
    return "[\n" + ",\n".join(f"  {json.dumps(item)}" for item in items) + "\n ]"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
