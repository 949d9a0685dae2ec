"""The heavy proofs at full size. The tests run the same functions small.

    bash scripts/soak [--part 0.1] [--only WORD] [--output FILE]

Each proof is recorded with its seed, size, commit, duration and result in benchmarks/results/soak.json; a failure is
recorded, and ends with exit status 1. With --only, the others stay recorded as they are.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import record
from tests.collection import MUSIQUE, documents
from tests.ingest.killing import DOCUMENTS, kill_ingest
from tests.serve.loading import load
from tests.server.in_search import rerank_in_search
from tests.server.indices import make_index, put_documents
from tests.server.node import RERANKING, OpenSearchNode
from tests.store.corrupting import corrupt_store
from tests.store.fuzzing import fuzz
from tests.store.killing import kill_store
from tests.store.power import lose_power
from tests.store.together import write_together

SEED = 20261125
SOURCE = "soak-source"
COLLECTION = "COLBERT_RERANK_COLLECTION"


class Proof(NamedTuple):
    name: str
    n: int
    run: Callable[[int, int], Any]  # size and seed to a report


def rerank_inside(n: int, seed: int) -> Any:
    """All queries of the bundled collection, or of the one in BEIR layout that this variable names."""
    with OpenSearchNode(heap="1g", plugins=RERANKING) as node:
        return rerank_in_search(n, seed, node.url, collection=Path(os.environ.get(COLLECTION, MUSIQUE)))


def proofs(url: str) -> list[Proof]:
    def read_from_index(n: int, seed: int) -> Any:
        make_index(url, SOURCE, settings={"number_of_shards": 3})
        put_documents(url, SOURCE, {d.doc_id: {"text": d.fields["text"]} for d in documents(DOCUMENTS)})
        return kill_ingest(n, seed, url=url, source=f"opensearch:{SOURCE}")

    return [
        Proof("damage to a store", 20_000, corrupt_store),
        Proof("kill -9 of a store's writer", 500, kill_store),
        Proof("several writers at once, some of them killed", 150, write_together),
        Proof("any bytes as manifest and header", 300_000, fuzz),
        Proof("power loss in a store's life", 50, lose_power),
        Proof("load on the service, and overload", 50_000, load),
        Proof("re-ranking inside OpenSearch, its service failing", 10_000, rerank_inside),
        Proof("kill -9 of an ingest, embedded index", 100, kill_ingest),
        Proof("Ctrl-C of an ingest, embedded index", 40, lambda n, seed: kill_ingest(n, seed, signal.SIGINT)),
        Proof("kill -9 of an ingest into OpenSearch", 40, lambda n, seed: kill_ingest(n, seed, url=url, index="soak")),
        Proof("kill -9 of an ingest from OpenSearch", 40, read_from_index),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", type=float, default=1.0, help="run each proof at this part of its size")
    parser.add_argument("--only", default="", help="the proofs whose names hold this word")
    parser.add_argument("--seed", type=int, default=SEED)
    output = Path(__file__).parents[1] / "benchmarks" / "results" / "soak.json"
    parser.add_argument("--output", type=Path, default=output)
    options = parser.parse_args()
    logging.getLogger("colbert_rerank").addHandler(logging.NullHandler())  # damage warns by the thousand
    # what a shell puts into the background is deaf to Ctrl-C, and so would the victims be
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rows = _kept(options.output, options.only)
    here = record.environment()
    known = {"commit": here["commit"], "processor": here["machine"]["processor"]}
    with OpenSearchNode() as node:
        for proof in proofs(node.url):
            if options.only not in proof.name:
                continue
            n, began = max(1, round(proof.n * options.part)), time.monotonic()
            row: dict[str, Any] = {"proof": proof.name, "n": n, "seed": options.seed, **known}
            try:
                row |= {"report": proof.run(n, options.seed)._asdict(), "failure": None}
            except Exception:
                row |= {"report": None, "failure": traceback.format_exc()}
            rows.append(row | {"seconds": round(time.monotonic() - began, 1)})
            print(json.dumps(rows[-1]), flush=True)
            record.write(options.output, rows)
    return int(any(row["failure"] for row in rows))


def _kept(path: Path, only: str) -> list[dict[str, Any]]:
    """The recorded proofs that are not to be run again."""
    if not only or not path.exists():
        return []
    return [row for row in json.loads(path.read_text(encoding="utf-8"))["rows"] if only not in row["proof"]]


if __name__ == "__main__":
    sys.exit(main())
