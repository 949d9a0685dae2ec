"""Bodies of requests, looked at before anything is made of them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute

from colbert_rerank.serve.errors import TooManyError


def bounded(documents: int) -> type[APIRoute]:
    """Routes that refuse bodies with a list of more than so many, 413, before any of its items is looked at.

    A body of a few megabytes has room for a million of them, and to check so many takes the service's one thread for
    answers a minute.
    """

    class Bounded(Request):
        async def json(self) -> Any:
            found = await super().json()
            lists = [value for value in found.values() if isinstance(value, list)] if isinstance(found, dict) else []
            count = max(map(len, lists), default=0)
            if count > documents:  # as what FastAPI passes on from here
                raise HTTPException(413, str(TooManyError("documents", count, documents)))
            return found

    class Route(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handler = super().get_route_handler()

            async def handle(request: Request) -> Response:
                return await handler(Bounded(request.scope, request.receive))

            return handle

    return Route
