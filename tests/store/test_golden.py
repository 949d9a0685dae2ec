"""A store written by the first version of format 1: read by this version, and by nothing but h5py and json."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
import xxhash

from colbert_rerank.store import Store, columns, layout, writing
from colbert_rerank.types import Origin
from tests.store import stores
from tests.store.golden import make
from tests.store.stores import Doc

HERE = Path(__file__).parent / "golden"
FORMAT1 = HERE / "format1"


@pytest.fixture(scope="module")
def model(numbered: dict[str, Doc]) -> dict[str, Doc]:
    """As format 1 is read: its sequence numbers may be of an index that the store does not belong to any more."""
    return {doc_id: doc._replace(seq_no=-1, primary_term=-1) for doc_id, doc in numbered.items()}


@pytest.fixture(scope="module")
def numbered() -> dict[str, Doc]:
    """What is written there."""
    recorded = json.loads((HERE / "format1.json").read_text(encoding="utf-8"))
    return {
        doc_id: Doc(
            np.array(doc["rows"], dtype="<u2").view("<f2").reshape(-1, recorded["dim"]),
            bytes.fromhex(doc["content_hash"]),
            doc["seq_no"],
            doc["primary_term"],
            bytes.fromhex(doc["fields_hash"]),
        )
        for doc_id, doc in recorded["documents"].items()
    }


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FORMAT1, tmp_path / "store"))


def test_the_golden_store_is_read(model: dict[str, Doc]) -> None:
    store = Store.open(FORMAT1)
    stores.assert_holds(store, model)
    stores.assert_holds(store, model, ["x" * 512, "nobody", "b", "日本語 é", "empty", "a"])
    assert store.gather(["a"]).values[0].tolist() == [-0.0, 2.0**-24, 65504.0, -65504.0]
    manifest = store.manifest
    assert [segment.documents for segment in manifest.segments] == [4, 3]
    assert (manifest.complete, manifest.content, len(store)) == (True, 2, 6)
    assert manifest.origin == Origin("opensearch", "articles", "Zq3vXhYbQ1mS8s9c0Qw2Pg")
    assert manifest.recipe.fields == ("title", "text")
    assert manifest.provenance["note"] == "écrit une fois"
    assert all(stored and stored.posted for stored in store.describe(list(model)))


def test_the_golden_store_is_added_to(copy: Path, model: dict[str, Doc]) -> None:
    added = stores.random_docs(["c", "new"], 5, dim=4)
    stores.make(copy, [added])
    stores.assert_holds(Store.open(copy), model | added)
    assert len(Store.open(copy).manifest.segments) == 1


def test_the_generator_still_makes_the_same_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "UNIT_BYTES", layout.UNIT_BYTES)  # put back what the generator changes
    make.main(tmp_path)
    assert (tmp_path / "format1.json").read_bytes() == (HERE / "format1.json").read_bytes()
    new, old = Store.open(tmp_path / "format1").manifest, Store.open(FORMAT1).manifest
    assert [s.columns for s in new.segments] == [s.columns for s in old.segments]


def test_the_golden_files_are_small_and_complete() -> None:
    files = [path for path in HERE.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert sum(path.stat().st_size for path in files) < 80_000
    listed = {path.name for path in [*stores.segment_files(FORMAT1), stores.index_file(FORMAT1)]}
    assert {path.name for path in (FORMAT1 / "segments").iterdir()} == listed


# A reader by docs/store-format.md alone: nothing of ours from here


def checked(dataset: Any) -> npt.NDArray[Any]:
    data: npt.NDArray[Any] = dataset[()]
    assert dataset.attrs["xxh3_64"] == xxhash.xxh3_64_hexdigest(data.tobytes()).encode()
    return data


def digest_of_columns(file: Any) -> str:
    lines = [f"{name}:{file[name].attrs['xxh3_64'].decode()}\n" for name in sorted(file) if name != "values"]
    return xxhash.xxh3_64_hexdigest("".join(lines).encode())


def cut(joined: bytes, lengths: npt.NDArray[Any]) -> list[str]:
    ends = np.cumsum(lengths, dtype=np.int64).tolist()
    return [joined[end - size : end].decode("utf-8") for end, size in zip(ends, lengths.tolist(), strict=True)]


def read_by_the_book(folder: Path) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """The newest matrix under each id, and where the last of each lies: (segment, ordinal, first row, rows)."""
    raw = (folder / "manifest.json").read_bytes()
    manifest = json.loads(raw)
    assert manifest["format"] == 1
    blank = raw.replace(manifest["checksum"].encode(), b"0" * 16, 1)
    assert xxhash.xxh3_64_hexdigest(blank) == manifest["checksum"]

    matrices: dict[str, npt.NDArray[Any]] = {}
    places: dict[str, Any] = {}
    for number, entry in enumerate(manifest["segments"]):
        path = folder / "segments" / entry["file"]
        assert path.stat().st_size == entry["bytes"]
        with h5py.File(path, "r") as file:
            assert digest_of_columns(file) == entry["columns"]
            values = file["values"][()]
            assert values.dtype == np.dtype(manifest["dtype"]).newbyteorder("<")
            assert values.shape == (entry["rows"], manifest["dim"])
            assert file["values"].id.get_offset() == entry["values_offset"]
            at = entry["values_offset"]
            assert path.read_bytes()[at : at + values.nbytes] == values.tobytes()
            blocks = [values.tobytes()[i : i + 65536] for i in range(0, values.nbytes, 65536)]
            assert checked(file["block_checksums"]).tolist() == [xxhash.xxh3_64_intdigest(block) for block in blocks]
            counts = checked(file["row_counts"])
            ids = cut(checked(file["id_bytes"]).tobytes(), checked(file["id_lengths"]))
            assert len(ids) == entry["documents"]
        end = 0
        for ordinal, (doc_id, rows) in enumerate(zip(ids, counts.tolist(), strict=True)):
            matrices[doc_id] = values[end : end + rows]
            places[doc_id] = (number, ordinal, end, rows)
            end += rows
    return matrices, places


def test_h5py_and_json_alone_find_the_same(model: dict[str, Doc]) -> None:
    matrices, _ = read_by_the_book(FORMAT1)
    assert {doc_id: matrix.tobytes() for doc_id, matrix in matrices.items()} == {
        doc_id: doc.matrix.tobytes() for doc_id, doc in model.items()
    }


def test_the_index_is_what_the_segments_say() -> None:
    _, places = read_by_the_book(FORMAT1)
    entry = json.loads((FORMAT1 / "manifest.json").read_bytes())["index"]
    with h5py.File(FORMAT1 / "segments" / entry["file"], "r") as file:
        assert digest_of_columns(file) == entry["columns"]
        found = {name: checked(file[name]) for name in file}
    ids = cut(found["id_bytes"].tobytes(), found["id_lengths"])
    assert len(ids) == entry["documents"]
    assert found["id_hashes"].tolist() == sorted(xxhash.xxh3_64_intdigest(doc_id.encode()) for doc_id in ids)
    assert found["id_hashes"].tolist() == [xxhash.xxh3_64_intdigest(doc_id.encode()) for doc_id in ids]
    names = ("segment_numbers", "ordinals", "row_starts", "row_counts")
    rows = zip(*(found[name].tolist() for name in names), strict=True)
    assert dict(zip(ids, rows, strict=True)) == places


# What a later version may add


def add_column(segment: Path, entry: dict[str, Any]) -> None:
    """Write the segment anew with a column that this version does not know."""
    with h5py.File(segment, "r") as file:
        small = {name: file[name][()] for name in file if name != "values"}
        values = file["values"][()]
    small["reconstruction_errors"] = np.linspace(0, 1, entry["documents"], dtype=np.float32)
    rows = columns.Rows("values", [values], values.shape[1], str(values.dtype))
    placed = columns.write(segment, small, [rows])
    entry.update(bytes=segment.stat().st_size, values_offset=placed.offsets["values"], columns=placed.columns)


def add_others(segment: Path, entry: dict[str, Any]) -> None:
    """Put into the file what only HDF5 can describe, without a checksum, and so no column."""
    with h5py.File(segment, "r+") as file:
        file.create_dataset("packed", data=np.arange(1000), chunks=(100,), compression="gzip")
        file.create_dataset("names", data=["a", "bc"], dtype=h5py.string_dtype())
        file.create_group("extras").create_dataset("more", data=[1.5])
    entry["bytes"] = segment.stat().st_size


def add_keys(segment: Path, entry: dict[str, Any]) -> None:
    entry["tombstones"] = 0
    entry["zone"] = {"min": [1, 2]}


@pytest.mark.parametrize("add", [add_column, add_others, add_keys], ids=["column", "datasets and groups", "keys"])
def test_what_is_unknown_is_skipped(
    copy: Path, model: dict[str, Doc], add: Callable[[Path, dict[str, Any]], None]
) -> None:
    data = stores.read_manifest(copy)
    for entry in [*data["segments"], data["index"]]:
        if entry is not data["index"] or add is add_keys:
            add(copy / "segments" / entry["file"], entry)
    if add is add_keys:
        data["later"] = "than this version"
    stores.sign(copy, data)
    stores.assert_holds(Store.open(copy), model)

    added = stores.random_docs(["a", "new"], 6, dim=4)
    stores.make(copy, [added])  # writing to it is possible as well
    stores.assert_holds(Store.open(copy), model | added)
    # A key that this version cannot keep true is not written again.
    after = stores.read_manifest(copy)
    assert "later" not in after
    assert all("tombstones" not in entry for entry in [*after["segments"], after["index"]])


def test_writing_holds_on_to_the_stores_own_identity(copy: Path) -> None:
    with writing(copy, stores.new_manifest(4)) as writer:
        assert writer.manifest.store_id == "b7c8b0e5f1f94d6c8a3c0d5e6f708192"
