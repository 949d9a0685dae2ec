"""What Elasticsearch is told, to have a service re-rank by document id in the middle of a search."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from mappings.index import DOC_ID


def inference_endpoint(url: str, store: str, *, api_key: str = "") -> dict[str, Any]:
    """The body for ``PUT _inference/rerank/ID``: its service ``custom`` asks ours at ``url`` to score by ``store``.

    Without an ``api_key`` a placeholder stands for it. What is called a document there is the value of one field, which
    `reranking_search` makes the id.
    """
    body = _body("endpoint")
    settings = body["service_settings"]
    settings["url"] = f"{url.rstrip('/')}/v1/stores/{quote(store, safe='')}/rerank"
    if api_key:
        settings["secret_parameters"]["api_key"] = api_key
    return body


def reranking_search(
    query: str,
    *,
    text_field: str,
    inference_id: str,
    id_field: str = DOC_ID,
    size: int = 10,
    window: int = 100,
    strict: bool = False,
) -> dict[str, Any]:
    """The body for ``POST INDEX/_search``: the first ``window`` of a ``match`` on ``text_field``, re-ranked.

    ``id_field`` is sent to the endpoint; it must hold the id of each document. Unless ``strict``, a search goes on in
    its first order where re-ranking fails.
    """
    body = _body("search")
    body["size"] = size
    reranker = body["retriever"]["text_similarity_reranker"]
    reranker["retriever"]["standard"]["query"]["match"][text_field] = query
    reranker |= {"field": id_field, "inference_id": inference_id, "inference_text": query, "rank_window_size": window}
    if strict:
        del reranker["allow_rerank_failures"]
    return body


def _body(name: str) -> dict[str, Any]:
    bodies: dict[str, Any] = json.loads(files("mappings").joinpath("elasticsearch.json").read_text(encoding="utf-8"))
    body: dict[str, Any] = bodies[name]
    return body
