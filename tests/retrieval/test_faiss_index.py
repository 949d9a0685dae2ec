"""The index by FAISS: what it finds in each kind, how it grows, and what it says where it cannot."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colbert_rerank.errors import IndexBehindError, StoreCorruptError, StoreWriteError, UsageError
from colbert_rerank.maxsim import reference
from colbert_rerank.retrieval import faiss_files, faiss_index
from colbert_rerank.retrieval import state as states
from colbert_rerank.retrieval.building import building
from colbert_rerank.retrieval.faiss_files import FLAT, HNSW, IVFPQ, KINDS, RETRIEVER, Settings, build, facts
from colbert_rerank.retrieval.faiss_index import FaissIndex
from colbert_rerank.retrieval.faiss_library import library
from colbert_rerank.store import Store, files, rewriting, writing
from tests.retrieval.clustered import DIM, clustered, query
from tests.store.stores import Doc, commit, edit, new_manifest

ALL = 1 << 20  # vectors, or partitions: as many as there are


def made(folder: Path, docs: dict[str, Doc], *, segments: int = 3, similarity: str = "cosine") -> Path:
    items = list(docs.items())
    bounds = [len(items) * i // segments for i in range(segments + 1)]
    manifest = replace(new_manifest(DIM), query_identity={"dim": DIM, "similarity": similarity})
    with writing(folder, manifest) as writer:
        for i, (first, last) in enumerate(pairwise(bounds)):
            commit(writer, dict(items[first:last]), posted=i % 2 == 0)  # what differs in this is not merged
        writer.finish()
    return folder


def changed(folder: Path, docs: dict[str, Doc], more: dict[str, Doc], gone: list[str]) -> dict[str, Doc]:
    """What there is after these have come, and then those are gone."""
    with writing(folder, None) as writer:
        if more:
            commit(writer, more)
        unit = writer.unit()
        for doc_id in gone:
            unit.delete(doc_id)
        writer.commit(unit, posted=True)
        writer.finish()
    return {doc_id: doc for doc_id, doc in (docs | more).items() if doc_id not in gone}


@pytest.fixture(scope="module")
def docs() -> dict[str, Doc]:
    return clustered(range(200), 1)


@pytest.fixture
def folder(tmp_path: Path, docs: dict[str, Doc]) -> Path:
    return made(tmp_path / "store", docs)


def everything(folder: Path) -> FaissIndex:
    """An index that looks everywhere, and finds all there is."""
    return FaissIndex(Store.open(folder), nprobe=ALL, depth=ALL)


def matrices(docs: dict[str, Doc]) -> dict[str, npt.NDArray[np.float32]]:
    return {doc_id: doc.matrix.astype(np.float32) for doc_id, doc in docs.items() if len(doc.matrix)}


def check(folder: Path, docs: dict[str, Doc], allowed: list[str] | None = None) -> None:
    """Where it looks everywhere it finds exactly the live documents that have vectors, in about the order of MaxSim."""
    index = everything(folder)
    which = None if allowed is None else index.documents.known(allowed)
    numbers, scores = index.best(query(), ALL, allowed=which)
    exact = {
        doc_id: reference.maxsim(query(), matrix)
        for doc_id, matrix in matrices(docs).items()
        if allowed is None or doc_id in allowed
    }
    found = dict(zip(index.documents.ids(numbers), scores.tolist(), strict=True))
    assert found.keys() == exact.keys()
    assert (np.diff(scores) <= 0).all()
    off = {FLAT: 1e-5, HNSW: 0.01, IVFPQ: 1.5}[index.kind]  # of five tokens together
    assert all(abs(found[doc_id] - exact[doc_id]) < off for doc_id in exact)


@pytest.fixture(scope="module", params=["cosine", "dot", "l2"])
def flat(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, docs: dict[str, Doc]) -> FaissIndex:
    store = Store.open(made(tmp_path_factory.mktemp("flat") / "store", docs, similarity=request.param))
    assert build(store, FLAT) == 0
    return FaissIndex(store)


def similarities(kind: str, Q: npt.NDArray[np.float32], D: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    if kind == "l2":
        return np.array(-np.square(Q[:, None].astype(np.float64) - D).sum(axis=2))
    return np.array(Q.astype(np.float64) @ D.T)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    depth=st.integers(1, 1200),
    at_once=st.sampled_from([20, 150, 1 << 16]),
    share=st.sampled_from([0.02, 0.5, 1]),
)
def test_flat_lists_are_brute_force(
    flat: FaissIndex, docs: dict[str, Doc], seed: int, depth: int, at_once: int, share: float
) -> None:
    Q = query(seed)
    allowed = np.random.default_rng(seed).random(len(flat.documents)) < share
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faiss_index, "AT_ONCE", at_once)
        patch.setattr(flat, "depth", depth)
        owners, found = flat.lists(Q, allowed)
    ids = np.array(flat.documents.ids(np.arange(len(flat.documents))))
    some = {doc_id: matrix for doc_id, matrix in matrices(docs).items() if doc_id in set(ids[allowed])}
    rows = sum(map(len, some.values()))
    there = owners >= 0
    assert there.sum(axis=1).tolist() == [min(depth, rows)] * len(Q)
    if not rows:
        return
    kind = flat._similarity
    exact = -np.sort(-similarities(kind, Q, np.concatenate(list(some.values()))), axis=1)[:, :depth]
    np.testing.assert_allclose(found[:, : exact.shape[1]], exact, atol=1e-5)
    for q in range(len(Q)):  # and each is a vector of the document that it is said to be of
        for owner in np.unique(owners[q][there[q]]).tolist():
            of_owner = np.sort(similarities(kind, Q[q : q + 1], some[ids[owner]])[0])
            mine = np.sort(found[q][owners[q] == owner])
            np.testing.assert_allclose(mine, of_owner[-mine.size :], atol=1e-5)


def test_of_all_vectors_flat_is_maxsim(flat: FaissIndex, docs: dict[str, Doc]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flat, "depth", ALL)
        numbers, scores = flat.best(query(3), 100, flat._similarity)
    exact = {i: reference.maxsim(query(3), D, flat._similarity) for i, D in matrices(docs).items()}
    order = sorted(exact, key=lambda doc_id: -exact[doc_id])[:100]
    assert scores == pytest.approx([exact[doc_id] for doc_id in order], abs=1e-4)
    assert [exact[doc_id] for doc_id in flat.documents.ids(numbers)] == pytest.approx(scores.tolist(), abs=1e-4)


@pytest.mark.parametrize("similarity", ["cosine", "l2"])
@pytest.mark.parametrize("kind", [IVFPQ, HNSW])
def test_most_of_the_best_are_found(tmp_path: Path, docs: dict[str, Doc], kind: str, similarity: str) -> None:
    """How many is measured elsewhere; here, that what is found is near by the right measure."""
    store = Store.open(made(tmp_path / "store", docs, similarity=similarity))
    assert build(store, kind) == sum(len(doc.matrix) for doc in docs.values())
    index = FaissIndex(store, depth=100)
    hits = 0
    for seed in range(20):
        exact = {i: reference.maxsim(query(seed), D, similarity) for i, D in matrices(docs).items()}
        best = set(sorted(exact, key=lambda doc_id: -exact[doc_id])[:10])
        hits += len(best & set(index.documents.ids(index.best(query(seed), 50, similarity)[0])))
    assert hits > 20 * 8
    owners, found = index.lists(query(), None)
    assert owners.shape == (5, 100)
    assert (np.diff(found, axis=1) <= 1e-6).all()
    assert (found <= 0).all() if similarity == "l2" else found.max() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_it_finds_all_that_is_there(folder: Path, docs: dict[str, Doc], kind: str) -> None:
    build(Store.open(folder), kind)
    check(folder, docs)
    assert build(Store.open(folder), kind) == 0


@pytest.mark.parametrize("kind", [IVFPQ, HNSW])
def test_it_grows_and_forgets(folder: Path, docs: dict[str, Doc], kind: str) -> None:
    build(Store.open(folder), kind)
    gone = [f"d{i}" for i in range(0, 200, 7)]
    docs = changed(folder, docs, clustered(range(190, 230), 2), gone)
    with pytest.raises(IndexBehindError, match=rf"lacks .* documents.*index build --store .* --kind {kind}"):
        FaissIndex(Store.open(folder))
    lacking = faiss_files.lacking(Store.open(folder))
    assert facts(Store.open(folder))["vectors of the store that it lacks"] == lacking > 0
    assert build(Store.open(folder), kind) == lacking
    check(folder, docs)
    with rewriting(folder) as writer:
        writer.compact()
    with pytest.raises(IndexBehindError, match="compacted"):
        FaissIndex(Store.open(folder))
    build(Store.open(folder), kind)
    check(folder, docs)
    after = facts(Store.open(folder))
    assert after["vectors"] == Store.open(folder).manifest.rows
    assert after["vectors of deleted documents"] == 0, "files of segments that have gone, go"
    sizes = [path.stat().st_size for path in (folder / "index" / RETRIEVER).iterdir() if path.suffix != ".json"]
    assert after["bytes"] == sum(sizes)


def test_flat_is_never_behind(folder: Path, docs: dict[str, Doc]) -> None:
    build(Store.open(folder), FLAT)
    docs = changed(folder, docs, clustered(range(190, 230), 2), ["d3", "d8"])
    check(folder, docs)
    assert (facts(Store.open(folder))["bytes"], faiss_files.lacking(Store.open(folder))) == (0, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_deleted_documents_are_not_found(tmp_path: Path, docs: dict[str, Doc], kind: str) -> None:
    folder = made(tmp_path / "store", docs, segments=4)
    build(Store.open(folder), kind)
    docs = changed(folder, docs, {}, ["d13", "d119", "d199"])
    check(folder, docs)  # which needs no building
    if kind != FLAT:
        gone = sum(len(clustered(range(200), 1)[i].matrix) for i in ("d13", "d119", "d199"))
        assert facts(Store.open(folder))["vectors of deleted documents"] == gone
    build(Store.open(folder), kind)
    check(folder, docs)
    assert not faiss_files.is_mostly_dead(Store.open(folder))
    docs = changed(folder, docs, {}, [f"d{i}" for i in range(140)])
    check(folder, docs)
    build(Store.open(folder), kind)
    assert faiss_files.is_mostly_dead(Store.open(folder)) == (kind != FLAT)
    build(Store.open(folder), kind, again=True)
    check(folder, docs)


@pytest.fixture(scope="module", params=KINDS)
def thousand(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = made(tmp_path_factory.mktemp("thousand") / "store", clustered(range(1000), 4))
    build(Store.open(folder), request.param)
    return folder


@pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 0.5, 1])
def test_only_what_is_allowed(thousand: Path, share: float) -> None:
    """And as many of it as if it were all there is, where little is looked at."""
    docs = clustered(range(1000), 4)
    allowed = [f"d{i}" for i in np.random.default_rng(3).choice(1000, round(1000 * share), replace=False)]
    check(thousand, docs, allowed)
    index = FaissIndex(Store.open(thousand), nprobe=4, depth=64)
    found = index.documents.ids(index.best(query(), 20, allowed=index.documents.known([*allowed, "nobody"]))[0])
    able = [doc_id for doc_id in allowed if len(docs[doc_id].matrix)]
    assert set(found) <= set(able)
    assert len(found) >= min(10, len(able))
    assert index.best(query(), 20, allowed=index.documents.known([]))[0].size == 0


def test_threads_with_filters_of_their_own_share_it(thousand: Path) -> None:
    index = FaissIndex(Store.open(thousand), depth=50)
    filters = [np.arange(len(index.documents)) % n == 0 for n in (1, 2, 3, 50)] * 10
    expected = [index.best(query(i), 20, allowed=allowed)[0].tolist() for i, allowed in enumerate(filters)]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda i: index.best(query(i), 20, allowed=filters[i])[0].tolist(), range(len(filters)))
        assert list(found) == expected


@settings(max_examples=10, deadline=None)
@given(stops=st.lists(st.integers(1, 8), max_size=5))
def test_what_was_interrupted_goes_on(tmp_path_factory: pytest.TempPathFactory, stops: list[int]) -> None:
    """Stopped at any writing of a file, as if the power had gone, it makes the same files as in one go."""
    whole, broken = (tmp_path_factory.mktemp("index") / name for name in ("whole", "broken"))
    made(whole, clustered(range(100), 3), segments=4)
    shutil.copytree(whole, broken)
    build(Store.open(whole))
    for stop in stops:
        with pytest.MonkeyPatch.context() as patch:
            interrupt_at(patch, stop)
            with suppress(KeyboardInterrupt):
                build(Store.open(broken))
        with suppress(UsageError, IndexBehindError):  # and what is there is whole, or refused
            check(broken, clustered(range(100), 3))
    build(Store.open(broken))
    names = sorted(path.name for path in (whole / "index" / RETRIEVER).iterdir())
    assert names == sorted(path.name for path in (broken / "index" / RETRIEVER).iterdir())
    for name in names:
        assert (whole / "index" / RETRIEVER / name).read_bytes() == (broken / "index" / RETRIEVER / name).read_bytes()


def interrupt_at(patch: pytest.MonkeyPatch, stop: int) -> None:
    """Let only so many files be written."""
    write, left = files.write_whole, iter(range(stop))

    def written(path: Path, fill: Callable[[Path], None], left: Iterator[int] = left) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        write(path, fill)

    patch.setattr(files, "write_whole", written)


@pytest.mark.parametrize("kind", [IVFPQ, HNSW])
@pytest.mark.parametrize("stop", range(5))
def test_growth_that_was_interrupted_goes_on(folder: Path, docs: dict[str, Doc], kind: str, stop: int) -> None:
    """After a compaction that leaves nothing of what the index covers, and with its files' names taken again."""
    build(Store.open(folder), kind)
    for change in ("compact", "append"):
        if change == "append":
            docs = changed(folder, docs, clustered(range(190, 230), 2), ["d5"])
        else:
            docs = changed(folder, docs, {}, ["d9"])
            with rewriting(folder) as writer:
                writer.compact()
        with pytest.MonkeyPatch.context() as patch:
            interrupt_at(patch, stop)
            with suppress(KeyboardInterrupt):
                build(Store.open(folder), kind)
        with suppress(IndexBehindError):
            check(folder, docs)
        build(Store.open(folder), kind)
        check(folder, docs)


def test_a_build_that_lacks_its_last_step_is_not_searched(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, 2 + 2 * 3)  # what is learnt, three segments, and after each the state
        with suppress(KeyboardInterrupt):
            build(Store.open(folder))
    with pytest.raises(IndexBehindError, match=r"was interrupted. Go on with it: .*--kind ivfpq"):
        FaissIndex(Store.open(folder))


@pytest.mark.parametrize("kind", KINDS)
def test_every_damaged_byte_of_it_is_seen(folder: Path, kind: str) -> None:
    build(Store.open(folder), kind)
    before, told = everything(folder).best(query(), 30)[0].tolist(), []
    random = np.random.default_rng(0)
    for path in sorted((folder / "index" / RETRIEVER).iterdir()):
        whole = path.read_bytes()
        for place in random.choice(len(whole), min(len(whole), 50), replace=False).tolist():
            edit(path, lambda data, place=place: data.__setitem__(place, data[place] ^ 0x10))  # type: ignore[misc]
            try:
                found = everything(folder).best(query(), 30)[0].tolist()
            except StoreCorruptError as error:
                told.append("index build" in str(error))
            else:
                assert found == before, "what no one reads"
            path.write_bytes(whole)
        if whole:
            for broken in (b"", whole[:-1], whole + b"\0"):
                path.write_bytes(broken)
                with suppress(StoreCorruptError, UsageError):
                    assert everything(folder).best(query(), 30)[0].tolist() == before
            path.unlink()
            with pytest.raises((StoreCorruptError, UsageError)):
                everything(folder)
            path.write_bytes(whole)
    assert len(told) > {FLAT: 30, HNSW: 70, IVFPQ: 100}[kind]
    assert all(told)


def test_bad_input(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UsageError, match="holds no vectors yet"):
        build(Store.open(made(tmp_path / "empty", {}, segments=1)))
    few = Store.open(made(tmp_path / "few", clustered(range(20), 1)))
    with pytest.raises(UsageError, match=r"learns of 256 vectors at least, and the store has \d+. Take --kind flat"):
        build(few)
    store = Store.open(folder)
    with pytest.raises(UsageError, match=r"no index for --retriever faiss here; make one with .*--kind ivfpq"):
        FaissIndex(store)
    with pytest.raises(UsageError, match="--kind pq: expected one of ivfpq, hnsw, flat"):
        build(store, "pq")
    for count in (0, 3, 32):
        with pytest.raises(UsageError, match=f"--subquantizers {count}: expected a number that divides .* 16 dim"):
            build(store, settings=Settings(subquantizers=count))
    for count in (0, 70_000):
        with pytest.raises(UsageError, match="--partitions"):
            build(store, settings=Settings(partitions=count))
    for kind in (FLAT, HNSW):
        with pytest.raises(UsageError, match=f"--subquantizers: nothing is learnt for --kind {kind}"):
            build(store, kind, Settings(subquantizers=2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faiss_files, "MOST_IN_MEMORY", 800)
        with pytest.raises(UsageError, match=r"800 vectors at most, and the store has \d+. Take --kind ivfpq"):
            build(store, HNSW)
    build(store, settings=Settings(partitions=5, subquantizers=4))
    with pytest.raises(UsageError, match="--subquantizers 2: the index has 4; pass --again"):
        build(store, settings=Settings(subquantizers=2))
    with pytest.raises(UsageError, match="--kind flat: the index of --retriever faiss is of kind ivfpq"):
        build(store, FLAT)
    with (
        building(states.folder_of(store, RETRIEVER)),
        pytest.raises(StoreWriteError, match="another process"),
    ):
        build(store)


def test_a_query_that_it_was_not_made_for(folder: Path) -> None:
    build(Store.open(folder))
    index = FaissIndex(Store.open(folder))
    with pytest.raises(UsageError, match=r"of 16 dimensions .* the query of 15"):
        index.best(query()[:, :15], 10)
    with pytest.raises(UsageError, match="similarity cosine, and the query of 16 and l2"):
        index.best(query(), 10, "l2")


def test_an_index_of_another_store(folder: Path) -> None:
    build(Store.open(folder))
    state = states.load(folder / "index" / RETRIEVER)
    assert state is not None
    states.save(folder / "index" / RETRIEVER, replace(state, store_id="another"))
    with pytest.raises(UsageError, match="belongs to another store"):
        FaissIndex(Store.open(folder))
    with pytest.raises(UsageError, match="of another store"):
        build(Store.open(folder))
    build(Store.open(folder), again=True)
    FaissIndex(Store.open(folder))


def test_without_faiss(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(Store.open(folder))
    monkeypatch.setitem(sys.modules, "faiss", None)
    for attempt in (build, FaissIndex):
        with pytest.raises(UsageError, match=r"pip install 'colbert-rerank\[faiss\]'"):
            attempt(Store.open(folder))


def test_a_full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise RuntimeError("Error in write: No space left on device")

    monkeypatch.setattr(library(), "write_index", full)
    with pytest.raises(StoreWriteError, match=r"cannot write .*learnt\.faiss.*No space left"):
        build(Store.open(folder))


@pytest.mark.parametrize(
    ("rows", "partitions"), [(256, 4), (900, 16), (40_000, 1024), (10**6, 8192), (2 * 10**7, 65_536), (10**9, 65_536)]
)
def test_partitions_are_as_many_as_the_vectors_suffice_for(rows: int, partitions: int) -> None:
    assert faiss_files.partition_count(rows) == partitions
    assert rows >= partitions * faiss_files.POINTS


@pytest.mark.parametrize(("dim", "count"), [(128, 16), (96, 12), (100, 10), (7, 1), (1, 1)])
def test_subquantizers_divide_the_dimensions(dim: int, count: int) -> None:
    assert faiss_files.subquantizer_count(dim) == count


@pytest.mark.parametrize("kind", KINDS)
def test_it_goes_on_after_a_fork(folder: Path, kind: str) -> None:
    """OpenMP's threads do not live on in the child, which would wait for them for ever; and leaves their number."""
    build(Store.open(folder), kind)
    program = f"""
import os, sys
import faiss
import numpy as np
from colbert_rerank.retrieval.faiss_index import FaissIndex
from colbert_rerank.store import Store
faiss.omp_set_num_threads(4)
index = FaissIndex(Store.open({str(folder)!r}))
query = np.ones((40, {DIM}), np.float32)
expected = index.best(query, 20)[0].tolist()
child = os.fork()
if not child:
    same = index.best(query, 20)[0].tolist() == expected
    same &= FaissIndex(Store.open({str(folder)!r})).best(query, 20)[0].tolist() == expected
    os._exit(0 if same and faiss.omp_get_max_threads() == 4 else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) or faiss.omp_get_max_threads() != 4)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], timeout=60, check=False)
    assert done.returncode == 0
