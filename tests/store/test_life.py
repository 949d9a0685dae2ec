"""The whole life of a store against a dict: whatever is done to it in whatever order, it holds what the dict holds."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from colbert_rerank.store import Store, layout, writing
from ingest import upkeep
from tests.store import stores
from tests.store.stores import Doc

pytestmark = pytest.mark.proof

IDS = st.sampled_from([f"d{i}" for i in range(12)] + ["x" * 512, "日本語"])
DIM = 16


class Life(RuleBasedStateMachine):
    """Appends, updates, deletions, merges, compactions, repairs and re-openings of one store."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.folder = self.root / "store"
        self.model: dict[str, Doc] = {}
        self.seed = 0
        self.old: list[tuple[Store, dict[str, Doc]]] = []
        self.unit_bytes = layout.UNIT_BYTES

    @initialize(
        codec=st.sampled_from(["float16", "float32"]),
        sketches=st.sampled_from(["", "int8", "residual1"]),
        unit_bytes=st.sampled_from([1, 240, 600, layout.UNIT_BYTES]),
    )
    def make(self, codec: str, sketches: str, unit_bytes: int) -> None:
        self.codec, self.sketches = codec, sketches
        layout.UNIT_BYTES = unit_bytes  # how many neighbours are merged
        with writing(self.folder, stores.new_manifest(DIM, codec, sketches)) as writer:
            writer.begin()
            writer.finish()

    def docs(self, ids: list[str]) -> dict[str, Doc]:
        self.seed += 1
        return stores.random_docs(ids, self.seed, dim=DIM, dtype=self.codec, rows=3)

    @rule(ids=st.lists(IDS, unique=True, max_size=5), gone=st.lists(IDS, unique=True, max_size=3), finish=st.booleans())
    def write(self, ids: list[str], gone: list[str], finish: bool) -> None:
        """One unit of new and replaced documents and of tombstones."""
        docs = self.docs(ids)
        with writing(self.folder, stores.new_manifest(DIM, self.codec, self.sketches)) as writer:
            unit = writer.unit()
            for doc_id, doc in docs.items():
                stores.add(unit, doc_id, doc)
            for doc_id in set(gone) - set(ids):
                unit.delete(doc_id)
            writer.commit(unit, posted=True)
            if finish:
                writer.finish()
        self.model = {i: d for i, d in (self.model | docs).items() if i in docs or i not in gone}

    @rule(ids=st.lists(IDS, max_size=6))
    def delete(self, ids: list[str]) -> None:
        done = upkeep.delete(self.folder, ids)
        assert done.deleted == len({*ids} & self.model.keys())
        assert set(done.unknown) == {*ids} - self.model.keys()
        self.model = {i: d for i, d in self.model.items() if i not in ids}

    @rule()
    def compact(self) -> None:
        upkeep.compact(self.folder)
        manifest = Store.open(self.folder).manifest
        assert sum(s.documents for s in manifest.segments) == len(self.model)

    @rule(sketches=st.sampled_from(["", "int8", "binary", "residual1"]))
    def sketch_anew(self, sketches: str) -> None:
        upkeep.compact(self.folder, sketches=sketches)
        self.sketches = sketches

    @rule()
    def repair(self) -> None:
        done = upkeep.repair(self.folder)
        assert (done.damages, done.lost, done.unnamed) == ({}, [], 0)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def lose_a_segment(self, data: st.DataObject) -> None:
        store = Store.open(self.folder)
        if store.manifest.index is None:
            return
        number = data.draw(st.integers(0, len(store.manifest.segments) - 1))
        ids = list(self.model)
        lost = {i for i, at in zip(ids, store.lookup(ids).segments.tolist(), strict=True) if at == number}
        (self.folder / layout.SEGMENTS / store.manifest.segments[number].file).unlink()
        assert set(upkeep.repair(self.folder).lost) == lost
        self.model = {i: d for i, d in self.model.items() if i not in lost}

    @rule()
    def keep_a_reader(self) -> None:
        self.old = [*self.old[-2:], (Store.open(self.folder), self.model)]

    @invariant()
    def readers_see_their_generation(self) -> None:
        for store, model in self.old:
            stores.assert_holds(store, model)
            assert store.refresh().manifest.generation >= store.manifest.generation

    @invariant()
    def the_store_is_the_dict(self) -> None:
        if not (self.folder / layout.MANIFEST).exists():
            return
        store = Store.open(self.folder, verify="open")
        stores.assert_holds(store, self.model)
        if self.sketches:
            sketches = store.gather(list(self.model), sketches=True)
            assert sketches.offsets[-1] == sum(len(d.matrix) for d in self.model.values())
            assert np.isfinite(np.concatenate([np.zeros((0, DIM)), *sketches.matrices()])).all()

    def teardown(self) -> None:
        layout.UNIT_BYTES = self.unit_bytes
        shutil.rmtree(self.root)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
