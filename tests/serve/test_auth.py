"""Who may ask, and what strangers are told."""

from __future__ import annotations

import base64

import pytest
from starlette.testclient import TestClient

from colbert_rerank.errors import UsageError
from colbert_rerank.serve.auth import Tokens, check_bind
from colbert_rerank.serve.stores import ServedStore
from tests.serve.conftest import client_of

TOKEN, OTHER = "a-token-of-some-length", "another-token-of-some-length"
CLOSED = (
    ("GET", "/info"),
    ("GET", "/metrics"),
    ("GET", "/v1/stores"),
    ("GET", "/v1/models"),
    ("GET", "/openapi.json"),
    ("GET", "/nothing/here"),
    ("POST", "/encode"),
    ("POST", "/rerank"),
    ("POST", "/v1/stores/real/rerank"),
    ("POST", "/v1/stores/real/tei/rerank"),
)


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_without_a_token_nothing_is_told(served: ServedStore, method: str, path: str) -> None:
    with client_of(served, tokens=(TOKEN, OTHER)) as client:
        for given in (
            "",
            "Bearer",
            f"Bearer {TOKEN}x",
            f"Bearer {TOKEN[:-1]}",
            f"Basic {TOKEN}",
            "Basic !",
            "Bearer \xff",
        ):
            refused = client.request(method, path, headers=[(b"authorization", given.encode("latin-1"))], json={})
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"].startswith("Basic")
            assert refused.json()["error"].startswith("a token is needed")
        for token in (TOKEN, OTHER):
            assert (
                client.request(method, path, headers={"authorization": f"Bearer {token}"}, json={}).status_code != 401
            )
            basic = base64.b64encode(f"someone:{token}".encode()).decode()
            assert client.request(method, path, headers={"authorization": f"basic {basic}"}, json={}).status_code != 401


def test_health_needs_none(served: ServedStore) -> None:
    with client_of(served, tokens=(TOKEN,)) as client:
        for path in ("/healthz", "/readyz"):
            assert client.get(path).json() == {"status": "ok"}


def test_no_other_origin_is_let_in(client: TestClient) -> None:
    answer = client.get("/info", headers={"origin": "https://elsewhere.example"})
    assert not [name for name in answer.headers if name.startswith("access-control")]


HERE = ["localhost", "LocalHost:8080", "127.0.0.1", "127.8.8.8:1", "[::1]", "[::1]:8080"]
ELSEWHERE = [
    "rebound.example:8080",
    "192.168.0.7",
    "0.0.0.0:8080",
    "[::]",
    "localhost.rebound.example",
    "localhost:x",
    "",
]


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_by_another_name_nothing_is_told_without_a_token(served: ServedStore, method: str, path: str) -> None:
    """A page from elsewhere whose name has become this machine's address: its browser takes the answers for its own."""
    with client_of(served) as client:
        for host in ELSEWHERE:
            refused = client.request(method, path, headers={"host": host}, json={})
            assert refused.status_code == 421
            assert "asked as localhost" in refused.json()["error"]
        for host in HERE:
            assert client.request(method, path, headers={"host": host}, json={}).status_code != 421
        assert client.get("/healthz", headers={"host": ELSEWHERE[0]}).json() == {"status": "ok"}


def test_the_name_does_not_matter_where_something_else_keeps_strangers_out(served: ServedStore) -> None:
    authorization = {"authorization": f"Bearer {TOKEN}"}
    with client_of(served, tokens=(TOKEN,)) as client:
        assert client.get("/info", headers={"host": ELSEWHERE[0]} | authorization).status_code == 200
    with client_of(served, no_auth=True) as client:
        assert client.get("/info", headers={"host": ELSEWHERE[0]}).status_code == 200


@pytest.mark.parametrize(
    "token", ["", "short", "of two words and more", "with-ä-letter-beyond-ascii", "tab\tin-this-long-one"]
)
def test_what_is_no_token(token: str) -> None:
    with pytest.raises(UsageError, match="16 or more, of printable ASCII") as refusal:
        Tokens([token])
    assert not token or token not in str(refusal.value)


def test_a_token_is_not_shown() -> None:
    assert TOKEN not in repr(Tokens([TOKEN]))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "example.org"])
def test_others_are_let_in_with_a_token_or_said_aloud(host: str) -> None:
    with pytest.raises(UsageError, match="Set a token"):
        check_bind(host, Tokens([]))
    check_bind(host, Tokens([TOKEN]))
    check_bind(host, Tokens([], no_auth=True))
    with pytest.raises(UsageError, match="choose one"):
        Tokens([TOKEN], no_auth=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.8.8"])
def test_this_machine_needs_none(host: str) -> None:
    check_bind(host, Tokens([]))
