"""The HTTP application: who may ask, how much, and where."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

import colbert_rerank
from colbert_rerank.serve.about import about
from colbert_rerank.serve.auth import Tokens
from colbert_rerank.serve.engine import Engine
from colbert_rerank.serve.errors import STATUS, answer_of, refusal
from colbert_rerank.serve.gate import IN_STORE, Gate
from colbert_rerank.serve.look import look
from colbert_rerank.serve.metrics import Metrics
from colbert_rerank.serve.routes import reranking
from colbert_rerank.serve.service import Limits, Service


def create_app(engine: Engine, metrics: Metrics, tokens: Tokens, limits: Limits) -> FastAPI:
    """The application, with whose life the engine's begins and ends."""
    service = Service(engine, limits, metrics)
    metrics.watch(engine)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with engine:
            looking = asyncio.create_task(service.refresh())
            service.ready = True
            yield
            service.ready = False
            looking.cancel()
            with suppress(asyncio.CancelledError):
                await looking

    app = FastAPI(
        title="colbert-rerank",
        version=colbert_rerank.__version__,
        lifespan=lifespan,
        docs_url=None,  # it would load scripts from elsewhere
        redoc_url=None,
    )
    app.include_router(reranking(service))
    app.include_router(reranking(service, in_store=True), prefix=IN_STORE)
    app.include_router(about(service))
    app.include_router(look(service))

    app.add_middleware(Gate, tokens=tokens, most=limits.body, metrics=metrics)
    for kind in STATUS:
        app.add_exception_handler(kind, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _nowhere)
    return app


async def _refused(request: Request, error: Exception) -> Response:
    return answer_of(error)


async def _invalid(request: Request, error: Exception) -> Response:
    """What is wrong and its place, and nothing of what was sent.

    A body that is not called JSON is not read: no web page may send one that is to a service on this machine unasked.
    """
    found = error.errors() if isinstance(error, RequestValidationError) else []
    if found and found[0]["loc"] == ("body",) and "json" not in request.headers.get("content-type", ""):
        return refusal("the body is not said to be JSON: send it with the header 'Content-Type: application/json'", 422)
    if not found or found[0]["type"] == "json_invalid":
        return refusal("the body is no JSON", 422)
    # Of a value of several types each says what it is not: the one that got furthest knows best.
    first = max((e for e in found if e["loc"][:2] == found[0]["loc"][:2]), key=lambda e: len(e["loc"]))
    place = [str(part) for part in first["loc"] if str(part).isidentifier() or isinstance(part, int)]
    named = [part for part in place if part not in ("body", "str", "DocumentIn")]
    return refusal(f"{'.'.join(named) or 'the body'}: {first['msg'].removeprefix('Value error, ')}", 422)


async def _nowhere(request: Request, error: Exception) -> Response:
    code = error.status_code if isinstance(error, HTTPException) else 500
    said = {
        400: "the body cannot be read as JSON",
        404: "there is nothing here; /openapi.json lists what there is",
        405: "it takes another method; /openapi.json lists which",
    }
    detail = error.detail if isinstance(error, HTTPException) else "refused"
    return refusal(said.get(code, detail), code, error.headers if isinstance(error, HTTPException) else None)
