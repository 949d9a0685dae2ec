"""nDCG@10 and others of the first stage and of the starter's re-ranking, on collections in BEIR layout.

    python -m benchmarks.quality --data FOLDER --opensearch URL --work FOLDER

FOLDER holds scifact, cranfield, musique_mini and dl19, as far as they are there. DL19 re-ranks its official BM25 run
(bm25_top100.tsv) over the passages that came with it; the others go through a real OpenSearch node, whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import record
from colbert_rerank import trec
from colbert_rerank.candidates.opensearch import OpenSearchCandidates
from colbert_rerank.candidates.runfile import RunCandidates
from colbert_rerank.connection import Connection
from colbert_rerank.encoder import Encoder
from colbert_rerank.evaluate import evaluate
from colbert_rerank.opensearch import check_server, connect
from colbert_rerank.recipe import Recipe
from colbert_rerank.rerank import Reranker
from colbert_rerank.store import Store
from colbert_rerank.types import Candidates, ScoredDoc
from ingest.first_stage import opensearch
from ingest.pipeline import IngestReport, ingest
from ingest.sources import SourceOptions, open_source
from ingest.validation import InputReport
from mappings import index_body

K = 100


class Collection(NamedTuple):
    name: str
    qrels: str
    measures: tuple[str, ...]
    indexed: bool = True  # in OpenSearch; else its official run is re-ranked


COLLECTIONS = (
    Collection("dl19", "full.tsv", ("nDCG@10", "RR(rel=2)@10", "R(rel=2)@100"), indexed=False),
    Collection("scifact", "test.tsv", ("nDCG@10", "RR@10", "R@100")),
    Collection("cranfield", "test.tsv", ("nDCG@10", "RR@10", "R@100")),
    Collection("musique_mini", "test.tsv", ("nDCG@10", "RR@10", "R@100")),
)


def measure(collection: Collection, data: Path, url: str, work: Path, encoder: Encoder) -> dict[str, Any]:
    folder, recipe = data / collection.name, Recipe()
    report = IngestReport(InputReport("skip"))  # two documents of Cranfield are empty
    client = connect(Connection(url))
    index = f"benchmark-{collection.name}".replace("_", "-")
    first_stage = opensearch(client, index, index_body(recipe.fields)) if collection.indexed else None
    source = open_source(str(folder), SourceOptions(), report.input)
    store = work / collection.name
    ingest(source, store, encoder, recipe=recipe, report=report, first_stage=first_stage)
    candidates: Candidates
    if collection.indexed:
        candidates = OpenSearchCandidates(client, index, fields=recipe.fields)
        name = f"OpenSearch {check_server(client).version}, BM25"
    else:
        trec.write_run(official(folder / "bm25_top100.tsv"), str(store / "bm25.run"), "bm25")
        candidates, name = RunCandidates(str(store / "bm25.run")), "official BM25 run"
    qrels = list(trec.read_qrels(str(folder / "qrels" / collection.qrels)))
    judged = {q.query_id for q in qrels}
    queries = [q for q in trec.read_topics(str(folder / "queries.jsonl")) if q.query_id in judged]
    reranker = Reranker(Store.open(store), encoder)
    rankings = list(reranker.run(queries, candidates, K))
    return {
        "collection": collection.name,
        "qrels": collection.qrels,
        "documents": len(reranker.store),
        "skipped": dict(report.input.skipped),
        "queries": len(queries),
        "k": K,
        "first_stage": name,
        "unscored": dict(reranker.report.missing),
        "before": evaluate((d for r in rankings for d in r.first_stage), qrels, collection.measures),
        "after": evaluate((d for r in rankings for d in r.ranked), qrels, collection.measures),
    }


def official(path: Path) -> Iterator[ScoredDoc]:
    """The rows of a run as query, document, score, in the order a run file needs."""
    by_query: dict[str, list[ScoredDoc]] = {}
    with path.open(encoding="utf-8") as file:
        for line in file:
            query_id, doc_id, score = line.split("\t")
            by_query.setdefault(query_id, []).append(ScoredDoc(query_id, doc_id, float(score)))
    for rows in by_query.values():
        yield from trec.as_trec_eval_ranks(rows)


def main() -> None:
    parser = record.parser(__doc__, "quality")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--opensearch", required=True, metavar="URL")
    arguments = parser.parse_args()
    encoder = Encoder.load("starter", device="cpu")
    rows = []
    for collection in COLLECTIONS:
        if not (arguments.data / collection.name).is_dir():
            print(f"{collection.name}: not in {arguments.data}, left out")
            continue
        rows.append(measure(collection, arguments.data, arguments.opensearch, arguments.work, encoder))
        print(rows[-1])
    record.write(arguments.output, rows, model="starter", compute_dtype="fp32", stored_dtype="float16")


if __name__ == "__main__":
    main()
