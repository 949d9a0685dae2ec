"""Load on the service as a process: many clients on loopback, every answer compared; and more than it takes.

One function in two sizes: a small one in CI, the full one by `scripts/soak`.
"""

from __future__ import annotations

import http.client
import json
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from colbert_rerank.encoder import Encoder
from colbert_rerank.rerank import Reranker
from tests.collection import documents, ingested, queries
from tests.serve.running import WAIT, Running, running

CLIENTS = (8, 64)
DOCUMENTS, QUERIES, ASKED = 200, 20, 100
GROWTH = 64 << 20  # bytes that the process may grow by, once each kind of request was made


class Report(NamedTuple):
    """Of each number of clients what it got; and of an overload, how many were told to come again."""

    clients: list[dict[str, float]]
    overload: dict[str, int]
    grown_bytes: int
    asked: int = ASKED  # ids of a request


class Answered(NamedTuple):
    status: int
    seconds: float


def load(n: int, seed: int) -> Report:
    """``n`` requests, of few and of many clients: all are answered, and rightly, or refused with 429, and none is lost.

    The process grows by no more than `GROWTH`. An overload, of a service that lets few wait, is got over.
    """
    with tempfile.TemporaryDirectory() as made:
        encoder = Encoder.load("starter", device="cpu")
        store = ingested(Path(made) / "store", encoder, documents(DOCUMENTS))
        reranker, ids = Reranker(store, encoder), [d.doc_id for d in documents(DOCUMENTS)]
        expected = {
            q.text: {d.doc_id: d.score for d in reranker.rerank(q.text, [(i, 0.0) for i in ids])}
            for q in queries(QUERIES)
        }
        rows = []
        with running(store.folder) as service:
            ask_all(service, expected, 2 * CLIENTS[-1], CLIENTS[-1], seed)
            before = resident_bytes(service)
            for clients in CLIENTS:
                start = time.perf_counter()
                share = n // len(CLIENTS)
                answers = ask_all(service, expected, share, clients, seed)
                took = time.perf_counter() - start
                assert {a.status for a in answers} <= {200, 429}
                assert len(answers) == share, "nothing is dropped"
                times = [1000 * a.seconds for a in answers if a.status == 200]
                p50, p95, p99 = np.percentile(times, [50, 95, 99]).tolist()
                found = {"clients": clients, "requests_per_second": len(times) / took, "refused": share - len(times)}
                rows.append(found | {"p50_ms": p50, "p95_ms": p95, "p99_ms": p99})
            grown = resident_bytes(service) - before
            assert grown < GROWTH, f"it has grown by {grown:,} bytes"
        with running(store.folder, "--waiting", "4") as service:
            answers = ask_all(service, expected, max(200, n // 10), CLIENTS[-1], seed)
            refused = sum(a.status == 429 for a in answers)
            assert 0 < refused < len(answers), "some are told to come again, and not all"
            assert {a.status for a in answers} == {200, 429}
            assert {a.status for a in ask_all(service, expected, 20, 1, seed)} == {200}, "then it has recovered"
    return Report(rows, {"requests": len(answers), "refused": refused}, grown)


def ask_all(service: Running, expected: dict[str, dict[str, float]], n: int, clients: int, seed: int) -> list[Answered]:
    """``n`` answers, each compared; raises what a client ran into."""
    found: list[Answered] = []
    errors: list[BaseException] = []

    def client(number: int) -> None:
        rng = np.random.default_rng([seed, number])
        try:
            with closing(service.connect()) as connection:
                for _ in range(number, n, clients):
                    found.append(ask(connection, expected, rng))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10 * WAIT)
    if errors:
        raise errors[0]
    return found


def ask(connection: http.client.HTTPConnection, expected: dict[str, dict[str, float]], rng: Any) -> Answered:
    query = str(rng.choice([*expected]))
    ids = rng.choice([*expected[query]], ASKED, replace=False).tolist()
    body = json.dumps({"query": query, "documents": ids})
    start = time.perf_counter()
    connection.request("POST", "/v1/stores/real/rerank", body, {"content-type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    took = time.perf_counter() - start
    if answer.status == 200:
        found = json.loads(text)
        scores = {r["id"]: r["relevance_score"] for r in found["results"]}
        assert found["status"] == "ok"
        assert scores == {i: expected[query][i] for i in ids}, "the same as alone"
    return Answered(answer.status, took)


def resident_bytes(service: Running) -> int:
    lines = Path(f"/proc/{service.process.pid}/status").read_text(encoding="ascii").splitlines()
    (size,) = [line.split()[1] for line in lines if line.startswith("VmRSS:")]
    return 1024 * int(size)
