"""A reverse proxy in front of a test node: passwords, tokens, TLS, faults, and a record of what was sent.

Its 401 and 403 answers have the shape of OpenSearch's security plugin (``test_gateway.py`` compares them with a
SecuredNode's). Use a SecuredNode to test permissions; use this to break things, to try tokens, to see what was sent.

    with Gateway(url, users={"admin": User("secret")}, tls=True) as gateway:
        gateway.faults.append(Refuse(status=429, retry_after="1", times=2))
        ...  # a client talks to gateway.url, trusting gateway.ca_file
        assert not gateway.writes()
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import gzip
import http.client
import json
import socket
import ssl
import struct
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

from tests.server.certificates import make_certificates
from tests.server.faults import (
    Drop,
    Fault,
    Hold,
    Refuse,
    RejectItems,
    Slow,
    refusal,
    refused_items,
    with_rejections,
    without_items,
)
from tests.server.rest import without_user

# A POST to one of these changes nothing.
_READS = {
    *("_search", "_msearch", "_mget", "_count", "_analyze", "_field_caps", "_validate", "_explain", "_rank_eval"),
    *("_termvectors", "_mtermvectors", "_scroll", "scroll", "point_in_time"),
}
# The permission that each kind of write needs, by a part of its path.
_WRITES = {
    "_bulk": "indices:data/write/bulk",
    "_update_by_query": "indices:data/write/update/byquery",
    "_delete_by_query": "indices:data/write/delete/byquery",
    "_reindex": "indices:data/write/reindex",
    "_update": "indices:data/write/update",
    "_doc": "indices:data/write/index",
    "_create": "indices:data/write/index",
    "_mapping": "indices:admin/mapping/put",
    "_settings": "indices:admin/settings/update",
    "_aliases": "indices:admin/aliases",
    "_alias": "indices:admin/aliases",
    "_refresh": "indices:admin/refresh",
    "_forcemerge": "indices:admin/forcemerge",
    "_cluster": "cluster:admin/settings/update",
}
# Of an answer: its type, and by what Elasticsearch is known.
_KEPT = ("Content-Type", "X-Elastic-Product")
_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "host", "authorization"})


class User(NamedTuple):
    password: str
    read_only: bool = False


class Request(NamedTuple):
    """One request as it came in. ``headers`` has names in lower case; ``body`` is after decompression."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


def write_action(method: str, path: str) -> str | None:
    """The permission that a request needs to change something; None where it only reads."""
    parts = [part for part in urlsplit(path).path.split("/") if part]
    if method in ("GET", "HEAD", "OPTIONS") or (method == "POST" and _READS.intersection(parts)):
        return None
    if method == "DELETE" and {"point_in_time", "scroll"}.intersection(parts):
        return None
    if method == "DELETE" and "_doc" in parts:
        return "indices:data/write/delete"
    for part in parts:
        if part in _WRITES:
            return _WRITES[part]
    return "indices:admin/delete" if method == "DELETE" else "indices:admin/create"


class Gateway:
    """The proxy, listening on 127.0.0.1 while its ``with`` block lasts.

    Args:
        upstream: the node's URL.
        users: name -> User; with users or tokens given, a request without valid credentials gets 401.
        tokens: ``Authorization: Bearer <token>`` or ``ApiKey <token>`` -> the name of a user in ``users``.
        tls: serve https with a certificate for localhost and 127.0.0.1 that ``ca_file`` verifies.
    """

    def __init__(
        self,
        upstream: str,
        *,
        users: Mapping[str, User] | None = None,
        tokens: Mapping[str, str] | None = None,
        tls: bool = False,
    ) -> None:
        self.upstream, self.upstream_authorization = without_user(upstream)
        self.users = dict(users or {})
        self.tokens = dict(tokens or {})
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.errors: list[str] = []  # failed handshakes and broken connections
        self.url = ""
        self.ca_file: Path | None = None
        self._tls = tls
        self._lock = threading.Lock()
        self._closing = contextlib.ExitStack()

    def __enter__(self) -> Gateway:
        with contextlib.ExitStack() as stack:
            context: ssl.SSLContext | None = None
            if self._tls:
                made = make_certificates(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gateway-"))))
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(made.certificate, made.key)
                self.ca_file = made.ca
            server = _Server(self, context)
            stack.callback(server.stop)
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="gateway")
            thread.start()
            self.url = f"{'https' if self._tls else 'http'}://localhost:{server.server_address[1]}"
            self._closing = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()

    def writes(self) -> list[Request]:
        """The requests so far that would change something, refused ones included."""
        return [request for request in self.requests if write_action(request.method, request.path)]

    def sent_to(self, part: str) -> list[Request]:
        """The requests so far with ``part`` ("_bulk", "_msearch") in their path."""
        return [request for request in self.requests if part in urlsplit(request.path).path.split("/")]

    def record(self, request: Request) -> None:
        with self._lock:
            self.requests.append(request)

    def next_fault(self, path: str, body: bytes) -> Fault | None:
        """The first fault that applies, counted down."""
        with self._lock:
            for fault in self.faults:
                if fault.matches(path, body):
                    fault.times -= 1
                    if fault.times <= 0:
                        self.faults.remove(fault)
                    return fault
        return None

    def name_of(self, authorization: str | None) -> str | None:
        """The user that an Authorization header stands for; None where it stands for none."""
        scheme, _, value = (authorization or "").partition(" ")
        if scheme.lower() in ("bearer", "apikey"):
            return self.tokens.get(value)
        if scheme.lower() != "basic":
            return None
        try:
            name, _, password = base64.b64decode(value, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
        user = self.users.get(name)
        return name if user is not None and user.password == password else None


class _Server(ThreadingHTTPServer):
    # Threads are joined when the server closes, so that no socket outlives a test.
    daemon_threads = False
    block_on_close = True
    request_queue_size = 64

    def __init__(self, gateway: Gateway, context: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.gateway = gateway
        self._context = context
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._context is not None:
            # The handshake is made in the handler's own thread: a silent client must not block the others.
            connection = self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        with self._lock:
            self._open.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        self.gateway.errors.append(traceback.format_exc(limit=1).strip().splitlines()[-1])

    def stop(self) -> None:
        self.shutdown()
        with self._lock:
            waiting = list(self._open)
        for connection in waiting:  # clients that keep their connection alive
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def gateway(self) -> Gateway:
        return cast(_Server, self.server).gateway

    def setup(self) -> None:
        if isinstance(self.request, ssl.SSLSocket):
            self.request.settimeout(30)
            self.request.do_handshake()
            self.request.settimeout(None)
        super().setup()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class's name)
        pass

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        headers = {name.lower(): value for name, value in self.headers.items()}
        gateway = self.gateway
        gateway.record(Request(self.command, self.path, headers, body))
        if not self._let_in(body):
            return
        fault = gateway.next_fault(self.path, body)
        if isinstance(fault, Refuse):
            extra = {} if fault.retry_after is None else {"Retry-After": fault.retry_after}
            self._answer(fault.status, refusal(fault.status), extra)
            return
        if isinstance(fault, Drop) and not fault.after:
            self._reset()
            return
        if isinstance(fault, Hold):
            fault.release.wait(300)
        if isinstance(fault, Slow):
            time.sleep(fault.seconds)
        taken = None
        kept: dict[str, str] = {}
        if isinstance(fault, RejectItems):
            body, taken = without_items(body, fault.ids)
        if taken and not body:
            status, answer = 200, b'{"took": 0, "errors": false, "items": []}'
        else:
            status, kept, answer = self._forward(body)
        if isinstance(fault, Drop):
            self._reset()
            return
        if isinstance(fault, RejectItems) and taken:
            answer = with_rejections(answer, taken, fault)
        self._answer(status, answer, kept)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 (http.server's names)

    def _let_in(self, body: bytes) -> bool:
        gateway = self.gateway
        if not gateway.users and not gateway.tokens:
            return True
        name = gateway.name_of(self.headers.get("Authorization"))
        if name is None:
            challenge = {
                "WWW-Authenticate": 'Basic realm="OpenSearch Security"',
                "Content-Type": "text/plain; charset=UTF-8",
            }
            self._answer(401, b"Unauthorized", challenge)
            return False
        user = gateway.users.get(name)
        action = write_action(self.command, self.path)
        if user is not None and user.read_only and action is not None:
            who = f"User [name={name}, backend_roles=[], requestedTenant=null]"
            if action == "indices:data/write/bulk":  # refused one by one, in an answer of status 200
                self._answer(200, refused_items(body, urlsplit(self.path).path, who))
            else:
                cause = {"type": "security_exception", "reason": f"no permissions for [{action}] and {who}"}
                self._answer(403, json.dumps({"error": {"root_cause": [cause], **cause}, "status": 403}).encode())
            return False
        return True

    def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, the headers that clients look at, and body of the node's answer."""
        gateway = self.gateway
        headers = {
            name: value
            for name, value in self.headers.items()
            if name.lower() not in _HOP_BY_HOP and name.lower() not in ("content-encoding", "accept-encoding")
        }
        if gateway.upstream_authorization is not None:
            headers["Authorization"] = gateway.upstream_authorization
        parts = urlsplit(gateway.upstream)
        make = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = make(parts.hostname or "", parts.port, timeout=120)
        try:
            connection.request(self.command, parts.path + self.path, body or None, headers)
            response = connection.getresponse()
            kept = {name: response.headers[name] for name in _KEPT if name in response.headers}
            return response.status, kept, response.read()
        finally:
            connection.close()

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json; charset=UTF-8", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _reset(self) -> None:
        """Cut the connection off hard (RST), as a node does that is killed."""
        connection: socket.socket = self.request
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
