"""A store of a million documents: how long it takes to open, what memory it needs, how fast ids are found.

    python -m benchmarks.large --work FOLDER

Documents of 68 token vectors (128 dimensions, int8, 9 GB in all), made of random numbers. Each figure is of processes
of their own, which load neither torch nor a model; ids are drawn anew for each lookup.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import record
from colbert_rerank.store import Manifest, Store, writing

DOCUMENTS, TOKENS, DIM, CODEC = 1_000_000, 68, 128, "int8"
UNIT = 20_000  # documents
ASKED = 1000
PROCESSES, LOOKUPS = 5, 200

MEASURED = "import json, sys; from benchmarks.large import measured; print(json.dumps(measured(*sys.argv[1:])))"


def make(folder: Path) -> None:
    rng = np.random.default_rng(1)
    with writing(folder, Manifest("benchmark", DIM, CODEC, {}, {"fields": ["text"], "separator": " "})) as writer:
        for start in range(0, DOCUMENTS, UNIT):
            unit = writer.unit()
            for number in range(start, start + UNIT):
                unit.add(f"document-{number}", rng.standard_normal((TOKENS, DIM), dtype=np.float32), bytes(16))
            writer.commit(unit, posted=True)
        writer.finish()


def measured(folder: str, seed: str) -> dict[str, float]:
    """In milliseconds, and in bytes of memory that is no map of a file."""
    before = anonymous()
    start = time.perf_counter()
    store = Store.open(folder)
    opened = time.perf_counter() - start
    assert len(store) == DOCUMENTS
    rng, lookups = np.random.default_rng(int(seed)), []
    for _ in range(LOOKUPS):
        ids = [f"document-{number}" for number in rng.choice(DOCUMENTS, ASKED, replace=False).tolist()]
        start = time.perf_counter()
        found = store.lookup(ids).found
        lookups.append(1000 * (time.perf_counter() - start))
        assert found.all()
    start = time.perf_counter()
    store.gather(ids)
    first_touch = time.perf_counter() - start
    assert "torch" not in sys.modules
    return {
        "open_ms": 1000 * opened,
        "first_lookup_ms": lookups[0],
        "lookup_ms": statistics.median(lookups),
        "lookup_p90_ms": float(np.percentile(lookups, 90)),
        "first_touch_ms": 1000 * first_touch,
        "anonymous_bytes": anonymous(),
        "anonymous_bytes_before": before,
    }


def anonymous() -> int:
    (line,) = [x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("RssAnon")]
    return 1024 * int(line.split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a folder for the store: 9 GB")
    arguments = parser.parse_args()
    folder = arguments.work / "store-large"
    make(folder)
    rows: list[dict[str, Any]] = []
    for seed in range(PROCESSES):
        command = [sys.executable, "-c", MEASURED, str(folder), str(seed)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
        rows.append(json.loads(done.stdout))
        print(rows[-1])
    shape = {"documents": DOCUMENTS, "tokens": TOKENS, "dim": DIM, "codec": CODEC, "asked": ASKED, "lookups": LOOKUPS}
    manifest = Store.open(folder).manifest
    shape |= {"segments": len(manifest.segments), "bytes": manifest.bytes}
    shutil.rmtree(folder)
    record.write(Path(__file__).parent / "results" / "large.json", rows, **shape)


if __name__ == "__main__":
    main()
