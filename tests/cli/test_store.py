"""`store` and its commands, and what `ingest` is told about the store."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

from colbert_rerank.candidates import bm25_files
from colbert_rerank.store import Store, StoreWriter, layout
from colbert_rerank.store import manifest as manifests
from tests.cli.conftest import DOCUMENTS, Files
from tests.cli.terminal import invoke
from tests.store import stores
from tests.store.test_bad_store import places
from tests.store.test_golden import FORMAT1


@pytest.fixture
def copy(files: Files, tmp_path: Path) -> Path:
    return Path(shutil.copytree(files.store, tmp_path / "store"))


def test_info_says_what_a_store_holds(files: Files) -> None:
    facts = json.loads(invoke("store", "info", files.store, "--json").check().out)
    assert (facts["documents"], facts["entries no longer live"], facts["segments"]) == (DOCUMENTS, 0, 1)
    assert (facts["model"], facts["codec"], facts["last ingest"]) == (str(files.model), "float16", "complete")
    assert facts["bytes"] == sum(path.stat().st_size for path in (files.store / "segments").iterdir())
    shown = invoke("store", "info", files.store).check().out
    assert f"documents               {DOCUMENTS}\n" in shown
    assert "choices                 none\n" in shown


def test_info_says_which_format_the_manifest_has(files: Files, tmp_path: Path) -> None:
    old = Path(shutil.copytree(FORMAT1, tmp_path / "old"))
    for store, expected in ((files.store, 2), (old, 1)):
        assert json.loads(invoke("store", "info", store, "--json").check().out)["format"] == expected
    invoke("store", "delete", old, ids_of(old)[0]).check()
    assert json.loads(invoke("store", "info", old, "--json").check().out)["format"] == 2


def test_documents_that_were_replaced_are_counted(copy: Path, files: Files, tmp_path: Path) -> None:
    first = json.loads(files.corpus.read_text().splitlines()[0])
    (tmp_path / "changed.jsonl").write_text(json.dumps(first | {"text": "another text"}) + "\n")
    invoke("ingest", tmp_path / "changed.jsonl", "--store", copy, "--model", files.model).check()
    facts = json.loads(invoke("store", "info", copy, "--json").check().out)
    assert (facts["documents"], facts["entries no longer live"]) == (DOCUMENTS, 0), "small segments are merged"


def test_a_sound_store_is_sound(files: Files) -> None:
    done = invoke("store", "verify", files.store).check()
    assert done.out == ""
    assert f"sound; {DOCUMENTS} documents, " in done.err


def test_each_damaged_file_is_named(copy: Path) -> None:
    segment, index = stores.segment_files(copy)[0], stores.index_file(copy)
    stores.edit(index, lambda data: data.__setitem__(-1, data[-1] ^ 1))
    done = invoke("store", "verify", copy)
    assert done.status == 1
    assert done.out.startswith(str(index))
    assert "1 of its files is damaged" in done.err
    offset = stores.read_manifest(copy)["segments"][0]["values_offset"]
    stores.edit(segment, lambda data: data.__setitem__(offset, data[offset] ^ 1))
    done = invoke("store", "verify", copy)
    assert done.status == 1
    assert done.out.startswith(f"{segment}: the vectors at byte {offset} are damaged")


def test_damage_as_json(copy: Path) -> None:
    assert json.loads(invoke("store", "verify", copy, "--json").check().out)["damages"] == []
    segment = stores.segment_files(copy)[0]
    segment.write_bytes(segment.read_bytes()[:-1])
    done = invoke("store", "verify", copy, "--json")
    (damage,) = json.loads(done.out)["damages"]
    assert damage.startswith(f"{segment}: it has ")


def test_an_index_of_other_segments_is_named(copy: Path, files: Files, tmp_path: Path) -> None:
    """As no checksum tells: it is whole, and listed."""
    other = tmp_path / "other"
    lines = files.corpus.read_text().splitlines(keepends=True)
    (tmp_path / "reversed.jsonl").write_text("".join(reversed(lines)))
    invoke("ingest", tmp_path / "reversed.jsonl", "--store", other, "--model", files.model).check()
    data, theirs = stores.read_manifest(copy), stores.read_manifest(other)
    shutil.copy(stores.index_file(other), copy / "segments")
    stores.sign(copy, data | {"index": theirs["index"]})
    done = invoke("store", "verify", copy)
    assert done.status == 1
    assert "it is not the id index of these segments" in done.out


def test_no_store_is_no_damaged_one(tmp_path: Path) -> None:
    for command in ("info", "verify"):
        assert "no store here" in invoke("store", command, tmp_path).error


def test_a_store_without_its_manifest_is_no_empty_folder(copy: Path, files: Files) -> None:
    (copy / "manifest.json").unlink()
    before = sorted(copy.rglob("*"))
    expected = f"{copy}: manifest.json is missing, but 2 files of a store are there. {layout.BEGIN_AGAIN}"
    for command in ("info", "verify", "repair", "compact"):
        assert invoke("store", command, copy).error == expected
    assert invoke("rerank", "tides", "--store", copy).error == expected
    assert invoke("ingest", files.corpus, "--store", copy, "--model", files.model).error == expected
    assert sorted(copy.rglob("*")) == before


def test_a_damaged_manifest_is_not_said_to_be_mended_by_what_refuses_it(copy: Path) -> None:
    stores.edit(copy / "manifest.json", lambda data: data.__setitem__(40, data[40] ^ 1))
    for command in ("info", "verify", "repair", "compact"):
        error = invoke("store", command, copy).error
        assert error.startswith(f"{copy / 'manifest.json'}: its checksum does not match")
        assert error.endswith("No repair is possible: restore the store from a copy, or ingest again into a new folder")


@pytest.mark.parametrize("empty", [False, True], ids=["gone", "an-empty-mount-point"])
def test_without_its_segments_a_store_is_lost(copy: Path, files: Files, empty: bool) -> None:
    shutil.rmtree(copy / "segments")
    if empty:
        (copy / "segments").mkdir()
    before = sorted(copy.rglob("*"))
    expected = (
        f"{copy / 'segments'}: none of the store's files is there, nor the vectors and ids of up to {DOCUMENTS} "
        f"documents. If they are on another disk, see that it is mounted. Else: {layout.BEGIN_AGAIN}"
    )
    for command in ("repair", "compact"):
        assert invoke("store", command, copy).error == expected
    assert invoke("store", "delete", copy, "a").error == expected
    assert invoke("ingest", files.corpus, "--store", copy, "--model", files.model).error == expected
    assert sorted(copy.rglob("*")) == before


def test_the_first_stage_beside_it_is_looked_at(copy: Path) -> None:
    victim = max((copy / "bm25").iterdir(), key=lambda path: path.stat().st_size)
    stores.edit(victim, lambda data: data.__setitem__(9, data[9] ^ 1))
    done = invoke("store", "verify", copy)
    assert done.status == 1
    assert "BM25" in done.out


def test_an_index_that_is_behind_is_not_damaged(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bm25_files, "PATIENCE", 0)
    state, manifest = copy / "bm25" / "state.json", manifests.load(copy)
    manifests.save(copy, manifest.next(unfinished=("corpus.jsonl",)))
    state.write_text(json.dumps(json.loads(state.read_text()) | {"content": manifest.content - 1}))
    expected = f"{copy / 'bm25'}: the BM25 index is behind the store (content {manifest.content - 1}, the store has "
    done = invoke("store", "verify", copy).check()
    assert expected in done.err
    assert "under way, or interrupted: `ingest corpus.jsonl`" in done.err
    assert f"{copy}: sound; {DOCUMENTS} documents" in done.err
    told = json.loads(invoke("store", "verify", copy, "--json").check().out)
    assert (told["damages"], told["behind"].startswith(expected)) == ([], True)
    victim = max((copy / "bm25").iterdir(), key=lambda path: path.stat().st_size)
    stores.edit(victim, lambda data: data.__setitem__(9, data[9] ^ 1))
    done = invoke("store", "verify", copy)
    assert (done.status, f"{victim.name} is not as it was written" in done.out) == (1, True)


@pytest.mark.parametrize("cause", ["unreadable", "no-temporary-folder"])
def test_an_index_that_cannot_be_looked_at_need_not_be_damaged(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    if cause == "unreadable":
        meta = copy / "bm25" / "meta.json"
        meta.unlink()
        meta.mkdir()  # which no one may read as a file, be it root
        expected = f"{meta}: Is a directory. It may be sound: see that this process can read it, and try again"
    else:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
        expected = f"{copy / 'bm25'}: searching it needs a temporary folder: "
    done = invoke("store", "verify", copy)
    assert done.error.startswith(expected)
    assert "damaged" not in done.err


def ids_of(store: Path) -> list[str]:
    return sorted(Store.open(store).index.ids())


def test_delete(copy: Path, tmp_path: Path) -> None:
    first, second, third, *others = ids_of(copy)
    (tmp_path / "gone.txt").write_text(f"{second}\n\n{third}\nnobody\n")
    done = invoke("store", "delete", copy, first, "--ids", tmp_path / "gone.txt", "--json").check()
    assert json.loads(done.out) == {"deleted": 3, "unknown": ["nobody"]}
    assert "1 of the ids are not in" in done.err
    assert "3 documents deleted" in done.err
    assert ids_of(copy) == others
    invoke("rerank", "tides", "--store", copy).check()
    refused = invoke("store", "delete", copy)
    assert (refused.status, "no ids: give them as arguments" in refused.err) == (2, True)
    refused = invoke("store", "delete", copy, others[0], "")
    assert (refused.status, "document id '' has 0 bytes" in refused.err) == (2, True)
    assert ids_of(copy) == others


def test_compact(copy: Path, files: Files, tmp_path: Path) -> None:
    before = Store.open(copy).manifest
    done = invoke("store", "compact", copy, "--codec", "int8", "--sketches", "binary").check()
    after = Store.open(copy).manifest
    assert f"{before.bytes:,} bytes before, {after.bytes:,} now" in done.err
    assert (after.codec, after.sketches, ids_of(copy)) == ("int8", "binary", ids_of(files.store))
    run = ("run", "--topics", files.topics, "--store", copy, "--output", tmp_path / "run")
    invoke(*run, "--rescore", "5").check()
    said = invoke(*run, "--exact-top", "1").check().err
    assert re.search(r"\d+ \(\d+%\) by their sketches alone, which rule them out of the first 1\b", said)
    assert "--rescore and --exact-top: each says" in invoke(*run, "--exact-top", "1", "--rescore", "5").err
    refused = invoke("store", "compact", copy, "--codec", "binary")
    assert (refused.status, "would lose twice" in refused.err) == (2, True)
    invoke("store", "compact", copy, "--sketches", "none").check()
    assert Store.open(copy).manifest.sketches == ""
    for options, said in (
        (("--exact-top", "5"), "--exact-top 5: a cascade begins with sketches"),
        (("--rescore", "5"), "--rescore 5: a cascade begins with sketches"),
        (("--interpolate", "2"), "--interpolate 2.0: expected 0"),
    ):
        refused = invoke(*run, *options)
        assert (refused.status, said in refused.err) == (2, True), "in the command's words"


def test_repair(copy: Path, files: Files) -> None:
    assert "nothing is damaged" in invoke("store", "repair", copy).check().err
    segment = stores.segment_files(copy)[0]
    stores.edit(segment, lambda data: data.__delitem__(slice(len(data) // 2, None)))
    done = invoke("store", "repair", copy)
    assert done.status == 3
    lost = ids_of(files.store)
    assert done.out.startswith(f"damaged {segment.name}: ")
    assert sorted(done.out.splitlines()[1:]) == [f"lost {doc_id}" for doc_id in lost]
    assert f"{len(lost)} documents are lost; ingest them again" in done.err
    # they are missed, whatever else is ingested, until they are there
    other = copy.with_name("other.jsonl")
    other.write_text(json.dumps({"_id": "other", "text": "tides"}))
    assert (
        "what a repair lost is not here again"
        in invoke("ingest", other, "--store", copy, "--model", files.model).check().err
    )
    assert "interrupted or under way: repair" in invoke("store", "info", copy).check().out
    invoke("ingest", files.corpus, "--store", copy, "--model", files.model).check()
    assert ids_of(copy) == sorted([*lost, "other"])
    assert json.loads(invoke("store", "info", copy, "--json").check().out)["last ingest"] == "complete"


def test_losses_can_be_accepted(copy: Path) -> None:
    manifest = manifests.load(copy)
    manifests.save(copy, manifest.next(unfinished=("a.jsonl", "repair")))
    done = invoke("store", "repair", copy, "--accept-losses").check()
    assert "counts as complete without what is missing of 'a.jsonl', 'repair'" in done.err
    assert Store.open(copy).manifest.complete


def test_repair_that_loses_nothing(copy: Path, files: Files) -> None:
    segment = stores.segment_files(copy)[0]
    place, _ = places(segment)["content_hashes"]
    stores.edit(segment, lambda data: data.__setitem__(place, data[place] ^ 1))
    done = invoke("store", "repair", copy).check()
    assert done.out == f"damaged {segment.name}: content_hashes, which its documents can do without\n"
    assert done.err.endswith(f"{copy}: no document is lost\n")
    assert ids_of(copy) == ids_of(files.store)
    invoke("store", "verify", copy).check()


@pytest.mark.parametrize("damage", ["flipped", "folder", "state"])
def test_the_first_stage_is_not_repaired_but_made_anew_by_the_same_ingest(
    copy: Path, files: Files, damage: str
) -> None:
    bm25 = copy / "bm25"
    if damage == "folder":
        shutil.rmtree(bm25)
    elif damage == "state":
        (bm25 / "state.json").unlink()
    else:
        victim = max(bm25.iterdir(), key=lambda path: path.stat().st_size)
        stores.edit(victim, lambda data: data.__setitem__(9, data[9] ^ 1))
    for _ in range(2):  # it stays so
        done = invoke("store", "repair", copy)
        assert done.status == 1
        assert done.out.startswith("damaged bm25: ")
        assert f"{copy}: no document is lost" in done.err
        assert f"Remove {bm25}, if it is there, and ingest again: the same `ingest` fills it anew, and enc" in done.err
    shutil.rmtree(bm25, ignore_errors=True)
    again = invoke("ingest", files.corpus, "--store", copy, "--model", files.model).check()
    assert f"(0 encoded, {DOCUMENTS} stored before)" in again.err
    invoke("store", "verify", copy).check()
    invoke("store", "repair", copy).check()


def test_a_first_stage_that_was_not_made_yet_is_not_lost(copy: Path, tmp_path: Path) -> None:
    invoke("store", "export", copy, "--output", tmp_path / "arrays").check()
    invoke("store", "import", tmp_path / "arrays", "--store", tmp_path / "again").check()
    assert "nothing is damaged" in invoke("store", "repair", tmp_path / "again").check().err


def test_repair_that_cannot_name_what_is_lost(copy: Path) -> None:
    stores.segment_files(copy)[0].write_bytes(b"")
    stores.index_file(copy).unlink()
    done = invoke("store", "repair", copy, "--json")
    assert done.status == 1
    assert json.loads(done.out)["unnamed"] == DOCUMENTS
    assert f"up to {DOCUMENTS} documents are lost whose ids are lost as well" in done.err


def test_export_and_import(copy: Path, tmp_path: Path) -> None:
    some = ids_of(copy)[:2]
    (tmp_path / "some").write_text("\n".join(some))
    invoke("store", "export", copy, "--output", tmp_path / "arrays").check()
    invoke("store", "import", tmp_path / "arrays", "--store", tmp_path / "again").check()
    assert ids_of(tmp_path / "again") == ids_of(copy)
    done = invoke(
        "store", "export", copy, "--format", "opensearch", "--output", "-", "--ids", tmp_path / "some"
    ).check()
    assert [json.loads(line)["update"]["_id"] for line in done.out.splitlines()[::2]] == some
    assert '{"vectors": {"type": "object", "enabled": false}}' in done.err
    arguments = ("--format", "elasticsearch", "--field", "colbert", "--output", tmp_path / "bulk")
    done = invoke("store", "export", copy, *arguments).check()
    assert '"type": "rank_vectors"' in done.err
    assert len((tmp_path / "bulk").read_text().splitlines()) == 2 * DOCUMENTS
    invoke("store", "export", copy, "--format", "pylate", "--output", tmp_path / "vectors.pt").check()
    refused = invoke("store", "export", copy, "--output", tmp_path / "arrays")
    assert (refused.status, "is there already" in refused.err) == (2, True)


def test_an_imported_store_is_told_as_what_it_is(files: Files, tmp_path: Path) -> None:
    """It is whole and sound; only its BM25 index is yet to be made, by the command that all say."""
    invoke("store", "export", files.store, "--output", tmp_path / "arrays").check()
    store = tmp_path / "again"
    invoke("store", "import", tmp_path / "arrays", "--store", store).check()
    expected = f"{store}: this store has no BM25 index yet, as after `store import`. Ingest its documents: `colbert"
    done = invoke("store", "verify", store).check()
    assert expected in done.err
    assert f"{store}: sound; {DOCUMENTS} documents" in done.err
    refused = invoke("rerank", "tides", "--store", store)
    assert refused.error.startswith(expected)
    assert "interrupted" not in refused.err
    shown = json.loads(invoke("store", "info", store, "--json").check().out)
    assert shown["last ingest"] == "none yet that put its documents into the BM25 index, as after `store import`"
    (tmp_path / "candidates.txt").write_text(f"q Q0 {ids_of(store)[0]} 1 1 x\n")
    (tmp_path / "topics.tsv").write_text("q\ttides\n")
    run = ("run", "--topics", tmp_path / "topics.tsv", "--candidates", tmp_path / "candidates.txt")
    assert "index" not in invoke(*run, "--store", store, "--output", tmp_path / "run").check().err
    made = invoke("ingest", files.corpus, "--store", store, "--model", files.model).check()
    assert f"(0 encoded, {DOCUMENTS} stored before)" in made.err
    assert "index" not in invoke("rerank", "tides", "--store", store).check().err


@pytest.mark.parametrize("how", ["older-copy", "killed"])
def test_an_index_that_holds_nothing_the_store_knows_of(
    files: Files, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """After a compaction over an older copy, and where the first ingest after an import died at its beginning."""
    store, corpus = copy, tmp_path / "more.jsonl"
    corpus.write_text(files.corpus.read_text() + json.dumps({"_id": "new", "text": "of tides"}) + "\n")
    ingest = ("ingest", corpus, "--store", store, "--model", files.model)
    if how == "older-copy":
        invoke(*ingest).check()
        shutil.rmtree(store / "bm25")
        shutil.copytree(files.store / "bm25", store / "bm25")
        expected = "one of the two is a copy from another time. Run the `ingest` of all its documents again"
        assert expected in invoke("rerank", "tides", "--store", store).error
        invoke("store", "compact", store).check()
    else:
        invoke("store", "export", files.store, "--output", tmp_path / "arrays").check()
        shutil.rmtree(store)
        invoke("store", "import", tmp_path / "arrays", "--store", store).check()
        with monkeypatch.context() as patch:
            patch.setattr(StoreWriter, "begin", lambda *_: os.kill(os.getpid(), signal.SIGINT))
            assert invoke(*ingest).status == 130
    refused = invoke("rerank", "tides", "--store", store)
    assert refused.error.endswith("no document is known to be in it. Run the `ingest` of all its documents again")
    assert "Warning" in refused.err
    shown = json.loads(invoke("store", "info", store, "--json").check().out)
    assert shown["last ingest"] == "with documents that are not known to be in the index"
    invoke(*ingest).check()
    assert "index" not in invoke("rerank", "tides", "--store", store).check().err


@pytest.mark.parametrize("format", ["numpy", "pylate"])
def test_what_cannot_be_exported_to_stdout(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = invoke("store", "export", files.store, "--format", format, "--output", "-")
    assert (refused.status, refused.error.count("--format opensearch or elasticsearch")) == (2, 1)
    assert not [*tmp_path.iterdir()]


def test_ingest_options_of_long_documents(files: Files, tmp_path: Path) -> None:
    arguments = ("ingest", files.corpus, "--model", files.model)
    invoke(*arguments, "--store", tmp_path / "a", "--long-docs", "windows", "--pool-factor", "2").check()
    recipe = Store.open(tmp_path / "a").manifest.recipe
    assert (recipe.stride > 0, recipe.pool_factor) == (True, 2)
    invoke("rerank", "tides", "--store", tmp_path / "a").check()
    coded = invoke(*arguments, "--store", tmp_path / "b", "--codec", "residual2", "--sketches", "residual1").check()
    assert "learning the codebook of residual1: " in coded.err, "it takes long where there is much to learn of"
    manifest = Store.open(tmp_path / "b").manifest
    assert (manifest.codec, manifest.sketches) == ("residual2", "residual1")
    invoke("rerank", "tides", "--store", tmp_path / "b", "--rescore", "3").check()
    refused = invoke(*arguments, "--store", tmp_path / "c", "--stride", "20")
    assert (refused.status, "--stride is of --long-docs windows" in refused.err) == (2, True)
    refused = invoke(*arguments, "--store", tmp_path / "a", "--long-docs", "windows", "--stride", "20")
    assert (refused.status, "made with another way of making texts" in refused.err) == (1, True)
