"""Published checkpoints score as other implementations published.

The starter always; the others where ``COLBERT_RERANK_REAL_MODELS`` names a folder that holds them as OWNER/NAME.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from colbert_rerank.checkpoints import Choices
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


def test_each_loads() -> None:
    for path in FOUND:
        assert Encoder.load(str(path), device="cpu").encode_queries(["What is late interaction?"])[0].size


def test_first_rows_are_those_that_fastembed_tests_for() -> None:
    """tests/test_late_interaction_embeddings.py there: the first row's first five numbers, of a length of 512."""
    for path in FOUND:
        if not path.match("colbert-ir/colbertv2.0"):
            continue
        encoder = Encoder.load(str(path), device="cpu", choices=Choices(document_length=512))
        (query,), (document,) = encoder.encode_queries(["Hello World"]), encoder.encode_documents(["Hello World"])
        assert (len(query), len(document)) == (32, 5)
        np.testing.assert_allclose(query[0, :5], [0.0824, 0.0872, -0.0324, 0.0418, 0.024], rtol=0, atol=2e-3)
        np.testing.assert_allclose(document[0, :5], [0.0759, 0.0841, -0.0299, 0.0374, 0.0254], rtol=0, atol=2e-3)


def test_where_real_models_are_promised_there_are_some() -> None:
    assert FOUND or not REAL
