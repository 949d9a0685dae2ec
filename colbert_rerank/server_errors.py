"""What a search server's failures mean, OpenSearch's and Elasticsearch's: what failed, where, and what to do."""

from __future__ import annotations

import re
from collections.abc import Mapping

from colbert_rerank.connection import OPENSEARCH
from colbert_rerank.errors import (
    IndexNotFoundError,
    OpenSearchAuthError,
    OpenSearchError,
    OpenSearchUnreachableError,
)

# What OpenSSL, by its version, calls an answer that is not TLS.
_PLAIN_HTTP = re.compile("wrong.version.number|record.layer.failure", re.IGNORECASE)


def untrusted(url: str, cause: object) -> OpenSearchUnreachableError:
    """No TLS connection, for this ``cause``."""
    if _PLAIN_HTTP.search(str(cause)):
        return OpenSearchUnreachableError(f"{url}: no TLS is spoken there; write http://")
    return OpenSearchUnreachableError(
        f"{url}: no trusted TLS connection ({first_line(cause)}); give the certificate authority that "
        "signed the server's certificate as CA file, and the host name that the certificate is made for"
    )


def no_answer(url: str) -> OpenSearchUnreachableError:
    return OpenSearchUnreachableError(f"{url}: no answer in time; raise the timeout, or look at the server's load")


def out_of_reach(url: str, server: str, cause: object) -> OpenSearchUnreachableError:
    """No connection to what should be a ``server`` (OpenSearch or Elasticsearch)."""
    hint = "if it speaks TLS, write https://" if url.startswith("http://") else "if it speaks no TLS, write http://"
    return OpenSearchUnreachableError(
        f"{url}: cannot reach {server} ({first_line(cause)}); check that it runs and that the URL is right ({hint})"
    )


def not_json(url: str) -> OpenSearchError:
    return OpenSearchError(f"{url} answered something that is not JSON; check the URL")


def refused(
    url: str, index: str, server: str, status: int, kind: str, reason: str, *, anonymous: bool
) -> OpenSearchError:
    """An answer with an error ``status``, the server's name for it and its reasons."""
    at = f"{url}, index {index!r}" if index else url
    if status == 401 and anonymous:
        return OpenSearchAuthError(
            f"{url}: {server} wants credentials (401) and got none; give a user and password, an API key or a token"
        )
    if status == 401:
        return OpenSearchAuthError(f"{url}: {server} does not accept these credentials (401); check user and secret")
    if status == 403 and kind != "cluster_block_exception":
        return OpenSearchAuthError(f"{at}: these credentials do not permit it (403 {reason})")
    if kind == "index_not_found_exception":
        ours = ", or ingest documents first" if server == OPENSEARCH else ""
        return IndexNotFoundError(f"{at}: there is no such index; check its name{ours}")
    return OpenSearchError(f"{at}: {server} answered {status} {kind}: {reason}".replace(f"{kind}: {kind}", kind))


def error_reason(error: object) -> str:
    """The reasons inside a server's error object, outermost first, without repetition."""
    reasons: list[str] = []
    while isinstance(error, Mapping):
        reason = first_line(error.get("reason"))
        if reason and reason not in reasons:
            reasons.append(reason)
        inner = error.get("caused_by")
        if inner is None and (failed := error.get("failed_shards")):
            inner = failed[0].get("reason")
        error = inner
    if isinstance(error, str):
        reasons.append(first_line(error))
    return "; ".join(reasons)


def first_line(text: object) -> str:
    lines = str(text or "").strip().splitlines()
    line = lines[0] if lines else ""
    return line if len(line) <= 300 else f"{line[:145]} ... {line[-145:]}"  # what is wrong often stands at the end
