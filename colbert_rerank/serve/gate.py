"""The gate that every request comes through: who may, how large it is, how long it takes, and what is noted of it."""

from __future__ import annotations

import logging
import time

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from colbert_rerank.serve.auth import Tokens
from colbert_rerank.serve.errors import ElsewhereError, TooLargeError, UnauthorizedError, answer_of
from colbert_rerank.serve.metrics import Metrics

IN_STORE = "/v1/stores/{store}"
OPEN = ("/healthz", "/readyz")  # which say nothing of what is stored

_log = logging.getLogger(__name__)
_access = logging.getLogger("colbert_rerank.access")


class Gate:
    """Refuses whoever has no token, 401; where none is needed, who asks by another name than this machine's own, 421;
    and bodies of more than ``most`` bytes, announced or not, 413.

    What goes wrong behind it is an answer, too, and of the error only its kind is logged: others' texts may be in it.
    """

    def __init__(self, app: ASGIApp, *, tokens: Tokens, most: int, metrics: Metrics) -> None:
        self._app = app
        self._tokens = tokens
        self._most = most
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, code = time.perf_counter(), 0
        headers = dict(scope["headers"])
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._most:
                raise HTTPException(413, str(TooLargeError(self._most)))
            return message

        async def noted(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
            await send(message)

        def header(name: bytes) -> str:
            value: bytes = headers.get(name, b"")
            return value.decode("latin-1")

        announced, is_closed = headers.get(b"content-length", b"0"), scope["path"] not in OPEN
        if is_closed and not self._tokens.admit_host(header(b"host")):
            await answer_of(ElsewhereError())(scope, receive, noted)
        elif is_closed and not self._tokens.admit(header(b"authorization")):
            await answer_of(UnauthorizedError())(scope, receive, noted)
        elif announced.isdigit() and int(announced) > self._most:
            await answer_of(TooLargeError(self._most))(scope, receive, noted)
        else:
            try:
                await self._app(scope, counted, noted)
            except Exception as error:
                _log.error("%s %s failed: %s", scope["method"], _route(scope), type(error).__name__)
                if not code:
                    await answer_of(error)(scope, receive, noted)
        took, route = time.perf_counter() - start, _route(scope)
        self._metrics.request(route, code, took)
        _access.info("%s %s %d %.1f ms", scope["method"], route, code, 1000 * took)


def _route(scope: Scope) -> str:
    """The route's template: neither logs nor metrics grow with what strangers ask for."""
    path = getattr(scope.get("route"), "path", "none")
    inside = "store" in scope.get("path_params", {}) and not path.startswith(IN_STORE)
    return IN_STORE + path if inside else path
