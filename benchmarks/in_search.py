"""What re-ranking in the middle of an OpenSearch search adds to it, beside OpenSearch's own late interaction.

    python -m benchmarks.in_search --work FOLDER

A node with Java as in production, and the service as a process. Passages are of words drawn as often as the bundled
collection has them, their vectors are random, and lie in the store as in ``_source``. Each search is for the best ten,
which come back as ids: alone; with as many ids as are re-ranked; through a pipeline that `opensearch setup` made, where
the query is encoded, too; and rescored by ``lateInteractionScore``, whose query's vectors are ready. OpenSearch does it
in as many shards as there are threads, each its share of the window. Times are a client's, in turns.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import opensearchpy
import torch

from benchmarks import record
from colbert_rerank import identity
from colbert_rerank.bench.documents import TOKENS, UNIT, add, unit_vectors
from colbert_rerank.bench.passages import Words
from colbert_rerank.bench.server import DECIMALS, SCRIPT, WARM_UPS
from colbert_rerank.bench.turns import wall_ms, warm
from colbert_rerank.connection import Connection
from colbert_rerank.encoder import Encoder
from colbert_rerank.opensearch import connect
from colbert_rerank.opensearch_rerank.requests import Changes
from colbert_rerank.opensearch_rerank.setup import Wanted, setup
from colbert_rerank.opensearch_rerank.teardown import teardown
from colbert_rerank.recipe import Recipe
from colbert_rerank.store import Manifest, Store, writing
from colbert_rerank.store.exchange import OPENSEARCH_FIELD
from mappings import CONTENTS, DOC_ID, document_body, index_body, rerank_search
from tests.serve.running import running
from tests.server.node import RERANKING, OpenSearchNode

DEPTHS, SIZE, PASSAGES, INDEX = (100, 1000), 10, 5000, "benchmark-in-search"
FIELDS = ("text",)
ALONE, IDS, OURS, THEIRS = "search alone", "search for the candidates", "pipeline", "lateInteractionScore"

Search = Callable[[str], list[str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a folder for the store")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "in_search.json")
    parser.add_argument("--repeats", type=int, default=30)
    arguments = parser.parse_args()
    record.environment()  # before minutes are spent on figures of nothing known
    encoder, threads = Encoder.load("starter", device="cpu"), torch.get_num_threads()
    store = made(encoder, arguments.work / "in-search")
    with (
        OpenSearchNode(heap="2g", plugins=RERANKING, quick_start=False) as node,
        running(store.folder, OMP_NUM_THREADS=str(threads)) as service,
        closing(connect(Connection(node.url))) as client,
    ):
        fill(client, store, threads)
        changes, rows = Changes(client), []
        for k in DEPTHS:
            wanted = Wanted("colbert", f"http://{service.host}:{service.port}", "real", oversample=k // SIZE)
            print(*setup(changes, wanted), sep="\n")
            rows += measure(client, encoder, k, threads, arguments.repeats)
        print(*teardown(changes, "colbert"), *rows, sep="\n")
    known = {"documents": PASSAGES, "tokens": TOKENS, "size": SIZE, "repeats": arguments.repeats, "threads": threads}
    record.write(arguments.output, rows, **known, model="starter", opensearch=OpenSearchNode.version)


def made(encoder: Encoder, folder: Path) -> Store:
    """Of random vectors under the passages' ids: scoring takes as long with them as with others."""
    known = identity.query_identity(encoder.checkpoint), identity.document_identity(encoder.checkpoint, Recipe(FIELDS))
    rng = np.random.default_rng(5)
    with writing(folder, Manifest("benchmark", encoder.dim, "float16", *known)) as writer:
        for start in range(0, PASSAGES, UNIT):
            count = min(UNIT, PASSAGES - start)
            add(writer, unit_vectors(rng, count * TOKENS, encoder.dim), [TOKENS] * count, start)
        writer.finish()
    return Store.open(folder)


def fill(client: opensearchpy.OpenSearch, store: Store, shards: int) -> None:
    """The passages, each with the vectors that the store has of it."""
    body = index_body(FIELDS, shards=shards, replicas=0)
    body["mappings"]["properties"]["tokens"] = OPENSEARCH_FIELD
    client.indices.create(index=INDEX, body=body)

    def actions() -> Iterator[dict[str, Any]]:
        for number, text in enumerate(Words().passages(PASSAGES)):
            (vectors,) = store.gather([str(number)]).matrices()
            tokens = np.round(vectors.astype(np.float64), DECIMALS).tolist()
            yield {
                "_id": str(number),
                "_source": document_body(str(number), {"text": text}, FIELDS) | {"tokens": tokens},
            }

    opensearchpy.helpers.bulk(client, actions(), index=INDEX, max_chunk_bytes=8 << 20)
    client.indices.refresh(index=INDEX)
    client.indices.forcemerge(index=INDEX, max_num_segments=1, request_timeout=600)


def measure(
    client: opensearchpy.OpenSearch, encoder: Encoder, k: int, shards: int, repeats: int
) -> list[dict[str, Any]]:
    vectors = {text: encoder.encode_queries([text])[0] for text in Words().queries(20 * repeats)}
    ids_only = {"_source": False, "stored_fields": "_none_", "docvalue_fields": [DOC_ID]}

    def found(body: dict[str, Any], pipeline: str = "_none") -> list[str]:
        answer = client.search(index=INDEX, body=body, params={"search_pipeline": pipeline})
        return [hit["fields"][DOC_ID][0] for hit in answer["hits"]["hits"]]

    def match(text: str, size: int) -> dict[str, Any]:
        return {"size": size, "query": {"match": {CONTENTS: text}}, **ids_only}

    def rescored(text: str) -> list[str]:
        script = {"source": SCRIPT, "params": {"q": vectors[text].tolist(), "space": "innerproduct"}}
        query = {"script_score": {"query": {"match_all": {}}, "script": script}}
        rescore = {"window_size": k // shards, "query": {"query_weight": 0, "rescore_query": query}}
        return found(match(text, SIZE) | {"rescore": rescore})

    works: dict[str, Search] = {
        ALONE: lambda text: found(match(text, SIZE)),
        IDS: lambda text: found(match(text, k)),
        OURS: lambda text: found(rerank_search({"match": {CONTENTS: text}}, text, size=SIZE), "colbert"),
        THEIRS: rescored,
    }
    asked = [text for text in vectors if len(works[IDS](text)) == k][: WARM_UPS + repeats]
    same = [len({*works[OURS](text)} & {*works[THEIRS](text)}) for text in asked[:WARM_UPS]]
    timed, draw = {name: clocked(work) for name, work in works.items()}, cycle(asked).__next__
    turns: list[dict[str, float]] = []
    rng = np.random.default_rng(1)
    for _ in range(repeats):
        turns.append({name: warm(timed[name], draw) for name in rng.permutation(list(works)).tolist()})
    rows = []
    for name in works:
        ms = np.array([turn[name] for turn in turns])
        added = ms - np.array([turn[ALONE] for turn in turns])
        p10, median, p90 = np.percentile(ms, [10, 50, 90]).tolist()
        row = {"k": k, "name": name, "p10_ms": p10, "median_ms": median, "p90_ms": p90}
        rows.append(
            row | {"added_ms": float(np.median(added)), "queries": len(asked), "same_of_top": float(np.mean(same))}
        )
    return rows


def clocked(work: Search) -> Callable[[str], float]:
    return lambda text: wall_ms(lambda: work(text))


if __name__ == "__main__":
    main()
