"""The id index: hashes find, bytes decide."""

from __future__ import annotations

import ctypes
import tracemalloc
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from colbert_rerank import native
from colbert_rerank.store import Store, ids, layout, lookup
from colbert_rerank.store.columns import Array
from colbert_rerank.store.ids import IdIndex, Locations
from tests.store import stores


def columns(doc_ids: Sequence[str], rows: npt.ArrayLike) -> dict[str, Array]:
    keys = [doc_id.encode() for doc_id in doc_ids]
    return {
        layout.ROW_COUNTS: np.array(rows, dtype=np.uint32),
        layout.ID_LENGTHS: np.array([len(k) for k in keys], dtype=np.uint16),
        layout.ID_BYTES: np.frombuffer(b"".join(keys), dtype=np.uint8),
    }


Hash = Callable[[Iterable[bytes | memoryview], int], npt.NDArray[np.uint64]]


def bits(number: int) -> Hash:
    """A hash of so few values that ids must share them."""

    def hash_ids(keys: Iterable[bytes | memoryview], count: int) -> npt.NDArray[np.uint64]:
        return np.array([xxhash.xxh3_64_intdigest(key) % 2**number for key in keys], dtype=np.uint64)

    return hash_ids


def collide(patch: pytest.MonkeyPatch, number: int) -> None:
    """Have NumPy's way and the compiled one use that hash."""

    def weak(place: int, size: int) -> int:
        key = ctypes.string_at(place, size)
        return int(bits(number)([key], 1)[0])

    function = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_size_t)(weak)
    address = ctypes.cast(function, ctypes.c_void_p).value
    patch.setattr(ids, "hash_ids", bits(number))
    patch.setattr(lookup, "hash_address", lambda kept=function: address)  # which is valid while the function is


@pytest.fixture
def colliding(monkeypatch: pytest.MonkeyPatch) -> None:
    collide(monkeypatch, 2)


def lookups(index: IdIndex, asked: Sequence[str]) -> Locations:
    """What the compiled lookup finds, once NumPy's has found the same."""
    assert index._native is not None
    found = index.lookup(asked)
    for one, other in zip(found, index.search(asked), strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype
    return found


def test_ids_of_one_hash_are_told_apart(colliding: None) -> None:
    stored = ["".join(letters) for letters in product("abc", repeat=3)]
    index = IdIndex(ids.build([columns(stored, list(range(len(stored))))]))
    assert len(set(bits(2)([i.encode() for i in stored], 27).tolist())) == 4  # so that each hash holds about seven ids
    unknown = ["".join(letters) for letters in product("cd", repeat=3) if "d" in letters] + ["a", "aaaa", ""]
    asked = [*unknown, *reversed(stored)]
    at = lookups(index, asked)
    assert at.found.tolist() == [doc_id in stored for doc_id in asked]
    assert [stored[o] for o in at.ordinals[at.found].tolist()] == stored[::-1]
    assert at.row_counts[at.found].tolist() == [stored.index(i) for i in stored[::-1]]


def test_the_newest_of_an_id_wins_across_segments_of_colliding_hashes(colliding: None) -> None:
    rng = np.random.default_rng(0)
    names = [f"id{i}" for i in range(12)]
    segments: list[dict[str, Array]] = []
    newest: dict[str, tuple[int, int]] = {}
    for number in range(6):
        chosen = [names[i] for i in rng.permutation(12)[:7]]
        segments.append(columns(chosen, [1] * len(chosen)))
        newest |= {doc_id: (number, ordinal) for ordinal, doc_id in enumerate(chosen)}
    index = IdIndex(ids.build(segments))
    assert sorted(index.ids()) == sorted(newest)
    at = lookups(index, names)
    for doc_id, found, segment, ordinal, start in zip(
        names, at.found, at.segments, at.ordinals, at.row_starts, strict=True
    ):
        assert found == (doc_id in newest)
        assert (segment, ordinal) == newest[doc_id]
        assert start == ordinal  # every document before it in its segment has one row


@pytest.mark.parametrize("number", [0, 1, 3, 64])
@given(segments=st.lists(st.lists(st.text("ab日", min_size=1, max_size=3), max_size=12), max_size=5))
def test_it_answers_as_a_dict_that_was_written_in_the_same_order(number: int, segments: list[list[str]]) -> None:
    model = {doc_id: (s, o) for s, segment in enumerate(segments) for o, doc_id in enumerate(segment)}
    with pytest.MonkeyPatch.context() as patch:
        collide(patch, number)
        index = IdIndex(ids.build([columns(segment, [s + 2] * len(segment)) for s, segment in enumerate(segments)]))
        asked = [*model, "none", "a", ""]
        at = lookups(index, asked)
    assert sorted(index.ids()) == sorted(model)
    assert at.found.tolist() == [doc_id in model for doc_id in asked]
    places = zip(at.segments[at.found].tolist(), at.ordinals[at.found].tolist(), strict=True)
    assert list(places) == [model[doc_id] for doc_id in asked if doc_id in model]
    assert np.array_equal(at.row_counts[at.found], at.segments[at.found] + 2)
    assert np.array_equal(at.row_starts[at.found], at.row_counts[at.found] * at.ordinals[at.found])


def test_a_store_of_colliding_ids(colliding: None, tmp_path: Path) -> None:
    units = [stores.random_docs([f"{i}" for i in range(k, k + 9)], k) for k in range(0, 12, 4)]
    model = {**units[0], **units[1], **units[2]}
    for merge in (False, True):
        stores.make(tmp_path / str(merge), units, merge=merge)
        stores.assert_holds(Store.open(tmp_path / str(merge)), model)
        stores.assert_holds(Store.open(tmp_path / str(merge)), model, ["x", "3", "y", "11", "3", "z"])


def test_an_empty_index_holds_nothing() -> None:
    for built in (ids.build([]), ids.build([columns([], [])])):
        index = IdIndex(built)
        assert len(index) == 0
        assert index.ids() == []
        assert not lookups(index, ["a", "b"]).found.any()
        assert lookups(index, []).found.shape == (0,)


@given(
    st.lists(st.text(min_size=1, max_size=300), max_size=300, unique=True),
    st.lists(st.text(max_size=20), max_size=20),
    st.randoms(use_true_random=False),
)
def test_any_ids(stored: list[str], others: list[str], random: Random) -> None:
    """As long, and of any characters; those with a zero in them go NumPy's way."""
    usable = [doc_id for doc_id in stored if len(doc_id.encode("utf-8", "surrogatepass")) < 2**16]
    index = IdIndex(ids.build([columns(usable, [1] * len(usable))]))
    asked = [*usable, *others]
    random.shuffle(asked)
    at = lookups(index, asked)
    assert at.found.tolist() == [doc_id in set(usable) for doc_id in asked]
    assert [usable[o] for o in at.ordinals[at.found].tolist()] == [i for i in asked if i in set(usable)]


def test_hashes_that_are_not_spread_evenly() -> None:
    """Which no hash of ids gives, and guesses about them are wrong."""
    names = [f"{i}" for i in range(5000)]
    keys = [name.encode() for name in names]
    hashes = ids.hash_ids(keys, len(keys))
    low = [name for name, h in zip(names, hashes.tolist(), strict=True) if h < 2**62 or h > 2**64 - 2**58]
    index = IdIndex(ids.build([columns(low, list(range(len(low))))]))
    at = lookups(index, names)
    assert at.found.tolist() == [name in set(low) for name in names]
    assert at.row_counts[at.found].tolist() == list(range(len(low)))


def test_what_was_not_compiled_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "library", lambda: None)
    index = IdIndex(ids.build([columns(["a", "b"], [1, 2])]))
    assert index._native is None
    assert index.lookup(["b", "c"]).row_counts.tolist() == [2, 0]
    monkeypatch.undo()
    assert native.library() is not None
    monkeypatch.setattr(lookup, "hash_address", lambda: None)  # as of a build of xxhash that hides it
    assert IdIndex(ids.build([columns(["a"], [1])]))._native is None


def test_columns_that_do_not_fit_one_another_are_not_read_by_address() -> None:
    built = ids.build([columns(["a", "b"], [1, 2])])
    for name in built:
        shorter = {**built, name: built[name][:-1]}
        starts = np.concatenate([[0], np.cumsum(shorter[layout.ID_LENGTHS], dtype=np.int64)])
        assert lookup.Lookup.of(shorter, starts) is None


def test_nothing_asked_nothing_found() -> None:
    index = IdIndex(ids.build([columns(["a"], [1])]))
    assert lookups(index, []).found.shape == (0,)


def test_what_no_id_can_be_is_not_found() -> None:
    index = IdIndex(ids.build([columns(["a", "é"], [1, 1])]))
    assert lookups(index, ["\ud800", "", "e\u0301", "a\0", "A", "é"]).found.tolist() == [False] * 5 + [True]


def test_a_hundred_thousand_ids() -> None:
    rng = np.random.default_rng(0)
    stored = [f"{'document' if i % 3 else ''}{i * 7919}" for i in range(100_000)]
    rows = rng.integers(0, 200, len(stored))
    half = len(stored) // 2
    index = IdIndex(ids.build([columns(stored[:half], rows[:half]), columns(stored[half:], rows[half:])]))
    order = rng.permutation(len(stored))
    at = lookups(index, [stored[i] for i in order])
    assert at.found.all()
    assert np.array_equal(at.segments, order // half)
    assert np.array_equal(at.ordinals, order % half)
    assert np.array_equal(at.row_counts, rows[order])
    starts = np.concatenate([np.cumsum(part) - part for part in (rows[:half], rows[half:])])
    assert np.array_equal(at.row_starts, starts[order])
    assert not lookups(index, [f"document{i * 7919 + 1}" for i in range(1000)]).found.any()


@pytest.mark.parametrize("written", [1, 3], ids=["once", "three-times-over"])
def test_an_index_is_built_in_little_more_than_twice_its_own_size(written: int) -> None:
    parts = [columns([f"WIKI-{i}" for i in range(k, 300_000, 3)], np.ones(100_000)) for k in range(3)]
    tracemalloc.start()
    try:
        built = ids.build(parts if written == 1 else parts[:1] * 3)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert built[layout.ID_HASHES].size == 300_000 // written
    assert sum(c.nbytes for c in built.values()) <= 42 * 300_000 // written
    assert peak <= 90 * 300_000, f"{peak / 300_000:.1f} bytes a document"
