"""The files of an embedded BM25 index: what its state says of them, and what goes wrong with them."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import xxhash

from colbert_rerank.errors import IndexBehindError, StoreCorruptError, StoreReadError, StoreWriteError
from colbert_rerank.store import files, layout

META = "meta.json"  # tantivy's list of segments
MANAGED = ".managed.json"  # of all files that it made
LOCK = ".tantivy-meta.lock"  # which it makes and takes whenever it opens an index

PATIENCE = 2.0  # seconds in which most commits, with the merges that follow, come to their end

# What is to be done where the index is damaged or lost.
FILL_AGAIN = "the same `ingest` fills it anew, and encodes nothing twice"

T = TypeVar("T")


class State(NamedTuple):
    """What `state.json` says: whose index it is, how far it has come, and the files of its last commit.

    ``files`` maps names to XXH3-64; ``None`` while tantivy commits, and after a crash there.
    """

    store_id: str
    content: int  # the store's content count that the index has followed
    files: dict[str, str] | None = None


def load(folder: Path) -> State | None:
    """The state of the index in ``folder``; ``None`` where there is none.

    Raises StoreCorruptError; StoreReadError where it cannot be read.
    """
    with read_errors(folder, "opened"):
        try:
            data = json.loads((folder / layout.BM25_STATE).read_text(encoding="utf-8"))
            state = State(str(data["store_id"]), int(data["content"]), data.get("files"))
        except FileNotFoundError:
            return None
        except (KeyError, TypeError) as error:
            raise ValueError(f"{layout.BM25_STATE} is not a state: {error}") from None
        if data.get("checksum") != _checksum(state):
            raise ValueError(f"{layout.BM25_STATE} was edited or damaged")
    return state


def save(folder: Path, state: State) -> None:
    """Let ``state`` be what the index says of itself, durably. Raises StoreWriteError."""
    text = json.dumps({**state._asdict(), "checksum": _checksum(state)})
    files.write_text(folder / layout.BM25_STATE, text)


def _checksum(state: State) -> str | None:
    """Of all but the content: a wrong count makes the index look behind, and the next ingest mends that."""
    if state.files is None:
        return None
    return xxhash.xxh3_64_hexdigest(json.dumps([state.store_id, state.files], sort_keys=True).encode())


def listed(folder: Path, known: Mapping[str, str]) -> dict[str, str]:
    """The files of tantivy's last commit; the segments' are written once, and what is ``known`` is not read again."""
    names = {segment["segment_id"].replace("-", "") for segment in _segments(folder)}
    paths = [path for path in folder.iterdir() if path.name.split(".")[0] in names]
    return {
        META: files.checksum(folder / META),
        **{path.name: known.get(path.name) or files.checksum(path) for path in paths},
    }


def show(folder: Path) -> None:
    """Let all search who may read the folder: two of its files tantivy shows to their owner only."""
    for name in (META, MANAGED):
        with suppress(PermissionError):  # another user's, who has done so
            shutil.copymode(folder / LOCK, folder / name)


def holds_deleted(folder: Path) -> bool:
    """Whether a segment of tantivy's last commit still counts documents that were deleted or replaced."""
    return any(segment["deletes"] for segment in _segments(folder))


def _segments(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / META).read_bytes())["segments"]
    return found


def compare(folder: Path, known: Mapping[str, str]) -> None:
    """Raises ValueError, or OSError, where a file is not as it was committed.

    Every byte is read, once: of most damage tantivy makes other documents and other scores. XXH3 is faster than any
    disk, and what a search reads is in memory then.
    """
    for name, checksum in known.items():
        if files.checksum(folder / name) != checksum:
            raise ValueError(f"{name} is not as it was written")


def read_whole(folder: Path, read: Callable[[State | None], T]) -> T:
    """What ``read`` makes of the files of the index's state; again where a writer came between, and removed some.

    Raises StoreCorruptError, StoreReadError; IndexBehindError where writers come between again and again.
    """
    until = 0.0
    while True:
        state = load(folder)
        try:
            with read_errors(folder, "opened"):
                return read(state)
        except StoreCorruptError:
            if load(folder) == state:
                raise
        now = time.monotonic()
        until = until or now + PATIENCE
        if now > until:
            raise IndexBehindError(
                f"{folder}: the BM25 index cannot be read whole: other processes write to it all the time. Try again "
                "in a moment"
            )


@contextmanager
def read_errors(folder: Path, what: str) -> Iterator[None]:
    """Tantivy reports damage as a ValueError, or panics. What the system refuses to read need not be damaged."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise StoreReadError(
                f"{error.filename or folder}: {error.strerror or error}. It may be sound: see that this process can "
                "read it, and try again"
            ) from None
        if not isinstance(error, (ValueError, FileNotFoundError)) and not _is_panic(error):
            raise
        raise StoreCorruptError(
            f"{folder}: the BM25 index cannot be {what}: {error}. Remove it and ingest again: {FILL_AGAIN}"
        ) from None


@contextmanager
def write_errors(folder: Path) -> Iterator[None]:
    """Tantivy reports every failure to write as a ValueError, or panics."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, (ValueError, OSError)) and not _is_panic(error):
            raise
        raise StoreWriteError(f"cannot write the BM25 index in {folder}: {error}. The vectors are intact") from error


def _is_panic(error: BaseException) -> bool:
    """A panic is no Exception, and its class can be imported from nowhere."""
    return type(error).__module__ == "pyo3_runtime"
