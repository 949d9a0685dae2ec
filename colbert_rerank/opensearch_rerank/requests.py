"""Requests to a cluster's ml-commons, settings and search pipelines, which opensearch-py has no methods for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

import opensearchpy

from colbert_rerank.errors import OpenSearchError
from colbert_rerank.opensearch import server_url, translated
from colbert_rerank.retry import with_retry

ML = "/_plugins/_ml"

Shown = Callable[[str, str, Any], None]
"""What is told method, path and body of a request."""


def read(client: opensearchpy.OpenSearch, path: str, body: object = None, **params: str) -> Mapping[str, Any] | None:
    """What a request answers that changes nothing; ``None`` for what is not there. Raises OpenSearchError."""
    method = "GET" if body is None else "POST"
    try:
        with translated(client):
            found = with_retry(lambda: client.transport.perform_request(method, path, params=params or None, body=body))
    except OpenSearchError as error:
        if status_of(error) == 404:
            return None
        raise
    return found if isinstance(found, Mapping) else {}


class Changes:
    """Sends what changes something, after it was ``shown``; of a dry run nothing is sent."""

    def __init__(self, client: opensearchpy.OpenSearch, *, dry_run: bool = False, shown: Shown | None = None) -> None:
        self.client = client
        self.dry_run = dry_run
        self._shown = shown

    def send(self, method: str, path: str, body: object = None) -> Mapping[str, Any]:
        """The answer; empty in a dry run. Raises OpenSearchError."""
        if self._shown is not None:
            self._shown(method, path, body)
        if self.dry_run:
            return {}
        with translated(self.client):  # once: a second "create" would leave the first behind
            found = self.client.transport.perform_request(method, path, body=body)
        if not isinstance(found, Mapping):
            raise OpenSearchError(f"{server_url(self.client)}: {method} {path} was answered by no JSON object")
        return found

    def remove(self, path: str) -> None:
        """DELETE what may be gone already."""
        try:
            self.send("DELETE", path)
        except OpenSearchError as error:
            if status_of(error) != 404:
                raise


def status_of(error: OpenSearchError) -> int:
    """The HTTP status that an error of ours stands for; 0 where there was no answer."""
    status = getattr(error.__cause__, "status_code", 0)
    return status if isinstance(status, int) else 0


def reason_of(error: OpenSearchError) -> str:
    """What the server said, as far as it is known."""
    info = getattr(error.__cause__, "info", None)
    if isinstance(info, Mapping):
        found = info.get("error")
        reason = found.get("reason") if isinstance(found, Mapping) else found
        return str(reason or info)
    return str(error)


def part(name: str) -> str:
    """A name as a part of a path."""
    return quote(name, safe="")
