"""The service as a process: it listens, answers, and ends when it is told to, with what it has begun."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import suppress

from colbert_rerank.errors import MissingDependencyError, UsageError

try:
    import uvicorn

    from colbert_rerank.serve.app import create_app
    from colbert_rerank.serve.auth import Tokens
    from colbert_rerank.serve.engine import Engine
    from colbert_rerank.serve.metrics import Metrics
    from colbert_rerank.serve.service import Limits
except ModuleNotFoundError as error:
    if (error.name or "").startswith("colbert_rerank"):
        raise
    raise MissingDependencyError("HTTP services", "fastapi", "orjson", "prometheus-client", "uvicorn") from None

KEEP_ALIVE = 75  # seconds; OpenSearch keeps idle connections for 5, and none is to be closed while it is used
BACKLOG = 2048  # connections that wait to be accepted
_log = logging.getLogger(__name__)

LAST = 1  # seconds, of the grace, in which what is not done is answered by what is known of it


def listen(host: str, port: int) -> socket.socket:
    """Raises UsageError where that is not possible."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise UsageError(f"cannot listen at {host}, port {port}: {error.strerror or error}") from None
    # Connections inherit it. Else an answer's body, sent after its head, waits some 40 ms for the caller to acknowledge
    # that; asyncio sets it by itself, but not for sockets that were made without naming the protocol.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


class _Server(uvicorn.Server):
    """Which tells the engine to hurry before what is under way would be cut off."""

    def __init__(self, config: uvicorn.Config, engine: Engine, grace: int) -> None:
        super().__init__(config)
        self._engine = engine
        self._grace = grace

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        _log.info("told to end: what is under way has %d seconds", self._grace)
        asyncio.get_running_loop().call_later(max(0, self._grace - LAST), self._engine.hurry)
        await super().shutdown(sockets)
        _log.info("ended")


def run(
    engine: Engine,
    metrics: Metrics,
    tokens: Tokens,
    limits: Limits,
    listening: socket.socket,
    grace: int,
    ready: Callable[[str], None],
) -> None:
    """Serve until SIGTERM or Ctrl-C; what is under way then has ``grace`` seconds. ``ready`` is told the URL.

    What takes longer is answered by what is known of it by then.
    """
    for store in engine.stores.values():  # the first request is not to wait for what is done once
        store.reranker.encoder.encode_queries(["warm up"])
    config = uvicorn.Config(
        create_app(engine, metrics, tokens, limits),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=max(LAST, grace),
    )
    server = _Server(config, engine, grace)

    async def serve() -> None:
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        if server.started:
            host, port = listening.getsockname()[:2]
            ready(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
        await serving

    with suppress(KeyboardInterrupt):  # which the signal is raised as again when all is done
        asyncio.run(serve())
