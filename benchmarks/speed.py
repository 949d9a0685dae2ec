"""Times of a re-ranked query by stage, throughput of ingest, and size of the store.

    python -m benchmarks.speed --collection BEIR_FOLDER --opensearch URL --work FOLDER

Stage times are medians over the collection's queries on a warm store, through a real OpenSearch node. Ingest (reading,
hashing, store and embedded BM25, to the last fsync) is timed against the same encoder on the same documents in memory,
in turns.
"""

from __future__ import annotations

import shutil
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import record
from colbert_rerank import trec
from colbert_rerank.candidates.opensearch import OpenSearchCandidates
from colbert_rerank.connection import Connection
from colbert_rerank.encoder import Encoder
from colbert_rerank.opensearch import connect
from colbert_rerank.recipe import Recipe
from colbert_rerank.rerank import Reranker
from colbert_rerank.store import Store
from ingest.first_stage import opensearch
from ingest.pipeline import IngestReport, ingest
from ingest.sources import SourceOptions, open_source
from ingest.validation import InputReport
from mappings import index_body

DEPTHS = (100, 1000)
REPEATS = 3


def stages(folder: Path, url: str, store: Path, encoder: Encoder, queries: int) -> list[dict[str, Any]]:
    """Milliseconds a query and stage at each depth: median, 10th and 90th percentile."""
    client, recipe = connect(Connection(url)), Recipe()
    index = f"benchmark-{folder.name}".replace("_", "-")
    report = IngestReport(InputReport("skip"))
    source = open_source(str(folder), SourceOptions(), report.input)
    first_stage = opensearch(client, index, index_body(recipe.fields))
    ingest(source, store, encoder, recipe=recipe, report=report, first_stage=first_stage)
    asked = list(islice(trec.read_topics(str(folder / "queries.jsonl")), queries))
    rows = []
    for k in DEPTHS:
        for warm in (False, True):
            reranker = Reranker(Store.open(store), encoder)
            # one query at a time, as a user's search comes: within a run, stages of different queries overlap
            candidates = OpenSearchCandidates(client, index, fields=recipe.fields, batch=1)
            for query in asked:
                for _ in reranker.run([query], candidates, k):
                    pass
            if warm:
                for stage, times in reranker.report.seconds.items():
                    ms = 1000 * np.percentile(times, [10, 50, 90])
                    rows.append({"k": k, "stage": stage, "p10_ms": ms[0], "median_ms": ms[1], "p90_ms": ms[2]})
                total = np.sum(list(reranker.report.seconds.values()), axis=0)
                ms = 1000 * np.percentile(total, [10, 50, 90])
                rows.append({"k": k, "stage": "total", "p10_ms": ms[0], "median_ms": ms[1], "p90_ms": ms[2]})
    return rows


def throughput(folder: Path, work: Path, encoder: Encoder, documents: int) -> dict[str, Any]:
    """Documents a second of ingest and of the encoder alone, and the store's bytes against raw fp16."""
    recipe = Recipe()
    ours, alone = [], []
    raw = size = 0
    for _ in range(REPEATS):
        source = open_source(str(folder), SourceOptions(), InputReport("skip"))
        texts = [text for d in source if (text := recipe.text(d.fields))][:documents]
        start = time.perf_counter()
        matrices = encoder.encode_tokens(encoder.tokenize_documents(texts), np.float16)
        alone.append(len(texts) / (time.perf_counter() - start))
        raw = sum(m.nbytes for m in matrices)
        del matrices
        store = work / "throughput"
        shutil.rmtree(store, ignore_errors=True)
        report = IngestReport(InputReport("skip"))
        source = open_source(str(folder), SourceOptions(), report.input)
        start = time.perf_counter()
        ingest(islice(source, documents), store, encoder, recipe=recipe, report=report)
        ours.append(report.encoded / (time.perf_counter() - start))
        size = sum(f.stat().st_size for f in [store / "manifest.json", *(store / "segments").iterdir()])
    return {
        "documents": documents,
        "repeats": REPEATS,
        "ingest_documents_s": float(np.median(ours)),
        "encoder_documents_s": float(np.median(alone)),
        "ratio": float(np.median(ours) / np.median(alone)),
        "store_bytes": size,
        "raw_fp16_bytes": raw,
        "overhead": size / raw - 1,
    }


def main() -> None:
    parser = record.parser(__doc__, "speed")
    parser.add_argument("--collection", type=Path, required=True)
    parser.add_argument("--opensearch", required=True, metavar="URL")
    parser.add_argument("--documents", type=int, default=2000, help="of the throughput measurement")
    parser.add_argument("--queries", type=int, default=300)
    arguments = parser.parse_args()
    encoder = Encoder.load("starter", device="cpu")
    name = arguments.collection.name
    rows = stages(arguments.collection, arguments.opensearch, arguments.work / name, encoder, arguments.queries)
    through = throughput(arguments.collection, arguments.work, encoder, arguments.documents)
    print(*rows, through, sep="\n")
    record.write(arguments.output, rows, collection=name, throughput=through, model="starter", compute_dtype="fp32")


if __name__ == "__main__":
    main()
