"""What `setup` made, as its search pipeline's description says: the cluster keeps it, and nobody else has to.

While it is made there is the part about the settings: a record without connector and model.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import opensearchpy

from colbert_rerank.opensearch_rerank.requests import part, read

_MARK = "Made by colbert-rerank opensearch setup, which reads what follows: "
_COST = {"n": 2**14, "r": 8, "p": 1}  # of scrypt: some 50 ms
PIPELINES = "/_search/pipeline"


@dataclass(frozen=True)
class Record:
    """``token`` is a salted hash of the service's token, empty where it needs none."""

    connector: str
    model: str
    token: str = ""
    patterns: Sequence[str] = ()
    private: bool = False
    builtin: str = ""

    def described(self) -> str:
        return _MARK + json.dumps(asdict(self))

    def has_token(self, token: str) -> bool:
        if not self.token or not token:
            return not self.token and not token
        salt, _, _ = self.token.partition("$")
        return hmac.compare_digest(self.token, hashed(token, salt))


def hashed(token: str, salt: str = "") -> str:
    """``SALT$HASH``; empty for no token."""
    if not token:
        return ""
    salt = salt or secrets.token_hex(8)
    return f"{salt}${hashlib.scrypt(token.encode(), salt=salt.encode(), **_COST).hex()[:32]}"


def record_of(pipeline: Mapping[str, Any]) -> Record | None:
    """The record in a pipeline's description; ``None`` where it is not ours."""
    mark, _, text = str(pipeline.get("description", "")).partition("follows: ")
    if mark + "follows: " != _MARK:
        return None
    try:
        return Record(**json.loads(text))
    except (ValueError, TypeError):
        return None


def pipeline_called(client: opensearchpy.OpenSearch, name: str) -> Mapping[str, Any] | None:
    """The body of a search pipeline, where there is one. Raises OpenSearchError."""
    found = (read(client, f"{PIPELINES}/{part(name)}") or {}).get(name)
    return found if isinstance(found, Mapping) else None


def others(client: opensearchpy.OpenSearch, name: str) -> list[Record]:
    """The records of all our pipelines but one. Raises OpenSearchError."""
    found = read(client, PIPELINES) or {}
    records = [record_of(body) for other, body in found.items() if other != name and isinstance(body, Mapping)]
    return [record for record in records if record is not None]


def not_held(records: Sequence[Record], patterns: Sequence[str]) -> list[str]:
    """Those of the patterns that are in none of the records."""
    held = {pattern for record in records for pattern in record.patterns}
    return [pattern for pattern in patterns if pattern not in held]
