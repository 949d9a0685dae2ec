"""The re-ranking service as commands name it: its address as a search server reaches it, and its token."""

from __future__ import annotations

from pathlib import Path

from colbert_rerank.errors import UsageError

MASK = "********"  # for a token, in what is printed


def service_url(url: str) -> str:
    """Raises UsageError for a URL that cannot stand in the settings of a search server."""
    from colbert_rerank.connection import SERVICE, split_url

    clean, user, password = split_url(url, SERVICE)
    own, path, _ = clean.partition("/v1/stores")
    if path:
        raise UsageError(f"{clean}: this is a store's address; give the service's alone, {own}")
    if user or password:
        raise UsageError(f"{clean}: the service's URL is kept in the cluster for all to read: no user goes into it")
    if "$" in clean:
        raise UsageError(f"{clean}: a $ in a URL is taken for the beginning of a template")
    return clean


def service_token(file: Path | None) -> str:
    """The token to send, the first where there are several; empty for none. Raises UsageError."""
    from colbert_rerank.connection import read_tokens

    return next(iter(read_tokens(file)), "")
