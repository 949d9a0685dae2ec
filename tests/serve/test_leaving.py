"""Callers that leave before their answer: nothing more is done for them, and they are counted."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message, Scope

from colbert_rerank.encoder import Encoder
from colbert_rerank.serve.app import create_app
from colbert_rerank.serve.auth import Tokens
from colbert_rerank.serve.engine import Engine
from colbert_rerank.serve.metrics import Metrics
from colbert_rerank.serve.stores import ServedStore
from tests.collection import documents, texts
from tests.serve.conftest import LIMITS
from tests.serve.stepping import Stepped

PATH = "/v1/stores/real/rerank"
IDS = [d.doc_id for d in documents(5)]


class Caller:
    """A connection that asks once, and closes when it has ``left``; ``codes`` are of the answers."""

    def __init__(self, app: ASGIApp, body: dict[str, Any]) -> None:
        self._app = app
        self._body = json.dumps({"query": "tides"} | body).encode()
        self._sent = False
        self.left = asyncio.Event()
        self.codes: list[int] = []

    async def ask(self) -> None:
        headers = [(b"content-type", b"application/json")]
        scope: Scope = {
            "type": "http",
            "method": "POST",
            "path": PATH,
            "headers": headers,
            "query_string": b"",
            "root_path": "",
        }
        await self._app(scope, self._receive, self._send)

    async def _receive(self) -> Message:
        if not self._sent:
            self._sent = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.codes.append(message["status"])


def test_nothing_is_computed_for_who_has_left(own: ServedStore, stepped: Stepped, tiny_encoder: Encoder) -> None:
    """One while its texts are encoded, which ends with the part that it is in, and twelve that wait behind it."""
    engine = Engine({"real": own}, tiny_encoder)
    app = create_app(engine, Metrics(), Tokens((), no_auth=True), LIMITS)
    callers = [Caller(app, {"documents": [{"text": t} for t in texts(8)]})]
    callers += [Caller(app, {"documents": IDS}) for _ in range(12)]

    async def all_leave() -> None:
        asking = [asyncio.create_task(callers[0].ask())]
        await asyncio.to_thread(stepped.waits)
        asking += [asyncio.create_task(one.ask()) for one in callers[1:]]
        while len(engine) < 12:
            await asyncio.sleep(0.01)
        for one in callers:
            one.left.set()
        await asyncio.gather(*asking)

    with TestClient(app) as client:
        assert client.portal is not None
        client.portal.call(all_leave)
        stepped.let(8)
        assert client.post(PATH, json={"query": "tides", "documents": IDS}).json()["status"] == "ok"
        said = client.get("/metrics").text
    assert [one.codes for one in callers] == [[499]] * 13
    assert stepped.done == [-1, len(IDS)], "the part that was under way, and the one that stayed"
    assert 'colbert_rerank_requests_total{code="499",route="/v1/stores/{store}/rerank"} 13.0' in said
