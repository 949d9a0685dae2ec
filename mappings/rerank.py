"""What OpenSearch is told, to have a service re-rank by document id in the middle of its searches."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from mappings.index import DOC_ID

RERANK, OVERSAMPLE, TRUNCATE = "colbert-rerank", "colbert-oversample", "colbert-truncate"  # the processors' tags
QUALIFIED_ID = "qualified_id"
_QUALIFIED = {QUALIFIED_ID: {"script": {"source": "doc['_index'].value + '/' + doc['_id'].value"}}}
_NO_TOKEN = "none"  # a connector has to have a credential, whether it is sent or not


def rerank_connector(
    name: str, service: str, store: str, *, token: str = "", read_timeout: int = 5, deadline_ms: int | None = None
) -> dict[str, Any]:
    """The body for ``POST _plugins/_ml/connectors/_create``: our service at ``service`` re-ranks by ``store``.

    ``token`` goes into the credential, which OpenSearch encrypts. ``read_timeout`` is in whole seconds, after which
    OpenSearch goes on without an answer; by ``deadline_ms`` the service answers with what it has scored.
    """
    body = _body("connector")
    body["name"] = name
    body["credential"]["token"] = token or _NO_TOKEN
    body["client_config"]["read_timeout"] = read_timeout
    (action,) = body["actions"]
    action["url"] = f"{service.rstrip('/')}/v1/stores/{quote(store, safe='')}/rerank"
    if deadline_ms is not None:
        action["request_body"] = f'{action["request_body"].removesuffix(" }")}, "deadline_ms": {deadline_ms} }}'
    if token:
        action["headers"]["Authorization"] = "Bearer ${credential.token}"
    return body


def rerank_model(name: str, connector_id: str) -> dict[str, Any]:
    """The body for ``POST _plugins/_ml/models/_register``."""
    return _body("model") | {"name": name, "connector_id": connector_id}


def rerank_pipeline(
    model_id: str, *, id_field: str = DOC_ID, oversample: int = 10, strict: bool = False, description: str = ""
) -> dict[str, Any]:
    """The body for ``PUT _search/pipeline/NAME``: ``oversample`` times as many hits as asked for, re-ranked, cut.

    ``id_field`` is what the service gets of each hit. Unless ``strict``, a search goes on in its first order where
    re-ranking fails.
    """
    body = _body("pipeline")
    body["description"] = description
    body["request_processors"][0]["oversample"]["sample_factor"] = oversample
    rerank = body["response_processors"][0]["rerank"]
    rerank["ignore_failure"] = not strict
    rerank["ml_opensearch"]["model_id"] = model_id
    rerank["context"]["document_fields"] = [id_field]
    return body


def rerank_search(query: Mapping[str, Any], text: str, *, id_field: str = DOC_ID, size: int = 10) -> dict[str, Any]:
    """The body for ``POST INDEX/_search?search_pipeline=NAME``: the hits of ``query``, re-ranked for ``text``.

    Only ids come back, in ``fields``: without stored fields this is the fastest. The sort keeps the first stage's score
    in each hit.
    """
    body = _body("search")
    body |= {"size": size, "query": dict(query)}
    body |= {"script_fields": _QUALIFIED} if id_field == QUALIFIED_ID else {"docvalue_fields": [id_field]}
    body["ext"]["rerank"]["query_context"]["query_text"] = text
    return body


def _body(name: str) -> dict[str, Any]:
    bodies: dict[str, Any] = json.loads(files("mappings").joinpath("rerank.json").read_text(encoding="utf-8"))
    body: dict[str, Any] = bodies[name]
    return body
