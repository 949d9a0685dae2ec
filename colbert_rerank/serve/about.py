"""The routes that say what is here, whether it is well, and what it did; and token vectors for whoever wants them."""

# No annotations as strings here: FastAPI reads them.
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import PlainTextResponse

import colbert_rerank
from colbert_rerank.checkpoints.location import public_name
from colbert_rerank.serve.bodies import bounded
from colbert_rerank.serve.dialects import QueryText, Text
from colbert_rerank.serve.errors import DOCUMENTED, NotReadyError, json_answer
from colbert_rerank.serve.service import Service
from colbert_rerank.types import BM25, Origin


class EncodeRequest(BaseModel):
    """Texts of one kind; of queries the expansion is part."""

    model_config = ConfigDict(extra="ignore", strict=True)

    queries: Annotated[list[QueryText], Field(max_length=64)] = []
    documents: Annotated[list[Text], Field(max_length=64)] = []
    store: Text | None = None  # whose model encodes them


def about(service: Service) -> APIRouter:
    router = APIRouter(responses=DOCUMENTED, route_class=bounded(service.limits.documents))
    engine = service.engine

    @router.get("/healthz", tags=["health"])
    async def healthz() -> Response:
        """Whether the process answers."""
        return json_answer({"status": "ok"})

    @router.get("/readyz", tags=["health"])
    async def readyz() -> Response:
        """Whether it can re-rank: 503 before it has begun, from the moment it is told to end, and with no store that
        can be read.
        """
        if not (service.ready and engine.alive):
            raise NotReadyError("it is starting, or ending")
        if all(store.damage for store in engine.stores.values()):
            raise NotReadyError("all of its stores are damaged")
        return json_answer({"status": "ok"})

    @router.get("/metrics", tags=["about"], response_class=PlainTextResponse)
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @router.get("/info", tags=["about"])
    async def info() -> Response:
        encoder = engine.texts.encoder
        return json_answer(
            {
                "name": "colbert-rerank",
                "version": colbert_rerank.__version__,
                "model_id": public_name(encoder.checkpoint.name),
                "model_dtype": encoder.dtype,
                "device": str(encoder.device),
                "max_documents": service.limits.documents,
                "max_texts": service.limits.texts,
                "max_body_bytes": service.limits.body,
                "stores": _stores(service),
            }
        )

    @router.get("/v1/models", tags=["about"])
    async def models() -> Response:
        encoders = [engine.texts.encoder, *(store.reranker.encoder for store in engine.stores.values())]
        names = dict.fromkeys(public_name(encoder.checkpoint.name) for encoder in encoders)
        data = [{"id": name, "object": "model", "owned_by": "colbert-rerank"} for name in names]
        return json_answer({"object": "list", "data": data})

    @router.get("/v1/stores", tags=["about"])
    async def stores() -> Response:
        return json_answer({"stores": _stores(service)})

    @router.post("/encode", tags=["vectors"])
    async def encode(body: EncodeRequest) -> Response:
        """Token vectors [tokens, dim] of each text, as the model has them before a store rounds them."""
        encoder = engine.ranker(body.store).encoder
        found: dict[str, Any] = {"model": public_name(encoder.checkpoint.name), "dim": encoder.dim}
        found["queries"] = [m.tolist() for m in await service.aside(encoder.encode_queries, body.queries)]
        matrices = await service.aside(encoder.encode_documents, body.documents)
        found["documents"] = [np.asarray(m, np.float32).tolist() for m in matrices]
        return json_answer(found)

    return router


def _stores(service: Service) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "generation": store.generation,
            "documents": len(store.reranker.store),
            "dim": store.reranker.store.manifest.dim,
            "codec": store.reranker.store.manifest.codec,
            "model": public_name(store.reranker.encoder.checkpoint.name),
            "origin": _origin(store.reranker.store.manifest.origin),
            "residence": store.reranker.residence.where,
            "stale": store.fault or None,
            "damaged": store.damage or None,
            "first_stage_away": store.away or None,
        }
        for name, store in service.engine.stores.items()
    ]


def _origin(origin: Origin | None) -> dict[str, str] | None:
    """The search server's index that a store was made from; of the one beside it nobody else knows."""
    return None if origin is None or origin.kind == BM25 else origin._asdict()
