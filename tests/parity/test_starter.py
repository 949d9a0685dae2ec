"""The starter gives what colbert-ai 0.2.22 gives on the same weights. ``generate/colbert_ai.py`` recorded the truth."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import colbert_rerank
from colbert_rerank.encoder import Encoder
from colbert_rerank.maxsim import reference

GOLDEN = Path(__file__).parent / "golden"
RECORD: dict[str, Any] = json.loads((GOLDEN / "starter_colbert_ai.json").read_text(encoding="utf-8"))
SHIPPED = Path(colbert_rerank.__file__).parent / "data" / "starter"

# Both sides compute in float32 and differ in the order of sums: at most 4e-7 per element of a unit row was seen.
ROW_TOLERANCE = 1e-5
# 32 query tokens, each with its own rounding; at most 1e-5 was seen on scores of 3 to 30.
SCORE_TOLERANCE = 1e-4

Rows = npt.NDArray[np.float32]

with np.load(GOLDEN / "starter_colbert_ai.npz") as _archive:
    KEPT: dict[str, Rows] = {name: _archive[name] for name in _archive.files}


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.load("starter", device="cpu")


@pytest.fixture(scope="module")
def queries(encoder: Encoder) -> Rows:
    return np.stack(encoder.encode_queries([q["text"] for q in RECORD["queries"]]))


@pytest.fixture(scope="module")
def documents(encoder: Encoder) -> list[Rows]:
    return encoder.encode_documents([d["text"] for d in RECORD["documents"]])


def each(kind: str, *, kept_only: bool = False) -> pytest.MarkDecorator:
    """One case per recorded text, named for it; ``kept_only`` leaves those whose rows were recorded too."""
    names = [record["name"] for record in RECORD[kind]]
    chosen = [i for i in range(len(names)) if not kept_only or f"{kind}:{i}" in KEPT]
    return pytest.mark.parametrize("i", chosen, ids=[names[i] for i in chosen])


@pytest.mark.parametrize("file", sorted(RECORD["sha256"]))
def test_golden_was_recorded_from_the_shipped_file(file: str) -> None:
    assert hashlib.sha256((SHIPPED / file).read_bytes()).hexdigest() == RECORD["sha256"][file]


def test_settings_recorded_by_colbert_ai_are_those_of_the_shipped_metadata() -> None:
    shipped = json.loads((SHIPPED / "artifact.metadata").read_text(encoding="utf-8"))
    recorded = RECORD["settings"]
    assert {name: shipped[name] for name in shipped.keys() & recorded.keys()} == {
        name: recorded[name] for name in shipped.keys() & recorded.keys()
    }
    assert recorded.keys() - shipped.keys() == {"interaction"}
    assert recorded["interaction"] == "colbert"


@each("queries")
def test_query_ids(encoder: Encoder, i: int) -> None:
    recorded = RECORD["queries"][i]
    [tokens] = encoder.tokenize_queries([recorded["text"]])
    assert tokens.ids == recorded["ids"]
    assert tokens.attended == recorded["attended"]


@each("documents")
def test_document_ids(encoder: Encoder, i: int) -> None:
    recorded = RECORD["documents"][i]
    [tokens] = encoder.tokenize_documents([recorded["text"]])
    assert tokens.ids == recorded["ids"]
    assert tokens.attended == len(recorded["ids"])


def test_every_query_has_as_many_rows_as_in_colbert_ai(queries: Rows) -> None:
    assert queries.dtype == np.float32
    assert queries.shape == (len(RECORD["queries"]), 32, 128)
    assert {q["rows"] for q in RECORD["queries"]} == {32}


@each("documents")
def test_document_has_as_many_rows_as_in_colbert_ai(documents: list[Rows], i: int) -> None:
    assert documents[i].dtype == np.float32
    assert documents[i].shape == (RECORD["documents"][i]["rows"], 128)


@each("queries", kept_only=True)
def test_query_rows(queries: Rows, i: int) -> None:
    np.testing.assert_allclose(queries[i], KEPT[f"queries:{i}"], rtol=0, atol=ROW_TOLERANCE)


@each("documents", kept_only=True)
def test_document_rows(documents: list[Rows], i: int) -> None:
    np.testing.assert_allclose(documents[i], KEPT[f"documents:{i}"], rtol=0, atol=ROW_TOLERANCE)


@each("queries")
def test_scores_of_all_documents(queries: Rows, documents: list[Rows], i: int) -> None:
    scores = [reference.maxsim(queries[i], document) for document in documents]
    np.testing.assert_allclose(scores, RECORD["scores"][i], rtol=0, atol=SCORE_TOLERANCE)


def test_golden_tells_its_texts_apart() -> None:
    """A score table that hardly varied could not fail: each query must tell its best document from its worst."""
    scores = np.array(RECORD["scores"])
    assert scores.shape == (len(RECORD["queries"]), len(RECORD["documents"]))
    assert np.ptp(scores, axis=1).min() > 1000 * SCORE_TOLERANCE
    assert len(KEPT) == 14
