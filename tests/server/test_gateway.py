"""The gateway asks for credentials, serves TLS and breaks things, in the way and in the shape that OpenSearch does."""

from __future__ import annotations

import json
import re
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server.certificates import make_certificates
from tests.server.faults import Drop, Refuse, RejectItems, Slow
from tests.server.gateway import Gateway, User, write_action
from tests.server.rest import Answer, basic, call
from tests.server.secured import SecuredNode

USERS = {"admin": User("correct horse"), "reader": User("battery", read_only=True)}
ADMIN = {"Authorization": basic("admin", "correct horse")}
READER = {"Authorization": basic("reader", "battery")}


@pytest.fixture
def gateway(opensearch_url: str) -> Iterator[Gateway]:
    with Gateway(opensearch_url) as open_to_all:
        yield open_to_all


@pytest.fixture
def locked(opensearch_url: str) -> Iterator[Gateway]:
    with Gateway(opensearch_url, users=USERS, tokens={"t0ken": "reader"}) as asks_who:
        yield asks_who


def bulk(gateway: Gateway, index: str, *ids: str, **headers: str) -> Answer:
    lines: list[dict[str, Any]] = []
    for doc_id in ids:
        lines += [{"index": {"_index": index, "_id": doc_id}}, {"text": f"document {doc_id}"}]
    return call(gateway.url, "POST", "/_bulk?refresh=true", lines, headers=headers)


def count(url: str, index: str) -> int:
    return int(call(url, "GET", f"/{index}/_count").json().get("count", 0))


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="none"),
        pytest.param({"Authorization": basic("admin", "wrong")}, id="wrong-password"),
        pytest.param({"Authorization": basic("nobody", "battery")}, id="unknown-user"),
        pytest.param({"Authorization": "Bearer other"}, id="unknown-token"),
        pytest.param({"Authorization": "Basic %%%"}, id="not-base64"),
    ],
)
def test_bad_credentials_get_401(locked: Gateway, headers: dict[str, str]) -> None:
    answer = call(locked.url, "GET", "/", headers=headers)
    assert (answer.status, answer.body) == (401, b"Unauthorized")
    assert answer.headers["www-authenticate"] == 'Basic realm="OpenSearch Security"'


@pytest.mark.parametrize(
    "authorization",
    [
        pytest.param(ADMIN["Authorization"], id="basic"),
        pytest.param("Bearer t0ken", id="bearer"),
        pytest.param("ApiKey t0ken", id="api-key"),
    ],
)
def test_good_credentials_get_in(locked: Gateway, authorization: str) -> None:
    answer = call(locked.url, "GET", "/", headers={"Authorization": authorization})
    assert answer.status == 200
    assert locked.requests[-1].headers["authorization"] == authorization


def test_a_reader_may_search_but_not_write(locked: Gateway, index_name: str) -> None:
    assert bulk(locked, index_name, "1", **ADMIN).status == 200
    found = call(locked.url, "POST", f"/{index_name}/_search", {"query": {"match_all": {}}}, headers=READER)
    assert found.json()["hits"]["total"]["value"] == 1
    refused = bulk(locked, index_name, "2", **READER).json()
    assert [item["index"]["status"] for item in refused["items"]] == [403]
    assert call(locked.url, "PUT", f"/{index_name}-other", headers=READER).status == 403
    sent = [request.headers["authorization"] for request in locked.writes()]
    assert sent == [ADMIN["Authorization"], READER["Authorization"], READER["Authorization"]]


MIXED_BULK = [
    *({"index": {"_id": "1"}}, {"text": "x"}),
    {"delete": {"_id": "2"}},
    *({"create": {"_id": "3"}}, {"text": "x"}),
    *({"update": {"_id": "1"}}, {"doc": {"text": "y"}}),
]


@pytest.mark.parametrize(
    ("who", "method", "path", "body"),
    [
        pytest.param("nobody", "GET", "/", None, id="no-credentials"),
        pytest.param("wrong", "POST", "/i/_search", {}, id="wrong-password"),
        pytest.param("reader", "POST", "/i/_search", {}, id="reader-searches"),
        pytest.param("reader", "PUT", "/i-2", {}, id="reader-creates-an-index"),
        pytest.param("reader", "POST", "/i/_bulk", MIXED_BULK, id="reader-sends-bulk"),
        pytest.param("reader", "PUT", "/i/_doc/1", {}, id="reader-indexes"),
        pytest.param("reader", "DELETE", "/i/_doc/1", None, id="reader-deletes"),
        pytest.param("reader", "POST", "/i/_refresh", None, id="reader-refreshes"),
        pytest.param("reader", "PUT", "/i/_mapping", {"properties": {}}, id="reader-puts-a-mapping"),
        pytest.param("reader", "DELETE", "/i", None, id="reader-deletes-the-index"),
    ],
)
def test_answers_are_those_of_the_security_plugin(
    secured_node: SecuredNode, opensearch_url: str, index_name: str, who: str, method: str, path: str, body: object
) -> None:
    headers = {
        "nobody": {},
        "wrong": {"Authorization": basic("admin", "wrong")},
        "reader": {"Authorization": basic(*secured_node.reader)},
    }[who]
    admin = {"Authorization": basic(*secured_node.admin)}
    path = path.replace("/i", f"/{index_name}")
    made = call(secured_node.url, "PUT", f"/{index_name}", headers=admin, ca_file=secured_node.ca_file)
    assert made.status == call(opensearch_url, "PUT", f"/{index_name}").status == 200
    real = call(secured_node.url, method, path, body, headers=headers, ca_file=secured_node.ca_file)
    name, password = secured_node.reader
    with Gateway(opensearch_url, users={name: User(password, read_only=True)}) as gateway:
        ours = call(gateway.url, method, path, body, headers=headers)
    assert _comparable(ours) == _comparable(real)


def _comparable(answer: Answer) -> tuple[int, str, str | None, str]:
    text = re.sub(r"backend_roles=\[\w*\]", "backend_roles=[]", answer.body.decode())
    if answer.headers["content-type"].startswith("application/json"):
        parsed = json.loads(text)
        parsed.pop("took", None)
        text = json.dumps(parsed, sort_keys=True)
    return answer.status, answer.headers["content-type"], answer.headers.get("www-authenticate"), text


@pytest.mark.parametrize(
    ("method", "path", "action"),
    [
        pytest.param("POST", "/i/_search?x=/_bulk", None, id="search"),
        pytest.param("POST", "/_msearch", None, id="msearch"),
        pytest.param("POST", "/i/_search/point_in_time?keep_alive=1m", None, id="open-pit"),
        pytest.param("DELETE", "/_search/point_in_time", None, id="close-pit"),
        pytest.param("GET", "/i/_mapping", None, id="read-mapping"),
        pytest.param("PUT", "/i/_mapping", "indices:admin/mapping/put", id="put-mapping"),
        pytest.param("PUT", "/i", "indices:admin/create", id="create-index"),
        pytest.param("DELETE", "/i", "indices:admin/delete", id="delete-index"),
        pytest.param("DELETE", "/i/_doc/1", "indices:data/write/delete", id="delete-document"),
        pytest.param("POST", "/i/_refresh", "indices:admin/refresh", id="refresh"),
        pytest.param("PUT", "/i/_doc/1", "indices:data/write/index", id="index-document"),
    ],
)
def test_what_counts_as_a_write(method: str, path: str, action: str | None) -> None:
    assert write_action(method, path) == action


def test_tls_is_verified_by_the_ca_file_and_by_no_other(opensearch_url: str, tmp_path: Path) -> None:
    with Gateway(opensearch_url, users=USERS, tls=True) as gateway:
        assert gateway.url.startswith("https://localhost:")
        assert call(gateway.url, "GET", "/", headers=ADMIN, ca_file=gateway.ca_file).status == 200
        by_address = gateway.url.replace("localhost", "127.0.0.1")
        assert call(by_address, "GET", "/", headers=ADMIN, ca_file=gateway.ca_file).status == 200
        for ca_file in (None, make_certificates(tmp_path).ca):
            with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED") as raised:
                call(gateway.url, "GET", "/", headers=ADMIN, ca_file=ca_file)
            assert isinstance(getattr(raised.value, "reason", raised.value), ssl.SSLCertVerificationError)
        assert len(gateway.requests) == 2


@pytest.mark.parametrize("status", [429, 503])
def test_refuse_answers_n_times_and_indexes_nothing(gateway: Gateway, index_name: str, status: int) -> None:
    gateway.faults.append(Refuse(status=status, retry_after="1", times=2))
    for _ in range(2):
        answer = bulk(gateway, index_name, "1")
        assert (answer.status, answer.headers["retry-after"]) == (status, "1")
        assert answer.json()["status"] == status
    assert call(gateway.url, "HEAD", f"/{index_name}").status == 404
    assert bulk(gateway, index_name, "1").status == 200
    assert len(gateway.sent_to("_bulk")) == 3
    assert gateway.faults == []


@pytest.mark.parametrize(("after", "indexed"), [pytest.param(False, 0, id="before"), pytest.param(True, 1, id="after")])
@pytest.mark.parametrize("tls", [pytest.param(False, id="http"), pytest.param(True, id="https")])
def test_drop_cuts_the_connection(opensearch_url: str, index_name: str, after: bool, indexed: int, tls: bool) -> None:
    with Gateway(opensearch_url, tls=tls) as gateway:
        gateway.faults.append(Drop(after=after))
        lines = [{"index": {"_index": index_name, "_id": "1"}}, {"text": "x"}]
        with pytest.raises(OSError, match=r"reset|closed|EOF"):
            call(gateway.url, "POST", "/_bulk?refresh=true", lines, ca_file=gateway.ca_file)
    assert count(opensearch_url, index_name) == indexed


def test_slow_waits_before_it_passes_the_request_on(gateway: Gateway) -> None:
    gateway.faults.append(Slow(path="", seconds=0.4))
    began = time.monotonic()
    assert call(gateway.url, "GET", "/").status == 200
    assert time.monotonic() - began >= 0.4
    gateway.faults.append(Slow(path="", seconds=1.5))
    with pytest.raises(TimeoutError):
        call(gateway.url, "GET", "/", timeout=0.3)


@pytest.mark.parametrize(
    "ids",
    [pytest.param(["b"], id="one"), pytest.param(["a", "c"], id="first-and-last"), pytest.param(list("abc"), id="all")],
)
def test_rejected_items_keep_their_place_and_are_not_indexed(gateway: Gateway, index_name: str, ids: list[str]) -> None:
    gateway.faults.append(RejectItems(ids=ids))
    answer = bulk(gateway, index_name, "a", "b", "c").json()
    items = [item["index"] for item in answer["items"]]
    assert [item["_id"] for item in items] == ["a", "b", "c"]
    assert [item["_id"] for item in items if item["status"] == 429] == ids
    assert answer["errors"] is True
    assert count(gateway.url, index_name) == 3 - len(ids)


def test_a_client_that_stays_connected_does_not_hold_the_gateway_open(opensearch_url: str) -> None:
    from opensearchpy import OpenSearch

    began = time.monotonic()
    with Gateway(opensearch_url, users=USERS, tls=True) as gateway:
        client = OpenSearch(
            [gateway.url], http_auth=("admin", "correct horse"), ca_certs=str(gateway.ca_file), http_compress=True
        )
        assert client.info()["version"]["distribution"] == "opensearch"
        client.search(body={"query": {"match_all": {}}}, size=0)
        assert b"match_all" in gateway.sent_to("_search")[0].body
    assert time.monotonic() - began < 60  # else it waited for the client's own end of the connection
    client.close()
