"""Each layout gives what an independent implementation gives on the same weights: ids, rows, scores."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from colbert_rerank.encoder import Encoder
from colbert_rerank.maxsim import reference
from tests.parity.cases import CASES, Golden, Rows, load, row_errors, score_scale

# Rows of unit length agree to float32's last digits; sums over a query's tokens to a few more.
ROW_TOLERANCE = 1e-5
SCORE_TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=CASES)
def golden(request: pytest.FixtureRequest) -> Golden:
    return load(request.param)


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
        assert rows.shape == want.shape, name
        assert row_errors(rows, want).max(initial=0) <= ROW_TOLERANCE, name


def test_rows_of_queries_by_onnx_runtime(golden: Golden) -> None:
    encoder = Encoder.load(golden.encoder.checkpoint, device="cpu", query_backend="onnx")
    assert encoder.query_network is not None
    for i, rows in enumerate(encoder.encode_queries(golden.texts("queries"))):
        name, want = golden.record["queries"][i]["name"], golden.rows["queries"][i]
        assert rows.shape == want.shape, name
        assert row_errors(rows, want).max(initial=0) <= ROW_TOLERANCE, name


def test_scores(golden: Golden, queries: Rows, documents: Rows) -> None:
    spec = golden.encoder.checkpoint.spec
    got = [[reference.maxsim(q, d, spec.similarity, spec.aggregation) for d in documents] for q in queries]
    want = golden.scores
    scale = score_scale(want)
    np.testing.assert_allclose(np.array(got) / scale, want / scale, rtol=0, atol=SCORE_TOLERANCE)
    assert np.ptp(want, axis=1).min() > 100 * SCORE_TOLERANCE, "scores that hardly vary could not fail"


def test_texts_without_a_token_are_what_stands_around_them(golden: Golden) -> None:
    encoder, spec = golden.encoder, golden.encoder.checkpoint.spec
    for text in ("", " \n", "\u200b\ufe0f"):
        (tokens,), (rows,) = encoder.tokenize_documents([text]), encoder.encode_documents([text])
        kept = [i for i in tokens.ids[spec.first_row :] if i not in spec.skip_ids]
        assert rows.shape == (len(kept), spec.dim)
        assert np.isfinite(rows).all()
        assert np.isfinite(encoder.encode_queries([text])[0]).all()
        assert tokens.truncated == 0


def test_texts_past_the_limit_are_cut_there_and_no_sooner(golden: Golden) -> None:
    encoder, spec = golden.encoder, golden.encoder.checkpoint.spec
    (long,) = encoder.tokenize_documents(["the river and the old city " * 2000])
    assert len(long.ids) == spec.document.length
    assert long.truncated > 0
    added = spec.expansion.count or 0 if spec.expansion else 0
    (query,) = encoder.tokenize_queries(["the river and the old city " * 2000])
    assert len(query.ids) == spec.query.length + added
    assert np.isfinite(encoder.encode_tokens([long])[0]).all()
