"""Published checkpoints score as other implementations published.

The starter always; the others where ``COLBERT_RERANK_REAL_MODELS`` names a folder that holds them as OWNER/NAME.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from colbert_rerank.checkpoints import Choices
from colbert_rerank.encoder import Encoder
from colbert_rerank.maxsim import reference
from colbert_rerank.reference_scores import compare, reference_scores
from ingest.sources.pages import ImageFile
from tests.parity.cases import HERE

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


# tests/multi_vector_encoder/test_pretrained.py of sentence-transformers: "bit-exact against transformers", relative and
# absolute tolerance of 1e-3. The pages are doc1.jpg to doc4.jpg of its data set of documents, as of this revision.
COLQWEN2 = "vidore/colqwen2-v1.0-hf"
PAGES = "sentence-transformers/example-documents"  # 49f05727417edee37938141fd1dd6ad70cbcc559
ABOUT_PAGES = [
    "What is the variable represented on the y-axis of the graph?",
    "Total outlay is maximum in which year?",
]
SCORES_OF_PAGES = [[14.95679, 11.99078, 12.74620, 11.75120], [8.21900, 16.32439, 7.78084, 7.26281]]


def page_scores(model: Path, queries: list[str], pages: list[Path]) -> list[list[float]]:
    encoder = Encoder.load(str(model), device="cpu")
    encoded = encoder.encode_pages([ImageFile(page) for page in pages])
    return [[reference.maxsim(query, page) for page in encoded] for query in encoder.encode_queries(queries)]


def test_pages_score_as_sentence_transformers_tests_for() -> None:
    for path in FOUND:
        if path.match(COLQWEN2):
            pages = [path.parents[1] / PAGES / f"doc{i}.jpg" for i in range(1, 5)]
            np.testing.assert_allclose(page_scores(path, ABOUT_PAGES, pages), SCORES_OF_PAGES, rtol=1e-3, atol=1e-3)


def test_pages_are_scored_so_with_a_small_model_as_well() -> None:
    """The way above, where no published weights are at hand."""
    golden = json.loads((HERE / "golden" / "colqwen2_pil.json").read_text(encoding="utf-8"))
    queries = [query["text"] for query in golden["queries"]]
    pages = [HERE / "pages" / page["text"] for page in golden["documents"]]
    scores = page_scores(HERE / "checkpoints" / "colqwen2", queries, pages)
    np.testing.assert_allclose(scores, golden["scores"], rtol=1e-3, atol=1e-3)


def test_where_real_models_are_promised_there_are_some() -> None:
    assert FOUND or not REAL
