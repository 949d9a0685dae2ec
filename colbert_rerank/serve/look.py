"""What a person looks at: both rankings side by side, why a document scored, and the page that shows them."""

# No annotations as strings here: FastAPI reads them.
from importlib.resources import files
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from colbert_rerank.errors import InputError
from colbert_rerank.explanation import Explanation, explain
from colbert_rerank.request import check_text
from colbert_rerank.serve.bodies import bounded
from colbert_rerank.serve.dialects import QueryText, Text, rounded
from colbert_rerank.serve.errors import DOCUMENTED, json_answer
from colbert_rerank.serve.jobs import Asked, Job
from colbert_rerank.serve.service import Service
from colbert_rerank.serve.stores import ServedStore
from colbert_rerank.types import Query

PAGE = {
    "/ui": ("page.html", "text/html; charset=utf-8"),
    "/ui/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/ui/page.css": ("page.css", "text/css; charset=utf-8"),
}
# Nothing comes from elsewhere, nothing is sent elsewhere, and no text of a document can become a script.
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; frame-ancestors 'none'"
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class SearchRequest(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    query: QueryText
    k: Annotated[int, Field(ge=1, le=1000)] = 100
    top_n: Annotated[int, Field(ge=1, le=100)] = 10


class ExplainRequest(BaseModel):
    """``text`` is the document's; by default as the first stage has it."""

    model_config = ConfigDict(extra="ignore", strict=True)

    query: QueryText
    id: Text
    text: Text | None = None


def look(service: Service) -> APIRouter:
    router = APIRouter(responses=DOCUMENTED, route_class=bounded(service.limits.documents))

    @router.post("/v1/stores/{store}/search", tags=["look"])
    async def search(store: str, body: SearchRequest, request: Request) -> Response:
        """The first stage's best ``k``, re-ranked; of both rankings the first ``top_n``, with their texts."""
        served = service.engine.served(store)
        check_text(Query("", body.query))
        first_stage = await service.search(served.search, body.query, body.k)
        job = Job(store, body.query, [Asked(d.doc_id, None, d.score) for d in first_stage])
        answer = await service.answer(job, request.receive)
        ranks = {result.place: rank for rank, result in enumerate(answer.results, start=1)}
        scores = {result.place: result for result in answer.results}
        both = {*range(min(body.top_n, len(first_stage))), *(r.place for r in answer.results[: body.top_n])}
        shown = [(i, first_stage[i]) for i in sorted(both)]
        texts = await service.search(served.texts, [doc.doc_id for _, doc in shown])
        found = []
        for i, doc in shown:
            found.append(
                {
                    "id": doc.doc_id,
                    "first_stage": {"rank": i + 1, "score": doc.score},
                    "reranked": {"rank": ranks[i], "score": scores[i].score, "source": scores[i].source},
                    "text": texts.get(doc.doc_id),
                }
            )
        said: dict[str, Any] = {"store": store, "model": answer.model, "status": answer.status}
        said |= {"reason": answer.reason or None, "candidates": len(first_stage), "documents": found}
        return json_answer(said | {"timings_ms": rounded(answer.timings_ms)})

    @router.post("/v1/stores/{store}/explain", tags=["look"])
    async def why(store: str, body: ExplainRequest) -> Response:
        """Which of the document's tokens each token of the query chose, and what that adds to the score."""
        served = service.engine.served(store)
        text = body.text
        if text is None and served.current.candidates is not None:
            text = (await service.search(served.texts, [body.id])).get(body.id)
        found = await service.aside(_explained, (served, body.query, body.id, text))
        matches = [{"query_token": m.query_token, "row": m.row, "similarity": m.similarity} for m in found.matches]
        more = {"matches": matches, "tokens": found.tokens, "why_not": found.why_not or None}
        return json_answer({"id": body.id, "score": found.score, **more})

    for path, (name, kind) in PAGE.items():
        router.add_api_route(path, _page(name, kind), methods=["GET"], include_in_schema=False)
    return router


def _explained(asked: tuple[ServedStore, str, str, str | None]) -> Explanation:
    served, query, doc_id, text = asked
    try:
        return explain(served.reranker, query, doc_id, text)
    except InputError as error:  # a message of the library's names the store's folder
        raise InputError(str(error).replace(str(served.reranker.store.folder), f"the store {served.name!r}")) from None


def _page(name: str, kind: str) -> Any:
    content = (files("colbert_rerank.serve") / "page" / name).read_bytes()

    async def page() -> Response:
        return Response(content, media_type=kind, headers=HEADERS)

    return page
