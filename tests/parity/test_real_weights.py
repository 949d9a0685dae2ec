"""Published checkpoints score as other implementations published.

The starter always; the others where ``COLBERT_RERANK_REAL_MODELS`` names a folder that holds them as OWNER/NAME.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from colbert_rerank.encoder import Encoder
from colbert_rerank.reference_scores import compare, reference_scores

REAL = os.environ.get("COLBERT_RERANK_REAL_MODELS")
FOUND = sorted(path for path in Path(REAL).glob("*/*") if path.is_dir()) if REAL else []


KNOWN = [str(path) for path in FOUND if reference_scores(str(path))]


@pytest.mark.parametrize("model", ["starter", *KNOWN])
def test_scores(model: str) -> None:
    known = reference_scores(model)
    assert known
    encoder = Encoder.load(model, device="cpu")
    for one in known:
        comparison = compare(encoder, one)
        assert comparison.agrees, comparison


@pytest.mark.parametrize("model", [str(path) for path in FOUND])
def test_it_loads(model: str) -> None:
    assert Encoder.load(model, device="cpu").encode_queries(["What is late interaction?"])[0].size


def test_where_real_models_are_promised_there_are_some() -> None:
    assert FOUND or not REAL
