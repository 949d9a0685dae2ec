"""Re-ranking in the middle of real searches, by the real service, which fails in between.

One function in two sizes: a small one in CI, the full one by `scripts/soak`.
"""

from __future__ import annotations

import json
import signal
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from colbert_rerank import trec
from colbert_rerank.connection import Connection
from colbert_rerank.encoder import Encoder
from colbert_rerank.opensearch import connect
from colbert_rerank.types import Query, ScoredDoc
from ingest.first_stage import opensearch
from ingest.sources import SourceOptions, open_source
from ingest.validation import InputReport
from mappings import index_body
from tests.cli.terminal import Result, invoke
from tests.collection import MUSIQUE, RECIPE, ingested
from tests.serve.running import WAIT, Running, running
from tests.server.indices import make_index
from tests.server.rest import call

INDEX, STRANGERS = "crt-in-real-searches", "crt-in-real-searches-strangers"
STORE, STRANGER = "real", "of-no-store"
K, SIZE = 100, 50
EVENTS = ("restarted", "slowed", "killed", "bad ids")
OFTEN = 0.1  # that something happens, once all of them did
TIMEOUT = 1  # whole seconds, after which OpenSearch goes on

Hits = list[tuple[str, float]]


class Report(NamedTuple):
    """How many queries were re-ranked as `run` ranks the same candidates, and what was done in between, how often."""

    collection: str
    documents: int
    compared: int
    events: dict[str, int]


class Live:
    """The service at one address, however often it is started."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port, self._running = folder, "0", ExitStack()
        self.start()

    def start(self) -> None:
        self.service: Running = self._running.enter_context(running(self._folder, "--port", self._port))
        self._port = self.service.port

    @property
    def url(self) -> str:
        return f"http://{self.service.host}:{self.service.port}"

    def end(self, number: signal.Signals) -> None:
        self.service.process.send_signal(number)
        self.service.process.wait(WAIT)
        self._running.close()


def rerank_in_search(n: int, seed: int, url: str, *, collection: Path = MUSIQUE, limit: int | None = None) -> Report:
    """The first ``n`` queries of a collection in BEIR layout, each searched for in the OpenSearch at ``url`` through a
    pipeline that `opensearch setup` made. ``limit`` is of documents.

    No search fails, and each has the order and the scores of the command line's run over the same candidates, or, where
    the service is not there in time, its first order. `doctor` and the service's metrics say what it was.
    """
    rng, done, compared = np.random.default_rng(seed), Counter(dict.fromkeys(EVENTS, 0)), 0
    some = list(islice(trec.read_topics(str(collection / "queries.jsonl")), n))
    docs = list(islice(open_source(str(collection), SourceOptions(), InputReport()), limit))
    with tempfile.TemporaryDirectory() as made:
        first_stage = opensearch(connect(Connection(url)), INDEX, index_body(RECIPE.fields))
        store = ingested(Path(made) / "store", Encoder.load("starter", device="cpu"), docs, first_stage=first_stage)
        before = {query.query_id: searched(url, query, K) for query in some}
        expected = run_of(Path(made), store.folder, some, before)
        live = Live(store.folder)
        try:
            asked = ("--url", live.url, "--store", STORE, "--index", INDEX)
            options = ("--oversample", K // SIZE, "--read-timeout", TIMEOUT)
            invoke("opensearch", "setup", "--opensearch", url, *asked, *options).check()
            order = [event for _ in range(-(-n // len(EVENTS))) for event in rng.permutation(EVENTS).tolist()]
            for query, event in zip(some, order, strict=False):
                assert_same(searched(url, query, SIZE, pipeline=True), expected[query.query_id])
                compared += 1
                if not done[event] or rng.random() < OFTEN:
                    meanwhile(event, live, url, query, before[query.query_id][:SIZE])
                    done[event] += 1
        finally:
            live.end(signal.SIGKILL)
            invoke("opensearch", "teardown", "--opensearch", url).check()
            call(url, "DELETE", f"/{INDEX}")
    return Report(collection.name, len(docs), compared, dict(done))


def meanwhile(event: str, live: Live, url: str, query: Query, first: Hits) -> None:
    """Let something happen to the service, and search while it lasts."""
    if event == "restarted":
        live.end(signal.SIGTERM)
        live.start()
    elif event == "slowed":
        live.service.process.send_signal(signal.SIGSTOP)
        start = time.monotonic()
        found = searched(url, query, SIZE, pipeline=True)
        assert time.monotonic() - start >= TIMEOUT
        assert "did not answer within read_timeout" in doctor(url, query).out
        live.service.process.send_signal(signal.SIGCONT)
        assert found == first, "its first order, and first scores"
        wait_until_idle(live.service)
    elif event == "killed":
        live.end(signal.SIGKILL)
        assert searched(url, query, SIZE, pipeline=True) == first
        assert "nothing listens there" in doctor(url, query).out
        live.start()
    else:
        strangers(live.service, url, query, [doc_id for doc_id, _ in first])


def strangers(service: Running, url: str, query: Query, known: list[str]) -> None:
    """An index with a document that the store does not have: an index of its own, since BM25 remembers the deleted."""
    texts = dict.fromkeys(known, query.text) | {STRANGER: f"{query.text} {query.text}"}
    mappings = {"properties": {"doc_id": {"type": "keyword"}, "contents": {"type": "text"}}}
    docs = {doc_id: {"doc_id": doc_id, "contents": text} for doc_id, text in texts.items()}
    missing = metric(service, f'colbert_rerank_missing_documents_total{{store="{STORE}"}}')
    make_index(url, STRANGERS, docs, mappings=mappings)
    try:
        assert searched(url, query, 1, index=STRANGERS)[0][0] == STRANGER, "BM25 has it first"
        found = searched(url, query, len(docs) // 2, pipeline=True, index=STRANGERS)
        assert STRANGER not in dict(found), "without vectors it is below all others"
        assert f"such as {STRANGER!r}" in doctor(url, query, STRANGERS).out
    finally:
        call(url, "DELETE", f"/{STRANGERS}")
    assert metric(service, f'colbert_rerank_missing_documents_total{{store="{STORE}"}}') > missing
    partial = f'colbert_rerank_answers_total{{reason="documents without vectors",status="partial",store="{STORE}"}}'
    assert metric(service, partial) > 0


def searched(url: str, query: Query, size: int, *, pipeline: bool = False, index: str = INDEX) -> Hits:
    """Ids and scores, as OpenSearch gives them."""
    body: dict[str, Any] = {
        "size": size,
        "query": {"match": {"contents": query.text}},
        "_source": False,
        "stored_fields": "_none_",
        "docvalue_fields": ["doc_id"],
    }
    if pipeline:
        body["ext"] = {"rerank": {"query_context": {"query_text": query.text}}}
    found = call(url, "POST", f"/{index}/_search?search_pipeline={'colbert' if pipeline else '_none'}", body)
    assert found.status == 200, found.body
    return [(hit["fields"]["doc_id"][0], hit["_score"]) for hit in found.json()["hits"]["hits"]]


def run_of(folder: Path, store: Path, some: list[Query], first: dict[str, Hits]) -> dict[str, dict[str, float]]:
    """What `colbert-rerank run` makes of the same candidates."""
    topics, candidates, output = folder / "topics.jsonl", folder / "candidates.txt", folder / "run.txt"
    lines = [json.dumps({"_id": query.query_id, "text": query.text}) for query in some]
    topics.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    given = {q: [ScoredDoc(q, doc_id, score) for doc_id, score in hits] for q, hits in first.items()}
    trec.write_run((row for rows in given.values() for row in trec.as_trec_eval_ranks(rows)), str(candidates), "bm25")
    asked = ("--topics", topics, "--store", store, "--candidates", candidates, "--k", K, "--output", output)
    invoke("run", *asked).check()
    found: dict[str, dict[str, float]] = {query.query_id: {} for query in some}
    for row in trec.read_run(str(output)):
        found[row.query_id][row.doc_id] = row.score
    return found


def assert_same(hits: Hits, expected: dict[str, float]) -> None:
    """The best, with their scores; among equal scores any order will do."""
    wanted = {doc_id: np.float32(score) for doc_id, score in expected.items()}
    assert hits, "something is found"
    assert [np.float32(score) for _, score in hits] == sorted(wanted.values(), reverse=True)[: len(hits)]
    assert all(wanted[doc_id] == np.float32(score) for doc_id, score in hits)


def doctor(url: str, query: Query, index: str = INDEX) -> Result:
    """Which finds something wrong."""
    found = invoke("opensearch", "doctor", "--opensearch", url, "--index", index, "--query", query.text)
    assert found.status == 1
    return found


def metric(service: Running, name: str) -> float:
    values = [line.rpartition(" ")[2] for line in service.metrics().splitlines() if line.startswith(f"{name} ")]
    return sum(map(float, values))


def wait_until_idle(service: Running) -> None:
    """Until what it was asked while it stood still is answered."""
    end = time.monotonic() + WAIT
    while metric(service, "colbert_rerank_waiting") and time.monotonic() < end:
        time.sleep(0.05)
