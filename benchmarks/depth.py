"""How many candidates need no exact score to know the first n: what `--exact-top` skips, by the sketches.

    python -m benchmarks.depth --data FOLDER --work FOLDER

FOLDER holds scifact and dl19 as `benchmarks.codecs` has them, which makes the stores, too. SciFact's candidates are the
1,000 best of the BM25 index beside the store, DL19's the official run's 100. Nothing is timed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.codecs import encoded, recoded
from colbert_rerank.candidates.bm25 import Bm25Index
from colbert_rerank.candidates.runfile import RunCandidates
from colbert_rerank.encoder import Encoder
from colbert_rerank.rerank import Reranker
from colbert_rerank.store import Store
from colbert_rerank.store.codecs import row_bytes
from colbert_rerank.types import Candidates, Query

K = {"scifact": 1000, "dl19": 100}
CODEC = "float16"
SKETCHES = ("int8", "residual4", "binary")
TOPS = (10, 100)


def main() -> None:
    parser = record.parser(__doc__, "depth")
    parser.add_argument("--data", type=Path, required=True)
    arguments = parser.parse_args()
    encoder, rows = Encoder.load("starter", device="cpu"), []
    for name, k in K.items():
        task = encoded(name, arguments.data, arguments.work, encoder)
        for sketches in SKETCHES:
            store = Store.open(recoded(arguments.work / name, CODEC, sketches))
            official = name == "dl19"
            found: Candidates = (
                RunCandidates(str(task.run)) if official else Bm25Index.open_for(store.folder, store.manifest)
            )
            exact = ranked(Reranker(store, encoder), task.queries, found, k)
            for top in (n for n in TOPS if n < k):
                reranker = Reranker(store, encoder, exact_top=top)
                same = ranked(reranker, task.queries, found, k)
                if any(same[q][:top] != exact[q][:top] for q in exact):
                    raise SystemExit(f"{name}, {sketches}: the first {top} are not those of exact scores")
                rows.append(
                    {
                        "collection": name,
                        "first_stage": "official BM25 run" if official else "embedded BM25",
                        "k": k,
                        "queries": len(exact),
                        "sketches": sketches,
                        "row_bytes": row_bytes((sketches,), store.manifest.dim),
                        "top": top,
                        "candidates": reranker.report.scored,
                        "skipped": round(reranker.report.skipped / reranker.report.scored, 4),
                    }
                )
                print(rows[-1], flush=True)
    record.write(arguments.output, rows, model="starter", compute_dtype="fp32", codec=CODEC)


def ranked(reranker: Reranker, queries: list[Query], found: Candidates, k: int) -> dict[str, Any]:
    return {r.query.query_id: r.ranked for r in reranker.run(queries, found, k)}


if __name__ == "__main__":
    main()
