"""The routes that re-rank, one for each dialect, at the root for texts and under each store for ids."""

# No annotations as strings here: FastAPI reads those of functions that are made for a dialect.
from enum import Enum
from typing import Any

import fastapi
import orjson
from fastapi import APIRouter, Response

from colbert_rerank.serve.bodies import bounded
from colbert_rerank.serve.dialects import (
    CohereV2Request,
    InfinityRequest,
    JinaRequest,
    Request,
    RerankRequest,
    TextsRequest,
    VllmRequest,
    VllmScoreRequest,
    VoyageRequest,
)
from colbert_rerank.serve.errors import DOCUMENTED
from colbert_rerank.serve.lengths import check_uncut
from colbert_rerank.serve.service import Service

STATUS_HEADER = "X-Colbert-Rerank-Status"

DIALECTS: dict[str, type[Request]] = {
    "/rerank": RerankRequest,
    "/v1/rerank": RerankRequest,
    "/v2/rerank": CohereV2Request,
    "/jina/v1/rerank": JinaRequest,
    "/voyage/v1/rerank": VoyageRequest,
    "/tei/rerank": TextsRequest,
    "/infinity/rerank": InfinityRequest,
    "/vllm/rerank": VllmRequest,
    "/vllm/v1/rerank": VllmRequest,
    "/vllm/v2/rerank": VllmRequest,
    "/vllm/score": VllmScoreRequest,
    "/vllm/v1/score": VllmScoreRequest,
}


def reranking(service: Service, *, in_store: bool = False) -> APIRouter:
    tags: list[str | Enum] = ["re-rank by id" if in_store else "re-rank texts"]
    router = APIRouter(tags=tags, responses=DOCUMENTED, route_class=bounded(service.limits.documents))
    for path, kind in DIALECTS.items():
        router.add_api_route(path, _route(service, kind, in_store), methods=["POST"], name=kind.__name__)
    return router


def _route(service: Service, kind: Any, in_store: bool) -> Any:
    async def answer(body: Request, store: str | None, request: fastapi.Request) -> Response:
        job = body.job(store)
        if body.uncut and len(job.texts) <= service.limits.texts:  # more are refused anyway
            await service.aside(check_uncut, (service.engine.ranker(store).encoder, job))
        found = await service.answer(job, request.receive)
        headers = {STATUS_HEADER: found.status}
        return Response(orjson.dumps(body.answer(job, found)), headers=headers, media_type="application/json")

    async def of_texts(body: kind, request: fastapi.Request) -> Response:
        return await answer(body, None, request)

    async def of_store(store: str, body: kind, request: fastapi.Request) -> Response:
        return await answer(body, store, request)

    return of_store if in_store else of_texts
