"""The re-ranking service as it is asked from here, and not through OpenSearch."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from colbert_rerank.binding import named, same
from colbert_rerank.opensearch_rerank.findings import Finding
from colbert_rerank.types import Origin

PATIENCE = 5.0  # seconds


class NotToldError(Exception):
    """The service does not say; the message is why."""


def store_origin(service: str, store: str, token: str) -> Origin | None:
    """The index that a store of the service at this URL was made from, ``None`` for no search server's.

    Raises NotToldError.
    """
    try:
        found = _answer(f"{service.rstrip('/')}/v1/stores", token)
        told = next(one["origin"] for one in found["stores"] if one["name"] == store)
        origin = None if told is None else Origin(*(str(told[name]) for name in Origin._fields))
    except urllib.error.HTTPError as error:
        raise NotToldError(
            "it tells only with its token" if error.code == 401 else f"it answers {error.code}"
        ) from None
    except (StopIteration, LookupError, TypeError):
        raise NotToldError("it has no such store, or is of another version") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise NotToldError(f"it cannot be asked from here ({error})") from None
    if origin is not None and origin.name.count(",") != origin.uuid.count(","):
        raise NotToldError("its answer is not one of ours")
    return origin


def mismatch(store: str, origin: Origin | None, index: Origin) -> str:
    """What is wrong with a store of this ``origin`` for this ``index``; empty where it was made from it."""
    if origin is not None and same(origin, index):
        return ""
    return (
        f"the store {store!r} was made from {named(origin)}, and what is searched is {named(index)}: ids of one mean "
        "nothing in the other"
    )


def asked_from_here(url: str, query: str, ids: list[str], token: str, deadline_ms: int | None = None) -> Finding:
    """What only the service itself tells: what it had no vectors for, and whether it scored at all, in that time."""
    if urlsplit(url).scheme not in ("http", "https"):
        return Finding("service", "wrong", f"the connector's address is no http:// or https:// one: {url}")
    try:
        limit = {} if deadline_ms is None else {"deadline_ms": deadline_ms}
        found = _answer(url, token, {"query": query, "documents": ids, **limit})
    except urllib.error.HTTPError as error:
        if error.code == 401:
            if token:
                return Finding("service", "wrong", "the token given here is none of its own: --token-file FILE")
            return Finding("service", "note", "what it lacks it tells only with its token: --url URL --token-file FILE")
        return Finding("service", "wrong", f"it answers {error.code}: {error.read(300).decode(errors='replace')}")
    except (OSError, ValueError, http.client.HTTPException) as error:
        return Finding("service", "note", f"it cannot be asked from here for what it lacks: {error}")
    if not isinstance(found, dict) or not isinstance(found.get("missing") or [], list):
        return Finding("service", "wrong", "its answer is not one of ours: is it the service, and of this version?")
    status, lacking = found.get("status"), found.get("missing")
    if status == "ok":
        return Finding("service", "ok", f"it has vectors of all {len(ids)} candidates")
    if lacking:
        return Finding(
            "service",
            "wrong",
            f"it has no vectors of {len(lacking)} of {len(ids)} candidates, such as {lacking[0]!r}: ingest or sync the "
            "store; are its ids those of the index?",
        )
    return Finding("service", "wrong", f"its answer is {status}: {found.get('reason', 'it does not say why')}")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """The service sends nobody elsewhere; who does is not to get its token, nor the query."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _answer(url: str, token: str, body: object = None) -> Any:
    """Raises urllib's HTTPError, OSError, ValueError and HTTPException."""
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects)
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), headers)
    with opener.open(request, timeout=PATIENCE) as answer:
        return json.loads(answer.read())
