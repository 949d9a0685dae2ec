"""Stores that are missing, damaged, newer or forged: one named error each, and never a wrong vector.

The id index alone can be made again: where only that is damaged, everything is read as it was, with one warning.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from colbert_rerank.errors import (
    StoreCorruptError,
    StoreFormatError,
    StoreNotFoundError,
    StoreReadError,
    StoreWriteError,
)
from colbert_rerank.store import Store, layout, writing
from tests.store import stores
from tests.store.stores import Doc

BIG = np.random.default_rng(7).standard_normal((5000, 16)).astype("float16")  # 160,000 bytes: three blocks
FIRST = {f"a{i}": Doc(BIG[i * 1000 : (i + 1) * 1000], bytes([i]) * 16, i, 1, bytes([i + 1]) * 16) for i in range(5)}
SECOND = stores.random_docs([f"b{i}" for i in range(6)], 2, dim=16)
MODEL = {**FIRST, **SECOND}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "store"
    stores.make(folder, [FIRST, SECOND], merge=False)
    stores.assert_holds(Store.open(folder), MODEL)
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    """A copy of a sound store of two segments, to be damaged."""
    return Path(shutil.copytree(sound, tmp_path / "store"))


def flip(path: Path, place: int, bit: int = 0) -> None:
    def change(data: bytearray) -> None:
        data[place] ^= 1 << bit

    stores.edit(path, change)


def refused(folder: Path, *names: str) -> None:
    """Reading everything raises StoreCorruptError, whose message names ``names``."""
    with pytest.raises(StoreCorruptError) as caught:
        stores.assert_holds(Store.open(folder), MODEL)
    for name in names:
        assert name in str(caught.value)


def rebuilt(folder: Path, caplog: pytest.LogCaptureFixture, *names: str) -> None:
    """Everything is read as it was, with one warning about the id index, which names ``names``."""
    caplog.clear()
    stores.assert_holds(Store.open(folder), MODEL)
    (record,) = caplog.records
    assert (record.levelname, record.name) == ("WARNING", "colbert_rerank.store.reader")
    for name in (*names, "until the next `ingest`"):
        assert name in record.message
    assert layout.RESTORE not in record.message, "advice for files that cannot be made again"


# No store


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError, match=r"nowhere: no store here .*make one with `ingest`"):
        Store.open(tmp_path / "nowhere")


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError, match="no store here"):
        Store.open(str(tmp_path))


def test_a_file_instead_of_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text("{}\n")
    with pytest.raises(StoreNotFoundError, match="no store here"):
        Store.open(path)
    with pytest.raises(StoreWriteError, match=r"cannot write .*corpus\.jsonl"), writing(path, stores.new_manifest()):
        raise AssertionError("it was opened for writing")
    assert path.read_text() == "{}\n"


def test_a_folder_in_the_place_of_the_manifest(tmp_path: Path) -> None:
    (tmp_path / layout.MANIFEST).mkdir()
    with pytest.raises(StoreCorruptError, match="the manifest cannot be read"):
        Store.open(tmp_path)


def test_a_lost_manifest_does_not_cost_the_segments(folder: Path) -> None:
    (folder / layout.MANIFEST).unlink()
    before = sorted((folder / layout.SEGMENTS).iterdir())
    with pytest.raises(StoreCorruptError, match="is missing, but 3 files"), writing(folder, stores.new_manifest(16)):
        raise AssertionError("it was opened for writing")
    assert sorted((folder / layout.SEGMENTS).iterdir()) == before


# The manifest


@pytest.mark.parametrize("part", [0.0, 0.2, 0.5, 0.9, 0.999])
def test_manifest_truncated(folder: Path, part: float) -> None:
    path = folder / layout.MANIFEST
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    refused(folder, layout.MANIFEST)


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe{}", b"not JSON", b"", b"[]", b'"format"', b"{}", b"7", b"null", b"[" * 100_000, b'{"format": 1}'],
    ids=["not UTF-8", "not JSON", "empty", "list", "string", "no format", "number", "null", "deep", "no more"],
)
def test_manifest_is_something_else(folder: Path, content: bytes) -> None:
    (folder / layout.MANIFEST).write_bytes(content)
    refused(folder, layout.MANIFEST)


def test_manifest_edited_by_hand(folder: Path) -> None:
    path = folder / layout.MANIFEST
    path.write_text(path.read_text().replace('"dim": 16', '"dim": 32'))
    refused(folder, layout.MANIFEST, "edited or damaged")


def test_one_flipped_bit_in_the_manifest(folder: Path) -> None:
    path = folder / layout.MANIFEST
    good = path.read_bytes()
    for place in range(0, len(good), 3):
        flip(path, place, place % 7)  # bit 7 would never be ASCII
        with pytest.raises((StoreCorruptError, StoreFormatError)):  # the bit may make a later format of it
            Store.open(folder)
        path.write_bytes(good)
    stores.assert_holds(Store.open(folder), MODEL)


@pytest.mark.parametrize("found", [3, 4, 10_000])
def test_a_newer_format_says_so(folder: Path, found: int) -> None:
    stores.sign(folder, {"format": found, "anything": ["else"]})
    with pytest.raises(StoreFormatError, match=f"store format {found}; this version reads .*newer colbert-rerank"):
        Store.open(folder)
    with pytest.raises(StoreFormatError), writing(folder, stores.new_manifest(16)):
        raise AssertionError("it was opened for writing")


@pytest.mark.parametrize("found", [0, -1, "1", "2", None, [], 1.5], ids=repr)
def test_no_format_that_ever_was(folder: Path, found: object) -> None:
    stores.sign(folder, {**stores.read_manifest(folder), "format": found})
    refused(folder, layout.MANIFEST)


def forge(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        at, _, name = key.rpartition(".")
        {"": data, "segment": data["segments"][0], "index": data["index"]}[at][name] = value

    return change


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("segment.rows", 10**9),
        ("segment.rows", -5),
        ("segment.rows", "5000"),
        ("segment.values_offset", 10**12),
        ("segment.values_offset", 0),
        ("segment.documents", 4),
        ("segment.bytes", 17),
        ("segment.bytes", 0),
        ("segment.columns", "0123456789abcdef"),
        ("segment.file", "../manifest.json"),
        ("segment.file", ""),
        ("segment.file", None),
        ("index.file", "/etc/passwd"),
        ("segments", 5),
        ("segments", ["a"]),
        ("index", [1]),
        ("origin", ["one"]),
        ("dim", 8),
        ("dim", 0),
        ("dim", None),
        ("codec", "int8"),
        ("codec", "float32"),
    ],
    ids=repr,
)
def test_a_forged_manifest(folder: Path, key: str, value: object) -> None:
    data = stores.read_manifest(folder)
    forge(key, value)(data)
    stores.sign(folder, data)
    refused(folder, "")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("index.documents", 3),
        ("index.bytes", 17),
        ("index.columns", "0123456789abcdef"),
        ("index.file", "00000001-0123abcd.ids.h5"),
    ],
    ids=repr,
)
def test_a_manifest_that_lists_another_id_index(
    folder: Path, caplog: pytest.LogCaptureFixture, key: str, value: object
) -> None:
    data = stores.read_manifest(folder)
    forge(key, value)(data)
    stores.sign(folder, data)
    rebuilt(folder, caplog, stores.index_file(folder).name)


def test_a_manifest_without_a_required_key(folder: Path) -> None:
    data = stores.read_manifest(folder)
    del data["dim"]
    stores.sign(folder, data)
    refused(folder, layout.MANIFEST, "dim")


# Whole files


@pytest.mark.parametrize("which", ["first", "second", "index"])
@pytest.mark.parametrize("size", [None, 0, 1, 0.5, -1], ids=["missing", "empty", "1 byte", "half", "last byte"])
def test_a_file_missing_or_truncated(
    folder: Path, caplog: pytest.LogCaptureFixture, which: str, size: float | None
) -> None:
    path = {"first": 0, "second": 1}.get(which)
    file = stores.index_file(folder) if path is None else stores.segment_files(folder)[path]
    data = file.read_bytes()
    if size is None:
        file.unlink()
    else:
        file.write_bytes(data[: int(len(data) * size) if isinstance(size, float) else int(size)])
    what = "missing" if size is None else "truncated or replaced"
    if which == "index":
        rebuilt(folder, caplog, file.name, what)
    else:
        refused(folder, file.name, what, "Restore the store")


def test_segments_of_two_stores_mixed_up(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    stores.make(other, [{k: v._replace(matrix=v.matrix[::-1]) for k, v in FIRST.items()}, SECOND], merge=False)
    ours, theirs = stores.segment_files(folder)[0], stores.segment_files(other)[0]
    assert ours.stat().st_size == theirs.stat().st_size
    shutil.copy(theirs, ours)
    refused(folder, ours.name, "the vectors at byte", "are damaged")


def test_segments_of_one_store_exchanged(tmp_path: Path) -> None:
    one, two = stores.random_docs(["a", "b", "c"], 1), stores.random_docs(["d", "e", "f"], 2)
    stores.make(tmp_path, [one, two], merge=False)
    first, second = stores.segment_files(tmp_path)
    assert first.stat().st_size == second.stat().st_size
    first.rename(tmp_path / "kept")
    second.rename(first)
    (tmp_path / "kept").rename(second)
    with pytest.raises(StoreCorruptError, match=r"the vectors at byte .* are damaged"):
        Store.open(tmp_path).gather(["b"])
    with pytest.raises(StoreCorruptError, match="not the file that the manifest lists"):
        list(Store.open(tmp_path).describe(["b"]))


def test_not_a_file_of_hdf5(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    index, segment = stores.index_file(folder), stores.segment_files(folder)[0]
    index.write_bytes(b"x" * index.stat().st_size)
    rebuilt(folder, caplog, index.name, "not a readable HDF5 file")
    segment.write_bytes(b"x" * segment.stat().st_size)
    refused(folder, segment.name, "its header is not that of a file of this store")


def test_the_id_index_of_another_store_of_the_same_ids_is_not_used(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = tmp_path / "other"
    stores.make(other, [dict(reversed(FIRST.items())), SECOND], merge=False)
    ours, theirs = stores.index_file(folder), stores.index_file(other)
    assert ours.stat().st_size == theirs.stat().st_size
    shutil.copy(theirs, ours)
    rebuilt(folder, caplog, ours.name, "not the file that the manifest lists")


def test_an_id_index_is_not_made_of_damaged_segments(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    stores.index_file(folder).unlink()
    file = stores.segment_files(folder)[1]
    flip(file, places(file)["id_bytes"][0])
    refused(folder, file.name, "id_bytes")
    assert not caplog.records, "nothing was made again"


def test_an_id_index_that_may_not_be_read_is_no_lost_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, open_ = stores.index_file(folder), Path.open

    def refuse(path: Path, *arguments: Any, **options: Any) -> Any:
        if path == index:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return open_(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(StoreReadError, match=rf"{index.name}: permission denied"):
        Store.open(folder)
    with pytest.raises(StoreReadError), writing(folder, stores.new_manifest(16)):
        raise AssertionError("it was opened for writing")


@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped"])
def test_the_next_ingest_writes_a_lost_id_index_again(
    folder: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    file = stores.index_file(folder)
    if damage == "missing":
        file.unlink()
    elif damage == "truncated":
        stores.edit(file, lambda data: data.__delitem__(slice(100, None)))
    else:
        flip(file, places(file)["ordinals"][0])
    with writing(folder, stores.new_manifest(16)) as writer:
        rebuilt(folder, caplog, file.name)  # until it ends, or where it is given up
    rebuilt(folder, caplog, file.name)
    caplog.clear()
    with writing(folder, stores.new_manifest(16)) as writer:
        writer.finish()  # without a new document
    (record,) = caplog.records
    assert (record.levelname, record.name) == ("WARNING", "colbert_rerank.store.writer")
    assert file.name in record.message
    assert "comes to its end writes the id index again" in record.message
    caplog.clear()
    stores.assert_holds(Store.open(folder), MODEL)
    assert not caplog.records
    assert stores.index_file(folder) != file
    assert len([*(folder / layout.SEGMENTS).iterdir()]) == 3, "what is left of the old one is swept up"


# Single bits


def test_a_flipped_bit_in_the_values_is_found_on_first_touch(folder: Path) -> None:
    file, entry = stores.segment_files(folder)[0], Store.open(folder).manifest.segments[0]
    flip(file, entry.values_offset + 2 * layout.BLOCK + 5)
    store = Store.open(folder)
    for doc_id in ("a0", "a1", "b1"):  # in sound blocks
        stores.assert_holds(store, MODEL, [doc_id])
    for _ in range(2):  # not only the first time
        with pytest.raises(StoreCorruptError, match=rf"{file.name}: the vectors at byte \d+ are damaged"):
            store.gather(["a0", "a4", "b1"])
    stores.assert_holds(store, MODEL, ["a0", "b2"])


def test_a_flipped_bit_in_the_values_stops_a_merge(folder: Path) -> None:
    file, entry = stores.segment_files(folder)[0], Store.open(folder).manifest.segments[0]
    flip(file, entry.values_offset)
    with writing(folder, stores.new_manifest(16)) as writer:
        writer.mark_posted(
            *(entry.file for entry in writer.manifest.segments)
        )  # now the two segments are alike, and small enough to be merged
        with pytest.raises(StoreCorruptError, match=file.name):
            writer.finish()
    assert file.exists()
    stores.assert_holds(Store.open(folder), SECOND, list(SECOND))


def places(file: Path) -> dict[str, tuple[int, int]]:
    """Where each dataset of an HDF5 file lies: (offset, bytes)."""
    with h5py.File(file, "r") as opened:
        return {name: (dataset.id.get_offset(), dataset.nbytes) for name, dataset in opened.items()}


SEGMENT = (
    "row_counts",
    "id_lengths",
    "id_bytes",
    "content_hashes",
    "field_hashes",
    "block_checksums",
    "seq_nos",
    "primary_terms",
)
INDEX = ("id_hashes", "segment_numbers", "ordinals", "row_starts", "row_counts", "id_lengths", "id_bytes")


@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
@pytest.mark.parametrize(
    ("which", "column"), [*(("segment", name) for name in SEGMENT), *(("index", name) for name in INDEX)]
)
def test_a_flipped_bit_in_a_column(
    folder: Path, caplog: pytest.LogCaptureFixture, which: str, column: str, part: float
) -> None:
    file = stores.index_file(folder) if which == "index" else stores.segment_files(folder)[0]
    offset, size = places(file)[column]
    flip(file, offset + int(size * part), 3)
    if which == "index":
        rebuilt(folder, caplog, file.name, column)
    else:
        refused(folder, file.name, column)


@pytest.mark.parametrize("which", ["segment", "index"])
def test_the_header_of_one_dataset(folder: Path, caplog: pytest.LogCaptureFixture, which: str) -> None:
    file = stores.index_file(folder) if which == "index" else stores.segment_files(folder)[1]
    with h5py.File(file, "r") as opened:
        place = h5py.h5o.get_info(opened["row_counts"].id).addr
    flip(file, place + 8)
    if which == "index":
        rebuilt(folder, caplog, f"{file.name}: the header of dataset row_counts is damaged. Nothing is lost")
    else:
        refused(folder, f"{file.name}: the header of dataset row_counts is damaged. Restore the store")


def test_flipped_bits_in_headers_are_found_or_do_not_matter(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(3)
    for file in (stores.segment_files(folder)[1], stores.index_file(folder)):
        good = file.read_bytes()
        header = np.ones(len(good), dtype=bool)
        for offset, size in places(file).values():
            header[offset : offset + size] = False
        messages = []
        caplog.clear()
        for place in rng.permutation(np.flatnonzero(header))[:150].tolist():
            flip(file, place, int(rng.integers(8)))
            try:
                stores.assert_holds(Store.open(folder), MODEL)
            except StoreCorruptError as error:
                messages.append(str(error))
            file.write_bytes(good)
        if file == stores.index_file(folder):
            assert not messages
            messages = caplog.messages
        assert all(file.name in message for message in messages)
        assert len(messages) > 100  # HDF5 leaves some bytes between its blocks


def test_a_damaged_store_is_not_written_to(folder: Path) -> None:
    path = folder / layout.MANIFEST
    path.write_text(json.dumps({**stores.read_manifest(folder), "dim": 8}))
    before = path.read_bytes()
    with pytest.raises(StoreCorruptError), writing(folder, stores.new_manifest(16)):
        raise AssertionError("it was opened for writing")
    assert path.read_bytes() == before
