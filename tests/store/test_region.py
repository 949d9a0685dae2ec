"""Files mapped one behind the other are each what it is, and their rows lie where the bases say."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colbert_rerank.errors import StoreCorruptError, StoreReadError
from colbert_rerank.store.region import Part, Region

PAGE = os.sysconf("SC_PAGE_SIZE")
# Where values begin: as the writer puts them, or anywhere, as another writer may.
OFFSETS = st.sampled_from([0, PAGE, 65536]) | st.integers(0, 3 * PAGE)
PARTS = st.lists(st.tuples(OFFSETS, st.integers(0, 300), st.integers(0, PAGE + 9)), max_size=5)


@settings(max_examples=60, deadline=None)
@given(PARTS, st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_each_part_is_its_file(shapes: list[tuple[int, int, int]], width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        parts, files, rows = [], [], []
        for number, (offset, count, behind) in enumerate(shapes):
            rows.append(rng.integers(0, 256, (count, width), dtype=np.uint8))
            files.append(rng.bytes(offset) + rows[-1].tobytes() + rng.bytes(behind))
            parts.append(Part(Path(folder) / str(number), len(files[-1]), offset, count))
            parts[-1].path.write_bytes(files[-1])
        region = Region(parts, width, "uint8")
    # after the files are gone
    for number, (file, values) in enumerate(zip(files, rows, strict=True)):
        assert region.file(number).tobytes() == file
        np.testing.assert_array_equal(region.rows(number), values)
    picked = [int(region.bases[n]) + i for n, values in enumerate(rows) for i in range(len(values))]
    whole = np.concatenate([np.empty((0, width), np.uint8), *rows])
    np.testing.assert_array_equal(region.values[picked], whole)


def test_rows_outlive_the_region(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(range(100)) * 100)
    rows = Region([Part(tmp_path / "a", 10_000, 0, 100)], 100, "uint8").rows(0)
    assert rows.sum() == 100 * sum(range(100))
    assert not rows.flags.writeable


def test_maps_end_with_the_last_array(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(10_000))
    region = Region([Part(path, 10_000, 0, 100)], 100, "uint8")
    rows = region.rows(0)

    def mapped() -> bool:
        return str(path) in Path("/proc/self/maps").read_text()

    del region
    assert mapped()
    del rows
    assert not mapped()


def test_a_file_of_another_size_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(99))
    with pytest.raises(StoreCorruptError, match="it has 99 bytes, the manifest says 100"):
        Region([Part(tmp_path / "a", 100, 0, 1)], 100, "uint8")
    with pytest.raises(StoreCorruptError, match="this file of the store is missing"):
        Region([Part(tmp_path / "b", 100, 0, 1)], 100, "uint8")


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES, errno.ENOMEM])
def test_a_sound_file_that_cannot_be_mapped_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(self: Path, mode: str) -> None:
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(StoreReadError, match=os.strerror(number).lower()) as refusal:
        Region([Part(tmp_path / "a", 100, 0, 1)], 100, "uint8")
    assert not isinstance(refusal.value, StoreCorruptError)
