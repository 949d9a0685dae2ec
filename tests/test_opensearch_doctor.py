"""What the doctor asks a service from here: the token and the query go to it, and to nobody that it names."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from colbert_rerank.opensearch_rerank.findings import Finding
from colbert_rerank.opensearch_rerank.service import NotToldError, asked_from_here, mismatch, store_origin
from colbert_rerank.types import OPENSEARCH, QUALIFIED, Origin
from tests.cli.terminal import invoke

TOKEN = "a-token-of-the-service-of-tests"


@contextmanager
def answering(status: int, body: bytes, **headers: str) -> Iterator[tuple[str, list[str]]]:
    """A server's URL, and the header Authorization of each request that came."""
    came: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            came.append(self.headers.get("authorization", ""))
            self.send_response(status)
            for name, value in {"content-length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self.do_POST()

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1/stores/s/rerank", came
        server.shutdown()
        thread.join()


def ask(url: str) -> Finding:
    return asked_from_here(url, "tides", ["a", "b"], TOKEN)


@pytest.mark.parametrize("status", [301, 302, 303, 307])
def test_nobody_is_followed_elsewhere(status: int) -> None:
    with answering(200, b'{"status": "ok"}') as (other, came), answering(status, b"", location=other) as (url, asked):
        found = ask(url)
    assert asked == [f"Bearer {TOKEN}"]
    assert came == []
    assert (found.state, found.message) == ("wrong", f"it answers {status}: ")


def test_an_address_that_is_no_service_s(tmp_path: Path) -> None:
    (tmp_path / "file").write_text('{"status": "ok"}')
    for url in ((tmp_path / "file").as_uri(), "ftp://127.0.0.1/x", "data:,%7B%7D", ""):
        assert ask(url).state == "wrong"
        assert "is no http:// or https:// one" in ask(url).message


@pytest.mark.parametrize("body", [b"[]", b"[1]", b'"ok"', b"7", b"null", b'{"status": "partial", "missing": {"a": 1}}'])
def test_an_answer_that_is_not_of_ours(body: bytes) -> None:
    with answering(200, body) as (url, _):
        found = ask(url)
    assert (found.state, "its answer is not one of ours" in found.message) == ("wrong", True)


@pytest.mark.parametrize(
    ("status", "body", "state", "words"),
    [
        (200, b'{"status": "ok", "missing": []}', "ok", "it has vectors of all 2"),
        (200, b'{"status": "partial", "missing": ["b"]}', "wrong", "no vectors of 1 of 2 candidates, such as 'b'"),
        (200, b'{"status": "degraded", "missing": null, "reason": "late"}', "wrong", "its answer is degraded: late"),
        (200, b"<html>", "note", "it cannot be asked from here"),
        (401, b"", "wrong", "the token given here is none of its own"),
        (503, b"busy", "wrong", "it answers 503: busy"),
    ],
)
def test_what_it_says(status: int, body: bytes, state: str, words: str) -> None:
    with answering(status, body) as (url, _):
        found = ask(url)
    assert (found.state, words in found.message) == (state, True), found


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (401, b"", "it tells only with its token"),
        (404, b"", "it answers 404"),
        (302, b"", "it answers 302"),
        (200, b"<html>", "it cannot be asked from here"),
        (200, b"[]", "or is of another version"),
        (200, b'{"stores": [{"name": "s"}]}', "or is of another version"),
        (200, b'{"stores": [{"name": "other", "origin": null}]}', "it has no such store"),
        (200, b'{"stores": [{"name": "s", "origin": {"kind": "k", "name": "a,b", "uuid": "u"}}]}', "not one of ours"),
    ],
)
def test_an_origin_that_is_not_told(status: int, body: bytes, words: str) -> None:
    with answering(status, body, location="http://127.0.0.1:1/") as (url, _), pytest.raises(NotToldError, match=words):
        store_origin(url.partition("/v1")[0], "s", TOKEN)
    with pytest.raises(NotToldError, match="it cannot be asked from here"):
        store_origin("http://127.0.0.1:1", "s", "")


def test_an_origin_that_is_told() -> None:
    body = (
        b'{"stores": [{"name": "b", "origin": null}, {"name": "s", "origin": {"kind": "k", "name": "n", "uuid": "u"}}]}'
    )
    with answering(200, body) as (url, asked):
        assert store_origin(url.partition("/v1")[0], "s", TOKEN) == Origin("k", "n", "u")
        assert store_origin(url.partition("/v1")[0], "b", "") is None
    assert asked == [f"Bearer {TOKEN}", ""]


def test_a_store_and_an_index_that_belong_together() -> None:
    index = Origin(OPENSEARCH, "cakes", "u1")
    assert mismatch("s", Origin(OPENSEARCH, "called-otherwise", "u1"), index) == ""
    both = Origin(QUALIFIED, "a,b", "u1,u2")
    assert mismatch("s", Origin(QUALIFIED, "b,c", "u2,u3"), both) == ""
    for other in (None, Origin(OPENSEARCH, "cakes", "u2"), Origin(QUALIFIED, "cakes", "u1")):
        assert "ids of one mean nothing in the other" in mismatch("s", other, index)
    assert mismatch("s", Origin(QUALIFIED, "a,b", "u1,u9"), both)


@pytest.mark.parametrize("status", [401, 404])
def test_a_service_that_is_taken_for_opensearch(status: int) -> None:
    body = b'{"error": "no", "error_type": "Error", "message": "no"}'
    with answering(status, body, **{"content-type": "application/json"}) as (url, _):
        refused = invoke("opensearch", "teardown", "--opensearch", url.partition("/v1")[0]).error
    assert "it is a re-ranking service that answers" in refused
