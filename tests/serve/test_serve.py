"""`colbert-rerank serve` as a process: what it says, whom it lets in, and how it ends."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from colbert_rerank.encoder import Encoder
from colbert_rerank.types import OPENSEARCH, Origin
from tests.cli.terminal import invoke
from tests.collection import FakeFirstStage, documents, ingested, queries
from tests.serve.running import WAIT, running

IDS = [d.doc_id for d in documents(40)]


def test_it_answers_and_ends_when_it_is_told_to(folder: Path, tmp_path: Path, tiny_encoder: Encoder) -> None:
    """And its log tells of what became of it meanwhile."""
    shutil.copytree(folder, tmp_path / "own")
    with running(tmp_path / "own", "--refresh", "0.1") as service:
        assert service.process.stderr is not None
        assert "no token is needed: real (40 documents)" in service.said
        assert service.ask({"query": queries(1)[0].text, "documents": IDS})[1]["scored"] == 40
        newest = ingested(tmp_path / "own", tiny_encoder, documents(41)).manifest.generation
        deadline = time.monotonic() + WAIT
        while f'store_generation{{store="real"}} {newest}.0' not in service.metrics() and time.monotonic() < deadline:
            time.sleep(0.05)
        service.process.send_signal(signal.SIGTERM)
        *_, served, told, ended = service.process.stderr.read().splitlines()
        assert served == f"store real: generation {newest} is served now"
        assert (told, ended) == ("told to end: what is under way has 30 seconds", "ended")
        assert service.process.wait(WAIT) == 0


def test_what_is_under_way_is_answered_first(folder: Path) -> None:
    """Each request encodes texts, which takes a while; SIGTERM comes in between."""
    with running(folder) as service:
        answers: list[int] = []

        def ask() -> None:
            answers.append(service.ask({"query": "a", "documents": ["some words " * 200] * 200}, "/rerank")[0])

        asking = [threading.Thread(target=ask) for _ in range(4)]
        for one in asking:
            one.start()
        metrics, deadline = "", time.monotonic() + WAIT
        while not re.search(r"colbert_rerank_waiting [1-9]", metrics) and time.monotonic() < deadline:
            metrics = service.metrics()
        service.process.send_signal(signal.SIGTERM)
        for one in asking:
            one.join(WAIT)
        assert answers == [200] * 4
        assert service.process.wait(WAIT) == 0


def test_what_takes_longer_than_the_grace_is_answered_by_what_is_known(folder: Path) -> None:
    """Each request has its ids scored, and texts left for many seconds."""
    with running(folder, "--max-texts", "10000", "--grace", "1") as service:
        answers: list[tuple[int, str, str]] = []

        def ask() -> None:
            documents = [*IDS, *({"text": "some words " * 40} for _ in range(9000))]
            status, found = service.ask({"query": "a", "documents": documents})
            answers.append((status, found["status"], found["reason"]))

        asking = [threading.Thread(target=ask) for _ in range(3)]
        for one in asking:
            one.start()
        metrics, deadline = "", time.monotonic() + WAIT
        while "batch_queries_count 3.0" not in metrics and time.monotonic() < deadline:
            metrics = service.metrics()
        service.process.send_signal(signal.SIGTERM)
        for one in asking:
            one.join(WAIT)
        assert answers == [(200, "partial", "the service is ending")] * 3
        assert service.process.wait(WAIT) == 0


def test_a_connection_stays_open_for_longer_than_opensearch_keeps_it(folder: Path) -> None:
    with running(folder) as service, closing(service.connect()) as connection:
        for _ in range(2):
            connection.request("GET", "/healthz")
            answer = connection.getresponse()
            assert (answer.status, answer.read(), answer.will_close) == (200, b'{"status":"ok"}', False)
            time.sleep(5.5)
        assert connection.sock is not None


def test_an_answer_does_not_wait_for_its_head_to_be_acknowledged(folder: Path) -> None:
    """A system acknowledges what comes on a busy connection some 40 ms later, where it has nothing to send itself."""
    with running(folder) as service, closing(service.connect()) as connection:
        took = []
        for _ in range(20):
            start = time.perf_counter()
            connection.request("GET", "/healthz")
            connection.getresponse().read()
            took.append(time.perf_counter() - start)
        assert min(took[2:]) < 0.03


def test_it_comes_up_while_opensearch_is_away(tmp_path: Path, tiny_encoder: Encoder) -> None:
    """Whose index its store was made from: re-ranking by id does not need it."""
    first_stage = FakeFirstStage(Origin(OPENSEARCH, "papers", "uuid-1"))
    folder = tmp_path / "store"
    ingested(folder, tiny_encoder, documents(10), first_stage=first_stage.open)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with running(folder, "--opensearch", url) as service:
        assert service.ask({"query": "tides", "documents": IDS[:5]})[1]["status"] == "ok"
        status, refused = service.ask({"query": "tides"}, "/v1/stores/real/search")
        assert (status, "cannot be reached" in refused["error"]) == (503, True)


def test_others_need_a_token(folder: Path, tmp_path: Path) -> None:
    token = "0123456789abcdef-token"
    (tmp_path / "tokens").write_text(f"{token}\n\nanother-token-that-is-long\n", encoding="utf-8")
    for options, environment in (
        (("--token-file", str(tmp_path / "tokens")), {}),
        ((), {"COLBERT_RERANK_TOKEN": token}),
    ):
        with running(folder, "--host", "0.0.0.0", *options, **environment) as service:
            assert "a token is needed" in service.said
            body = {"query": "tides", "documents": IDS[:2]}
            assert service.ask(body)[0] == 401
            assert service.ask(body, authorization=f"Bearer {token}")[0] == 200


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--store", "real"), "expected NAME=DIR"),
        (("--store", "a/b=x"), "part of a URL"),
        (("--store", "real=x", "--store", "real=y"), "is named twice"),
        (("--store", "real=x", "--host", "0.0.0.0"), "Set a token"),
        (("--store", "real=x", "--host", "no.such.host.invalid", "--no-auth"), "cannot listen at no.such.host.invalid"),
        (("--store", "real=x", "--token-file", "EMPTY"), "there is no token in it"),
        (("--store", "real=x"), "no store here"),
    ],
)
def test_what_cannot_be_is_said_at_once(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    (tmp_path / "EMPTY").touch()
    given = [str(tmp_path / "EMPTY") if a == "EMPTY" else a.replace("=x", f"={tmp_path / 'x'}") for a in arguments]
    refused = invoke("serve", *given, "--port", "0")
    assert (refused.status in (1, 2), said in refused.err) == (True, True), refused.err
    assert len(refused.err.strip().splitlines()) == 1


def test_a_port_that_is_taken(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refused = invoke("serve", "--store", f"real={folder}", "--port", str(taken.getsockname()[1]))
    assert (refused.status, "cannot listen at 127.0.0.1, port" in refused.err) == (2, True)


def test_what_is_not_installed_is_named() -> None:
    program = "import sys; sys.modules['fastapi'] = None; from colbert_rerank.cli import main; main()"
    command = [sys.executable, "-W", "ignore", "-c", program, "serve", "--store", "a=b"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT, check=False)
    assert done.returncode == 1
    assert "HTTP services need fastapi and orjson" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
