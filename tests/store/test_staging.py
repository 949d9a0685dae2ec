"""A generation made beside the one that is read; and who may write, and when, while others do."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from colbert_rerank.errors import StoreWriteError
from colbert_rerank.store import Store, layout, rewriting, staging, writing
from colbert_rerank.store.inspection import facts
from colbert_rerank.types import Origin
from ingest import upkeep
from tests.store import stores

FIRST = stores.random_docs([f"a{i}" for i in range(9)], 1)
SECOND = stores.random_docs(["a3", "b", "c"], 2)
OTHER = Origin("opensearch", "green", "uuid")


class GivenUpError(Exception):
    pass


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store beside which a generation was begun."""
    stores.make(tmp_path / "store", [FIRST])
    begin_aside(tmp_path / "store")
    return tmp_path / "store"


def begin_aside(folder: Path) -> None:
    with suppress(GivenUpError), rewriting(folder) as live, staging(live, OTHER, "green") as aside:
        stores.commit(aside, SECOND)
        raise GivenUpError


def go_on(folder: Path) -> set[str]:
    """The ids that a generation begins with that is gone on with."""
    with rewriting(folder) as live, staging(live, OTHER, "green") as aside:
        found = {*aside.store().index.ids()}
        aside.finish()
    return found


def files_of(folder: Path) -> set[str]:
    return {path.name for path in (folder / layout.SEGMENTS).iterdir()}


def test_what_is_made_aside_is_seen_at_once_and_gone_on_with(folder: Path) -> None:
    before = Store.open(folder)
    stores.assert_holds(before, FIRST)
    assert "bytes for green" in facts(before)["made aside"]
    assert before.manifest.origin is None
    with writing(folder, None):  # another writer comes, sweeps, and goes
        pass
    assert go_on(folder) == {*FIRST, *SECOND}
    after = before.refresh()
    assert after.manifest.origin == OTHER
    assert {*after.index.ids()} == {*FIRST, *SECOND}
    assert files_of(folder) == after.manifest.files
    assert "made aside" not in facts(after)
    stores.assert_holds(before, FIRST)


@pytest.mark.parametrize("step", ["compact", "repair"])
def test_it_is_given_up_by_what_rewrites_the_store(folder: Path, step: str) -> None:
    if step == "repair":  # what is damaged is in both
        (file,) = Store.open(folder).manifest.files - {Store.open(folder).manifest.index.file}  # type: ignore[union-attr]
        stores.edit(folder / layout.SEGMENTS / file, lambda data: data.__setitem__(-1, data[-1] ^ 1))
        upkeep.repair(folder)
    else:
        assert upkeep.compact(folder).given_up > 0
    assert files_of(folder) == Store.open(folder).manifest.files


def test_a_repair_that_finds_nothing_leaves_it_there(folder: Path) -> None:
    before = files_of(folder)
    upkeep.repair(folder)
    assert files_of(folder) == before
    assert go_on(folder) == {*FIRST, *SECOND}


@pytest.mark.parametrize("damage", ["gone", "cut", "manifest"])
def test_what_is_damaged_of_it_is_made_anew(folder: Path, damage: str) -> None:
    (own,) = files_of(folder) - Store.open(folder).manifest.files
    path = folder / layout.NEXT if damage == "manifest" else folder / layout.SEGMENTS / own
    path.unlink() if damage == "gone" else path.write_bytes(path.read_bytes()[:-9])
    assert go_on(folder) == {*FIRST}


def test_vectors_are_read_by_the_codebook_that_made_them(tmp_path: Path) -> None:
    """The generation was begun when the store had learnt nothing yet, and learnt by itself; the store did later."""
    rng = np.random.default_rng(1)
    docs = {str(i): stores.Doc(rng.standard_normal((40, 8)).astype("float32")) for i in range(8)}
    with writing(tmp_path, stores.new_manifest(8, "residual2")):
        pass
    with suppress(GivenUpError), rewriting(tmp_path) as live, staging(live, OTHER, "green") as aside:
        stores.commit(aside, {"aside": docs["0"]})
        raise GivenUpError
    with writing(tmp_path, None) as writer:
        stores.commit(writer, docs)
        writer.finish()
    assert go_on(tmp_path) == {*docs}
    for doc_id, matrix in zip(docs, Store.open(tmp_path).gather(list(docs)).matrices(), strict=True):
        given = docs[doc_id].matrix
        cosines = (matrix * given).sum(1) / np.linalg.norm(matrix, axis=1) / np.linalg.norm(given, axis=1)
        assert cosines.mean() > 0.5


# Who may write


def test_who_waited_for_another_to_end_is_alone(tmp_path: Path) -> None:
    stores.make(tmp_path, [FIRST])
    alone: list[bool] = []

    def second() -> None:
        with writing(tmp_path, None) as writer:
            alone.append(writer.alone)

    thread = threading.Thread(target=second, daemon=True)
    with rewriting(tmp_path):
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
    thread.join(30)
    assert alone == [True]


def test_who_has_given_up_commits_nothing_any_more(tmp_path: Path) -> None:
    """As a thread may that is left over after an interrupt; its files may be swept by then."""
    stores.make(tmp_path, [FIRST])
    with writing(tmp_path, None) as writer:
        writer.begin("test")
        writer.share()
    with pytest.raises(StoreWriteError, match="this process has given up writing to it"):
        stores.commit(writer, SECOND)
    stores.assert_holds(Store.open(tmp_path), FIRST)


def test_a_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    stores.make(tmp_path, [FIRST])
    read, write = os.pipe()
    with writing(tmp_path, None) as writer:
        writer.begin("test")
        writer.share()
        child = os.fork()
        if not child:
            os.read(read, 1)  # until the parent is done
            os._exit(0)
        stores.commit(writer, SECOND)
        writer.finish()
        assert writer.alone
    with rewriting(tmp_path):
        pass
    os.write(write, b"x")
    assert os.waitpid(child, 0)[1] == 0


def test_an_interrupted_ingest_is_remembered_until_it_is_run_again(tmp_path: Path) -> None:
    with writing(tmp_path, stores.new_manifest()) as other:
        other.begin("other")
        other.share()
        for name in ("killed", "killed"):
            with writing(tmp_path, None) as writer:
                writer.begin(name)
                stores.commit(writer, FIRST)
        assert Store.open(tmp_path).manifest.unfinished == ("killed", "other")
        with writing(tmp_path, None) as writer:
            writer.begin("killed")
            writer.finish()
        assert Store.open(tmp_path).manifest.unfinished == ("other",)
        other.finish()
    store = Store.open(tmp_path)
    assert store.manifest.complete
    assert store.manifest.index
