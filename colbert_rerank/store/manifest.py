"""The manifest: which files a store consists of, what made it, and which index it belongs to."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import xxhash

from colbert_rerank.errors import StoreCorruptError, StoreFormatError, StoreNotFoundError
from colbert_rerank.recipe import Recipe
from colbert_rerank.store import files, layout
from colbert_rerank.types import Origin


@dataclass(frozen=True)
class SegmentEntry:
    """A sealed segment. ``posted``: its documents are known to be in the first stage's index."""

    file: str
    bytes: int
    documents: int
    rows: int
    values_offset: int
    columns: str  # digest of its columns
    posted: bool = False


@dataclass(frozen=True)
class IndexEntry:
    """The file that holds the id index of all segments listed beside it."""

    file: str
    bytes: int
    documents: int
    columns: str


@dataclass(frozen=True)
class Manifest:
    """``generation`` counts commits, ``content`` those among them that changed which documents there are."""

    store_id: str
    dim: int
    dtype: str
    query_identity: dict[str, Any]
    document_identity: dict[str, Any]
    provenance: dict[str, Any] = field(default_factory=dict)
    origin: Origin | None = None
    generation: int = 0
    content: int = 0
    complete: bool = False  # the last ingest came to its end
    segments: tuple[SegmentEntry, ...] = ()
    index: IndexEntry | None = None

    @property
    def recipe(self) -> Recipe:
        """How the documents' fields became text; part of the document identity."""
        return Recipe(tuple(self.document_identity["fields"]), self.document_identity["separator"])

    @property
    def rows(self) -> int:
        return sum(s.rows for s in self.segments)

    def next(self, **changes: Any) -> Manifest:
        return replace(self, generation=self.generation + 1, **changes)


def load(folder: Path) -> Manifest:
    """Raises StoreNotFoundError, StoreFormatError (a newer format) or StoreCorruptError."""
    path = folder / layout.MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise StoreNotFoundError(
            f"{folder}: no store here ({layout.MANIFEST} is missing); make one with `ingest`"
        ) from None
    except UnicodeDecodeError:
        raise StoreCorruptError(f"{path}: not UTF-8, so not a manifest, or a damaged one") from None
    try:
        data = json.loads(text)
        found = data["format"]
    except (ValueError, TypeError, KeyError):
        raise StoreCorruptError(f"{path}: not a manifest, or a damaged one") from None
    if found != layout.FORMAT:
        raise StoreFormatError(
            f"{path}: store format {found}; this version reads format {layout.FORMAT}. Use a newer colbert-rerank"
        )
    checksum = data.pop("checksum", None)
    if checksum != _checksum(data):
        raise StoreCorruptError(f"{path}: its checksum does not match, so it was edited or damaged")
    try:
        del data["format"]
        data["segments"] = tuple(SegmentEntry(**entry) for entry in data["segments"])
        data["index"] = IndexEntry(**data["index"]) if data["index"] else None
        data["origin"] = Origin(*data["origin"]) if data["origin"] else None
        return Manifest(**data)
    except (TypeError, KeyError) as error:
        raise StoreCorruptError(f"{path}: not a manifest of format {layout.FORMAT}: {error}") from None


def save(folder: Path, manifest: Manifest) -> None:
    """Put ``manifest`` in the place of the one before it, whole or not at all. Raises StoreWriteError."""
    data = {"format": layout.FORMAT, **asdict(manifest)}
    data["origin"] = list(manifest.origin) if manifest.origin else None
    data = json.loads(json.dumps(data))  # as it will be read, so that the checksum is over the same thing
    data["checksum"] = _checksum(data)
    text = json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False)
    files.write_whole(folder / layout.MANIFEST, lambda path: _write(path, text))


def _write(path: Path, text: str) -> None:
    path.write_text(text + "\n", encoding="utf-8")


def _checksum(data: dict[str, Any]) -> str:
    """XXH3-64 of the manifest without its checksum, as JSON with sorted keys and no spaces."""
    return xxhash.xxh3_64_hexdigest(json.dumps(data, sort_keys=True, separators=(",", ":")).encode("ascii"))
