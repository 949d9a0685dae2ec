"""When the checksums of vectors are compared, and what a reader sees of a newer generation."""

from __future__ import annotations

from pathlib import Path

import pytest

from colbert_rerank.errors import StoreCorruptError, UsageError
from colbert_rerank.store import Store
from colbert_rerank.store.reader import Verify
from tests.store import stores

DOCS = stores.random_docs([f"a{i}" for i in range(50)], 1, dim=64, rows=40)


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A store in which one bit of a vector is another."""
    stores.make(tmp_path, [DOCS])
    offset = stores.read_manifest(tmp_path)["segments"][0]["values_offset"]
    stores.edit(stores.segment_files(tmp_path)[0], lambda data: data.__setitem__(offset + 9, data[offset + 9] ^ 4))
    return tmp_path


def test_at_first_touch(damaged: Path) -> None:
    store = Store.open(damaged)
    with pytest.raises(StoreCorruptError, match="the vectors at byte"):
        store.gather(list(DOCS))


def test_all_when_it_is_opened(damaged: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreCorruptError, match="the vectors at byte"):
        Store.open(damaged, verify="open")
    sound = tmp_path / "sound"
    stores.make(sound, [DOCS])
    store = Store.open(sound, verify="open")
    stores.assert_holds(store, DOCS)


def test_never(damaged: Path) -> None:
    assert Store.open(damaged, verify="off").gather(list(DOCS)).found.all()


def test_an_unknown_time_is_refused(damaged: Path) -> None:
    never: Verify = "never"  # type: ignore[assignment]
    with pytest.raises(UsageError, match="verify='never': expected one of touch, open, off"):
        Store.open(damaged, verify=never)


def test_refresh_moves_on_and_the_old_generation_stays(tmp_path: Path) -> None:
    stores.make(tmp_path, [DOCS])
    first = Store.open(tmp_path, verify="open")
    assert first.refresh() is first
    more = stores.random_docs([f"a{i}" for i in range(40, 70)], 2, dim=64, rows=40)
    stores.make(tmp_path, [more])
    second = first.refresh()
    assert (second.verify, second.manifest.generation > first.manifest.generation) == ("open", True)
    stores.assert_holds(second, DOCS | more)
    stores.assert_holds(first, DOCS)
