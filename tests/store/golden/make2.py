"""Write the golden stores of format 2. It was run once; what it wrote stays readable for ever.

    python -m tests.store.golden.make2 NEW_FOLDER

writes NEW_FOLDER/format2-CODEC and NEW_FOLDER/format2.json, which holds the vectors that were given.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from colbert_rerank.recipe import content_hash
from colbert_rerank.store import Manifest, codebook, layout, writing
from colbert_rerank.store.codecs import Codebook

DIM = 6
CODECS = (("int8", ""), ("residual2", "binary"), ("float32", "int8"))
# By unit: id -> rows; None is a tombstone.
UNITS: tuple[dict[str, int | None], ...] = (
    {"a": 3, "b": 2, "empty": 0, "gone": 4, "日本語 é": 1},
    {"b": 5, "gone": None, "c": 4},
)


def drawn(name: str, rows: int, columns: int) -> npt.NDArray[np.float32]:
    """Numbers from a hash: NumPy may change what its generators give for a seed."""
    found = hashlib.shake_128(name.encode()).digest(rows * columns * 2)
    return (np.frombuffer(found, "<i2").reshape(rows, columns) / 32768).astype(np.float32)


def book() -> Codebook:
    cutoffs, weights = np.array([-0.2, 0, 0.2], np.float32), np.array([-0.3, -0.1, 0.1, 0.3], np.float32)
    return Codebook(drawn("centroids", 5, DIM), cutoffs, weights, True)


def main(target: Path) -> None:
    expected: dict[str, list[list[float]]] = {}
    manifest = Manifest(
        store_id="c8d9c1f6a2e05e7d9b4d1e6f70819203",
        dim=DIM,
        codec="float32",
        query_identity={"dim": DIM, "similarity": "dot"},
        document_identity={"fields": ["text"], "separator": " ", "stride": 40, "pool_factor": 2},
        provenance={"model": "golden"},
    )
    for codec, sketches in CODECS:
        new = replace(manifest, codec=codec, sketches=sketches)
        with (
            patch.object(layout, "UNIT_BYTES", 0),  # so that the segments are not merged
            patch.object(codebook, "train", lambda *_: book()),
            writing(target / f"format2-{codec}", new) as writer,
        ):
            for number, documents in enumerate(UNITS):
                unit = writer.unit()
                for doc_id, rows in documents.items():
                    if rows is None:
                        unit.delete(doc_id)
                        expected.pop(doc_id)
                    else:
                        vectors = drawn(f"{number} {doc_id}", rows, DIM)
                        unit.add(doc_id, vectors, content_hash(f"{number} {doc_id}"))
                        expected[doc_id] = vectors.tolist()
                writer.commit(unit, posted=True)
            writer.finish()
    text = json.dumps({"dim": DIM, "documents": expected}, indent=1, ensure_ascii=False)
    (target / "format2.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
