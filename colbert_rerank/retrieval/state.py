"""What an index of token vectors says of itself: whose it is, what it was made with, and how far it has come.

An index is a folder beside the store's segments. Its files are written whole, each before the state that lists it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from colbert_rerank.errors import IndexBehindError, StoreCorruptError, StoreFormatError, UsageError
from colbert_rerank.store import Store, files, layout
from colbert_rerank.store.manifest import SegmentEntry

FORMAT = 1
STATE = "state.json"
LOCK = "lock"


@dataclass(frozen=True)
class Covered:
    """A segment of the store that the index covers, and the file of the index that does; see `SegmentEntry`.

    ``digest`` is of that file, or of its columns. ``base`` is the number of its first row in the index, where rows have
    numbers: no other row has it, as long as a file of the index holds this one.
    """

    segment: str
    columns: str
    rows: int
    file: str = ""
    digest: str = ""
    base: int = 0

    def is_of(self, entry: SegmentEntry) -> bool:
        return (self.segment, self.columns, self.rows) == (entry.file, entry.columns, entry.rows)


@dataclass(frozen=True)
class State:
    """``learnt`` are the file and the digest of what was learnt of a sample; ``settings`` are the builder's."""

    store_id: str
    kind: str
    settings: dict[str, Any] = field(default_factory=dict)
    learnt: tuple[str, str] = ("", "")
    segments: tuple[Covered, ...] = ()

    def covered(self, entry: SegmentEntry) -> Covered | None:
        return next((one for one in self.segments if one.is_of(entry)), None)


def folder_of(store: Store, retriever: str) -> Path:
    return store.folder / layout.TOKEN_INDEX / retriever


def load(folder: Path) -> State | None:
    """The state of the index in ``folder``; ``None`` where there is none.

    Raises StoreFormatError (a newer format), and StoreCorruptError where it is damaged.
    """
    try:
        text = (folder / STATE).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise damaged(folder, str(error)) from None
    try:
        data = json.loads(text)
        if data.pop("format") > FORMAT:
            raise StoreFormatError(f"{folder}: an index of a newer format than {FORMAT}. Use a newer colbert-rerank")
        if data.pop("checksum") != _checksum(data):
            raise ValueError("its checksum does not match")
        segments = tuple(Covered(**one) for one in data.pop("segments"))
        return State(**data | {"segments": segments, "learnt": tuple(data["learnt"])})
    except (ValueError, TypeError, KeyError) as error:
        raise damaged(folder, f"{STATE} is not a state: {error}") from None


def save(folder: Path, state: State) -> None:
    """Put ``state`` in the place of the one before it, durably. Raises StoreWriteError."""
    data = json.loads(json.dumps(asdict(state)))
    text = json.dumps({"format": FORMAT, "checksum": _checksum(data), **data}, indent=1)
    files.write_text(folder / STATE, text)


def _checksum(data: dict[str, Any]) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(data, sort_keys=True).encode())


def damaged(folder: Path, why: str) -> StoreCorruptError:
    return StoreCorruptError(
        f"{folder}: the index of token vectors is damaged: {why}. The store is not: remove the folder, and run "
        "`colbert-rerank index build` again"
    )


def opened(store: Store, retriever: str, kind: str) -> State:
    """The state of a store's index. Raises as `load` does; UsageError where there is none, or it is another store's.

    ``kind`` is what to build where there is none.
    """
    folder = folder_of(store, retriever)
    state = load(folder)
    build = building_command(store, kind if state is None else state.kind)
    if state is None:
        raise UsageError(f"{store.folder}: no index for --retriever {retriever} here; make one with {build}")
    if state.store_id != store.manifest.store_id:
        raise UsageError(f"{folder}: this index belongs to another store; remove the folder, and run {build}")
    return state


def building_command(store: Store, kind: str) -> str:
    return f"`colbert-rerank index build --store {store.folder} --kind {kind}`"


def behind(store: Store, folder: Path, kind: str, lacking: int, documents: int) -> IndexBehindError:
    return IndexBehindError(
        f"{folder}: the index lacks {lacking:,} of the store's {documents:,} documents, which have come, or were "
        f"merged or compacted, since it was built. Add them: {building_command(store, kind)}"
    )
