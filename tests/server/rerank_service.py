"""What OpenSearch takes for the re-ranking service: it scores as it is told to, and has what faults it is told to."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple


class Asked(NamedTuple):
    path: str
    token: str
    query: str
    documents: list[str]
    deadline_ms: int | None = None


class RerankService:
    """``scores`` gives a document's, but of those that are ``lacking``; ``token`` has to come. ``status`` and ``text``
    are an answer of another kind, ``delay`` is in seconds. With a deadline of less than ``needs`` nothing is scored.
    ``stores`` are listed, if there are some. ``asked`` is what came.
    """

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.scores: Callable[[str], float] = lambda doc_id: float(len(doc_id))
        self.lacking: set[str] = set()
        self.token = ""
        self.needs = 0  # milliseconds
        self.stores: list[dict[str, Any]] = []
        self.status, self.text, self.delay = 200, "", 0.0
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                token = self.headers.get("authorization", "").removeprefix("Bearer ")
                service.asked.append(Asked(self.path, token, body["query"], body["documents"], body.get("deadline_ms")))
                status, text = service._answer(body["documents"], token, body.get("deadline_ms"))
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def do_GET(self) -> None:
                token = self.headers.get("authorization", "").removeprefix("Bearer ")
                known = self.path == "/v1/stores" and service.stores
                self.send_response(401 if token != service.token else 200 if known else 404)
                text = json.dumps({"stores": service.stores}).encode()
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: Any) -> None:
                pass

            def setup(self) -> None:
                super().setup()
                service._connections.append(self.connection)

        self._connections: list[socket.socket] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> RerankService:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        for connection in self._connections:  # each has a thread, which would go on answering
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()
        self._thread.join()

    def _answer(self, documents: list[str], token: str, deadline_ms: int | None) -> tuple[int, bytes]:
        time.sleep(self.delay)
        if token != self.token:
            return 401, b'{"message": "a token is needed"}'
        if self.text or self.status != 200:
            return self.status, self.text.encode()
        if deadline_ms is not None and deadline_ms < self.needs:
            results = [{"index": n, "relevance_score": -1.0 - n / 1000} for n in range(len(documents))]
            found = {"results": results, "status": "degraded", "missing": [], "reason": "the deadline passed"}
            return 200, json.dumps(found).encode()
        known = [(i, d) for i, d in enumerate(documents) if d not in self.lacking]
        results = [{"index": i, "relevance_score": float(f"{self.scores(d):.6f}")} for i, d in known]
        results.sort(key=lambda r: -r["relevance_score"])
        missing = [d for d in documents if d in self.lacking]
        results += [{"index": documents.index(d), "relevance_score": -100.5 - n} for n, d in enumerate(missing)]
        status = "ok" if not missing else "partial"
        found = {"results": results, "status": status, "missing": missing, "reason": "documents without vectors"}
        return 200, json.dumps(found).encode()
