"""The requests of a first stage, as each kind of search server takes them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import opensearchpy

from colbert_rerank.errors import OpenSearchError
from colbert_rerank.opensearch import server_url, translated
from colbert_rerank.retry import Retry, with_retry

# What goes before a search in a batch, and its body.
Search = tuple[Mapping[str, object], Mapping[str, object]]


class Cluster(Protocol):
    """OpenSearch or Elasticsearch. What is busy or away is asked again; all raise leaves of ``OpenSearchError``.

    A search that not all shards can answer is refused, and no pipeline of the cluster's changes what it finds.
    """

    server: str  # "OpenSearch" or "Elasticsearch"

    @property
    def url(self) -> str:
        """The address without user or password."""
        ...

    def search(self, index: str, body: Mapping[str, object], preference: str, retry: Retry) -> Mapping[str, Any]:
        """One answer; ``preference`` sends equal strings to the same copies of shards."""
        ...

    def search_many(self, index: str, searches: Sequence[Search], retry: Retry) -> list[dict[str, Any]]:
        """An answer for each search in order, which may be an error of its own."""
        ...


class OpenSearchCluster:
    server = "OpenSearch"

    def __init__(self, client: opensearchpy.OpenSearch) -> None:
        self._client = client
        self._no_pipeline: object = "_none"

    @property
    def url(self) -> str:
        return server_url(self._client)

    def search(self, index: str, body: Mapping[str, object], preference: str, retry: Retry) -> Mapping[str, Any]:
        params = {"search_pipeline": "_none", "preference": preference, "allow_partial_search_results": "false"}
        with translated(self._client, index=index):
            answer: Mapping[str, Any] = with_retry(
                lambda: self._client.search(index=index, body=body, params=dict(params)), retry
            )
        return answer

    def search_many(self, index: str, searches: Sequence[Search], retry: Retry) -> list[dict[str, Any]]:
        lines = ndjson([(header, {**body, "search_pipeline": self._no_pipeline}) for header, body in searches])
        try:
            with translated(self._client, index=index):
                answer = with_retry(lambda: self._client.msearch(index=index, body=lines), retry)
        except OpenSearchError as error:
            if self._no_pipeline == "_none" and "search_pipeline" in str(error):
                # Before 2.18 a body can hold a pipeline but not name one: an empty one does as well.
                self._no_pipeline = {}
                return self.search_many(index, searches, retry)
            raise
        responses: list[dict[str, Any]] = answer["responses"]
        return responses


def ndjson(searches: Sequence[Search]) -> bytes:
    """The body of an ``_msearch``, escaped to ASCII, so that a lone surrogate in a query cannot fail here."""
    return "".join(json.dumps(line) + "\n" for search in searches for line in search).encode("ascii")
