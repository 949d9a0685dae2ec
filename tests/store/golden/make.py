"""Write the golden store of format 1. It was run once; what it wrote stays readable for ever.

    python -m tests.store.golden.make NEW_FOLDER

writes NEW_FOLDER/format1 and NEW_FOLDER/format1.json. A later version of the package may write other bytes: do not put
them in the place of the committed ones.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from colbert_rerank.recipe import content_hash, fields_hash
from colbert_rerank.store import Manifest, layout, writing
from colbert_rerank.store.unit import UNKNOWN
from colbert_rerank.types import Origin

DIM = 4
# By unit: id -> (rows, text, seq_no, primary_term). "b" is replaced; only the second unit knows the rest.
UNITS = (
    {
        "a": (3, "first", -1, -1),
        "b": (2, "second", -1, -1),
        "empty": (0, "nothing", -1, -1),
        "日本語 é": (1, "x", -1, -1),
    },
    {"b": (5, "second, changed", 42, 3), "c": (4, "third", -1, -1), "x" * 512: (1, "long id", 2**40, 1)},
)


def values(unit: int, doc_id: str, rows: int) -> npt.NDArray[np.float16]:
    """Numbers from a hash: NumPy may change what its generators give for a seed."""
    drawn = hashlib.shake_128(f"{unit} {doc_id}".encode()).digest(rows * DIM * 2)
    matrix = (np.frombuffer(drawn, "<i2").reshape(rows, DIM) / 4096).astype(np.float16)
    if doc_id == "a":  # what is easily lost: -0.0, the smallest and the largest numbers
        matrix[0] = [-0.0, 2.0**-24, 65504.0, -65504.0]
    return matrix


def main(target: Path) -> None:
    layout.UNIT_BYTES = 0  # so that the segments are not merged
    folder = target / "format1"
    expected = {}
    manifest = Manifest(
        store_id="b7c8b0e5f1f94d6c8a3c0d5e6f708192",
        dim=DIM,
        codec="float16",
        query_identity={"dim": DIM, "similarity": "dot"},
        document_identity={"fields": ["title", "text"], "separator": " "},
        provenance={"model": "golden", "note": "écrit une fois"},
        origin=Origin("opensearch", "articles", "Zq3vXhYbQ1mS8s9c0Qw2Pg"),
    )
    with writing(folder, manifest) as writer:
        for number, documents in enumerate(UNITS):
            unit = writer.unit()
            for doc_id, (rows, text, seq_no, primary_term) in documents.items():
                matrix, digest = values(number, doc_id, rows), content_hash(text)
                fields = fields_hash(doc_id, {"text": text, "rows": rows}) if number else UNKNOWN
                unit.add(doc_id, matrix, digest, fields_hash=fields, seq_no=seq_no, primary_term=primary_term)
                expected[doc_id] = {
                    "rows": matrix.view(np.uint16).tolist(),  # the bits of the numbers
                    "content_hash": digest.hex(),
                    "fields_hash": fields.hex(),
                    "seq_no": seq_no,
                    "primary_term": primary_term,
                }
            writer.commit(unit, posted=True)
        writer.finish()
    text = json.dumps({"dim": DIM, "documents": expected}, indent=1, ensure_ascii=False)
    (target / "format1.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
