"""Stores written by the first version of format 2: read by this version, and by nothing but h5py, json and struct."""

from __future__ import annotations

import json
import math
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
import xxhash

from colbert_rerank.errors import StoreCorruptError
from colbert_rerank.store import Store, layout, rewriting
from ingest import upkeep
from tests.store.golden import make2

HERE = Path(__file__).parent / "golden"
FOLDERS = [HERE / f"format2-{codec}" for codec, _ in make2.CODECS]
every_store = pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
Vectors = dict[str, list[list[float]]]


@pytest.fixture(scope="module")
def given() -> Vectors:
    recorded = json.loads((HERE / "format2.json").read_text(encoding="utf-8"))
    found: Vectors = recorded["documents"]
    return found


# A reader by docs/store-format.md alone: nothing of ours from here


def datasets(path: Path, columns: str) -> dict[str, npt.NDArray[Any]]:
    with h5py.File(path, "r") as file:
        assert file.attrs["format"] == 2
        found = {name: file[name][()] for name in file}
        sums = {name: file[name].attrs["xxh3_64"].decode() for name in file if "xxh3_64" in file[name].attrs}
    assert sums.keys() == found.keys() - {"values", "sketches"}
    for name, checksum in sums.items():
        assert xxhash.xxh3_64_hexdigest(found[name].tobytes()) == checksum
    assert xxhash.xxh3_64_hexdigest("".join(f"{n}:{sums[n]}\n" for n in sorted(sums)).encode()) == columns
    return found


def bits(data: bytes, size: int, count: int) -> list[int]:
    text = "".join(f"{byte:08b}" for byte in data)
    return [int(text[i * size : (i + 1) * size], 2) for i in range(count)]


def vector(codec: str, row: bytes, dim: int, book: dict[str, npt.NDArray[Any]] | None) -> list[float]:
    if codec == "float32":
        return list(struct.unpack(f"<{dim}f", row))
    if codec == "int8":
        *steps, scale = struct.unpack(f"<{dim}bf", row)
        return [step * scale for step in steps]
    if codec == "binary":
        (scale,) = struct.unpack("<f", row[-4:])
        return [scale if bit else -scale for bit in bits(row[:-4], 1, dim)]
    assert book is not None
    (number,) = struct.unpack("<H", row[:2])
    codes = bits(row[2:], int(codec.removeprefix("residual")), dim)
    found = [float(c) + float(book["weights"][code]) for c, code in zip(book["centroids"][number], codes, strict=True)]
    length = math.sqrt(sum(x * x for x in found)) if book["unit_length"][0] else 1.0
    return [x / length for x in found]


def documents(folder: Path, dataset: str) -> Iterator[tuple[str, list[bytes], float, bool]]:
    """Of each document of each segment: its id, its rows, how far they may be off, and whether it is a tombstone."""
    raw = (folder / "manifest.json").read_bytes()
    manifest = json.loads(raw)
    assert manifest["format"] == 2
    assert xxhash.xxh3_64_hexdigest(raw.replace(manifest["checksum"].encode(), b"0" * 16, 1)) == manifest["checksum"]
    for entry in manifest["segments"]:
        path = folder / "segments" / entry["file"]
        found = datasets(path, entry["columns"])
        rows, end, at = found[dataset], 0, 0
        raw_rows = rows.tobytes()
        assert path.read_bytes()[entry[f"{dataset}_offset"] :][: len(raw_rows)] == raw_rows
        sums = found["block_checksums" if dataset == "values" else "sketch_checksums"]
        assert sums.tolist() == [xxhash.xxh3_64_intdigest(raw_rows)]  # one block, it is small
        errors = found.get("max_errors" if dataset == "values" else "sketch_errors", np.zeros(len(found["row_counts"])))
        deleted = found.get("deleted", np.zeros(len(found["row_counts"]), np.uint8))
        for i, (size, count) in enumerate(zip(found["id_lengths"].tolist(), found["row_counts"].tolist(), strict=True)):
            doc_id = found["id_bytes"][at : at + size].tobytes().decode()
            yield doc_id, [row.tobytes() for row in rows[end : end + count]], float(errors[i]), bool(deleted[i])
            at, end = at + size, end + count


def read_by_the_book(folder: Path, dataset: str = "values") -> dict[str, tuple[list[list[float]], float]]:
    manifest = json.loads((folder / "manifest.json").read_bytes())
    codec = manifest["codec" if dataset == "values" else "sketches"]
    books = {b["codec"]: datasets(folder / "segments" / b["file"], b["columns"]) for b in manifest["codebooks"]}
    live: dict[str, tuple[list[list[float]], float]] = {}
    for doc_id, rows, error, deleted in documents(folder, dataset):
        live.pop(doc_id, None)
        if not deleted:
            live[doc_id] = ([vector(codec, row, manifest["dim"], books.get(codec)) for row in rows], error)
    return live


# Up to here


@every_store
def test_h5py_and_json_alone_find_what_this_version_finds(folder: Path) -> None:
    store = Store.open(folder, verify="open")
    for dataset in ["values", *(["sketches"] if store.manifest.sketches else [])]:
        expected = read_by_the_book(folder, dataset)
        assert sorted(expected) == sorted(store.index.ids()) == ["a", "b", "c", "empty", "日本語 é"]
        gathered = store.gather(list(expected), sketches=dataset == "sketches")
        for matrix, (vectors, _) in zip(gathered.matrices(), expected.values(), strict=True):
            np.testing.assert_allclose(matrix, np.reshape(vectors, (-1, make2.DIM)), rtol=1e-6, atol=1e-7)


@every_store
def test_errors_are_bounds(folder: Path, given: Vectors) -> None:
    for doc_id, (vectors, error) in read_by_the_book(folder).items():
        off = np.linalg.norm(np.reshape(vectors, (-1, make2.DIM)) - np.reshape(given[doc_id], (-1, make2.DIM)), axis=1)
        assert off.max(initial=0) <= error + 1e-6
        assert error <= off.max(initial=0) + 1e-6


@every_store
def test_they_are_added_to_and_compacted(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "store"))
    before = Store.open(copy)
    kept = before.gather(["a", "b", "c"])
    assert upkeep.delete(copy, ["日本語 é", "gone"]).unknown == ["gone"]
    with rewriting(copy) as writer:
        unit = writer.unit()
        unit.add("new", make2.drawn("new", 2, make2.DIM), bytes(16))
        writer.commit(unit, posted=True)
        writer.finish()
    upkeep.compact(copy)
    after = Store.open(copy, verify="open")
    assert sorted(after.index.ids()) == ["a", "b", "c", "empty", "new"]
    assert np.array_equal(after.gather(["a", "b", "c"]).values, kept.values)


@every_store
def test_the_generator_still_makes_the_same(folder: Path, tmp_path: Path) -> None:
    make2.main(tmp_path)
    new, old = Store.open(tmp_path / folder.name).manifest, Store.open(folder).manifest
    assert [s.columns for s in new.segments] == [s.columns for s in old.segments]
    assert [b.columns for b in new.codebooks] == [b.columns for b in old.codebooks]
    assert (tmp_path / "format2.json").read_bytes() == (HERE / "format2.json").read_bytes()


def test_a_codebook_that_is_lost_or_damaged(tmp_path: Path) -> None:
    copy = Path(shutil.copytree(HERE / "format2-residual2", tmp_path / "store"))
    (path,) = (copy / layout.SEGMENTS).glob("*.codebook.h5")
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(StoreCorruptError, match=path.name):
        Store.open(copy)
    path.write_bytes(data.replace(make2.book().weights.tobytes(), bytes(16)))
    with pytest.raises(StoreCorruptError, match=f"{path.name}: column weights is damaged"):
        Store.open(copy)
    path.unlink()
    with pytest.raises(StoreCorruptError, match=f"{path.name}: this file of the store is missing"):
        Store.open(copy)
