"""What goes into a store comes out of it, bit for bit, whatever the units, the order and the merges."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from colbert_rerank.store import Store, layout, plane, writing
from colbert_rerank.store.unit import UNKNOWN
from colbert_rerank.types import FLOATS
from tests.store import stores
from tests.store.stores import Doc

# Few short ids, so that they meet across units, beside any that UTF-8 can hold.
IDS = st.one_of(
    st.sampled_from(["1", "2", "01", "é", "e\u0301", "日本語", "a b"]),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40),
    st.integers(500, 512).map(lambda n: "x" * n),
    st.just("ü" * 256),
)


def docs(dim: int, dtype: str) -> st.SearchStrategy[Doc]:
    finite = st.floats(width=16 if dtype == "float16" else 32, allow_nan=False, allow_infinity=False)
    return st.builds(
        Doc,
        st.sampled_from([0, 1, 1, 2, 7]).flatmap(lambda rows: arrays(dtype, (rows, dim), elements=finite)),
        st.binary(min_size=16, max_size=16),
        st.sampled_from([-1, 0, 2**62]),
        st.sampled_from([-1, 1]),
        st.one_of(st.just(UNKNOWN), st.binary(min_size=16, max_size=16)),
    )


@st.composite
def histories(draw: st.DrawFn) -> tuple[int, str, list[dict[str, Doc]]]:
    dim, dtype = draw(st.integers(1, 5)), draw(st.sampled_from(FLOATS))
    unit = st.dictionaries(IDS, docs(dim, dtype), min_size=1, max_size=6)
    return dim, dtype, draw(st.lists(unit, min_size=1, max_size=4))


@settings(max_examples=40, deadline=None)
@given(histories(), st.data())
def test_a_store_is_a_dict(history: tuple[int, str, list[dict[str, Doc]]], data: st.DataObject) -> None:
    dim, dtype, units = history
    model: dict[str, Doc] = {}
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name) / "store"
        # What a segment may hold decides what is merged: nothing, a few neighbours, or everything.
        patch.setattr(layout, "UNIT_BYTES", data.draw(st.sampled_from([0, 100, 2**28]), label="unit bytes"))
        with writing(folder, stores.new_manifest(dim, dtype)) as writer:
            for unit in units:
                stores.commit(writer, unit, posted=data.draw(st.booleans(), label="posted"))
                for doc_id, doc in unit.items():
                    model[doc_id] = seen(doc, unit)
            asked = data.draw(st.lists(st.one_of(st.sampled_from(sorted(model)), IDS), max_size=20), label="asked")
            before = Store.open(folder)
            assert before.manifest.index is None
            stores.assert_holds(before, model)
            stores.assert_holds(before, model, asked)
            writer.finish()
        after = Store.open(folder)
        assert after.manifest.index is not None
        assert after.manifest.unfinished == ()
        stores.assert_holds(after, model)
        stores.assert_holds(after, model, asked)
        stores.assert_holds(before, model, asked)  # its files have been merged away


def seen(doc: Doc, unit: dict[str, Doc]) -> Doc:
    """A unit in which no sequence number is known keeps none of the two columns."""
    return doc if any(d.seq_no >= 0 for d in unit.values()) else doc._replace(primary_term=-1)


def test_finishing_twice_and_adding_between(tmp_path: Path) -> None:
    first, second = stores.random_docs(["a", "b", "c"], 1), stores.random_docs(["b", "d"], 2)
    stores.make(tmp_path, [first])
    stores.make(tmp_path, [second])
    with writing(tmp_path, stores.new_manifest()) as writer:
        generation = writer.manifest.generation
        writer.finish()
        assert writer.manifest.generation == generation  # nothing to do
    store = Store.open(tmp_path)
    assert len(store.manifest.segments) == 1  # small ones merge by themselves
    assert store.manifest.segments[0].documents == 4  # the older "b" went with the merge
    stores.assert_holds(store, first | second)
    assert len(list((tmp_path / layout.SEGMENTS).iterdir())) == 2


def test_of_one_id_twice_in_a_unit_the_last_is_kept(tmp_path: Path) -> None:
    old, new = stores.random_docs(["x", "a"], 1)["a"], stores.random_docs(["x", "a"], 2)["a"]
    with writing(tmp_path, stores.new_manifest()) as writer:
        unit = writer.unit()
        stores.add(unit, "a", old)
        stores.add(unit, "a", new)
        writer.commit(unit, posted=True)
        stores.assert_holds(Store.open(tmp_path), {"a": new})
        writer.finish()
    stores.assert_holds(Store.open(tmp_path), {"a": new})


@pytest.mark.parametrize("finish", [False, True], ids=["begun", "finished"])
def test_a_store_without_documents(tmp_path: Path, finish: bool) -> None:
    with writing(tmp_path, stores.new_manifest()) as writer:
        if finish:
            writer.finish()
    store = Store.open(tmp_path)
    stores.assert_holds(store, {})
    stores.assert_holds(store, {}, ["a", "", "b"])


def test_values_lie_aligned_in_the_file(tmp_path: Path) -> None:
    rows = layout.ALIGNMENT // (8 * 2)
    stores.make(
        tmp_path, [{"a": Doc(np.ones((rows, 8), "float16"))}, {"b": Doc(np.ones((3, 8), "float16"))}], merge=False
    )
    large, small = Store.open(tmp_path).manifest.segments
    assert large.values_offset % layout.ALIGNMENT == 0
    assert small.bytes < 8192  # no hole for the sake of a few rows


def test_numbers_in_any_form_are_stored_in_the_stores_own(tmp_path: Path) -> None:
    given_: list[Any] = [np.arange(16, dtype=np.int32).reshape(2, 8), np.linspace(0, 1, 16).reshape(8, 2).T]
    with writing(tmp_path, stores.new_manifest()) as writer:
        unit = writer.unit()
        for number, matrix in enumerate(given_):
            unit.add(str(number), matrix, bytes(16))
        writer.commit(unit, posted=True)
    gathered = Store.open(tmp_path).gather(["0", "1"])
    assert np.array_equal(gathered.values, np.concatenate(given_).astype("float16"))


def test_much_is_copied_in_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = stores.random_docs([f"d{i}" for i in range(40)], seed=1)
    stores.make(tmp_path, [model], merge=False)
    monkeypatch.setattr(plane, "_MUCH", 0)
    monkeypatch.setattr(plane, "_THREADS", 3)
    copy, threads = plane._copy, []

    def counted(*args: Any) -> None:
        threads.append(threading.current_thread())
        copy(*args)

    monkeypatch.setattr(plane, "_copy", counted)
    for asked in (list(model), [*list(model)[::-3], "none"], ["none"]):
        threads.clear()
        stores.assert_holds(Store.open(tmp_path), model, asked)
        assert len(threads) == 3
        assert threading.main_thread() not in threads
