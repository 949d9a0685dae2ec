"""The way to an OpenSearch cluster: where it is, how to log in, and what its failures mean."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import opensearchpy

from colbert_rerank.connection import Connection
from colbert_rerank.errors import MissingDependencyError, OpenSearchAuthError, OpenSearchError
from colbert_rerank.retry import BUSY_STATUS, parse_retry_after, with_retry
from colbert_rerank.server_errors import error_reason, first_line, no_answer, not_json, out_of_reach, refused, untrusted

LOWEST_VERSION = (2, 11)

_log = logging.getLogger(__name__)


class BusyError(opensearchpy.TransportError):  # type: ignore[misc]  # opensearch-py is untyped here
    """429, 502, 503 or 504, with the seconds its ``Retry-After`` header asked for."""

    retry_after: float | None = None


class _HttpConnection(opensearchpy.Urllib3HttpConnection):  # type: ignore[misc]
    """opensearch-py's own, keeping ``Retry-After`` on errors, and quiet: callers get exceptions, not log lines too."""

    def perform_request(
        self,
        method: str,
        url: str,
        params: Mapping[str, Any] | None = None,
        body: bytes | None = None,
        timeout: float | None = None,
        ignore: Sequence[int] = (),
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Mapping[str, str], str]:
        # An ignored status comes back with its headers, which opensearch-py's exceptions drop.
        status, response_headers, data = super().perform_request(
            method, url, params, body, timeout=timeout, ignore=(*ignore, *BUSY_STATUS), headers=headers
        )
        if status in BUSY_STATUS and status not in ignore:
            try:
                self._raise_error(status, data, response_headers.get("content-type"))
            except opensearchpy.TransportError as error:
                busy = BusyError(*error.args)
                busy.retry_after = parse_retry_after(response_headers.get("retry-after"))
                raise busy from None
        return status, response_headers, data

    def log_request_fail(
        self,
        method: str,
        full_url: str,
        path: str,
        body: Any,
        duration: float,
        status_code: int | None = None,
        response: str | None = None,
        exception: Exception | None = None,
    ) -> None:
        _log.debug("%s %s: %s after %.3f s", method, full_url, status_code or type(exception).__name__, duration)

    def log_request_success(
        self,
        method: str,
        full_url: str,
        path: str,
        body: Any,
        status_code: int,
        response: str,
        duration: float,
    ) -> None:
        _log.debug("%s %s: %s after %.3f s", method, full_url, status_code, duration)

    def _raise_warnings(self, warning_headers: Sequence[str]) -> None:
        for header in warning_headers or ():
            _log.debug("OpenSearch warns: %s", header)


def connect(connection: Connection, *, pool_size: int = 16) -> opensearchpy.OpenSearch:
    """A client for the cluster; contacts nothing yet. ``pool_size`` bounds its connections, one per thread in use.

    Raises ``MissingDependencyError`` where AWS signatures are wanted without boto3.
    """
    parts = urlsplit(connection.url)
    secure = parts.scheme == "https"
    headers: dict[str, str] = {}
    options: dict[str, Any] = {}
    if connection.authorization:
        headers["authorization"] = connection.authorization
    elif connection.aws_region:
        options["http_auth"] = _aws_signer(connection)
    if secure:
        options["verify_certs"] = connection.verify
        options["ssl_show_warn"] = False  # one line in our log instead of a Python warning for each request
        options["ca_certs"] = connection.ca_file or None
        if not connection.verify:
            _log.warning("%s: the server's certificate is not verified", connection.url)
            options["ssl_assert_hostname"] = False
    # Not among the hosts: those are shown by the client's repr.
    return opensearchpy.OpenSearch(
        [
            {
                "host": parts.hostname,
                "port": parts.port or (443 if secure else 9200),
                "use_ssl": secure,
                "url_prefix": parts.path.strip("/"),
            }
        ],
        connection_class=_HttpConnection,
        headers=headers,
        max_retries=0,  # ours know Retry-After; the library's repeat at once
        timeout=connection.timeout,
        pool_maxsize=pool_size,
        **options,
    )


class Server(NamedTuple):
    """``distribution`` is ``"opensearch"``, or empty where the server would not say."""

    distribution: str
    version: str


def check_server(client: opensearchpy.OpenSearch) -> Server:
    """Ask once who is there.

    Raises a leaf of ``OpenSearchError`` where nobody answers, or a server that this package cannot use.
    """
    try:
        with translated(client):
            answer = with_retry(lambda: client.info(), unreachable=False)
    except OpenSearchError as error:
        said = getattr(error.__cause__, "info", None)
        if isinstance(said, Mapping) and "error_type" in said:  # as ours answers, and no search server
            raise OpenSearchError(f"{server_url(client)}: it is a re-ranking service that answers") from error
        if isinstance(error, OpenSearchAuthError) and getattr(error.__cause__, "status_code", 0) == 403:
            _log.info("%s does not tell this user its version", server_url(client))
            return Server("", "")
        raise
    version = answer.get("version") if isinstance(answer, dict) else None
    if not isinstance(version, dict):
        raise OpenSearchError(f"{server_url(client)} answers, but not as OpenSearch does; check the URL")
    number = str(version.get("number", ""))
    if version.get("distribution") != "opensearch":
        raise OpenSearchError(
            f"{server_url(client)} is not OpenSearch (version {number or 'unknown'}): 2.11 or later of it is needed"
        )
    # 7.10.2 is what OpenSearch says under compatibility.override_main_response_version.
    if _version(number) < LOWEST_VERSION:
        raise OpenSearchError(f"{server_url(client)} is OpenSearch {number}: 2.11 or later is needed")
    return Server("opensearch", number)


def server_url(client: opensearchpy.OpenSearch) -> str:
    """The address of a client's (first) host, without user or password."""
    hosts = client.transport.hosts or [{}]
    host = hosts[0]
    name = str(host.get("host") or "localhost")
    scheme = "https" if host.get("use_ssl") or host.get("scheme") == "https" else "http"
    prefix = str(host.get("url_prefix") or "").strip("/")
    address = f"[{name}]" if ":" in name else name
    return f"{scheme}://{address}:{host.get('port') or 9200}" + (f"/{prefix}" if prefix else "")


@contextmanager
def translated(client: opensearchpy.OpenSearch, *, index: str = "") -> Iterator[None]:
    """Turn opensearch-py's exceptions into ours: what failed, where, and what to do."""
    try:
        yield
    except opensearchpy.TransportError as error:
        anonymous = error.status_code == 401 and _is_anonymous(client)
        raise translate(error, server_url(client), index, anonymous=anonymous) from error
    except opensearchpy.SerializationError as error:
        raise not_json(server_url(client)) from error


def _is_anonymous(client: opensearchpy.OpenSearch) -> bool:
    """Whether requests carry no credentials. Of a client that is not ours, False."""
    made = client.transport.connection_pool.connections
    return all(isinstance(c, _HttpConnection) and not c.http_auth and "authorization" not in c.headers for c in made)


def translate(
    error: opensearchpy.TransportError, url: str, index: str = "", *, anonymous: bool = False
) -> OpenSearchError:
    """The error of ours for one of opensearch-py's."""
    if isinstance(error, opensearchpy.SSLError):
        return untrusted(url, error.error)
    if isinstance(error, opensearchpy.ConnectionTimeout):
        return no_answer(url)
    if isinstance(error, opensearchpy.ConnectionError):
        if type(error.info).__module__.startswith("botocore"):  # from where requests are signed
            return OpenSearchAuthError(f"{url}: the request could not be signed: {first_line(error.error)}")
        return out_of_reach(url, "OpenSearch", error.error)
    return refused(
        url, index, "OpenSearch", int(error.status_code), first_line(error.error), _reason(error), anonymous=anonymous
    )


def _aws_signer(connection: Connection) -> Any:
    try:
        import boto3
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise MissingDependencyError("AWS signatures", "boto3") from error
    try:
        credentials = boto3.Session().get_credentials()
    except BotoCoreError as error:
        raise OpenSearchAuthError(f"{connection.url}: no AWS credentials: {error}") from error
    if credentials is None:
        raise OpenSearchAuthError(f"{connection.url}: no AWS credentials found; see boto3's list of where it looks")
    return opensearchpy.Urllib3AWSV4SignerAuth(credentials, connection.aws_region)


def _version(number: str) -> tuple[int, ...]:
    match = re.match(r"(\d+)\.(\d+)", number)
    return (int(match[1]), int(match[2])) if match else LOWEST_VERSION


def _reason(error: opensearchpy.TransportError) -> str:
    """The deepest reason that the server gave, else the beginning of its answer."""
    return error_reason(error.info.get("error")) if isinstance(error.info, dict) else first_line(error.error)
