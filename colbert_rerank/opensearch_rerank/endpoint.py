"""Whether a cluster lets its connectors call an address, and the two settings that say so.

Setting the list of trusted endpoints replaces the built-in one, so what holds now is read first, and added to.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import socket
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import opensearchpy

from colbert_rerank.errors import OpenSearchError
from colbert_rerank.opensearch import server_url
from colbert_rerank.opensearch_rerank.requests import Changes, read

TRUSTED = "plugins.ml_commons.trusted_connector_endpoints_regex"
PRIVATE = "plugins.ml_commons.connector.private_ip_enabled"


class Permissions(NamedTuple):
    """What holds in a cluster, and at which level it was set: "transient", "persistent" or "defaults"."""

    patterns: tuple[str, ...]
    patterns_level: str
    private: bool
    private_level: str

    @classmethod
    def read(cls, client: opensearchpy.OpenSearch) -> Permissions:
        """Raises OpenSearchError."""
        found = read(client, "/_cluster/settings", include_defaults="true", flat_settings="true") or {}
        patterns, patterns_level = _effective(found, TRUSTED)
        private, private_level = _effective(found, PRIVATE)
        listed = tuple(map(str, patterns)) if isinstance(patterns, list) else ()
        return cls(listed, patterns_level, str(private).lower() == "true", private_level)

    def trusts(self, url: str) -> bool:
        return any(_matches(pattern, url) for pattern in self.patterns)


def _effective(found: Mapping[str, Any], name: str) -> tuple[Any, str]:
    for level in ("transient", "persistent", "defaults"):
        if name in (values := found.get(level) or {}):
            return values[name], level
    return None, "defaults"


def _matches(pattern: str, url: str) -> bool:
    """As far as Java's patterns are Python's, too; one that is not is taken for one that does not match."""
    try:
        return re.fullmatch(pattern, url) is not None
    except re.error:
        return False


def pattern_of(service: str) -> str:
    """The pattern for all addresses of a service, which is its URL without a path of ours."""
    escaped = re.sub(r"([^A-Za-z0-9/:_-])", r"\\\1", service.rstrip("/"))  # what Java reads as it stands, too
    return f"^{escaped}/.*$"


def is_private(service: str) -> bool:
    """Whether a service's host is at a private address, seen from here; a name that is not known here counts as one.

    Such a name is one of the cluster's own network, as those of containers are.
    """
    host = urlsplit(service).hostname or ""
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host, None)}
    except OSError:
        return True
    return any(not ipaddress.ip_address(str(address).partition("%")[0]).is_global for address in found)


class Permitted(NamedTuple):
    """What is added to a cluster's settings: patterns, and whether private addresses were allowed.

    ``builtin`` is a hash of the list of patterns where nobody had set one before.
    """

    patterns: Sequence[str] = ()
    private: bool = False
    builtin: str = ""


def lacking(changes: Changes, service: str, url: str) -> Permitted:
    """What has to be added before connectors may call ``url``. Raises OpenSearchError."""
    held = Permissions.read(changes.client)
    patterns = [] if held.trusts(url) else [pattern_of(service)]
    builtin = _hash(held.patterns) if patterns and held.patterns_level == "defaults" else ""
    return Permitted(patterns, is_private(service) and not held.private, builtin)


def permit(changes: Changes, permitted: Permitted) -> None:
    """Add it. Raises OpenSearchError."""
    held = Permissions.read(changes.client)
    wanted: dict[str, dict[str, Any]] = {}
    if permitted.patterns:
        wanted.setdefault(_level(held.patterns_level), {})[TRUSTED] = [*held.patterns, *permitted.patterns]
    if permitted.private:
        wanted.setdefault(_level(held.private_level), {})[PRIVATE] = True
    if not wanted:
        return
    changes.send("PUT", "/_cluster/settings", wanted)
    if not changes.dry_run and not {*permitted.patterns} <= {*Permissions.read(changes.client).patterns}:
        raise OpenSearchError(
            f"{server_url(changes.client)}: {TRUSTED} does not hold {' and '.join(permitted.patterns)} after it was "
            "added; did somebody else set it at the same time? Run this again"
        )


def withdraw(changes: Changes, permitted: Permitted) -> list[str]:
    """Take back what `permit` added; a list that is then the built-in one is set no longer.

    Returns the settings that were changed. Raises OpenSearchError.
    """
    held = Permissions.read(changes.client)
    wanted: dict[str, dict[str, Any]] = {}
    left = [pattern for pattern in held.patterns if pattern not in permitted.patterns]
    if len(left) < len(held.patterns):
        builtin = _hash(left) == permitted.builtin
        wanted.setdefault(_level(held.patterns_level), {})[TRUSTED] = None if builtin else left
    if permitted.private and held.private:
        wanted.setdefault(_level(held.private_level), {})[PRIVATE] = None
    if wanted:
        changes.send("PUT", "/_cluster/settings", wanted)
    return [name for values in wanted.values() for name in values]


def _hash(patterns: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(patterns).encode()).hexdigest()[:16]


def _level(held: str) -> str:
    """Where to write: what is set transiently hides what is persistent."""
    return "transient" if held == "transient" else "persistent"
