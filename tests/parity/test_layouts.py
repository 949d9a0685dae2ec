"""Each layout gives what an independent implementation gives on the same weights: ids, rows, scores."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from colbert_rerank.checkpoints import Checkpoint, Choices, load_checkpoint
from colbert_rerank.encoder import Encoder
from colbert_rerank.maxsim import reference

HERE = Path(__file__).parent
# Rows of unit length agree to float32's last digits; sums over a query's tokens to a few more.
ROW_TOLERANCE = 1e-5
SCORE_TOLERANCE = 1e-4

Rows = list[npt.NDArray[np.float32]]


class Golden(NamedTuple):
    """What a peer made of a checkpoint."""

    encoder: Encoder
    record: dict[str, Any]
    rows: dict[str, Rows]  # by "queries" and "documents"
    scores: npt.NDArray[np.float64]

    def texts(self, kind: str) -> list[str]:
        return [record["text"] for record in self.record[kind]]


BASE = str(HERE / "checkpoints" / "colbert_v1_dnn_base")
# Texts that sentence-transformers reads otherwise than PyLate, by whose rules the checkpoint was trained: it lowercases
# no text, and so on (`differs_from_pylate` in its golden).
ST_ALONE = ("literal masks", "literal markers", "mixed case, newlines, space around")
# colbert-ai, by whose rules this layout is read, takes a marker that a text spells out for text; PyLate does not.
PYLATE_ALONE = ("literal markers",)


class Case(NamedTuple):
    """A golden's checkpoint, what is chosen, and the texts that this peer alone reads as it does."""

    folder: str
    choices: Choices = Choices()
    others: tuple[str, ...] = ()
    vespa: bool = False  # its documents are those that Vespa's rule was recorded with


CASES = {
    "hf_colbert_bin": Case("hf_colbert_bin"),
    "hf_colbert_no_punct": Case("hf_colbert_no_punct"),
    "colbert_v1_minilm_mask_punctuation": Case("colbert_v1_minilm"),
    "colbert_v1_minilm": Case("colbert_v1_minilm", Choices(doc_skip="before-encode"), vespa=True),
    "colbert_v1_dnn_l2": Case("colbert_v1_dnn_l2", Choices(base=BASE)),
    "colbert_v1_dnn_cosine": Case("colbert_v1_dnn_cosine", Choices(base=BASE)),
    "hofstaetter": Case("hofstaetter"),
    "jina_v1": Case("jina_v1"),
    "jina_v2": Case("jina_v2"),
    "pylate_bert": Case("pylate_bert"),
    "pylate_modernbert": Case("pylate_modernbert"),
    "pylate_bert_st": Case("pylate_bert"),
    "pylate_modernbert_st": Case("pylate_modernbert", others=ST_ALONE),
    "answerai_small": Case("answerai_small", others=PYLATE_ALONE),
    "answerai_small_st": Case("answerai_small", others=PYLATE_ALONE),
    "bge_m3": Case("bge_m3", Choices(query_length=64, document_length=64)),
}


@pytest.fixture(scope="module", params=CASES)
def golden(request: pytest.FixtureRequest) -> Golden:
    return load(request.param)


def load(name: str, change: Callable[[Checkpoint], Checkpoint] = lambda checkpoint: checkpoint) -> Golden:
    """The golden, and an encoder of its checkpoint, which ``change`` may spoil."""
    case = CASES[name]
    record = json.loads((HERE / "golden" / f"{name}.json").read_text(encoding="utf-8"))
    keys = {"queries": "queries", "documents": "vespa_documents" if case.vespa else "documents"}
    rows: dict[str, Rows] = {}
    kept = {}
    with np.load(HERE / "golden" / f"{name}.npz") as archive:
        for kind, key in keys.items():
            kept[kind] = [i for i, text in enumerate(record[key]) if text["name"] not in case.others]
            rows[kind] = [archive[f"{key}:{i}"] for i in kept[kind]]
            record[kind] = [record[key][i] for i in kept[kind]]
    scores = np.array(record["vespa_scores" if case.vespa else "scores"])[np.ix_(kept["queries"], kept["documents"])]
    checkpoint = load_checkpoint(str(HERE / "checkpoints" / case.folder), case.choices)
    return Golden(Encoder.load(change(checkpoint), device="cpu"), record, rows, scores)


@pytest.fixture(scope="module")
def queries(golden: Golden) -> Rows:
    return golden.encoder.encode_queries(golden.texts("queries"))


@pytest.fixture(scope="module")
def documents(golden: Golden) -> Rows:
    return [rows.astype(np.float32) for rows in golden.encoder.encode_documents(golden.texts("documents"))]


def test_it_was_recorded_from_these_files(golden: Golden) -> None:
    folder = golden.encoder.checkpoint.folder
    for name, digest in golden.record["sha256"].items():  # by paths from that folder, or from the one of all folders
        path = next(p for p in (folder / name, folder.parent / name) if p.exists())
        assert hashlib.sha256(path.read_bytes()).hexdigest() == digest


def test_ids(golden: Golden) -> None:
    for kind, tokenize in (
        ("queries", golden.encoder.tokenize_queries),
        ("documents", golden.encoder.tokenize_documents),
    ):
        for record, tokens in zip(golden.record[kind], tokenize(golden.texts(kind)), strict=True):
            assert tokens.ids == record["ids"], record["name"]
            assert tokens.attended == record["attended"], record["name"]


@pytest.mark.parametrize("kind", ["queries", "documents"])
def test_rows(golden: Golden, queries: Rows, documents: Rows, kind: str) -> None:
    for i, rows in enumerate(queries if kind == "queries" else documents):
        name, want = golden.record[kind][i]["name"], golden.rows[kind][i]
        scale = max(1.0, float(np.abs(want).max(initial=0)))  # of rows that are not normalised
        np.testing.assert_allclose(rows / scale, want / scale, rtol=0, atol=ROW_TOLERANCE, err_msg=name, strict=True)


def test_scores(golden: Golden, queries: Rows, documents: Rows) -> None:
    spec = golden.encoder.checkpoint.spec
    got = [[reference.maxsim(q, d, spec.similarity, spec.aggregation) for d in documents] for q in queries]
    want = golden.scores
    scale = max(1.0, float(np.abs(want[np.isfinite(want)]).max()) / 32)
    np.testing.assert_allclose(np.array(got) / scale, want / scale, rtol=0, atol=SCORE_TOLERANCE)
    assert np.ptp(want, axis=1).min() > 100 * SCORE_TOLERANCE, "scores that hardly vary could not fail"
