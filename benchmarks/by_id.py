"""Re-ranking by id over HTTP, beside re-rankers that are given texts and encode them anew, with the same checkpoint.

    python -m benchmarks.by_id --collection BEIR_FOLDER --work FOLDER

The collection is ingested, and served by a process of its own. Each query's best 100 by BM25 are re-ranked in turns: by
their ids, by their texts through the same service, and by their texts with rerankers' ColBERT in this process. Times
are a client's, from the body to the parsed answer. All have as many threads as there are cores; who waits uses none.
"""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.metadata import version
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rerankers import Reranker as TextReranker
from rerankers.models.colbert_ranker import ColBERTModel

from benchmarks import record
from colbert_rerank import trec
from colbert_rerank.bench.turns import wall_ms, warm
from colbert_rerank.candidates.bm25 import open_beside
from colbert_rerank.checkpoints.location import locate
from colbert_rerank.encoder import Encoder
from colbert_rerank.recipe import Recipe
from colbert_rerank.store import Store
from ingest.pipeline import IngestReport, ingest
from ingest.sources import SourceOptions, open_source
from ingest.validation import InputReport
from tests.serve.running import running

K, TOP = 100, 10
OURS, TEXTS, RERANKERS = "by id", "texts, the same service", "texts, rerankers"


class Asked(NamedTuple):
    query: str
    ids: list[str]
    texts: list[str]


Way = Callable[[Asked], list[str]]
"""The ids, best first."""


def questions(folder: Path, store: Path, count: int) -> list[Asked]:
    """Queries of the collection with their candidates, of those that have `K`; the store is made first."""
    recipe, report = Recipe(), IngestReport(InputReport("skip"))
    ingest(
        open_source(str(folder), SourceOptions(), report.input),
        store,
        Encoder.load("starter", device="cpu"),
        recipe=recipe,
        report=report,
    )
    _, index = open_beside(Store.open(store))

    def asked() -> Iterator[Asked]:
        for query in trec.read_topics(str(folder / "queries.jsonl")):
            (hits,) = index.search([query], K)
            if len(hits) == K:
                ids = [hit.doc_id for hit in hits]
                yield Asked(query.text, ids, [recipe.text(d.fields) for d in index.fetch(ids)])

    return list(islice(asked(), count))


def ways(connection: http.client.HTTPConnection) -> dict[str, Way]:
    # its network does not end by post_init(), which gives it this name, and transformers 5 asks for it
    ColBERTModel.all_tied_weights_keys = {}
    ranker = TextReranker(str(locate("starter")), model_type="colbert", device="cpu", dtype="fp32", verbose=0)
    assert ranker is not None

    def order(path: str, query: str, documents: list[str]) -> list[int]:
        body = json.dumps({"query": query, "documents": documents})
        connection.request("POST", path, body, {"content-type": "application/json"})
        found = json.loads(connection.getresponse().read())
        assert found["scored"] == len(documents), found
        return [result["index"] for result in found["results"]]

    def by_rerankers(asked: Asked) -> list[str]:
        found = ranker.rank(asked.query, asked.texts, doc_ids=asked.ids)
        return [result.document.doc_id for result in found.results]

    return {
        OURS: lambda a: [a.ids[i] for i in order("/v1/stores/real/rerank", a.query, a.ids)],
        TEXTS: lambda a: [a.ids[i] for i in order("/rerank", a.query, a.texts)],
        RERANKERS: by_rerankers,
    }


def main() -> None:
    parser = record.parser(__doc__, "by_id")
    parser.add_argument("--collection", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    record.environment()  # before minutes are spent on figures of nothing known
    asked = questions(arguments.collection, arguments.work / "by-id", 2 * arguments.repeats)
    with (
        running(arguments.work / "by-id", OMP_NUM_THREADS=str(os.cpu_count())) as service,
        closing(service.connect()) as connection,
    ):
        works = ways(connection)
        agree = {name: [overlap(work(a), works[OURS](a)) for a in asked[:TOP]] for name, work in works.items()}
        timed, draw = {name: clocked(work) for name, work in works.items()}, cycle(asked).__next__
        times: dict[str, list[float]] = {name: [] for name in works}
        rng = np.random.default_rng(1)
        for _ in range(arguments.repeats):
            for name in rng.permutation(list(works)).tolist():
                times[name].append(warm(timed[name], draw))
    rows = [
        {
            "name": name,
            **dict(zip(("p10_ms", "median_ms", "p90_ms"), np.percentile(ms, [10, 50, 90]).tolist(), strict=True)),
            "ratio": float(np.median(ms) / np.median(times[OURS])),
            "same_of_top": float(np.mean(agree[name])),
        }
        for name, ms in times.items()
    ]
    print(*rows, sep="\n")
    known = {"collection": arguments.collection.name, "k": K, "top": TOP, "repeats": arguments.repeats}
    record.write(arguments.output, rows, **known, model="starter", rerankers=version("rerankers"))


def clocked(work: Way) -> Callable[[Asked], float]:
    return lambda asked: wall_ms(lambda: work(asked))


def overlap(one: list[str], other: list[str]) -> int:
    return len({*one[:TOP]} & {*other[:TOP]})


if __name__ == "__main__":
    main()
