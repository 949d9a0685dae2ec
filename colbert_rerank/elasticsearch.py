"""The way to an Elasticsearch cluster, 8 or 9, through the official client: the requests of a first stage.

Every request says ``compatible-with=8``, which servers of both versions take, whichever of them the client is made for
(by itself it speaks its own version, and an older server refuses it). `GET /` is not needed: the client looks for the
server's name in the header of an answer.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlsplit

from colbert_rerank.candidates.cluster import Search, ndjson
from colbert_rerank.connection import ELASTICSEARCH, Connection
from colbert_rerank.errors import IndexNotFoundError, MissingDependencyError, OpenSearchError
from colbert_rerank.indices import IndexInfo, check_name, infos_of
from colbert_rerank.retry import BUSY_STATUS, READ, Passing, Retry, parse_retry_after, with_retry
from colbert_rerank.server_errors import (
    error_reason,
    first_line,
    no_answer,
    not_json,
    out_of_reach,
    refused,
    untrusted,
)

try:
    import elastic_transport
    import elasticsearch
except ImportError as error:
    raise MissingDependencyError("candidates from Elasticsearch", "elasticsearch") from error

_JSON = "application/vnd.elasticsearch+json; compatible-with=8"
_NDJSON = "application/vnd.elasticsearch+x-ndjson; compatible-with=8"
# What a server that is none answers to a request that it does not understand.
_NOT_UNDERSTOOD = frozenset({400, 404, 405, 406, 415})

_log = logging.getLogger(__name__)


class _OneNode(elastic_transport.NodePool):
    """There is no other address to turn to, so that none is called dead: callers get exceptions, not log lines too."""

    def mark_dead(self, node: elastic_transport.BaseNode, _now: float | None = None) -> None:
        pass


def connect(connection: Connection, *, pool_size: int = 16) -> elasticsearch.Elasticsearch:
    """A client for the cluster; contacts nothing yet. ``pool_size`` bounds its connections, one per thread in use."""
    parts = urlsplit(connection.url)
    secure = parts.scheme == "https"
    options: dict[str, Any] = {}
    if secure:
        options = {"verify_certs": connection.verify, "ssl_show_warn": False}
        if connection.ca_file:
            options["ca_certs"] = connection.ca_file
        if not connection.verify:
            _log.warning("%s: the server's certificate is not verified", connection.url)
            options["ssl_assert_hostname"] = False
    return elasticsearch.Elasticsearch(
        [
            {
                "scheme": parts.scheme,
                "host": parts.hostname or "",
                "port": parts.port or (443 if secure else 9200),
                "path_prefix": parts.path,
            }
        ],
        headers={"authorization": connection.authorization} if connection.authorization else {},
        node_pool_class=_OneNode,
        max_retries=0,  # ours know Retry-After; the library's repeat at once
        request_timeout=connection.timeout,
        connections_per_node=pool_size,
        **options,
    )


class ElasticsearchCluster:
    """See `colbert_rerank.candidates.cluster.Cluster`."""

    server = ELASTICSEARCH

    def __init__(self, client: elasticsearch.Elasticsearch) -> None:
        self._client = client

    @property
    def url(self) -> str:
        (node, *_) = self._client.transport.node_pool.all()
        return node.base_url

    def resolve(self, name: str) -> list[IndexInfo]:
        """The concrete indices behind an index, alias, data stream or pattern, by name. One read request.

        Nobody is waited for here: the URL may be wrong. Raises ``IndexNotFoundError``; ``OpenSearchAuthError`` where
        the user lacks ``view_index_metadata``.
        """
        check_name(name)
        answer = self._call("GET", name, "", retry=READ, unreachable=False)
        if not answer:
            raise IndexNotFoundError(f"{self.url} has no index {name!r}")
        return infos_of(answer)

    def search(self, index: str, body: Mapping[str, object], preference: str, retry: Retry) -> Mapping[str, Any]:
        params = {"preference": preference, "allow_partial_search_results": "false"}
        return self._call("POST", index, "/_search", retry=retry, params=params, body=dict(body))

    def search_many(self, index: str, searches: Sequence[Search], retry: Retry) -> list[dict[str, Any]]:
        answer = self._call("POST", index, "/_msearch", retry=retry, body=ndjson(searches), content=_NDJSON)
        responses: list[dict[str, Any]] = answer["responses"]
        return responses

    def _call(
        self,
        method: str,
        index: str,
        path: str,
        *,
        retry: Retry,
        unreachable: bool = True,
        params: Mapping[str, str] | None = None,
        body: object = None,
        content: str = _JSON,
    ) -> Mapping[str, Any]:
        headers = {"accept": _JSON} | ({"content-type": content} if body is not None else {})

        def action() -> object:
            target = f"/{quote(index, safe=',*')}{path}"
            return self._client.perform_request(method, target, params=params, headers=headers, body=body).body

        with self._translated(index):
            answer = with_retry(action, retry, unreachable=unreachable, passing=_passing)
        if not isinstance(answer, Mapping):
            raise not_json(self.url)
        return answer

    @contextmanager
    def _translated(self, index: str) -> Iterator[None]:
        """Turn the client's exceptions into ours: what failed, where, and what to do."""
        try:
            yield
        except (elastic_transport.TransportError, elasticsearch.ApiError) as error:
            raise translate(error, self.url, index) from error


def translate(
    error: elastic_transport.TransportError | elasticsearch.ApiError, url: str, index: str = ""
) -> OpenSearchError:
    """The error of ours for one of the official client's."""
    if isinstance(error, elasticsearch.ApiError):
        return _translate_answer(error, url, index)
    if isinstance(error, elastic_transport.TlsError):
        return untrusted(url, error.message)
    if isinstance(error, elastic_transport.ConnectionTimeout):
        return no_answer(url)
    if isinstance(error, elastic_transport.SerializationError):
        return not_json(url)
    return out_of_reach(url, ELASTICSEARCH, error.message)


def _translate_answer(error: elasticsearch.ApiError, url: str, index: str) -> OpenSearchError:
    status = error.meta.status
    named = error.meta.headers.get("x-elastic-product") == ELASTICSEARCH
    if isinstance(error, elasticsearch.UnsupportedProductError) or (status in _NOT_UNDERSTOOD and not named):
        return OpenSearchError(
            f"{url} answers, but not as Elasticsearch does; check the URL. An OpenSearch is named by --opensearch"
        )
    body = error.body if isinstance(error.body, Mapping) else {}
    reason = error_reason(body.get("error")) or first_line(error.body)
    anonymous = "missing authentication credentials" in reason
    return refused(url, index, ELASTICSEARCH, status, first_line(error.message), reason, anonymous=anonymous)


def _passing(error: Exception) -> Passing | None:
    if isinstance(error, elasticsearch.ApiError):
        if error.meta.status not in BUSY_STATUS:
            return None
        return Passing(error.meta.status, False, parse_retry_after(error.meta.headers.get("retry-after")))
    away = (elastic_transport.ConnectionError, elastic_transport.ConnectionTimeout)
    if isinstance(error, away) and not isinstance(error, elastic_transport.TlsError):
        return Passing("no answer", True)
    return None
