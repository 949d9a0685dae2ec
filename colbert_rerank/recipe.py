"""How a document's fields become the one text that is encoded, and the hash that says whether it changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

HASH_BYTES = 16


PAGE_DIGEST = "page_digest"  # the field that stands for a page image: SHA-256 of its file, and the page's number


class Recipe(NamedTuple):
    """What of a document is encoded. Part of a store's document identity.

    The fields to encode, in order, and what stands between them; or, with ``pages``, the page's image, and the fields
    are those that a first stage searches. ``stride`` is that of windows over long texts, 0 where they are cut;
    ``pool_factor`` how many vectors become one (see `colbert_rerank.pooling`), or 1.
    """

    fields: tuple[str, ...] = ("title", "text")
    separator: str = " "
    pages: bool = False
    stride: int = 0
    pool_factor: int = 1

    def text(self, fields: Mapping[str, object]) -> str:
        """The text to encode: the named fields' strings, stripped, empty ones left out, joined by the separator.

        A dotted name reaches into objects; a list gives its strings in order; numbers and booleans are not text and
        are left out, as are missing fields. The result may be empty: the caller decides what that means.
        """
        parts: list[str] = []
        for name in self.fields:
            _collect(lookup(fields, name), parts)
        return self.separator.join(parts)

    def content(self, fields: Mapping[str, object]) -> str:
        """What is encoded, or what stands for it, to tell whether it has changed."""
        return str(fields.get(PAGE_DIGEST, "")) if self.pages else self.text(fields)


# Fields of a recipe that a store's identity leaves out where they are so.
RARE: dict[str, Any] = {name: Recipe._field_defaults[name] for name in ("pages", "stride", "pool_factor")}


def content_hash(text: str) -> bytes:
    """BLAKE2b of the encoded text, 16 bytes."""
    return hashlib.blake2b(text.encode("utf-8"), digest_size=HASH_BYTES).digest()


def fields_hash(doc_id: str, fields: Mapping[str, object]) -> bytes:
    """BLAKE2b of all fields as JSON, 16 bytes: another hash, and the first stage has to be told.

    An ``_id`` or ``doc_id`` that only repeats the id is left out, as an index leaves it out.
    """
    own = {name: value for name, value in fields.items() if name not in ("_id", "doc_id") or value != doc_id}
    text = json.dumps(own, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode("ascii"), digest_size=HASH_BYTES).digest()


def lookup(fields: Mapping[str, object], name: str) -> object:
    """What stands under ``name``, which may be dotted to reach into objects; ``None`` where nothing does."""
    if name in fields:  # OpenSearch sources may hold a literal "a.b" key: the exact name wins
        return fields[name]
    head, dot, rest = name.partition(".")
    if not dot:
        return None
    inner = fields.get(head)
    if isinstance(inner, Mapping):
        return lookup(inner, rest)
    if isinstance(inner, list):
        return [lookup(item, rest) for item in inner if isinstance(item, Mapping)]
    return None


def _collect(value: object, parts: list[str]) -> None:
    if isinstance(value, str):
        if stripped := value.strip():
            parts.append(stripped)
    elif isinstance(value, list):
        for item in value:
            _collect(item, parts)
