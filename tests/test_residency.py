"""Where rows are kept, and that they are the same rows wherever that is. A CPU stands in for the GPU."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from colbert_rerank import device_rows, residency
from colbert_rerank.cli.opening import size_of
from colbert_rerank.device_rows import Rows
from colbert_rerank.errors import StoreCorruptError, UsageError
from colbert_rerank.hot_rows import PAGE, HotRows
from colbert_rerank.residency import Residence, choose, keep
from colbert_rerank.store import Store, writing
from colbert_rerank.store.rows import DeviceRanges
from tests.cli.terminal import invoke
from tests.store import stores

GB = 10**9


def flip_a_value(data: bytearray) -> None:
    """In the middle of a segment's file, where its vectors are."""
    data[len(data) // 2] ^= 1


@pytest.mark.parametrize(
    ("resident", "rows", "budget", "where", "hot"),
    [
        ("auto", 3 * GB, None, "gpu", 0),
        ("auto", 6 * GB, None, "pinned", 5.6 * GB),  # 70 % of 8 GB free
        ("auto", 16 * GB, None, "mmap", 5.6 * GB),  # 50 % of 30 GB free
        ("auto", 3 * GB, 2 * GB, "mmap", 2 * GB),
        ("auto", 7 * GB, 100 * GB, "gpu", 0),
        ("auto", 20 * GB, 25 * GB, "pinned", 8 * GB),
        ("gpu", 5 * GB, None, "gpu", 0),
        ("pinned", 3 * GB, None, "pinned", 5.6 * GB),
        ("mmap", 3 * GB, 0, "mmap", 0),
    ],
)
def test_the_choice(resident: Any, rows: int, budget: int | None, where: str, hot: float) -> None:
    chosen = choose(resident, rows, budget, 8 * GB, 30 * GB)
    assert (chosen.where, chosen.hot_bytes) == (where, int(hot))
    assert f"{rows / GB:.1f} GB of rows" in chosen.why


@pytest.mark.parametrize(("resident", "rows", "budget"), [("gpu", 6, None), ("gpu", 3, 2), ("pinned", 16, None)])
def test_what_does_not_fit_is_refused(resident: Any, rows: int, budget: int | None) -> None:
    with pytest.raises(UsageError, match=f"resident {resident}: the store has {rows}.0 GB of rows, .* --memory-budget"):
        choose(resident, rows * GB, None if budget is None else budget * GB, 8 * GB, 30 * GB)


@pytest.mark.parametrize("asked", [{"resident": "gpu"}, {"resident": "pinned"}, {"budget": 5}])
def test_memory_is_for_a_gpu(tmp_path: Path, asked: Any) -> None:
    with pytest.raises(UsageError, match="is for a CUDA GPU, and scores are computed on cpu"):
        residency.place(made(tmp_path), "cpu", **asked)
    with pytest.raises(UsageError, match="expected one of auto, gpu, pinned, mmap"):
        residency.place(made(tmp_path / "other"), "cpu", "disk")  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["10 pounds", "-3", "GB", "1.GB"])
def test_a_size_that_is_none(tmp_path: Path, text: str) -> None:
    found = invoke("rerank", "x", "--store", tmp_path, f"--memory-budget={text}")
    assert (found.status, f"{text!r} is no size" in found.err) == (2, True)


def test_sizes() -> None:
    sizes = {"0": 0, "5": 5, "2kb": 2000, "1.5GiB": 3 * 2**29, "1 TB": 10**12, "7M": 7_000_000}
    assert {text: size_of(text) for text in sizes} == sizes


def made(folder: Path) -> Store:
    """Two segments, of vectors and sketches."""
    with writing(folder, stores.new_manifest(sketches="binary")) as writer:
        stores.commit(writer, stores.random_docs([f"a{i}" for i in range(40)], seed=1, rows=20))
        stores.commit(writer, stores.random_docs([f"b{i}" for i in range(30)], seed=2, rows=40), posted=False)
        writer.finish()
    opened = Store.open(folder)
    assert len(opened.segments) == 2
    return opened


def kept(store: Store, how: str) -> Rows:
    """Its rows in a device's memory, or brought there from the map or from memory, with a cache or without."""
    where: Any = how.partition(" ")[0]
    return keep(store, "cpu", Residence(where, 0 if "cold" in how else 8000, ""))


@pytest.mark.parametrize("how", ["gpu", "mmap", "pinned", "mmap cold", "pinned cold"])
@pytest.mark.parametrize("threads", [False, True], ids=["at-once", "in-threads"])
def test_rows_are_those_of_the_store(tmp_path: Path, how: str, threads: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_rows, "_PIECE", 100)  # bytes, so that segments are copied in many pieces
    if threads:
        monkeypatch.setattr(device_rows, "_MUCH", 1)
    store = made(tmp_path / "store")
    rows = kept(store, how)
    ids, rng = [*store.index.ids(), "unknown"], np.random.default_rng(1)
    for turn in range(12):
        sketches = turn % 3 == 2
        asked = [ids[i] for i in rng.permutation(len(ids))[: rng.integers(0, 30)]]
        other = [ids[i] for i in rng.permutation(len(ids))[:10]]
        if turn % 2:
            rows.expect(asked, sketches=sketches)
            rows.expect(other)
        found, expected = rows.read(asked, sketches=sketches), store.gather(asked, sketches=sketches)
        assert isinstance(found, DeviceRanges)
        values, offsets = found.packed()
        assert found.found.tolist() == expected.found.tolist()
        assert offsets.tolist() == expected.offsets.tolist()
        assert values.numpy().tobytes() == expected.values.tobytes()
        assert found.codec is expected.codec
        if turn % 2:  # whatever was expected first
            assert bytes(rows.read(other).packed()[0].numpy()) == store.gather(other).values.tobytes()  # type: ignore[union-attr]
    hits, read = rows.hot()
    assert (0 < hits < read) if how in ("mmap", "pinned") else hits == 0


@pytest.mark.parametrize("how", ["gpu", "pinned", "mmap"])
def test_damaged_rows_are_never_scored(tmp_path: Path, how: str) -> None:
    """What is copied is verified before, and what is brought too, when it is first touched."""
    made(tmp_path / "store")
    for path in stores.segment_files(tmp_path / "store"):
        stores.edit(path, flip_a_value)
    store = Store.open(tmp_path / "store")
    ids = store.index.ids()
    with pytest.raises(StoreCorruptError):
        kept(store, how).read(ids)
    if how == "mmap":  # also where it was begun before
        rows = kept(store, how)
        rows.expect(ids)
        with pytest.raises(StoreCorruptError):
            rows.read(ids)


def test_another_generation_has_other_rows(tmp_path: Path) -> None:
    store = made(tmp_path / "store")
    before = kept(store, "mmap").read(["a7"])
    with writing(tmp_path / "store", store.manifest) as writer:
        stores.commit(writer, stores.random_docs(["a7"], seed=3, rows=20) | stores.random_docs(["x", "a7"], seed=4))
        writer.finish()
    newer = store.refresh()
    assert newer is not store
    assert isinstance(before, DeviceRanges)
    for one in (store, newer):
        found = kept(one, "mmap").read(["a7"])
        assert isinstance(found, DeviceRanges)
        assert found.packed()[0].numpy().tobytes() == one.gather(["a7"]).values.tobytes()
    assert store.gather(["a7"]).values.tobytes() != newer.gather(["a7"]).values.tobytes()


class Model:
    """The cache as a dict, the most recently used last."""

    def __init__(self, pages: int) -> None:
        self.pages = pages
        self.documents: OrderedDict[int, bytes] = OrderedDict()
        self.counts: dict[int, int] = {}

    def use(self, keys: Sequence[int]) -> list[bool]:
        hits = [key in self.documents for key in keys]
        for key in keys:
            if key in self.documents:
                self.documents.move_to_end(key)
        return hits

    def keep(self, key: int, count: int, rows: bytes) -> None:
        if not 0 < -(-count // PAGE) <= self.pages or key in self.documents:
            return
        self.counts[key] = -(-count // PAGE)
        while sum(self.counts[k] for k in self.documents) + self.counts[key] > self.pages:
            self.documents.popitem(last=False)
        self.documents[key] = rows


batches = st.lists(st.lists(st.integers(0, 15), max_size=8), max_size=12)


@given(st.integers(0, 12), st.lists(st.integers(0, 5 * PAGE), min_size=16, max_size=16), batches)
@settings(max_examples=200, deadline=None)
def test_the_cache_is_a_dict(pages: int, lengths: list[int], batches: list[list[int]]) -> None:
    cache, model = HotRows(pages, 2, torch.int64, "cpu"), Model(pages)
    rows = [np.arange(2 * n).reshape(n, 2) + 10_000 * key for key, n in enumerate(lengths)]
    for keys in batches:
        counts = [lengths[key] for key in keys]
        out = torch.full((sum(counts), 2), -1)
        hits = cache.use(keys, counts, out)
        assert hits.tolist() == model.use(keys)
        parts = np.split(out.numpy(), np.cumsum(counts)[:-1]) if keys else []
        for key, hit, part in zip(keys, hits.tolist(), parts, strict=True):
            assert part.tobytes() == (model.documents[key] if hit else np.full_like(part, -1).tobytes())
        new = [key for key, hit in zip(keys, hits.tolist(), strict=True) if not hit]
        taken = np.concatenate([np.empty((0, 2), np.int64), *(rows[key] for key in new)])
        cache.keep(new, [lengths[key] for key in new], torch.from_numpy(taken))
        for key in new:
            model.keep(key, lengths[key], rows[key].tobytes())
        assert len(cache) == len(model.documents)
        assert all(key in cache for key in model.documents)
