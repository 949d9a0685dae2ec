"""Beside a real OpenSearch: its own late interaction, and what re-ranking adds to its BM25.

OpenSearch scores the documents that we score, as its users let it: their vectors are in ``_source``, and a script reads
them there. A node's time for that is spent on reading JSON, and hardly depends on the size of the index; so a few
thousand documents will do, in as many shards as we have threads, since a node searches a shard with one. Ours are drawn
from all of the store. Times are a client's, from the body to the parsed answer, which holds ids and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import opensearchpy

from colbert_rerank import identity
from colbert_rerank.bench.documents import TOKENS, UNIT, Documents, add, ids_of, unit_vectors
from colbert_rerank.bench.passages import Words
from colbert_rerank.bench.peers import CHECKED, PeerMissingError, check_scores
from colbert_rerank.bench.rows import SERVER, Progress, measured, missing
from colbert_rerank.bench.turns import Work, in_turns, medians, wall_ms, warm
from colbert_rerank.errors import OpenSearchError, UsageError
from colbert_rerank.opensearch import check_server, server_url, translated
from colbert_rerank.recipe import Recipe
from colbert_rerank.store import Manifest, Store, writing
from colbert_rerank.store.exchange import OPENSEARCH_FIELD
from colbert_rerank.types import Origin, Query
from mappings import CONTENTS, DOC_ID, document_body, index_body

if TYPE_CHECKING:
    from colbert_rerank.encoder import Encoder

TOKENS_INDEX, PASSAGES_INDEX = "colbert-rerank-bench-tokens", "colbert-rerank-bench-passages"
DEPTHS = {"cpu_fp16_vs_opensearch_k100": 100, "cpu_fp16_vs_opensearch_k1000": 1000}
INDEXED = 5000  # documents with vectors, about 75 kB of JSON each
PASSAGES = 30_000
FIELDS = ("text",)
TRIED = 5  # queries for each that finds enough
WARM_UPS = 5  # requests, after which Java has compiled what they run
DECIMALS = 5  # of a vector's value in JSON: less than float16 rounds by
CHUNK_BYTES = 8 << 20  # of a bulk request
ADDED = ("encode", "gather", "score", "order")  # a re-ranker's stages after the candidates are there
NO_SERVER, NO_MODEL = "not asked for: --opensearch URL", "not asked for: --model NAME"

SCRIPT = "lateInteractionScore(params.q, 'tokens', params._source, params.space)"

_log = logging.getLogger(__name__)


def measure(
    client: opensearchpy.OpenSearch | None,
    documents: Documents,
    encoder: Encoder | None,
    folder: Path,
    versions: dict[str, str],
    shape: dict[str, int],
    progress: Progress,
) -> list[dict[str, Any]]:
    """The rows of a server. Raises OpenSearchError, and UsageError where its indices are there already."""
    if client is None:
        return [missing(row, NO_SERVER) for row in SERVER]
    versions["opensearch"] = check_server(client).version or "unknown"
    *_, added = SERVER
    found = _late_interaction(client, documents, shape, progress)
    if encoder is None:
        return [*found, missing(added, NO_MODEL)]
    return [*found, _reranking(client, encoder, folder, shape, progress)]


def check_free(client: opensearchpy.OpenSearch) -> None:
    """Raises UsageError where an index is there already that is to be made."""
    for name in (TOKENS_INDEX, PASSAGES_INDEX):
        with translated(client, index=name):
            if client.indices.exists(index=name):
                raise _taken(client, name)


@contextmanager
def temporary_index(client: opensearchpy.OpenSearch, name: str, body: Mapping[str, Any]) -> Iterator[None]:
    """An index that is deleted at the end, however that comes. Raises UsageError where one of this name is there."""
    ours = True  # a request that is interrupted may have made it
    try:
        with translated(client, index=name):
            try:
                client.indices.create(index=name, body=body)
            except opensearchpy.TransportError as error:
                ours = False
                if error.error == "resource_already_exists_exception":
                    raise _taken(client, name) from None
                raise
        yield
    finally:
        if ours:
            try:
                with translated(client, index=name):
                    client.indices.delete(index=name, params={"ignore_unavailable": "true"})
            except OpenSearchError as error:
                _log.warning("the index %s was made for this and is left behind; delete it (%s)", name, error)


def _taken(client: opensearchpy.OpenSearch, name: str) -> UsageError:
    return UsageError(
        f"{server_url(client)}: the index {name!r} is there already. Another bench is running, or one was killed: then "
        "delete that index"
    )


def _late_interaction(
    client: opensearchpy.OpenSearch, documents: Documents, shape: dict[str, int], progress: Progress
) -> list[dict[str, Any]]:
    rows, count = [row for row in SERVER if row.name in DEPTHS], min(INDEXED, documents.file.documents)
    progress(f"indexing {count:,} documents with their vectors")
    settings = {"number_of_shards": shape["threads"], "number_of_replicas": 0, "refresh_interval": "-1"}
    fields = {DOC_ID: {"type": "keyword"}, "tokens": OPENSEARCH_FIELD}
    body = {"settings": {"index": settings}, "mappings": {"dynamic": False, "properties": fields}}
    with temporary_index(client, TOKENS_INDEX, body), translated(client, index=TOKENS_INDEX):
        more = {"shards": shape["threads"], "index_documents": count}
        more["index_bytes"] = _fill(client, TOKENS_INDEX, _with_vectors(documents, count))
        numbers = list(range(min(CHECKED, count)))
        try:
            check_scores(_late_scores(client, documents.query, numbers), documents.score("float16", ids_of(numbers)))
        except (OpenSearchError, PeerMissingError) as error:
            return [missing(row, str(error)) for row in rows]

        def ours(drawn: list[int]) -> float:
            ids = ids_of(drawn)
            return wall_ms(lambda: documents.ranked("float16", ids))

        def late(drawn: list[int]) -> float:
            body = _late_body(documents.query, drawn)
            return wall_ms(lambda: client.search(index=TOKENS_INDEX, body=body))

        works = {
            "ours": Work(documents.count, ours),
            "peer": Work(count, late),
        }
        for _ in range(WARM_UPS):
            late(list(range(min(count, max(DEPTHS.values())))))
        found = []
        for row in rows:
            k = DEPTHS[row.name]
            progress(f"measuring OpenSearch's late interaction, k = {k}")
            times = in_turns(works, k, shape["repeats"])
            found.append(measured(row, times["ours"], times["peer"], **shape | {"k": k}, **more))
    return found


def _with_vectors(documents: Documents, count: int) -> Iterator[dict[str, Any]]:
    for number, matrix in enumerate(documents.matrices(range(count))):
        vectors = np.round(matrix.astype(np.float64), DECIMALS).tolist()
        yield {"_id": str(number), "_source": {DOC_ID: str(number), "tokens": vectors}}


def _late_body(query: npt.NDArray[np.float32], numbers: Sequence[int]) -> dict[str, Any]:
    params = {"q": query.tolist(), "space": "innerproduct"}
    scored = {"query": {"ids": {"values": [str(n) for n in numbers]}}, "script": {"source": SCRIPT, "params": params}}
    only_ids = {"_source": False, "stored_fields": "_none_", "docvalue_fields": [DOC_ID]}
    return {"size": len(numbers), "track_total_hits": False, "query": {"script_score": scored}, **only_ids}


def _late_scores(
    client: opensearchpy.OpenSearch, query: npt.NDArray[np.float32], numbers: Sequence[int]
) -> npt.NDArray[np.float64]:
    """MaxSim of the documents: OpenSearch gives 1 + x for each of a query's products, of those not below zero."""
    with translated(client, index=TOKENS_INDEX):
        hits = client.search(index=TOKENS_INDEX, body=_late_body(query, numbers))["hits"]["hits"]
    by_id = {hit["fields"][DOC_ID][0]: hit["_score"] - len(query) for hit in hits}
    return np.array([by_id[str(number)] for number in numbers])


def _reranking(
    client: opensearchpy.OpenSearch, encoder: Encoder, folder: Path, shape: dict[str, int], progress: Progress
) -> dict[str, Any]:
    """A query from its text to its ranking, as `Reranker.run` goes; and the same BM25 query with its texts."""
    from colbert_rerank.candidates.opensearch import OpenSearchCandidates
    from colbert_rerank.rerank import Reranker

    row, k, asked = SERVER[-1], shape["k"], WARM_UPS + shape["repeats"]
    words = Words()
    progress(f"indexing {PASSAGES:,} passages")
    with temporary_index(client, PASSAGES_INDEX, index_body(FIELDS)), translated(client, index=PASSAGES_INDEX):
        texts = enumerate(words.passages(PASSAGES))
        size = _fill(client, PASSAGES_INDEX, ({"_id": str(n), "_source": _passage(str(n), text)} for n, text in texts))
        candidates = OpenSearchCandidates(client, PASSAGES_INDEX, fields=FIELDS, batch=1)
        store = _store_of(encoder, candidates.origin, folder / "passages")
        reranker = Reranker(Store.open(store, verify="open"), encoder)
        queries = [Query(str(n), text) for n, text in enumerate(words.queries(TRIED * asked))]
        full = (q for q, hits in zip(queries, candidates.search(queries, k), strict=True) if len(hits) == k)
        chosen = list(islice(full, asked))
        if len(chosen) < asked:
            return missing(row, f"of {len(queries)} queries only {len(chosen)} found {k} passages")
        progress("measuring a re-ranked query")

        def reranked(query: Query) -> dict[str, float]:
            for _ in reranker.run([query], candidates, k):
                pass
            return reranker.report.last_ms()

        def with_source(query: Query) -> float:
            body = {"size": k, "query": {"match": {CONTENTS: query.text}}}
            return wall_ms(lambda: client.search(index=PASSAGES_INDEX, body=body))

        draw = cycle(chosen).__next__
        turns = [(warm(reranked, draw), warm(with_source, draw)) for _ in range(shape["repeats"])]
    stages, peer = zip(*turns, strict=True)
    ours = [sum(turn[stage] for stage in ADDED) for turn in stages]
    more = {"model": encoder.checkpoint.name, "index_documents": PASSAGES, "index_bytes": size}
    more["stages_ms"] = medians(stages)
    return measured(row, ours, peer, **shape, **more)


def _passage(doc_id: str, text: str) -> dict[str, object]:
    return document_body(doc_id, {"text": text}, FIELDS)


def _store_of(encoder: Encoder, origin: Origin, folder: Path) -> Path:
    """A store of random vectors under the ids of the passages: scoring takes as long with them as with others."""
    manifest = Manifest(
        "benchmark",
        encoder.dim,
        "float16",
        identity.query_identity(encoder.checkpoint),
        identity.document_identity(encoder.checkpoint, Recipe(FIELDS)),
        origin=origin,
    )
    rng = np.random.default_rng(3)
    with writing(folder, manifest) as writer:
        for start in range(0, PASSAGES, UNIT):
            count = min(UNIT, PASSAGES - start)
            add(writer, unit_vectors(rng, count * TOKENS, encoder.dim), [TOKENS] * count, start)
        writer.finish()
    return folder


def _fill(client: opensearchpy.OpenSearch, index: str, actions: Iterator[dict[str, Any]]) -> int:
    """Index all of them, to be found; returns the bytes on disk."""
    _, refused = opensearchpy.helpers.bulk(
        client, actions, index=index, max_chunk_bytes=CHUNK_BYTES, raise_on_error=False
    )
    if refused:
        raise OpenSearchError(f"{server_url(client)}, index {index!r}: it refused {refused[0]!r:.300}")
    client.indices.flush(index=index)
    client.indices.refresh(index=index)
    segments = client.cat.segments(index=index, params={"bytes": "b", "format": "json"})
    return sum(int(segment["size"]) for segment in segments)
