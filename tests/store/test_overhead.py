"""What a store takes beside the vectors' own bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from colbert_rerank.store import Store, writing
from colbert_rerank.store.codecs import row_bytes
from colbert_rerank.types import CODECS
from tests.store import stores

DOCUMENTS, ROWS, DIM = 4000, 60, 128
UNITS = 4


def test_a_store_is_at_most_two_percent_larger_than_its_vectors(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    matrices = [rng.standard_normal((ROWS, DIM)).astype("float16") for _ in range(50)]
    with writing(tmp_path, stores.new_manifest(DIM)) as writer:
        for number in range(UNITS):
            unit = writer.unit()
            for i in range(number, DOCUMENTS, UNITS):
                unit.add(f"{i:08d}", matrices[i % 50], rng.bytes(16), seq_no=i, primary_term=1)
            writer.commit(unit, posted=True)
        writer.finish()
    store = Store.open(tmp_path)
    assert len(store) == DOCUMENTS
    assert store.gather(["00000007", "00003999"]).values.tobytes() == matrices[7].tobytes() + matrices[49].tobytes()
    raw = DOCUMENTS * ROWS * DIM * 2
    files = [path.stat() for path in tmp_path.rglob("*") if path.is_file()]
    assert raw < sum(file.st_size for file in files) <= 1.02 * raw
    assert sum(file.st_blocks * 512 for file in files) <= 1.02 * raw


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("sketches", ["", "binary"])
def test_a_document_takes_at_most_a_hundred_bytes_beside_its_rows(tmp_path: Path, codec: str, sketches: str) -> None:
    """And a codebook, which is one for all of a store."""
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 12, DOCUMENTS)
    with writing(tmp_path, stores.new_manifest(DIM, codec, sketches)) as writer:
        for number in range(UNITS):
            unit = writer.unit()
            for i in range(number, DOCUMENTS, UNITS):
                vectors = rng.standard_normal((rows[i], DIM), dtype=np.float32)
                unit.add(f"{i:08d}", vectors, rng.bytes(16), seq_no=i, primary_term=1)
            writer.commit(unit, posted=True)
        writer.finish()
    manifest = Store.open(tmp_path).manifest
    stated = int(rows.sum()) * row_bytes((codec, sketches), DIM) + sum(book.bytes for book in manifest.codebooks)
    assert stated < manifest.bytes <= stated + 100 * DOCUMENTS
    assert sum(book.bytes for book in manifest.codebooks) < 4 * DIM * (1 << 16) + 10_000
