"""Deletion, compaction and repair, with the BM25 index beside the store."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from colbert_rerank.candidates import bm25
from colbert_rerank.candidates.bm25 import Bm25Index
from colbert_rerank.encoder import Encoder
from colbert_rerank.errors import (
    IndexBehindError,
    StoreCorruptError,
    StoreMismatchError,
    StoreNotFoundError,
    UsageError,
)
from colbert_rerank.store import Store, exchange, layout, writing
from colbert_rerank.store.inspection import damages
from colbert_rerank.types import Query, ScoredDoc
from ingest import losses, upkeep
from tests.collection import bm25_of, documents, ingested, queries
from tests.store import stores
from tests.store.test_bad_store import places

ROOT = Path(__file__).parents[2]
COUNT = 40


@pytest.fixture(scope="module")
def made(tiny_encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("upkeep") / "store"
    ingested(folder, tiny_encoder, list(documents(COUNT)))
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "store"))


def ids_of(folder: Path) -> set[str]:
    """Those in the store, which are those in the BM25 index, which is up to date."""
    store = Store.open(folder, verify="open")
    index = Bm25Index.open_for(folder, store.manifest)
    ids = set(store.index.ids())
    assert len(index) == len(ids)
    assert {d.doc_id for d in index.fetch(sorted(ids))} == ids
    return ids


def test_deleted_documents_are_gone_from_both(folder: Path) -> None:
    before = ids_of(folder)
    gone = sorted(before)[:5]
    done = upkeep.delete(folder, [*gone, "nobody", gone[0]])
    assert (done.deleted, done.unknown) == (5, ["nobody"])
    assert ids_of(folder) == before - set(gone)
    store = Store.open(folder)
    assert not store.gather(gone).found.any()
    assert list(store.describe(gone)) == [None] * 5
    assert store.manifest.complete
    found = Bm25Index.open_for(folder, store.manifest).search([Query("q", "tide harbour light storm")], COUNT)
    assert not {d.doc_id for d in next(iter(found))} & set(gone)


def test_deleting_again_deletes_nothing(folder: Path) -> None:
    gone = sorted(ids_of(folder))[:3]
    upkeep.delete(folder, gone)
    before = Store.open(folder).manifest
    done = upkeep.delete(folder, gone)
    assert (done.deleted, done.unknown) == (0, gone)
    assert Store.open(folder).manifest == before


def test_what_is_deleted_can_be_ingested_again(folder: Path, tiny_encoder: Encoder) -> None:
    before = ids_of(folder)
    upkeep.delete(folder, sorted(before)[:3])
    ingested(folder, tiny_encoder, list(documents(COUNT)))
    assert ids_of(folder) == before


def test_all_documents_can_be_deleted(folder: Path, tiny_encoder: Encoder) -> None:
    before = ids_of(folder)
    upkeep.delete(folder, before)
    assert ids_of(folder) == set()
    upkeep.compact(folder)
    assert Store.open(folder).manifest.segments == ()
    ingested(folder, tiny_encoder, list(documents(COUNT)))
    assert ids_of(folder) == before


@pytest.mark.parametrize(
    ("doc_id", "message"),
    [
        ("", "document id '' has 0 bytes, expected 1 to 512 of UTF-8"),
        ("日" * 171, f"document id '{'日' * 60}'... has 513 bytes, expected 1 to 512 of UTF-8"),
        ("a\ud800", "half of a surrogate pair"),
    ],
    ids=["empty", "too long", "surrogate"],
)
def test_what_cannot_be_an_id_deletes_nothing(folder: Path, doc_id: str, message: str) -> None:
    before = ids_of(folder)
    with pytest.raises(UsageError, match=message):
        upkeep.delete(folder, [min(before), doc_id])
    assert ids_of(folder) == before
    assert upkeep.delete(folder, ["x" * 512]).unknown == ["x" * 512]


def test_nothing_is_deleted_where_no_store_is(folder: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        upkeep.delete(folder / "nothing", ["a"])
    assert not (folder / "nothing").exists()


def test_a_kill_between_store_and_index_is_mended_by_the_next_step(
    folder: Path, tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = ids_of(folder)
    gone = sorted(before)[:4]

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    for step in ("delete", "compact", "repair", "ingest"):
        copy = Path(shutil.copytree(folder, folder.with_name(step)))
        with monkeypatch.context() as patch:
            patch.setattr(Bm25Index, "delete", killed)
            with pytest.raises(KeyboardInterrupt):
                upkeep.delete(copy, gone)
        with pytest.raises(IndexBehindError, match=r"is behind the store .*interrupted: `store delete` or"):
            ids_of(copy)
        if step == "delete":
            assert upkeep.delete(copy, gone).unknown == gone
        elif step == "ingest":
            ingested(copy, tiny_encoder, [d for d in documents(COUNT) if d.doc_id not in gone])
        else:
            getattr(upkeep, step)(copy)
        assert ids_of(copy) == before - set(gone), step


def test_compaction_makes_room(folder: Path) -> None:
    before = ids_of(folder)
    gone = sorted(before)[: COUNT // 2]
    upkeep.delete(folder, gone)
    assert len(Store.open(folder).manifest.segments) == 1, "small segments are merged at once"
    kept = Store.open(folder).gather(sorted(before - set(gone)))
    done = upkeep.compact(folder)
    assert done.after == sum(p.stat().st_size for p in (folder / layout.SEGMENTS).iterdir())
    after = Store.open(folder).gather(sorted(before - set(gone)))
    assert np.array_equal(kept.values, after.values)
    assert ids_of(folder) == before - set(gone)
    again = Store.open(folder).manifest
    upkeep.compact(folder)
    assert Store.open(folder).manifest == again, "there is nothing left to do"


def test_large_segments_are_compacted_only_when_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "UNIT_BYTES", 1)  # nothing is merged
    before = ids_of(folder)
    gone = sorted(before)[:10]
    upkeep.delete(folder, gone)
    assert len(Store.open(folder).manifest.segments) == 2
    assert sum(s.documents for s in Store.open(folder).manifest.segments) == COUNT + 10
    upkeep.compact(folder)
    assert [s.documents for s in Store.open(folder).manifest.segments] == [COUNT - 10]
    assert ids_of(folder) == before - set(gone)


def hits(folder: Path) -> list[list[ScoredDoc]]:
    return list(bm25_of(Store.open(folder)).search(queries(20), COUNT))


@pytest.fixture
def changed(folder: Path, tiny_encoder: Encoder) -> Path:
    """The store after documents were replaced and deleted; beside it, in ``fresh``, one that was made of the others."""
    old, new = documents(COUNT), documents(10, COUNT)
    replaced = [one._replace(fields=other.fields) for one, other in zip(old, new, strict=False)]
    ingested(folder, tiny_encoder, replaced)
    upkeep.delete(folder, [one.doc_id for one in old[5:15]])
    ingested(folder.with_name("fresh"), tiny_encoder, [*replaced[:5], *old[15:]])
    return folder


def test_compaction_lets_bm25_forget_what_has_gone(changed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bm25, "READ_AT_ONCE", 7)
    fresh = hits(changed.with_name("fresh"))
    assert hits(changed) != fresh, "what was deleted or replaced counts until then"
    upkeep.compact(changed)
    assert hits(changed) == fresh
    assert len(ids_of(changed)) == COUNT - 10
    before = [(path, path.stat().st_mtime_ns) for path in sorted((changed / "bm25").iterdir())]
    upkeep.compact(changed)
    assert [(path, path.stat().st_mtime_ns) for path in sorted((changed / "bm25").iterdir())] == before


# Compacts, and dies while tantivy commits, or when it has, and that could not be noted.
DIE = """
import os, sys
from pathlib import Path
from colbert_rerank.candidates import bm25, bm25_files
from ingest import upkeep

save = bm25_files.save
if sys.argv[2] == "before":
    bm25_files.save = lambda *state: (save(*state), os._exit(9))
else:
    bm25.Bm25Index._finish = lambda self, content: os._exit(9)
upkeep.compact(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_while_the_bm25_index_is_compacted(changed: Path, moment: str) -> None:
    died = subprocess.run([sys.executable, "-c", DIE, str(changed), moment], cwd=ROOT, check=False)
    assert died.returncode == 9
    with pytest.raises(IndexBehindError, match=r"unfinished, .*interrupted: `store delete` or `store compact`.*run it"):
        hits(changed)
    upkeep.compact(changed)
    assert hits(changed) == hits(changed.with_name("fresh"))
    assert len(ids_of(changed)) == COUNT - 10


def test_a_tombstone_is_kept_while_it_is_needed(tmp_path: Path) -> None:
    """It is in a segment that is merged with a neighbour, and what it buries is in an older one."""
    old, young = stores.random_docs(["a", "b"], 1, rows=3), stores.random_docs(["c"], 2)
    with writing(tmp_path, stores.new_manifest()) as writer:
        stores.commit(writer, old, posted=False)
        unit = writer.unit()
        unit.delete("a")
        writer.commit(unit, posted=True)
        stores.commit(writer, young, posted=True)
        writer.finish()
    store = Store.open(tmp_path)
    assert [s.documents for s in store.manifest.segments] == [2, 2]
    stores.assert_holds(store, {"b": old["b"], **young})
    upkeep.compact(tmp_path)
    assert [s.documents for s in Store.open(tmp_path).manifest.segments] == [1, 1]
    stores.assert_holds(Store.open(tmp_path), {"b": old["b"], **young})


# Repair


def segmented(folder: Path) -> dict[str, stores.Doc]:
    """A store of three segments, of which the later ones replace documents of the earlier ones."""
    units = [
        stores.random_docs([f"d{i}" for i in range(start, start + 60)], seed, dim=64, rows=60)
        for seed, start in enumerate((0, 50, 100))
    ]
    stores.make(folder, units, merge=False)
    return units[0] | units[1] | units[2]


def flip(path: Path, place: int) -> None:
    stores.edit(path, lambda data: data.__setitem__(place, data[place] ^ 1))


def test_nothing_to_repair(tmp_path: Path) -> None:
    model = segmented(tmp_path)
    (tmp_path / layout.SEGMENTS / "00000099-0123abcd.h5").write_bytes(b"left behind")
    done = upkeep.repair(tmp_path)
    assert (done.unlisted, done.damages, done.lost, done.unnamed) == (["00000099-0123abcd.h5"], {}, [], 0)
    stores.assert_holds(Store.open(tmp_path), model)


@pytest.mark.parametrize("damage", ["gone", "cut", "flipped"])
def test_an_id_index_that_is_made_again_was_damaged(tmp_path: Path, damage: str) -> None:
    model = segmented(tmp_path)
    before, file = Store.open(tmp_path).manifest, stores.index_file(tmp_path)
    if damage == "gone":
        file.unlink()
    elif damage == "cut":
        stores.edit(file, lambda data: data.__delitem__(-1))
    else:
        flip_in(file, "ordinals")
    found = {
        "gone": "this file of the store is missing",
        "cut": "truncated or replaced",
        "flipped": "column ordinals is damaged, its checksum does not match",
    }
    done = upkeep.repair(tmp_path)
    assert done.damages == {file.name: f"{found[damage]}. The id index is made again"}
    assert (done.lost, done.unnamed) == ([], 0)
    assert damages(tmp_path) == []
    stores.assert_holds(Store.open(tmp_path), model)
    assert Store.open(tmp_path).manifest.segments == before.segments
    assert upkeep.repair(tmp_path).damages == {}


def of_other_segments(folder: Path, units: list[dict[str, stores.Doc]]) -> None:
    """Let the id index be that of another store, of which ``units`` became segments: whole, and listed."""
    other = folder.with_name("other")
    stores.make(other, units, merge=False)
    shutil.copy(stores.index_file(other), folder / layout.SEGMENTS)
    stores.sign(folder, stores.read_manifest(folder) | {"index": stores.read_manifest(other)["index"]})


OTHERS = {
    "of-fewer-documents": [stores.random_docs([f"d{i}" for i in range(20)], 8, dim=64)],
    "of-more-segments": [stores.random_docs([f"d{i}"], i, dim=64) for i in range(5)],
    "of-longer-segments": [stores.random_docs([f"e{i}" for i in range(90)], 7, dim=64)],
}
NOT_OF_THESE = "it is not the id index of these segments. The id index is made again"


@pytest.mark.parametrize("column", ["", "content_hashes", "block_checksums"])
@pytest.mark.parametrize("units", OTHERS.values(), ids=OTHERS)
def test_an_id_index_of_other_segments(tmp_path: Path, units: list[dict[str, stores.Doc]], column: str) -> None:
    """As no checksum tells. What it does not list was not deleted, and what it repeats is not taken for right."""
    store = tmp_path / "store"
    model = segmented(store)
    of_other_segments(store, units)
    file, index = stores.segment_files(store)[1], stores.index_file(store)
    assert damages(store) == [f"{index}: it is not the id index of these segments"]
    if column:
        flip_in(file, column)
    done = upkeep.repair(store)
    assert done.damages.pop(index.name) == NOT_OF_THESE
    assert [*done.damages] == [file.name] * bool(column)
    assert (0 < len(done.lost) < 30, done.unnamed) == (column == "block_checksums", 0)
    assert set(Store.open(store, verify="open").index.ids()) == model.keys() - set(done.lost)
    assert damages(store) == []
    assert upkeep.repair(store).damages == {}


@pytest.mark.parametrize("units", [*OTHERS.values()][1:], ids=[*OTHERS][1:])
def test_an_id_index_of_other_segments_beside_damage(tmp_path: Path, units: list[dict[str, stores.Doc]]) -> None:
    """It cannot be compared with what is not read; but it tells of segments and documents that there are not."""
    store = tmp_path / "store"
    model = segmented(store)
    of_other_segments(store, units)
    file, index = stores.segment_files(store)[2], stores.index_file(store)
    flip_in(file, "row_counts")
    done = upkeep.repair(store)
    assert [*done.damages] == [index.name, file.name]
    assert done.damages[index.name] == NOT_OF_THESE
    assert (done.lost, done.unnamed) == ([], 60)
    assert set(Store.open(store, verify="open").index.ids()) == {*model} - {f"d{i}" for i in range(110, 160)}
    assert damages(store) == []


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("index", [True, False], ids=["index", "no-index"])
def test_documents_whose_vectors_are_sound_stay(tmp_path: Path, number: int, index: bool) -> None:
    model = segmented(tmp_path)
    entry = Store.open(tmp_path).manifest.segments[number]
    block = 1
    flip(stores.segment_files(tmp_path)[number], entry.values_offset + block * layout.BLOCK + 100)
    damaged = [entry.file]
    if not index:
        flip(stores.index_file(tmp_path), -1)
        damaged.insert(0, stores.index_file(tmp_path).name)
    done = upkeep.repair(tmp_path)
    assert list(done.damages) == damaged
    assert 0 < len(done.lost) < 60
    assert done.unnamed == 0
    stores.assert_holds(Store.open(tmp_path, verify="open"), {i: d for i, d in model.items() if i not in done.lost})
    for doc_id in done.lost:  # all of them have a row in the damaged block
        assert len(model[doc_id].matrix)


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("damage", ["gone", "truncated", "header"])
def test_a_lost_segment_is_named_by_the_index(tmp_path: Path, number: int, damage: str) -> None:
    model = segmented(tmp_path)
    store = Store.open(tmp_path)
    there = store.lookup(list(model)).segments
    expected = {i for i, at in zip(model, there.tolist(), strict=True) if at == number}
    del store
    path = stores.segment_files(tmp_path)[number]
    if damage == "gone":
        path.unlink()
    elif damage == "truncated":
        stores.edit(path, lambda data: data.__delitem__(slice(len(data) // 2, None)))
    else:
        with h5py.File(path, "r") as opened:
            place = h5py.h5o.get_info(opened["id_bytes"].id).addr
        flip(path, place + 8)
    done = upkeep.repair(tmp_path)
    assert set(done.lost) == expected
    assert done.unnamed == 0
    # what they had replaced in an older segment does not come back
    stores.assert_holds(Store.open(tmp_path, verify="open"), {i: d for i, d in model.items() if i not in expected})


@pytest.mark.parametrize("index", [True, False], ids=["index", "no-index"])
def test_what_is_lost_is_listed_in_the_order_of_the_store(tmp_path: Path, index: bool) -> None:
    segmented(tmp_path)
    store = Store.open(tmp_path)
    in_order = exchange.stored_ids(store)
    for path, entry in zip(stores.segment_files(tmp_path), store.manifest.segments, strict=True):
        flip(path, entry.values_offset + 100)
        flip(path, entry.values_offset + layout.BLOCK + 100)
    if not index:
        stores.index_file(tmp_path).unlink()
    lost = upkeep.repair(tmp_path).lost
    assert len(lost) > 20
    assert lost == [doc_id for doc_id in in_order if doc_id in set(lost)]


def test_a_lost_segment_without_an_index_is_counted(tmp_path: Path) -> None:
    segmented(tmp_path)
    stores.segment_files(tmp_path)[1].unlink()
    stores.index_file(tmp_path).unlink()
    done = upkeep.repair(tmp_path)
    assert (done.lost, done.unnamed) == ([], 60)
    assert len(Store.open(tmp_path, verify="open")) == 60 + 60


def flip_in(file: Path, column: str, part: float = 0.5) -> None:
    offset, size = places(file)[column]
    flip(file, offset + int(size * part))


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("index", [True, False], ids=["index", "no-index"])
@pytest.mark.parametrize(
    ("column", "forgotten"),
    [
        ("content_hashes", {"content_hash": bytes(16)}),
        ("field_hashes", {"fields_hash": bytes(16)}),
        ("seq_nos", {"seq_no": -1}),
        ("primary_terms", {"primary_term": -1}),
    ],
)
def test_a_column_that_documents_can_do_without(
    tmp_path: Path, number: int, index: bool, column: str, forgotten: dict[str, Any]
) -> None:
    model = segmented(tmp_path)
    before = Store.open(tmp_path)
    there = before.lookup(list(model)).segments.tolist()
    file = stores.segment_files(tmp_path)[number]
    flip_in(file, column)
    if not index:
        stores.index_file(tmp_path).unlink()
    done = upkeep.repair(tmp_path)
    assert done.damages.pop(file.name) == f"{column}, which its documents can do without"
    assert len(done.damages) == (not index)
    assert (done.lost, done.unnamed) == ([], 0)
    expected = {
        doc_id: doc._replace(**forgotten) if at == number else doc
        for (doc_id, doc), at in zip(model.items(), there, strict=True)
    }
    store = Store.open(tmp_path, verify="open")
    stores.assert_holds(store, expected)
    assert damages(tmp_path) == []
    assert (store.manifest.complete, store.manifest.content) == (before.manifest.complete, before.manifest.content)
    assert (tmp_path / losses.DAMAGED / file.name).exists()
    assert upkeep.repair(tmp_path).damages == {}


def test_damaged_checksums_of_sound_vectors(tmp_path: Path) -> None:
    """The id index repeats them; without it, each that is sound is still good for its block."""
    model = segmented(tmp_path / "index")
    file = stores.segment_files(tmp_path / "index")[1]
    flip_in(file, "block_checksums")
    shutil.copytree(tmp_path / "index", tmp_path / "none")
    stores.index_file(tmp_path / "none").unlink()
    assert upkeep.repair(tmp_path / "index").lost == []
    stores.assert_holds(Store.open(tmp_path / "index", verify="open"), model)
    done = upkeep.repair(tmp_path / "none")
    assert done.damages[file.name].startswith(
        "block_checksums, of which no copy is sound: a block that does not match it is taken for damaged; the vectors"
    )
    assert 0 < len(done.lost) < 30
    left = {i: d for i, d in model.items() if i not in done.lost}
    stores.assert_holds(Store.open(tmp_path / "none", verify="open"), left)


def test_damaged_vectors_beside_damaged_checksums(tmp_path: Path) -> None:
    model = segmented(tmp_path)
    file, entry = stores.segment_files(tmp_path)[1], Store.open(tmp_path).manifest.segments[1]
    flip_in(file, "block_checksums")
    flip_in(file, "content_hashes")
    flip(file, entry.values_offset + 100)
    done = upkeep.repair(tmp_path)
    assert done.damages[file.name] == (
        "block_checksums, made again from the id index; content_hashes, which its documents can do without; "
        f"the vectors of {len(done.lost)} of its 60 documents"
    )
    assert 0 < len(done.lost) < 60
    store = Store.open(tmp_path, verify="open")
    assert sorted(store.index.ids()) == sorted(model.keys() - set(done.lost))
    for doc_id, matrix in zip(kept := store.index.ids(), store.gather(kept).matrices(), strict=True):
        assert np.array_equal(matrix, model[doc_id].matrix.astype(np.float32))


NEEDED = ("row_counts", "id_lengths", "id_bytes")


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("columns", [*((name,) for name in NEEDED), NEEDED, ("block_checksums",)], ids="+".join)
def test_columns_that_the_id_index_repeats(tmp_path: Path, number: int, columns: tuple[str, ...]) -> None:
    model = segmented(tmp_path)
    before = Store.open(tmp_path).manifest
    file = stores.segment_files(tmp_path)[number]
    for column in columns:
        flip_in(file, column)
    done = upkeep.repair(tmp_path)
    (found,) = done.damages.values()
    assert sorted(found.split("; ")) == sorted(f"{column}, made again from the id index" for column in columns)
    assert (done.lost, done.unnamed) == ([], 0)
    store = Store.open(tmp_path, verify="open")
    stores.assert_holds(store, model)
    assert damages(tmp_path) == []
    assert (store.manifest.complete, store.manifest.content) == (before.complete, before.content)
    assert file.name not in store.manifest.files
    assert upkeep.repair(tmp_path).damages == {}


@pytest.mark.parametrize("index", [True, False], ids=["index", "no-index"])
@pytest.mark.parametrize("column", NEEDED)
def test_a_column_without_which_there_are_no_documents(tmp_path: Path, column: str, index: bool) -> None:
    """Of a document that was replaced the index tells nothing: nothing would prove that the column is right again."""
    segmented(tmp_path)
    file = stores.segment_files(tmp_path)[0]
    if index:
        flip_in(file, column, 0.97)
    else:
        stores.index_file(tmp_path).unlink()
        flip_in(file, column)
    done = upkeep.repair(tmp_path)
    assert done.damages[file.name] == f"column {column} is damaged, its checksum does not match"
    assert (len(done.lost), done.unnamed) == ((50, 0) if index else (0, 60))


@pytest.mark.parametrize("column", ["max_errors", "sketch_errors", "sketch_checksums"])
def test_what_coded_vectors_can_do_without(folder: Path, column: str) -> None:
    """A distance that is not known is infinite, through whatever is done to the store; sketches are derived."""
    upkeep.compact(folder, codec="int8", sketches="binary")
    before = Store.open(folder)
    ids = sorted(ids_of(folder))
    rows = before.gather(ids).values
    flip_in(stores.segment_files(folder)[0], column)
    if column == "sketch_checksums":
        stores.index_file(folder).unlink()  # which repeats them
    assert upkeep.repair(folder).lost == []
    assert sorted(ids_of(folder)) == ids
    after = Store.open(folder, verify="open")
    assert np.array_equal(after.gather(ids).values, rows)
    assert after.manifest.sketches == ("" if column == "sketch_checksums" else "binary")
    upkeep.delete(folder, ids[:3])
    upkeep.compact(folder, sketches="residual1")
    (segment,) = Store.open(folder, verify="open").segments
    finite = [name for name in (layout.MAX_ERRORS, layout.SKETCH_ERRORS) if np.isfinite(segment.columns[name]).all()]
    assert finite == ([layout.SKETCH_ERRORS] if column == "max_errors" else [layout.MAX_ERRORS, layout.SKETCH_ERRORS])
    if column == "max_errors":
        assert np.isposinf(segment.columns[layout.MAX_ERRORS]).all()


def test_damaged_checksums_of_sound_sketches(folder: Path) -> None:
    upkeep.compact(folder, sketches="binary")
    flip_in(stores.segment_files(folder)[0], "sketch_checksums")
    (found,) = upkeep.repair(folder).damages.values()
    assert found == "sketch_checksums, made again from the id index"
    assert Store.open(folder, verify="open").manifest.sketches == "binary"


def test_what_is_forgotten_is_made_known_by_the_next_ingest(folder: Path, tiny_encoder: Encoder) -> None:
    before = Store.open(folder)
    ids = before.index.ids()
    remembered = list(before.describe(ids))
    for column in ("content_hashes", "field_hashes"):
        flip_in(stores.segment_files(folder)[0], column)
    done = upkeep.repair(folder)
    assert len(done.damages) == 1
    assert set(ids_of(folder)) == set(ids)
    assert {one.content_hash for one in Store.open(folder).describe(ids) if one} == {bytes(16)}
    after = ingested(folder, tiny_encoder, list(documents(COUNT)))
    assert list(after.describe(ids)) == remembered
    assert np.array_equal(after.gather(ids).values, before.gather(ids).values)
    assert set(ids_of(folder)) == set(ids)


def test_what_is_lost_is_lost_to_the_bm25_index_too_and_ingested_again(folder: Path, tiny_encoder: Encoder) -> None:
    before = ids_of(folder)
    stores.segment_files(folder)[0].unlink()
    with pytest.raises(StoreCorruptError, match="see what `colbert-rerank store repair` can save"):
        Store.open(folder)
    done = upkeep.repair(folder)
    assert set(done.lost) == before
    assert ids_of(folder) == set()
    ingested(folder, tiny_encoder, list(documents(COUNT)))
    assert ids_of(folder) == before


@pytest.mark.parametrize("compacted", [False, True])
def test_what_was_deleted_does_not_come_back_with_an_older_index(
    folder: Path, tiny_encoder: Encoder, compacted: bool
) -> None:
    shutil.copytree(folder / "bm25", folder / "older")
    gone, *left = documents(COUNT)
    upkeep.delete(folder, [gone.doc_id])
    if compacted:
        upkeep.compact(folder)
    shutil.rmtree(folder / "bm25")
    (folder / "older").rename(folder / "bm25")
    with pytest.raises(IndexBehindError, match=r"one of the two is a copy from another time"):
        bm25_of(Store.open(folder))
    ingested(folder, tiny_encoder, left)
    assert ids_of(folder) == {document.doc_id for document in left}


def test_without_a_manifest_nothing_is_repaired(folder: Path) -> None:
    flip(folder / layout.MANIFEST, 40)
    before = {p.name for p in (folder / layout.SEGMENTS).iterdir()}
    with pytest.raises(StoreCorruptError):
        upkeep.repair(folder)
    assert {p.name for p in (folder / layout.SEGMENTS).iterdir()} == before


def test_an_unknown_codec_changes_nothing(folder: Path) -> None:
    before = Store.open(folder).manifest
    with pytest.raises(UsageError, match="codec 'int4': expected one of float16"):
        upkeep.compact(folder, "int4")
    assert Store.open(folder).manifest == before


def test_damage_to_both_is_named_all_the_same(folder: Path, tiny_encoder: Encoder) -> None:
    before = ids_of(folder)
    stores.segment_files(folder)[0].unlink()
    path = max((folder / "bm25").glob("*.store"), key=lambda p: p.stat().st_size)
    flip(path, 10)
    done = upkeep.repair(folder)
    assert set(done.lost) == before
    assert "the BM25 index cannot be opened" in done.bm25
    shutil.rmtree(folder / "bm25")
    ingested(folder, tiny_encoder, list(documents(COUNT)))
    assert ids_of(folder) == before


def test_nothing_is_deleted_where_the_bm25_index_is_damaged(folder: Path) -> None:
    before = Store.open(folder).manifest
    path = max((folder / "bm25").glob("*.store"), key=lambda p: p.stat().st_size)
    flip(path, 10)
    with pytest.raises(StoreCorruptError, match="the BM25 index cannot be opened"):
        upkeep.delete(folder, Store.open(folder).index.ids()[:2])
    assert Store.open(folder).manifest == before


def test_what_is_cut_from_is_kept_aside(folder: Path) -> None:
    path = stores.segment_files(folder)[0]
    flip(path, Store.open(folder).manifest.segments[0].values_offset)
    damaged = path.read_bytes()
    upkeep.repair(folder)
    assert not path.exists()
    assert (folder / losses.DAMAGED / path.name).read_bytes() == damaged


@pytest.mark.parametrize("codec", ["residual2", "int8"])
def test_a_codebook_that_is_damaged(folder: Path, tmp_path: Path, tiny_encoder: Encoder, codec: str) -> None:
    store = tmp_path / "coded"
    sketches = "residual1" if codec == "int8" else ""
    ingested(store, tiny_encoder, list(documents(COUNT)))
    upkeep.compact(store, codec, sketches)
    (path,) = (store / layout.SEGMENTS).glob("*.codebook.h5")
    stores.edit(path, lambda data: data.__delitem__(-1))
    if codec == "residual2":
        with pytest.raises(StoreCorruptError, match="Without this codebook no vector can be read"):
            upkeep.repair(store)
        return
    done = upkeep.repair(store)
    assert "store compact --sketches` makes sketches again" in done.damages[path.name]
    assert (Store.open(store).manifest.sketches, len(ids_of(store))) == ("", COUNT)
    upkeep.compact(store, sketches="residual1")
    assert len(ids_of(store)) == COUNT


def test_a_store_recoded_goes_on_with_the_same_ingest(folder: Path, tiny_encoder: Encoder) -> None:
    upkeep.compact(folder, "int8", "binary")
    ingested(folder, tiny_encoder, list(documents(COUNT + 5)), codec=None)
    manifest = Store.open(folder).manifest
    assert (manifest.codec, manifest.sketches, len(ids_of(folder))) == ("int8", "binary", COUNT + 5)
    with pytest.raises(StoreMismatchError, match="holds int8 vectors, float16 was asked for"):
        ingested(folder, tiny_encoder, list(documents(COUNT)), codec="float16")


def test_damaged_sketches_cost_no_document(folder: Path) -> None:
    before = ids_of(folder)
    upkeep.compact(folder, sketches="binary")
    entry = Store.open(folder).manifest.segments[0]
    flip(stores.segment_files(folder)[0], entry.sketches_offset + 5)
    done = upkeep.repair(folder)
    assert (list(done.damages), done.lost) == ([layout.SKETCHES], [])
    assert damages(folder) == []
    assert Store.open(folder).manifest.sketches == ""
    assert ids_of(folder) == before
    upkeep.compact(folder, sketches="binary")
    assert Store.open(folder, verify="open").manifest.sketches == "binary"
