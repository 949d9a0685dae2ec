"""Writing to a real node through a proxy that fails in every way a cluster does: nothing lost, nothing silent."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from colbert_rerank.connection import Connection
from colbert_rerank.errors import BulkError, IndexNotFoundError, OpenSearchError, OpenSearchUnreachableError
from colbert_rerank.opensearch import connect
from colbert_rerank.retry import Retry
from ingest.bulk import BulkIndexer
from tests.server.faults import Drop, Hold, Refuse, RejectItems, Slow
from tests.server.gateway import Gateway
from tests.server.indices import count, make_index, source_of
from tests.server.rest import call

QUICK = Retry(attempts=4, base=0.01, cap=0.02)
STRICT = {"dynamic": False, "properties": {"number": {"type": "integer"}}}


@pytest.fixture
def gateway(opensearch_url: str) -> Iterator[Gateway]:
    with Gateway(opensearch_url) as opened:
        yield opened


@pytest.fixture
def indexer(gateway: Gateway, index_name: str) -> Iterator[BulkIndexer]:
    """Ten documents a request, two requests at a time."""
    make_index(gateway.upstream, index_name, mappings=STRICT)
    with connect(Connection(gateway.url)) as client:
        yield BulkIndexer(client, index_name, chunk_docs=10, window=2, retry=QUICK)


def numbered(last: int) -> list[tuple[str, dict[str, Any]]]:
    return [(f"d{number}", {"number": number}) for number in range(last)]


def numbers(url: str, name: str) -> list[int]:
    hits = call(url, "POST", f"/{name}/_search", {"size": 1000}).json()["hits"]["hits"]
    assert all(hit["_id"] == f"d{hit['_source']['number']}" for hit in hits)
    return sorted(hit["_source"]["number"] for hit in hits)


def test_every_document_arrives_once(indexer: BulkIndexer, gateway: Gateway, index_name: str) -> None:
    assert indexer.index(iter(numbered(105))) == 105
    assert len(gateway.sent_to("_bulk")) == 11
    indexer.refresh()
    assert numbers(gateway.upstream, index_name) == list(range(105))
    assert indexer.index([("d3", {"number": 3, "again": True})]) == 1
    indexer.refresh()
    assert count(gateway.upstream, index_name) == 105
    assert source_of(gateway.upstream, index_name, "d3")["again"] is True
    assert indexer.index([]) == 0


def test_deleting(indexer: BulkIndexer, gateway: Gateway, index_name: str) -> None:
    indexer.index(numbered(30))
    assert indexer.delete([f"d{number}" for number in range(15, 45)]) == 15
    indexer.refresh()
    assert numbers(gateway.upstream, index_name) == list(range(15))


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Refuse(status=429, times=3), id="429"),
        pytest.param(Refuse(status=502, times=3), id="502"),
        pytest.param(Refuse(status=503, times=3), id="503"),
        pytest.param(Drop(times=2), id="reset-before"),
        pytest.param(Drop(times=2, after=True), id="answer-lost"),
        pytest.param(RejectItems(times=3, ids=["d1", "d5", "d99"]), id="items-turned-away"),
        pytest.param(RejectItems(times=1, ids=[f"d{number}" for number in range(10)]), id="all-items-turned-away"),
    ],
)
def test_passing_trouble_loses_nothing(indexer: BulkIndexer, gateway: Gateway, index_name: str, fault: Any) -> None:
    gateway.faults.append(fault)
    assert indexer.index(numbered(40)) == 40
    indexer.refresh()
    assert numbers(gateway.upstream, index_name) == list(range(40))
    assert not gateway.faults
    assert len(gateway.sent_to("_bulk")) > 4


def test_retry_after_is_honoured(indexer: BulkIndexer, gateway: Gateway, index_name: str) -> None:
    gateway.faults.append(Refuse(status=429, retry_after="1"))
    started = time.monotonic()
    assert indexer.index(numbered(5)) == 5
    assert time.monotonic() - started >= 1.0


def test_refused_documents_are_reported_after_all_others(
    indexer: BulkIndexer, gateway: Gateway, index_name: str
) -> None:
    docs = numbered(45)
    docs[7] = ("d7", {"number": "not a number"})
    docs[33] = ("d33", {"number": {"an": "object"}})
    docs[34] = ("d34", {"number": 34, "nan": float("nan")})
    with pytest.raises(BulkError, match=r"refused 3 document\(s\)") as raised:
        indexer.index(docs)
    assert sorted((failure.doc_id, failure.status) for failure in raised.value.failures) == [
        ("d33", 400),
        ("d34", 400),
        ("d7", 400),
    ]
    reasons = {failure.doc_id: failure.reason for failure in raised.value.failures}
    assert "failed to parse field [number]" in reasons["d7"]
    indexer.refresh()
    assert numbers(gateway.upstream, index_name) == [n for n in range(45) if n not in (7, 33, 34)]


def test_an_id_that_spoils_its_request_stands_alone(indexer: BulkIndexer, gateway: Gateway, index_name: str) -> None:
    docs = numbered(20)
    docs[4] = ("x" * 513, {"number": 4})
    with pytest.raises(BulkError, match="is too long") as raised:
        indexer.index(docs)
    assert [failure.doc_id for failure in raised.value.failures] == ["x" * 513]
    indexer.refresh()
    assert numbers(gateway.upstream, index_name) == [n for n in range(20) if n != 4]


def test_requests_that_are_too_large_are_halved(indexer: BulkIndexer, gateway: Gateway, index_name: str) -> None:
    gateway.faults.append(Refuse(status=413, times=1))
    assert indexer.index(numbered(10)) == 10
    assert [request.body.count(b"\n") // 2 for request in gateway.sent_to("_bulk")] == [10, 5, 5]
    gateway.faults.append(Refuse(status=413, times=99))
    with pytest.raises(BulkError, match="413"):
        indexer.index(numbered(2))


def test_requests_are_bounded_by_bytes(gateway: Gateway, index_name: str) -> None:
    make_index(gateway.upstream, index_name)
    with connect(Connection(gateway.url)) as client:
        indexer = BulkIndexer(client, index_name, chunk_bytes=10_000, chunk_docs=1000)
        assert indexer.index((f"d{n}", {"text": "x" * size}) for n, size in enumerate([900] * 50 + [30_000, 10])) == 52
    sizes = [len(request.body) for request in gateway.sent_to("_bulk")]
    assert len(sizes) >= 6
    assert [size for size in sizes if size > 10_000] == [max(sizes)]  # the large document, alone


def test_lasting_refusal_ends_it(indexer: BulkIndexer, gateway: Gateway) -> None:
    gateway.faults.append(RejectItems(times=99, ids=["d1"]))
    with pytest.raises(OpenSearchError, match="run it again") as raised:
        indexer.index(numbered(3))
    assert not isinstance(raised.value, BulkError)
    gateway.faults[:] = [Refuse(status=503, times=99)]
    with pytest.raises(OpenSearchError, match="503"):
        indexer.index(numbered(3))


def test_a_server_that_goes_away_ends_it(indexer: BulkIndexer, gateway: Gateway) -> None:
    gateway.faults.append(Drop(times=999))
    taken = 0

    def docs() -> Iterator[tuple[str, dict[str, Any]]]:
        nonlocal taken
        for pair in numbered(100_000):
            taken += 1
            yield pair

    with pytest.raises(OpenSearchUnreachableError, match="cannot reach"):
        indexer.index(docs())
    assert taken <= 41  # the window, not the whole input
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("bulk-")]


def test_reading_stops_while_opensearch_is_slow(indexer: BulkIndexer, gateway: Gateway) -> None:
    gateway.faults.append(Slow(times=999, seconds=0.05))
    ahead: list[int] = []

    def docs() -> Iterator[tuple[str, dict[str, Any]]]:
        for number, pair in enumerate(numbered(200)):
            ahead.append(number - 10 * len(gateway.sent_to("_bulk")))
            yield pair

    assert indexer.index(docs()) == 200
    assert max(ahead) <= 40


def test_a_source_that_fails_ends_it(indexer: BulkIndexer) -> None:
    def docs() -> Iterator[tuple[str, dict[str, Any]]]:
        yield from numbered(25)
        raise RuntimeError("the source is broken")

    with pytest.raises(RuntimeError, match="the source is broken"):
        indexer.index(docs())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("bulk-")]


def test_refusals_before_an_error_are_logged(
    indexer: BulkIndexer, gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    def docs() -> Iterator[tuple[str, dict[str, Any]]]:
        yield "bad", {"number": "no number"}
        yield from numbered(60)
        raise RuntimeError("the source is broken")

    with caplog.at_level(logging.WARNING), pytest.raises(RuntimeError):
        indexer.index(docs())
    assert "'bad': 400" in caplog.text


def test_endless_refusal_ends_it(indexer: BulkIndexer, monkeypatch: pytest.MonkeyPatch, gateway: Gateway) -> None:
    monkeypatch.setattr("ingest.failures.MOST_FAILURES", 20)
    with pytest.raises(OpenSearchError, match="more than 20 documents"):
        indexer.index((f"d{number}", {"number": "x"}) for number in range(100_000))
    assert len(gateway.sent_to("_bulk")) < 20


def test_an_index_is_not_made_by_writing_to_it(gateway: Gateway, index_name: str) -> None:
    with connect(Connection(gateway.url)) as client:
        with pytest.raises(IndexNotFoundError):
            BulkIndexer(client, index_name)
        assert not gateway.writes()


def test_an_index_replaced_meanwhile_is_noticed(indexer: BulkIndexer, gateway: Gateway, index_name: str) -> None:
    indexer.index(numbered(3))
    assert call(gateway.upstream, "DELETE", f"/{index_name}").status == 200
    make_index(gateway.upstream, index_name)
    with pytest.raises(OpenSearchError, match="deleted or replaced"):
        indexer.refresh()


def test_awkward_text_arrives_as_it_is(indexer: BulkIndexer, gateway: Gateway, index_name: str) -> None:
    texts = {"a b/c?#%": 'x\n\r\u2028\0"\\', "ü海": "\ud800 alone", "d": "🌊", "e": ["x" * 1000, None, 1e300, True]}
    assert indexer.index((doc_id, {"text": text}) for doc_id, text in texts.items()) == 4
    for doc_id, text in texts.items():
        assert source_of(gateway.upstream, index_name, doc_id) == {"text": text}


INTERRUPTED = """
import itertools, sys, warnings
warnings.simplefilter("error")
from colbert_rerank.connection import Connection
from colbert_rerank.opensearch import connect
from ingest.bulk import BulkIndexer

with connect(Connection(sys.argv[1])) as client:
    indexer = BulkIndexer(client, sys.argv[2], chunk_docs=10, window=2)
    print("started", flush=True)
    try:
        indexer.index((f"d{n}", {"number": n}) for n in itertools.count())
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


def test_ctrl_c_ends_it_soon(index_name: str, gateway: Gateway) -> None:
    # In this order: the gateway ends its late requests before the index is deleted, else they would make it again.
    make_index(gateway.upstream, index_name, mappings=STRICT)
    # The server hangs, so the workers are in the middle of requests that will not end.
    hold = Hold(times=4)
    gateway.faults.append(hold)
    child = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, gateway.url, index_name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "started\n"
    while len(gateway.sent_to("_bulk")) < 2:
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    try:
        out, err = child.communicate(timeout=60)
    finally:
        hold.release.set()
    assert (out, err, child.returncode) == ("interrupted\n", "", 0)


def test_bodies_are_newline_delimited_json(indexer: BulkIndexer, gateway: Gateway, index_name: str) -> None:
    indexer.index([("d1", {"number": 1, "text": "ü"})])
    (request,) = gateway.sent_to("_bulk")
    assert request.path.startswith(f"/{index_name}/_bulk?")
    assert [json.loads(line) for line in request.body.splitlines()] == [
        {"index": {"_id": "d1"}},
        {"number": 1, "text": "ü"},
    ]
