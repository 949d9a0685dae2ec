"""What the gateway can do to a request instead of passing it on faithfully."""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

BULK = "_bulk"


@dataclass
class Fault:
    """Base: the next ``times`` requests whose path has ``path`` as one of its parts ("" means any request)."""

    path: str = BULK
    times: int = 1

    def matches(self, path: str, body: bytes) -> bool:
        return not self.path or self.path in urlsplit(path).path.split("/")


@dataclass
class Refuse(Fault):
    """Answer with ``status``, as an overloaded cluster does; nothing reaches OpenSearch."""

    status: int = 429
    retry_after: str | None = None  # the header's value: seconds or an HTTP date


@dataclass
class Drop(Fault):
    """Reset the connection: before OpenSearch sees the request, or after it did the work (the answer is lost)."""

    after: bool = False


@dataclass
class Hold(Fault):
    """Keep the request until ``release`` is set, as a server that hangs does."""

    release: threading.Event = field(default_factory=threading.Event)


@dataclass
class Slow(Fault):
    """Wait before passing the request on."""

    seconds: float = 1.0


@dataclass
class RejectItems(Fault):
    """Let OpenSearch have the bulk request without the documents in ``ids``, and report these as rejected.

    Counts only the requests that hold one of them: others may overtake those.
    """

    ids: Collection[str] = ()
    status: int = 429
    type: str = "rejected_execution_exception"
    reason: str = "rejected execution of coordinating operation"

    def matches(self, path: str, body: bytes) -> bool:
        return super().matches(path, body) and bool(without_items(body, self.ids)[1])


def refusal(status: int) -> bytes:
    """The body of an overloaded cluster's answer."""
    kind, reason = (
        ("rejected_execution_exception", "rejected execution of coordinating operation")
        if status == 429
        else ("cluster_block_exception", "blocked by: [SERVICE_UNAVAILABLE/1/state not recovered / initialized];")
    )
    cause = {"type": kind, "reason": reason}
    return json.dumps({"error": {"root_cause": [cause], **cause}, "status": status}).encode()


def bulk_actions(body: bytes) -> Iterator[tuple[str, dict[str, Any], list[str]]]:
    """The actions of a bulk body: name, metadata, and their lines."""
    lines = [line for line in body.decode().split("\n") if line.strip()]
    at = 0
    while at < len(lines):
        ((action, meta),) = json.loads(lines[at]).items()
        length = 1 if action == "delete" else 2
        yield action, meta, lines[at : at + length]
        at += length


def refused_items(body: bytes, path: str, who: str) -> bytes:
    """The answer to a bulk request of a user who may not write."""
    permissions = {"create": "index"}
    actions = list(bulk_actions(body))
    needed = dict.fromkeys(f"indices:data/write/{permissions.get(name, name)}" for name, _, _ in actions)
    reason = f"no permissions for [{', '.join(['indices:data/write/bulk[s]', *needed])}] and {who}"
    error = {"type": "security_exception", "reason": reason}
    index = path.strip("/").partition("/")[0]  # of /index/_bulk
    items = [
        {name: {"_index": meta.get("_index", index), "_id": meta.get("_id"), "status": 403, "error": error}}
        for name, meta, _ in actions
    ]
    return json.dumps({"took": 0, "errors": True, "items": items}).encode()


def without_items(body: bytes, ids: Collection[str]) -> tuple[bytes, list[tuple[int, str, dict[str, Any]]]]:
    """A bulk body without the actions on ``ids``, and what was taken out: (position, action, its metadata)."""
    kept: list[str] = []
    taken: list[tuple[int, str, dict[str, Any]]] = []
    for position, (action, meta, lines) in enumerate(bulk_actions(body)):
        if str(meta.get("_id")) in ids:
            taken.append((position, action, meta))
        else:
            kept += lines
    return "".join(line + "\n" for line in kept).encode(), taken


def with_rejections(answer: bytes, taken: Sequence[tuple[int, str, dict[str, Any]]], fault: RejectItems) -> bytes:
    """OpenSearch's bulk answer with the rejected items put back at their positions."""
    parsed = json.loads(answer)
    parsed["errors"] = parsed["errors"] or bool(taken)
    for position, action, meta in taken:
        error = {"type": fault.type, "reason": fault.reason}
        item = {"_index": meta.get("_index"), "_id": meta["_id"], "status": fault.status, "error": error}
        parsed["items"].insert(position, {action: item})
    return json.dumps(parsed).encode()
