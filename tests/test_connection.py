"""Logging in, TLS, and failures: what is sent, what is said, and that no secret is ever shown."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import opensearchpy
import pytest

from colbert_rerank.cli.service import service_token
from colbert_rerank.connection import Connection, read_tokens
from colbert_rerank.errors import (
    ColbertRerankError,
    IndexNotFoundError,
    MissingDependencyError,
    OpenSearchAuthError,
    OpenSearchError,
    OpenSearchUnreachableError,
    UsageError,
)
from colbert_rerank.indices import resolve_index
from colbert_rerank.opensearch import check_server, connect, server_url, translated
from tests.server.faults import Drop, Refuse
from tests.server.gateway import Gateway, User
from tests.server.indices import make_index
from tests.server.rest import basic

SECRET = "s3cret-pä:ss@/?#"
QUOTED = "s3cret-p%C3%A4%3Ass%40%2F%3F%23"
TOKEN = "t0ken-0123456789"


@pytest.fixture
def locked(opensearch_url: str) -> Iterator[Gateway]:
    users = {"admin": User(SECRET), "reader": User(TOKEN, read_only=True)}
    with Gateway(opensearch_url, users=users, tokens={TOKEN: "admin"}) as gateway:
        yield gateway


@pytest.fixture
def encrypted(opensearch_url: str) -> Iterator[Gateway]:
    with Gateway(opensearch_url, users={"admin": User(SECRET)}, tls=True) as gateway:
        yield gateway


def test_secrets_are_not_shown() -> None:
    connection = Connection("https://host:9200/prefix", user="admin", password=SECRET)
    assert SECRET not in f"{connection!r} {connection}"
    in_url = Connection(f"https://admin:{QUOTED}@host:9200/prefix/")
    assert in_url == Connection("https://host:9200/prefix", user="admin", password=SECRET)
    assert "s3cret" not in f"{in_url!r} {in_url}"
    for other in (Connection("http://host", api_key=TOKEN), Connection("http://host", bearer=TOKEN)):
        assert TOKEN not in f"{other!r} {other}"


def test_the_client_shows_no_secret_either() -> None:
    client = connect(Connection(f"https://admin:{QUOTED}@[::1]:9200/prefix"))
    assert "s3cret" not in repr(client)
    assert server_url(client) == "https://[::1]:9200/prefix"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param({"url": "localhost:9200"}, "http://", id="no-scheme"),
        pytest.param({"url": "ftp://host"}, "http://", id="other-scheme"),
        pytest.param({"url": f"https://admin:{TOKEN}:x@host:port"}, "cannot be read", id="port-is-not-a-number"),
        pytest.param({"url": f"https://admin:{TOKEN}/x@host:9200"}, "cannot be read", id="slash-in-password"),
        pytest.param({"url": f"https://admin:{TOKEN}@host?x"}, "before any", id="query"),
        pytest.param({"url": "http://h", "password": TOKEN}, "without a user", id="password-alone"),
        pytest.param({"url": "http://h", "user": "u", "bearer": TOKEN}, "choose one", id="two-ways"),
        pytest.param({"url": "http://u@h"}, "'u' without a password", id="user-alone"),
        pytest.param({"url": "http://a:b@h", "user": "u"}, "another user", id="two-users"),
        pytest.param({"url": "http://h", "bearer": TOKEN + "\nx: y"}, "line break", id="line-break"),
        pytest.param({"url": "http://h", "api_key": TOKEN + "ä"}, "HTTP header", id="not-ascii"),
        pytest.param({"url": "https://h", "ca_file": "/absent.pem"}, "no CA certificate", id="no-ca-file"),
        pytest.param({"url": "http://h", "timeout": 0}, "timeout", id="no-time"),
    ],
)
def test_connections_that_cannot_work_are_refused(arguments: dict[str, Any], expected: str) -> None:
    with pytest.raises(UsageError, match=expected) as raised:
        Connection(**arguments)
    assert TOKEN not in str(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


def test_secrets_come_from_files_and_from_the_environment(tmp_path: Path) -> None:
    prefix = "COLBERT_RERANK_OPENSEARCH_"
    environ = {prefix + "USER": "env-user", prefix + "PASSWORD": "env-password"}
    from_env = Connection.from_environment("http://h", environ=environ)
    assert (from_env.user, from_env.password) == ("env-user", "env-password")
    file = tmp_path / "password"
    file.write_text(SECRET + "\n", encoding="utf-8")
    from_file = Connection.from_environment("http://h", user="me", password_file=file, environ=environ)
    assert (from_file.user, from_file.password) == ("me", SECRET)
    assert Connection.from_environment("http://h", environ={prefix + "TOKEN": TOKEN}).bearer == TOKEN
    assert Connection.from_environment("http://h", environ={prefix + "API_KEY": TOKEN}).api_key == TOKEN
    in_url = Connection.from_environment("http://a:b@h", environ=environ)
    assert (in_url.user, in_url.password) == ("a", "b")
    # What was said aloud wins over what lies about in the environment.
    explicit = Connection.from_environment("http://h", aws_region="eu-west-1", environ=environ)
    assert (explicit.user, explicit.password, explicit.aws_region) == ("", "", "eu-west-1")
    file.write_text(TOKEN, encoding="utf-8")
    token = Connection.from_environment("http://h", token_file=file, environ=environ | {prefix + "API_KEY": "k"})
    assert (token.user, token.api_key, token.bearer) == ("", "", TOKEN)
    # A user in the URL and the password in the environment make a pair.
    user_in_url = Connection.from_environment("http://a@h", environ=environ)
    assert (user_in_url.user, user_in_url.password) == ("a", "env-password")


def test_secret_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="absent"):
        Connection.from_environment("http://h", user="u", password_file=tmp_path / "absent", environ={})
    (tmp_path / "empty").write_text("\n", encoding="utf-8")
    with pytest.raises(UsageError, match="is empty"):
        Connection.from_environment("http://h", user="u", password_file=tmp_path / "empty", environ={})


def test_tokens_of_a_service_are_one_a_line(tmp_path: Path) -> None:
    """For whoever reads them: the service, which takes any of them, and commands, which send the first."""
    environ = {"COLBERT_RERANK_TOKEN": f"{TOKEN}\n"}
    (tmp_path / "tokens").write_text(f"\n  one-{TOKEN} \n\n{TOKEN}\n", encoding="utf-8")
    assert read_tokens(tmp_path / "tokens", environ) == [f"one-{TOKEN}", TOKEN]
    assert service_token(tmp_path / "tokens") == f"one-{TOKEN}"
    assert read_tokens(None, environ) == [TOKEN]
    assert read_tokens(None, {}) == []
    (tmp_path / "blank").write_text("\n \n", encoding="utf-8")
    (tmp_path / "bytes").write_bytes(b"\xff")
    (tmp_path / "tab").write_text(f"{TOKEN}\none\ttwo", encoding="utf-8")
    for name, said in (
        ("absent", "cannot read"),
        ("blank", "no token in it"),
        ("bytes", "not UTF-8"),
        ("tab", "HTTP header"),
    ):
        with pytest.raises(UsageError, match=said) as refusal:
            read_tokens(tmp_path / name, environ)
        assert TOKEN not in str(refusal.value)


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [
        pytest.param({"user": "admin", "password": SECRET}, basic("admin", SECRET), id="password"),
        pytest.param({"bearer": TOKEN}, f"Bearer {TOKEN}", id="bearer"),
        pytest.param({"api_key": TOKEN}, f"ApiKey {TOKEN}", id="api-key"),
    ],
)
def test_each_way_to_log_in(
    locked: Gateway, arguments: dict[str, Any], sent: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with connect(Connection(locked.url, **arguments)) as client:
        assert check_server(client).distribution == "opensearch"
        with pytest.raises(IndexNotFoundError):
            resolve_index(client, "absent")
    assert {request.headers["authorization"] for request in locked.requests} == {sent}
    for secret in (SECRET, TOKEN, sent.split()[1]):
        assert secret not in caplog.text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param({}, "got none", id="none"),
        pytest.param({"user": "admin", "password": "wrong-" + TOKEN}, "does not accept", id="wrong-password"),
        pytest.param({"bearer": "wrong-" + TOKEN}, "does not accept", id="wrong-token"),
    ],
)
def test_refused_credentials(
    locked: Gateway, arguments: dict[str, Any], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with connect(Connection(locked.url, **arguments)) as client, pytest.raises(OpenSearchAuthError) as raised:
        check_server(client)
    assert "401" in str(raised.value)
    assert said in str(raised.value)
    assert locked.url in str(raised.value)
    assert TOKEN not in str(raised.value) + caplog.text
    assert len(locked.requests) == 1  # asking again would lock the account


def test_missing_permissions_are_named(locked: Gateway) -> None:
    with (
        connect(Connection(locked.url, user="reader", password=TOKEN)) as client,
        pytest.raises(OpenSearchAuthError, match="indices:admin/create") as raised,
        translated(client, index="new"),
    ):
        client.indices.create(index="new")
    assert "'new'" in str(raised.value)


def test_tls_with_the_certificate_authority(encrypted: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    connection = Connection(encrypted.url, user="admin", password=SECRET, ca_file=str(encrypted.ca_file))
    with connect(connection) as client:
        assert check_server(client).distribution == "opensearch"
    assert "not verified" not in caplog.text


def test_tls_without_the_certificate_authority(encrypted: Gateway) -> None:
    with (
        connect(Connection(encrypted.url, user="admin", password=SECRET)) as client,
        pytest.raises(OpenSearchUnreachableError, match="CA file"),
    ):
        check_server(client)
    assert not encrypted.requests  # the password was not sent


def test_tls_unverified_on_request_only(encrypted: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    connection = Connection(encrypted.url, user="admin", password=SECRET, verify=False)
    with connect(connection) as client:
        assert check_server(client).distribution == "opensearch"  # and no warning, which would be an error here
    assert "not verified" in caplog.text
    assert SECRET not in caplog.text


def test_http_where_the_server_speaks_tls(encrypted: Gateway) -> None:
    with (
        connect(Connection(encrypted.url.replace("https:", "http:"))) as client,
        pytest.raises(OpenSearchUnreachableError, match="write https://"),
    ):
        check_server(client)


def test_https_where_the_server_speaks_http(opensearch_url: str) -> None:
    with (
        Gateway(opensearch_url) as gateway,
        connect(Connection(gateway.url.replace("http:", "https:"))) as client,
        pytest.raises(OpenSearchUnreachableError, match="no TLS is spoken there; write http://"),
    ):
        check_server(client)


def test_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (
        connect(Connection(f"http://u:{QUOTED}@127.0.0.1:{port}")) as client,
        pytest.raises(OpenSearchUnreachableError, match=f"http://127.0.0.1:{port}: cannot reach") as raised,
    ):
        check_server(client)
    assert "s3cret" not in str(raised.value)


def test_no_such_host() -> None:
    with (
        connect(Connection("http://no-such-host.invalid:9200")) as client,
        pytest.raises(OpenSearchUnreachableError, match=r"no-such-host\.invalid"),
    ):
        check_server(client)


def test_retry_after_is_kept_on_errors(opensearch_url: str) -> None:
    with Gateway(opensearch_url) as gateway, connect(Connection(gateway.url)) as client:
        gateway.faults.append(Refuse(path="", status=429, retry_after="17"))
        with pytest.raises(opensearchpy.TransportError) as raised:
            client.info()
    assert raised.value.status_code == 429
    assert getattr(raised.value, "retry_after", None) == 17.0


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param({"version": {"number": "8.19.0"}}, "not OpenSearch", id="elasticsearch"),
        pytest.param({"version": {"distribution": "opensearch", "number": "2.9.0"}}, "2.11 or later", id="too-old"),
        pytest.param({"hello": "world"}, "not as OpenSearch", id="another-json-service"),
        pytest.param("<html>", "not as OpenSearch", id="a-web-page"),
    ],
)
def test_other_servers_are_refused(monkeypatch: pytest.MonkeyPatch, answer: object, expected: str) -> None:
    with connect(Connection("http://host:9200")) as client:
        monkeypatch.setattr(client, "info", lambda: answer)
        with pytest.raises(OpenSearchError, match=expected):
            check_server(client)


@pytest.mark.parametrize("number", ["2.11.0", "2.19.6", "3.0.0", "3.10.1", "7.10.2"])
def test_supported_versions(monkeypatch: pytest.MonkeyPatch, number: str) -> None:
    with connect(Connection("http://host:9200")) as client:
        monkeypatch.setattr(client, "info", lambda: {"version": {"distribution": "opensearch", "number": number}})
        assert check_server(client).version == number


def test_names_are_resolved_to_concrete_indices(opensearch_url: str, index_name: str) -> None:
    make_index(opensearch_url, f"{index_name}-b", settings={})
    make_index(opensearch_url, f"{index_name}-a", settings={})
    with connect(Connection(opensearch_url)) as client:
        client.indices.put_alias(index=f"{index_name}-*", name=f"{index_name}-alias")
        found = resolve_index(client, f"{index_name}-alias")
        assert [info.name for info in found] == [f"{index_name}-a", f"{index_name}-b"]
        assert len({info.uuid for info in found}) == 2
        assert resolve_index(client, f"{index_name}-a") == found[:1]
        for missing in (f"{index_name}-absent", f"{index_name}-absent*"):
            with pytest.raises(IndexNotFoundError, match="absent"):
                resolve_index(client, missing)
        for everything in ("", "*", "_all"):
            with pytest.raises(UsageError):
                resolve_index(client, everything)


def test_aws_signatures(opensearch_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with (
        Gateway(opensearch_url) as gateway,
        connect(Connection(gateway.url, aws_region="eu-west-1")) as client,
    ):
        check_server(client)
        with pytest.raises(IndexNotFoundError):
            resolve_index(client, "absent,a*b")
    for request in gateway.requests:
        assert request.headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/")
        assert "/eu-west-1/es/aws4_request" in request.headers["authorization"]
        assert SECRET not in str(request.headers)


def test_every_error_is_one_of_ours(opensearch_url: str) -> None:
    with Gateway(opensearch_url) as gateway, connect(Connection(gateway.url)) as client:
        for status in (400, 401, 403, 404, 409, 413, 429, 500, 502, 503, 504):
            gateway.faults.append(Refuse(path="", status=status))
            with pytest.raises(ColbertRerankError, match=str(status)), translated(client):
                client.info()


def test_aws_signatures_without_boto3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(MissingDependencyError, match=r"AWS signatures need boto3\. Install with: pip install boto3"):
        connect(Connection("https://h", aws_region="eu-west-1"))


def test_a_busy_server_is_asked_again_and_one_that_is_not_there_is_not(opensearch_url: str) -> None:
    with Gateway(opensearch_url) as gateway, connect(Connection(gateway.url)) as client:
        gateway.faults.append(Refuse(path="", status=503, times=2))
        assert check_server(client).distribution == "opensearch"
        assert len(gateway.requests) == 3
        gateway.faults.append(Drop(path="", times=9))
        with pytest.raises(OpenSearchUnreachableError):
            check_server(client)
        assert len(gateway.requests) == 4


def test_aws_credentials_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nonexistent")
    with pytest.raises(OpenSearchAuthError, match=r"no AWS credentials: .*nonexistent"):
        connect(Connection("https://h", aws_region="eu-west-1"))
