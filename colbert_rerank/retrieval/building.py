"""What builds of all indices of token vectors have in common: one at a time, fed from the store, tidy at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from colbert_rerank.errors import StoreWriteError, UsageError
from colbert_rerank.retrieval import state as states
from colbert_rerank.retrieval.state import State
from colbert_rerank.store import Store, files
from colbert_rerank.store.codecs import Matrix, decode
from colbert_rerank.store.columns import Array

AT_ONCE = 1 << 16  # rows that are decoded at once
SEED = 20261128

Progress = Callable[[int], None]


@contextmanager
def building(folder: Path) -> Iterator[None]:
    """Hold the index in ``folder``, which is made, alone. Raises StoreWriteError."""
    files.make_folder(folder)
    lock = files.Lock(folder / states.LOCK)
    try:
        if not lock.take():
            raise StoreWriteError(f"{folder}: another process builds this index. Wait for its end, and try again")
        yield
    finally:
        lock.release()


def check_vectors(store: Store) -> None:
    """Raises UsageError where there are none."""
    if not store.manifest.rows:
        raise UsageError(f"{store.folder}: this store holds no vectors yet: put some into it with `ingest`")


def sample(store: Store, size: int) -> Matrix:
    """So many of a store's vectors [size, d], drawn evenly and without repetition. Raises StoreCorruptError."""
    plane, codec = store.plane()
    counts = plane.row_counts
    drawn = np.sort(np.random.default_rng(SEED).choice(int(counts.sum()), size, replace=False))
    ends = np.cumsum(counts)
    segments = np.searchsorted(ends, drawn, side="right")
    taken = plane.take(segments, drawn - (ends - counts)[segments], np.ones_like(drawn))
    return decode(codec, taken)


def blocks(store: Store, number: int, *, sketches: bool = False) -> Iterator[Array]:
    """The rows of segment ``number`` in order, as they are coded, some at once. Raises StoreCorruptError."""
    plane, _ = store.plane(sketches=sketches)
    rows = store.segments[number].entry.rows
    for start in range(0, rows, AT_ONCE):
        yield plane.take(np.array([number]), np.array([start]), np.array([min(AT_ONCE, rows - start)]))


def without_gone(store: Store, folder: Path, state: State) -> State:
    """The state without files of which no segment is the store's any more, saved: their names may be taken again."""
    kept = {one.file for entry in store.manifest.segments if (one := state.covered(entry))}
    segments = tuple(one for one in state.segments if one.file in kept)
    if len(segments) < len(state.segments):
        state = replace(state, segments=segments)
        states.save(folder, state)
    return state


def sweep(folder: Path, state: State) -> None:
    """Remove what the state does not list."""
    listed = {states.STATE, states.LOCK, state.learnt[0], *(one.file for one in state.segments)}
    for path in folder.iterdir():
        if path.name not in listed:
            files.unlink(path)
