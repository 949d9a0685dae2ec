"""A document as long as the model reads, 8192 tokens, gives the rows that colbert-ai gives.

Positions are what goes wrong there: slopes of ALiBi, angles of rotation.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pytest

from colbert_rerank.checkpoints import Choices
from colbert_rerank.encoder import Encoder
from tests.parity.cases import HERE, row_errors
from tests.parity.test_layouts import ROW_TOLERANCE

RECORD: dict[str, Any] = json.loads((HERE / "golden" / "long_documents.json").read_text(encoding="utf-8"))
LENGTH = 8192


@pytest.mark.parametrize("document", RECORD["documents"], ids=lambda document: document["checkpoint"])
def test_rows(document: dict[str, Any]) -> None:
    folder = HERE / "checkpoints" / document["checkpoint"]
    for name, digest in document["sha256"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    encoder = Encoder.load(str(folder), device="cpu", choices=Choices(document_length=LENGTH))
    (tokens,) = encoder.tokenize_documents([RECORD["text"]])
    assert len(tokens.ids) == document["tokens"] == LENGTH
    assert hashlib.sha256(json.dumps(tokens.ids).encode()).hexdigest() == document["ids"]
    (rows,) = encoder.encode_tokens([tokens])
    assert len(rows) == document["rows"] > LENGTH // 2
    with np.load(HERE / "golden" / "long_documents.npz") as archive:
        want = archive[document["checkpoint"]]
    assert row_errors(rows[:: RECORD["every"]].astype(np.float32), want).max() <= ROW_TOLERANCE
