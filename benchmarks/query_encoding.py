"""What `--query-backend onnx` gains on a CPU.

    python -m benchmarks.query_encoding

The bundled collection's queries, one at a time, re-ranked from a store by the starter with either backend, in turns;
the embedded BM25 gives the candidates.
"""

from __future__ import annotations

import tempfile
import time
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import record
from colbert_rerank import trec
from colbert_rerank.candidates.bm25 import Bm25Index
from colbert_rerank.encoder import QUERY_BACKENDS, Encoder
from colbert_rerank.recipe import Recipe
from colbert_rerank.rerank import Reranker
from colbert_rerank.store import Store
from ingest.pipeline import IngestReport, ingest
from ingest.sources import SourceOptions, open_source
from ingest.validation import InputReport

K = 100
REPEATS = 10  # of all queries
COLLECTION = Path(str(files("colbert_rerank") / "data" / "musique_mini"))


def main() -> None:
    plain = Encoder.load(device="cpu")
    encoders, seconds = {}, {}
    for backend in QUERY_BACKENDS:
        start = time.perf_counter()
        encoders[backend] = Encoder.load(plain.checkpoint, device="cpu", query_backend=backend)
        seconds[backend] = time.perf_counter() - start
    queries = list(trec.read_topics(str(COLLECTION / "queries.jsonl")))
    with tempfile.TemporaryDirectory() as folder:
        report = IngestReport(InputReport("skip"))
        source = open_source(str(COLLECTION), SourceOptions(), report.input)
        ingest(source, Path(folder) / "store", plain, recipe=Recipe(), report=report)
        store = Store.open(Path(folder) / "store")
        candidates = Bm25Index.open_for(store.folder, store.manifest)
        rerankers = {backend: Reranker(store, encoder) for backend, encoder in encoders.items()}
        scores: dict[str, list[float]] = {}
        for repeat in range(REPEATS + 1):
            for backend, reranker in rerankers.items():
                # each a run of its own: within one, the next query is searched meanwhile
                rankings = [r for query in queries for r in reranker.run([query], candidates, K)]
                if repeat == 0:  # warms up
                    reranker.report.seconds.clear()
                    by_id = [sorted(r.ranked, key=lambda d: d.doc_id) for r in rankings]
                    scores[backend] = [d.score for documents in by_id for d in documents]
        rows = [_row(backend, r, seconds[backend]) for backend, r in rerankers.items()]
    record.write(
        Path(__file__).parent / "results" / "query_encoding.json",
        rows,
        onnxruntime=version("onnxruntime"),
        queries=len(queries),
        repeats=REPEATS,
        k=K,
        greatest_score_difference=float(np.abs(np.subtract(scores["onnx"], scores["torch"])).max()),
    )


def _row(backend: str, reranker: Reranker, seconds: float) -> dict[str, Any]:
    times = reranker.report.seconds
    row: dict[str, Any] = {"backend": backend, "load_s": seconds}
    for name, stages in (("encode", ["encode"]), ("together", ["encode", "gather", "score", "order"])):
        ms = 1000 * np.percentile(np.sum([list(times[stage]) for stage in stages], axis=0), [10, 50, 90])
        row[name] = {"p10_ms": ms[0], "median_ms": ms[1], "p90_ms": ms[2]}
    return row


if __name__ == "__main__":
    main()
