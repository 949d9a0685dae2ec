"""`store info` and `store verify`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import DOCUMENTS, Files
from tests.cli.terminal import invoke
from tests.store import stores


@pytest.fixture
def copy(files: Files, tmp_path: Path) -> Path:
    return Path(shutil.copytree(files.store, tmp_path / "store"))


def test_info_says_what_a_store_holds(files: Files) -> None:
    facts = json.loads(invoke("store", "info", files.store, "--json").check().out)
    assert (facts["documents"], facts["replaced or deleted"], facts["segments"]) == (DOCUMENTS, 0, 1)
    assert (facts["model"], facts["codec"], facts["last ingest"]) == (str(files.model), "float16", "complete")
    assert facts["bytes"] == sum(path.stat().st_size for path in (files.store / "segments").iterdir())
    shown = invoke("store", "info", files.store).check().out
    assert f"documents            {DOCUMENTS}\n" in shown
    assert "choices              none\n" in shown


def test_documents_that_were_replaced_are_counted(copy: Path, files: Files, tmp_path: Path) -> None:
    first = json.loads(files.corpus.read_text().splitlines()[0])
    (tmp_path / "changed.jsonl").write_text(json.dumps(first | {"text": "another text"}) + "\n")
    invoke("ingest", tmp_path / "changed.jsonl", "--store", copy, "--model", files.model).check()
    facts = json.loads(invoke("store", "info", copy, "--json").check().out)
    assert (facts["documents"], facts["replaced or deleted"]) == (DOCUMENTS, 0), "small segments are merged"


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


def test_the_first_stage_beside_it_is_looked_at(copy: Path) -> None:
    victim = max((copy / "bm25").iterdir(), key=lambda path: path.stat().st_size)
    stores.edit(victim, lambda data: data.__setitem__(9, data[9] ^ 1))
    done = invoke("store", "verify", copy)
    assert done.status == 1
    assert "BM25" in done.out
