"""How exact scores are: each path on this machine against MaxSim in float64, over whole collections.

    python -m benchmarks.exactness --data FOLDER --work FOLDER

FOLDER holds scifact in BEIR layout. Queries are scored with every document of a store of each codec, by each way there
is of doing so here; held against are the vectors as they are stored, and the query as the model gives it. Ends with an
error where a score is further off than `colbert_rerank.maxsim.reference.rounding` allows, or where two documents, one
of a query's best hundred, stand in another order than in float64 although they are further apart than twice that.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import record
from benchmarks.codecs import encoded, recoded
from colbert_rerank.encoder import Encoder
from colbert_rerank.maxsim import native, packed, reference
from colbert_rerank.store import RowRanges, Store
from colbert_rerank.store.codecs import decode
from colbert_rerank.store.exchange import stored_ids

COLLECTION = "scifact"
CODECS = {"float16": 1, "int8": 3, "residual4": 3}  # of how many queries one is asked
TOP = 100

Scores = npt.NDArray[np.float64]
Scoring = Callable[[npt.NDArray[np.float32], RowRanges], Scores]


def paths() -> dict[str, Scoring]:
    """Every way to score on this machine's CPU."""

    def by(isa: str, plain: bool) -> Scoring:
        return lambda Q, docs: native.scores(Q, docs, isa=isa, plain=plain)

    found = {isa: by(isa, True) for isa in native.isas()}
    if "avx512" in found:
        found = {"avx512, filtered": by("avx512", False), **found}
    return {**found, "torch": _by_torch}


def _by_torch(Q: npt.NDArray[np.float32], docs: RowRanges) -> Scores:
    offsets = np.append(docs.starts, docs.starts[-1:] + docs.counts[-1:])
    return packed.scores(Q, docs.values, offsets, codec=docs.codec)


def whole(store: Store) -> RowRanges:
    """All documents, one behind the other."""
    return store.gather(stored_ids(store)).ranges


def exact(Q: npt.NDArray[np.float32], vectors: npt.NDArray[np.float64], starts: npt.NDArray[np.int64]) -> Scores:
    """`reference.scores` by matrix products, which are float64 as well."""
    found: Scores = np.maximum.reduceat(vectors @ Q.astype(np.float64).T, starts, axis=0).sum(axis=1)
    return found


def disorder(found: Scores, expected: Scores) -> float:
    """How far apart, in float64, two are at most that stand in the wrong order, one of the best hundred."""
    worst = 0.0
    best = np.argsort(-found, kind="stable")[:TOP]
    after = np.argsort(-found, kind="stable")
    places = np.empty_like(after)
    places[after] = np.arange(after.size)
    for document in best.tolist():
        behind = expected[places > places[document]]
        worst = max(worst, float(behind.max(initial=-np.inf) - expected[document]))
    return worst


def measured(codec: str, work: Path, queries: list[npt.NDArray[np.float32]]) -> Iterator[dict[str, Any]]:
    docs = whole(Store.open(recoded(work, codec, "")))
    vectors = decode(docs.codec, docs.values).astype(np.float64)
    longest = float(np.linalg.norm(vectors, axis=1).max())
    found: dict[str, dict[str, float]] = {
        name: dict.fromkeys(("error", "share", "disorder", "same"), 0.0) for name in paths()
    }
    for Q in queries:
        expected = exact(Q, vectors, docs.starts)
        top = np.argsort(-expected, kind="stable")[:TOP].tolist()
        allowed = reference.rounding(Q, longest)
        for name, scores in paths().items():
            ours, row = scores(Q, docs), found[name]
            error = float(np.abs(ours - expected).max())
            row["error"] = max(row["error"], error)
            row["share"] = max(row["share"], error / allowed)
            changed = disorder(ours, expected)
            row["disorder"] = max(row["disorder"], changed)
            row["same"] += top == np.argsort(-ours, kind="stable")[:TOP].tolist()
            if error > allowed or changed > 2 * allowed:
                sys.exit(f"{codec}, {name}: {error} off, {changed} in disorder, allowed is {allowed}")
    for name, row in found.items():
        yield {
            "codec": codec,
            "path": name,
            "greatest_error": row["error"],
            "share_of_allowed": row["share"],
            "greatest_disorder": row["disorder"],
            "same_hundred": int(row["same"]),
            "queries": len(queries),
            "documents": docs.counts.size,
        }


def main() -> None:
    parser = record.parser(__doc__, "exactness")
    parser.add_argument("--data", type=Path, required=True)
    arguments = parser.parse_args()
    encoder = Encoder.load("starter", device="cpu")
    task = encoded(COLLECTION, arguments.data, arguments.work, encoder)
    queries = encoder.encode_queries([query.text for query in task.queries])
    rows: list[dict[str, Any]] = []
    for codec, step in CODECS.items():
        for row in measured(codec, arguments.work / COLLECTION, list(queries[::step])):
            print(row, flush=True)
            rows.append(row)
    record.write(arguments.output, rows, model="starter", collection=COLLECTION, top=TOP)


if __name__ == "__main__":
    main()
