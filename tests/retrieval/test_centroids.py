"""The index of centroids: what it finds, how it grows, and what it says where it cannot."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colbert_rerank.errors import IndexBehindError, StoreCorruptError, StoreWriteError, UsageError
from colbert_rerank.maxsim import reference
from colbert_rerank.retrieval import centroids as indices
from colbert_rerank.retrieval import state as states
from colbert_rerank.retrieval.building import building
from colbert_rerank.retrieval.centroids import RETRIEVER, CentroidIndex, build
from colbert_rerank.store import Store, layout, rewriting, writing
from colbert_rerank.store.columns import Array, Placement
from colbert_rerank.store.segment import seal
from tests.retrieval.clustered import DIM, clustered, query
from tests.store.stores import Doc, commit, edit, make, new_manifest


@pytest.fixture
def docs() -> dict[str, Doc]:
    return clustered(range(200), 1)


@pytest.fixture
def folder(tmp_path: Path, docs: dict[str, Doc]) -> Path:
    items = list(docs.items())
    make(tmp_path / "store", [dict(items[:80]), dict(items[80:150]), dict(items[150:])], merge=False)
    return tmp_path / "store"


def best(folder: Path, k: int, seed: int = 0, allowed: list[str] | None = None) -> list[str]:
    index = CentroidIndex(Store.open(folder))
    which = None if allowed is None else index.documents.known(allowed)
    return index.documents.ids(index.best(query(seed), k, allowed=which)[0])


def expected(folder: Path, docs: dict[str, Doc], seed: int = 0) -> dict[str, float]:
    """By id the scores by what nearest centroids stand for."""
    C = CentroidIndex(Store.open(folder)).centroids.astype(np.float64)
    scores = {}
    for doc_id, doc in docs.items():
        if len(doc.matrix):
            D = doc.matrix.astype(np.float64)
            nearest = np.square(D[:, None] - C).sum(axis=2).argmin(axis=1)
            scores[doc_id] = reference.maxsim(query(seed), C[nearest])
    return scores


def check(folder: Path, docs: dict[str, Doc], allowed: list[str] | None = None) -> None:
    """All that it finds is in the order of the obvious scores, as far as the steps of the table go."""
    index = CentroidIndex(Store.open(folder))
    scores = expected(folder, docs if allowed is None else {i: docs[i] for i in allowed})
    which = None if allowed is None else index.documents.known(allowed)
    numbers, found = index.best(query(), len(docs) + 1, allowed=which)
    ids = index.documents.ids(numbers)
    assert sorted(ids) == sorted(scores)
    assert (np.diff(found) <= 0).all()
    assert np.abs(found - [scores[i] for i in ids]).max() < 0.05
    for k in (1, 7, 50):
        assert index.best(query(), k, allowed=which)[0].tolist() == numbers[:k].tolist()


def test_it_finds_what_centroids_say(folder: Path, docs: dict[str, Doc]) -> None:
    assert build(Store.open(folder)) == sum(len(doc.matrix) for doc in docs.values())
    check(folder, docs)


def test_a_second_time_adds_nothing_and_again_is_the_same(folder: Path, docs: dict[str, Doc]) -> None:
    build(Store.open(folder))
    before = {path.name: path.read_bytes() for path in (folder / layout.TOKEN_INDEX / RETRIEVER).iterdir()}
    assert build(Store.open(folder)) == 0
    assert build(Store.open(folder), again=True) > 0
    assert {path.name: path.read_bytes() for path in (folder / layout.TOKEN_INDEX / RETRIEVER).iterdir()} == before


def test_it_grows_and_forgets(folder: Path, docs: dict[str, Doc]) -> None:
    build(Store.open(folder), partitions=12)
    more = clustered(range(190, 230), 2)
    with writing(folder, None) as writer:
        commit(writer, more)
        unit = writer.unit()
        for i in range(0, 200, 7):
            unit.delete(f"d{i}")
        writer.commit(unit, posted=True)
        writer.finish()
    docs = {i: doc for i, doc in docs.items() if int(i[1:]) % 7} | more
    with pytest.raises(IndexBehindError, match=r"lacks .* documents.*index build"):
        CentroidIndex(Store.open(folder))
    added = build(Store.open(folder))
    assert 0 < added < sum(len(doc.matrix) for doc in docs.values())
    live = {f"d{i}" for i in range(0, 200, 7)} & more.keys()
    docs = {i: doc for i, doc in docs.items() if i not in live}
    check(folder, docs)
    with rewriting(folder) as writer:
        writer.compact()
    with pytest.raises(IndexBehindError):
        CentroidIndex(Store.open(folder))
    build(Store.open(folder))
    check(folder, docs)
    listed = {one.file for one in states.opened(Store.open(folder), RETRIEVER, RETRIEVER).segments}
    assert {path.name for path in (folder / layout.TOKEN_INDEX / RETRIEVER).glob("*.codes.h5")} == listed


def test_deleted_documents_are_not_found(folder: Path, docs: dict[str, Doc]) -> None:
    build(Store.open(folder))
    first = best(folder, 1)[0]
    with writing(folder, None) as writer:
        unit = writer.unit()
        unit.delete(first)
        writer.commit(unit, posted=True)
        writer.finish()
    build(Store.open(folder))
    assert first not in best(folder, 200)


@pytest.mark.parametrize("share", [0.005, 0.1, 0.5, 1])
def test_only_what_is_allowed(folder: Path, docs: dict[str, Doc], share: float) -> None:
    build(Store.open(folder))
    random = np.random.default_rng(2)
    allowed = [i for i in docs if random.random() < share] or ["d9"]
    check(folder, docs, allowed)
    assert set(best(folder, 10, allowed=[*allowed, "nobody"])) <= set(allowed)
    assert best(folder, 10, allowed=[]) == []


@pytest.mark.parametrize("name", ["residual4", "residual1"])
def test_a_store_of_residuals_has_its_codes_already(tmp_path: Path, docs: dict[str, Doc], name: str) -> None:
    with writing(tmp_path / "store", new_manifest(DIM, name)) as writer:
        commit(writer, {i: doc._replace(matrix=doc.matrix.astype("float32")) for i, doc in docs.items()})
        writer.finish()
    store = Store.open(tmp_path / "store")
    build(store)
    index = CentroidIndex(store)
    assert (index.centroids == store.codec.book.centroids).all()  # type: ignore[attr-defined]
    gathered = store.gather(index.documents.ids(np.arange(len(index.documents))))
    assert (np.concatenate(index._codes) == gathered.values[:, :2].copy().view("<u2")[:, 0]).all()
    build(store, partitions=7, again=True)
    assert len(CentroidIndex(store).centroids) == 7


@settings(max_examples=20, deadline=None)
@given(stops=st.lists(st.integers(1, 6), max_size=5))
def test_what_was_interrupted_goes_on(tmp_path_factory: pytest.TempPathFactory, stops: list[int]) -> None:
    """Stopped at any writing of a file, as if the power had gone, it makes the same files as in one go."""
    docs = clustered(range(60), 3)
    items = list(docs.items())
    whole, broken = (tmp_path_factory.mktemp("index") / name for name in ("whole", "broken"))
    make(whole, [dict(items[i : i + 15]) for i in range(0, 60, 15)], merge=False)
    shutil.copytree(whole, broken)
    build(Store.open(whole), partitions=9)
    for stop in stops:
        with pytest.MonkeyPatch.context() as patch:
            left = iter(range(stop))

            def sealed(path: Path, columns: dict[str, Array], left: Iterator[int] = left) -> Placement:
                if next(left, None) is None:
                    raise KeyboardInterrupt
                return seal(path, columns)

            patch.setattr(indices, "seal", sealed)
            with suppress(KeyboardInterrupt):
                build(Store.open(broken), partitions=9)
    build(Store.open(broken), partitions=9)
    names = sorted(path.name for path in (whole / "index" / RETRIEVER).iterdir())
    assert names == sorted(path.name for path in (broken / "index" / RETRIEVER).iterdir())
    for name in names:
        assert (whole / "index" / RETRIEVER / name).read_bytes() == (broken / "index" / RETRIEVER / name).read_bytes()


def test_bad_input(tmp_path: Path, folder: Path) -> None:
    with writing(tmp_path / "empty", new_manifest(DIM)) as writer:
        writer.finish()
    with pytest.raises(UsageError, match="holds no vectors yet"):
        build(Store.open(tmp_path / "empty"))
    with pytest.raises(UsageError, match="no index for --retriever centroids here; make one with"):
        CentroidIndex(Store.open(folder))
    for count in (0, 70_000):
        with pytest.raises(UsageError, match="--partitions"):
            build(Store.open(folder), partitions=count)
    build(Store.open(folder), partitions=5)
    with pytest.raises(UsageError, match="the index has 5; pass --again"):
        build(Store.open(folder), partitions=6)
    with (
        building(states.folder_of(Store.open(folder), RETRIEVER)),
        pytest.raises(StoreWriteError, match="another process"),
    ):
        build(Store.open(folder))


def test_an_index_of_another_store(tmp_path: Path, folder: Path) -> None:
    build(Store.open(folder))
    state = states.load(folder / "index" / RETRIEVER)
    assert state is not None
    states.save(folder / "index" / RETRIEVER, replace(state, store_id="another"))
    with pytest.raises(UsageError, match="belongs to another store"):
        CentroidIndex(Store.open(folder))
    with pytest.raises(UsageError, match="of another store"):
        build(Store.open(folder))
    build(Store.open(folder), again=True)
    CentroidIndex(Store.open(folder))


def test_every_damaged_byte_of_it_is_seen(folder: Path) -> None:
    build(Store.open(folder), partitions=9)
    before, told = best(folder, 30), []
    random = np.random.default_rng(0)
    for path in sorted((folder / "index" / RETRIEVER).iterdir()):
        whole = path.read_bytes()
        for place in random.choice(len(whole), min(len(whole), 60), replace=False).tolist():
            edit(path, lambda data, place=place: data.__setitem__(place, data[place] ^ 0x10))  # type: ignore[misc]
            try:
                found = best(folder, 30)
            except StoreCorruptError as error:
                told.append("index build" in str(error))
            else:
                assert found == before, "what no one reads"
            path.write_bytes(whole)
        if whole:
            path.unlink()
            with pytest.raises((StoreCorruptError, UsageError)):
                best(folder, 30)
            path.write_bytes(whole)
    assert len(told) > 100
    assert all(told)
