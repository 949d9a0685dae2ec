"""The manifest: which files a store consists of, what made it, and which index it belongs to."""

from __future__ import annotations

import errno
import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import xxhash

from colbert_rerank.errors import StoreCorruptError, StoreError, StoreFormatError, StoreNotFoundError, StoreReadError
from colbert_rerank.recipe import RARE, Recipe
from colbert_rerank.store import files, layout
from colbert_rerank.types import BM25, CODECS, RESIDUALS, Origin

REPAIR = "repair"  # the name among those unfinished, where a repair has lost documents

# What stands in the place of the checksum while it is taken.
_BLANK = "0" * 16

Entry = TypeVar("Entry", "SegmentEntry", "IndexEntry", "CodebookEntry", "Manifest")


@dataclass(frozen=True)
class SegmentEntry:
    """A sealed segment.

    ``posted``: its documents are known to be in the first stage's index. ``numbered``: their sequence numbers are those
    of the index that the store belongs to, and not of one that it belonged to before.
    """

    file: str
    bytes: int
    documents: int
    rows: int
    values_offset: int
    columns: str  # digest of its columns
    posted: bool = False
    sketches_offset: int = 0
    numbered: bool = True


@dataclass(frozen=True)
class IndexEntry:
    """The file that holds the id index of all segments listed beside it."""

    file: str
    bytes: int
    documents: int
    columns: str


@dataclass(frozen=True)
class CodebookEntry:
    """The file that holds what the residual codec of this name has learnt."""

    codec: str
    file: str
    bytes: int
    columns: str


@dataclass(frozen=True)
class Manifest:
    """``generation`` counts commits, ``content`` those among them that changed which documents there are.

    ``codec`` makes rows of vectors; ``sketches`` names another, smaller one, or none, whose rows lie beside them.
    """

    store_id: str
    dim: int
    codec: str
    query_identity: dict[str, Any]
    document_identity: dict[str, Any]
    provenance: dict[str, Any] = field(default_factory=dict)
    origin: Origin | None = None
    sketches: str = ""
    codebooks: tuple[CodebookEntry, ...] = ()
    generation: int = 0
    content: int = 0
    unfinished: tuple[str, ...] = ()  # what is ingested by those that are under way, or did not come to their end
    segments: tuple[SegmentEntry, ...] = ()
    index: IndexEntry | None = None
    format: int = layout.FORMAT  # of the file that was read; `save` writes the newest

    @property
    def complete(self) -> bool:
        """All ingests came to their end, as far as is known, and the first stage's index has all that is here."""
        return not self.unfinished and all(segment.posted for segment in self.segments)

    @property
    def embedded(self) -> bool:
        """Its first stage is the BM25 index beside it."""
        return self.origin is not None and self.origin.kind == BM25

    @property
    def none_posted(self) -> bool:
        """Nothing that is here is known to be in the first stage's index, nor under way to it."""
        return bool(self.segments) and not self.unfinished and not any(segment.posted for segment in self.segments)

    @property
    def recipe(self) -> Recipe:
        """How the documents' fields became text; part of the document identity."""
        stated = self.document_identity
        rare = {name: type(default)(stated[name]) for name, default in RARE.items() if name in stated}
        return Recipe(tuple(stated["fields"]), stated["separator"], **rare)

    @property
    def vector_dtype(self) -> str:
        """What vectors are to be given in: what a codec makes of them is not to be lost before."""
        return "float16" if self.codec == "float16" else "float32"

    @property
    def files(self) -> set[str]:
        """The files in `layout.SEGMENTS` that the store consists of."""
        return {entry.file for entry in self._entries}

    @property
    def bytes(self) -> int:
        """Of all files in `layout.SEGMENTS`."""
        return sum(entry.bytes for entry in self._entries)

    @property
    def _entries(self) -> list[SegmentEntry | IndexEntry | CodebookEntry]:
        return [*self.segments, *([self.index] if self.index else []), *self.codebooks]

    @property
    def rows(self) -> int:
        return sum(s.rows for s in self.segments)

    def next(self, **changes: Any) -> Manifest:
        return replace(self, generation=self.generation + 1, **changes)


def load(folder: Path, name: str = layout.MANIFEST) -> Manifest:
    """The manifest in ``folder``, or another one beside it.

    Keys that this version does not know are skipped, and not written again.

    Raises StoreNotFoundError, StoreFormatError (a newer format) or StoreCorruptError (it is damaged, or it has gone and
    the files it listed are there).
    """
    path = folder / name
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        left = sum(1 for _ in (folder / layout.SEGMENTS).glob("*.h5")) if name == layout.MANIFEST else 0
        if left:
            raise StoreCorruptError(
                f"{folder}: {name} is missing, but {left} files of a store are there. {layout.BEGIN_AGAIN}"
            ) from None
        raise StoreNotFoundError(f"{folder}: no store here ({name} is missing); make one with `ingest`") from None
    except OSError as error:
        kind = (
            StoreReadError
            if error.errno in (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE)
            else StoreCorruptError
        )
        advice = f". {layout.BEGIN_AGAIN}" if kind is StoreCorruptError else ""
        raise kind(f"{path}: the manifest cannot be read: {error.strerror}{advice}") from None
    try:
        data = json.loads(raw.decode("utf-8"))
        found = data["format"]
    except (ValueError, TypeError, KeyError, RecursionError):  # among the ValueErrors: not UTF-8
        raise StoreCorruptError(f"{path}: not a manifest, or a damaged one. {layout.BEGIN_AGAIN}") from None
    known = type(found) is int and found > 0
    if known and found > layout.FORMAT:
        raise StoreFormatError(
            f"{path}: store format {found}; this version reads formats 1 to {layout.FORMAT}. Use a newer colbert-rerank"
        )
    if not known or not _intact(raw, data.get("checksum")):
        raise StoreCorruptError(
            f"{path}: its checksum does not match, so it was edited or damaged. {layout.BEGIN_AGAIN}"
        )
    try:
        if found == 1:
            data["codec"] = data["dtype"]
        if "unfinished" not in data:
            data["unfinished"] = [] if data["complete"] is True else [""]
        data["unfinished"] = tuple(data["unfinished"])
        data["codebooks"] = tuple(_entry(CodebookEntry, entry) for entry in data.get("codebooks", ()))
        data["segments"] = tuple(_entry(SegmentEntry, {"numbered": False, **entry}) for entry in data["segments"])
        data["index"] = _entry(IndexEntry, data["index"]) if data["index"] else None
        data["origin"] = Origin(*data["origin"]) if data["origin"] else None
        manifest = _entry(Manifest, data)
        _check_values(manifest)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise StoreCorruptError(f"{path}: not a manifest of format {found}: {error}. {layout.BEGIN_AGAIN}") from None
    return manifest


def _entry(kind: type[Entry], data: dict[str, Any]) -> Entry:
    known = {f.name for f in fields(kind)}
    return kind(**{name: value for name, value in data.items() if name in known})


def _check_values(manifest: Manifest) -> None:
    """Raises ValueError for what no writer of this format writes, so that reading can rely on it."""
    numbers = [manifest.dim, manifest.generation, manifest.content]
    numbers += [entry.bytes for entry in manifest._entries]
    numbers += [n for s in manifest.segments for n in (s.documents, s.rows, s.values_offset, s.sketches_offset)]
    numbers += [manifest.index.documents] if manifest.index else []
    if not all(type(n) is int and n >= 0 for n in numbers) or manifest.dim == 0:
        raise ValueError("a number in it is not one, or below zero")
    texts = [manifest.store_id, *manifest.unfinished, *manifest.files, *(entry.columns for entry in manifest._entries)]
    objects = [manifest.query_identity, manifest.document_identity, manifest.provenance]
    flags = [flag for segment in manifest.segments for flag in (segment.posted, segment.numbered)]
    for values, kind in ((texts, str), (objects, dict), (flags, bool)):
        if not all(isinstance(value, kind) for value in values):
            raise ValueError(f"something in it is no {kind.__name__}")
    manifest.recipe  # noqa: B018 - which raises where the identity lacks one
    if manifest.codec not in CODECS or manifest.sketches not in ("", *CODECS):
        raise ValueError(f"vectors coded as {manifest.codec!r} and {manifest.sketches!r}")
    if any(book.codec not in RESIDUALS for book in manifest.codebooks):
        raise ValueError("a codebook of a codec that needs none")
    for file in manifest.files:
        if Path(file).name != file:
            raise ValueError(f"a file outside the store: {file!r}")


def unindexed(folder: Path, manifest: Manifest) -> bool:
    """Whether the store in ``folder`` is to have a BM25 index beside it that was not made yet, as after an import."""
    return manifest.embedded and manifest.none_posted and not (folder / layout.BM25 / layout.BM25_STATE).exists()


def listed_files(folder: Path) -> set[str]:
    """The files in `layout.SEGMENTS` that any manifest of the store lists. Raises as `load` does for the first one.

    One that cannot be read of a generation that is being made lists nothing: it is made anew.
    """
    listed = load(folder).files
    with suppress(StoreError):
        listed |= load(folder, layout.NEXT).files
    return listed


def save(folder: Path, manifest: Manifest, name: str = layout.MANIFEST) -> None:
    """Put ``manifest`` in the place of the one before it, whole or not at all. Raises StoreWriteError."""
    data = asdict(manifest) | {"format": layout.FORMAT}
    data["origin"] = list(manifest.origin) if manifest.origin else None
    data["checksum"] = _BLANK  # the first key in order, so its digits are the first in the file
    blank = json.dumps(data, indent=1, sort_keys=True) + "\n"
    text = blank.replace(_BLANK, _checksum(blank.encode("ascii")), 1)
    files.write_text(folder / name, text)


def _checksum(blank: bytes) -> str:
    """XXH3-64 of the manifest's bytes, the digits of the checksum itself being zeros."""
    return xxhash.xxh3_64_hexdigest(blank)


def _intact(raw: bytes, checksum: object) -> bool:
    return (
        isinstance(checksum, str)
        and len(checksum) == len(_BLANK)
        and _checksum(raw.replace(checksum.encode(), _BLANK.encode(), 1)) == checksum
    )
