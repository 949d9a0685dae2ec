"""What codecs and pooling cost in quality: nDCG@10, and the share of queries with the same ten best documents.

    python -m benchmarks.codecs --data FOLDER --work FOLDER

FOLDER holds scifact, cranfield and dl19 in BEIR layout, each with its first stage's run, bm25_top100.tsv. Documents are
encoded once, into a store of float32; all other stores are made from it.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import record
from benchmarks.quality import official
from colbert_rerank import trec
from colbert_rerank.candidates.runfile import RunCandidates
from colbert_rerank.encoder import Encoder
from colbert_rerank.evaluate import evaluate
from colbert_rerank.pooling import pooled
from colbert_rerank.recipe import HASH_BYTES, Recipe
from colbert_rerank.rerank import Reranker
from colbert_rerank.store import Store, writing
from colbert_rerank.store.codecs import row_bytes
from colbert_rerank.store.exchange import stored_ids
from colbert_rerank.types import CODECS, Qrel, Query, ScoredDoc
from ingest import upkeep
from ingest.pipeline import IngestReport, ingest
from ingest.sources import SourceOptions, open_source
from ingest.validation import InputReport

K = 100
UNIT = 1000  # documents
MEASURE = "nDCG@10"
COLLECTIONS = {"scifact": "test.tsv", "cranfield": "test.tsv", "dl19": "full.tsv"}
EXACT = "float32"
# Sketches, and how many of the best by them are scored again by float16 vectors.
CASCADES = (("residual1", 20), ("binary", 20), ("binary", 50))
POOL_FACTORS = (2, 3)


class Task(NamedTuple):
    queries: list[Query]
    qrels: list[Qrel]
    run: Path
    encoder: Encoder


def encoded(name: str, data: Path, work: Path, encoder: Encoder) -> Task:
    """A collection, whose store is in ``work``."""
    folder, report = data / name, IngestReport(InputReport("skip"))  # two documents of Cranfield are empty
    source = open_source(str(folder), SourceOptions(), report.input)
    ingest(source, work / name / EXACT, encoder, recipe=Recipe(), report=report, codec=EXACT)
    run = work / name / "bm25.run"
    trec.write_run(official(folder / "bm25_top100.tsv"), str(run), "bm25")
    qrels = list(trec.read_qrels(str(folder / "qrels" / COLLECTIONS[name])))
    judged = {q.query_id for q in qrels}
    queries = [q for q in trec.read_topics(str(folder / "queries.jsonl")) if q.query_id in judged]
    return Task(queries, qrels, run, encoder)


def recoded(work: Path, codec: str, sketches: str) -> Path:
    """The store of a collection with these codecs."""
    folder = work / "-".join(filter(None, (codec, sketches)))
    if not folder.exists():
        shutil.copytree(work / EXACT, folder)
        upkeep.compact(folder, codec, sketches)
    return folder


def pooled_store(work: Path, factor: int) -> Path:
    """The store of a collection whose vectors are pooled, as ``--pool-factor`` pools them before they are stored."""
    folder, exact = work / f"pooled{factor}", Store.open(work / EXACT)
    if not folder.exists():
        with writing(folder, replace(exact.manifest, segments=(), index=None, codec="float16")) as writer:
            ids = stored_ids(exact)
            for start in range(0, len(ids), UNIT):
                some, unit = ids[start : start + UNIT], writer.unit()
                for doc_id, vectors in zip(some, exact.gather(some).matrices(), strict=True):
                    unit.add(doc_id, pooled(vectors, factor), bytes(HASH_BYTES))
                writer.commit(unit, posted=True)
            writer.finish()
    return folder


def ranked(folder: Path, task: Task, rescore: int | None = None) -> dict[str, list[ScoredDoc]]:
    reranker = Reranker(Store.open(folder), task.encoder, rescore=rescore)
    return {r.query.query_id: r.ranked for r in reranker.run(task.queries, RunCandidates(str(task.run)), K)}


def compared(found: dict[str, list[ScoredDoc]], exact: dict[str, list[ScoredDoc]], task: Task) -> dict[str, Any]:
    after, before = (
        evaluate((d for docs in run.values() for d in docs), task.qrels, (MEASURE,))[MEASURE] for run in (found, exact)
    )
    tops = [[[d.doc_id for d in run[q][:10]] for run in (found, exact)] for q in exact]
    return {
        "queries": len(exact),
        MEASURE: round(after, 4),
        "change": round(after - before, 4),
        "same_ten": round(sum(set(a) == set(b) for a, b in tops) / len(tops), 4),
        "same_order": round(sum(a == b for a, b in tops) / len(tops), 4),
    }


def main() -> None:
    parser = record.parser(__doc__, "codecs")
    parser.add_argument("--data", type=Path, required=True)
    arguments = parser.parse_args()
    encoder, rows = Encoder.load("starter", device="cpu"), []
    cases: list[tuple[str, str, int | None, int]] = [(codec, "", None, 1) for codec in CODECS]
    cases += [("float16", *cascade, 1) for cascade in CASCADES] + [("float16", "", None, f) for f in POOL_FACTORS]
    for name in COLLECTIONS:
        task = encoded(name, arguments.data, arguments.work, encoder)
        exact = ranked(arguments.work / name / EXACT, task)
        for codec, sketches, rescore, factor in cases:
            work = arguments.work / name
            folder = pooled_store(work, factor) if factor > 1 else recoded(work, codec, sketches)
            manifest = Store.open(folder).manifest
            rows.append(
                {
                    "collection": name,
                    "codec": codec,
                    "sketches": sketches,
                    "rescore": rescore,
                    "pool_factor": factor,
                    "row_bytes": row_bytes((codec, sketches), manifest.dim),
                    "bytes_a_vector": round(manifest.bytes / manifest.rows, 1),
                    "vectors": manifest.rows,
                    **compared(ranked(folder, task, rescore), exact, task),
                }
            )
            print(rows[-1], flush=True)
    record.write(arguments.output, rows, model="starter", compute_dtype="fp32", exact=EXACT)


if __name__ == "__main__":
    main()
