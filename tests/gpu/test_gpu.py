"""The same vectors, scores and rankings on a GPU as on the CPU, within what its arithmetic allows.

The kernel's own tests, `tests.maxsim.test_gpu`, run on the GPU where there is one.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from colbert_rerank.encoder import Encoder
from colbert_rerank.maxsim import gpu, maxsim, reference
from colbert_rerank.maxsim.packed import scores
from colbert_rerank.rerank import Reranker
from colbert_rerank.residency import Resident
from colbert_rerank.store import Store
from colbert_rerank.types import CODECS
from ingest.upkeep import compact
from tests.collection import bm25_of, documents, ingested, queries, texts

pytestmark = pytest.mark.gpu

# Of unit vectors' components: what half precision in the network costs, and the order of summation in single.
TOLERANCE = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 5e-2}


def packed(matrices: list[npt.NDArray[np.floating]]) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.int64]]:
    return np.concatenate(matrices), np.cumsum([0, *map(len, matrices)])


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_vectors_are_those_of_the_cpu(starter_encoder: Encoder, dtype: str) -> None:
    gpu = Encoder.load("starter", device="cuda", dtype=dtype)
    asked = [q.text for q in queries(4)]
    np.testing.assert_allclose(
        gpu.encode_queries(asked), starter_encoder.encode_queries(asked), atol=TOLERANCE[dtype], rtol=0
    )
    for ours, theirs in zip(gpu.encode_documents(texts(8)), starter_encoder.encode_documents(texts(8)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_queries_by_cuda_graphs_have_the_same_vectors(dtype: str, caplog: pytest.LogCaptureFixture) -> None:
    """With few queries in a batch, and with as many as it holds."""
    gpu = Encoder.load("starter", device="cuda", dtype=dtype)
    plain = replace(gpu, query_network=None)
    asked = [q.text for q in queries(40)]
    for some in (asked[:1], asked, asked[3:5], asked[:32]):
        for ours, theirs in zip(gpu.encode_queries(some), plain.encode_queries(some), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=TOLERANCE[dtype], rtol=0)
    alone = [gpu.encode_queries([text])[0] for text in asked]
    for one, other in zip(alone, gpu.encode_queries(asked), strict=True):
        assert one.tobytes() == other.tobytes()
    assert "without CUDA graphs" not in caplog.text


def test_a_document_does_not_depend_on_its_batch() -> None:
    gpu = Encoder.load("starter", device="cuda")
    together = gpu.encode_documents(texts(40))
    for text, matrix in zip(texts(40)[::7], together[::7], strict=True):
        assert gpu.encode_documents([text])[0].tobytes() == matrix.tobytes()


def test_scores_are_the_reference_and_do_not_depend_on_the_other_documents(starter_encoder: Encoder) -> None:
    Q = starter_encoder.encode_queries([queries(1)[0].text])[0]
    matrices: list[npt.NDArray[np.floating]] = [
        m.astype(np.float16) for m in starter_encoder.encode_documents(texts(50))
    ]
    values, offsets = packed(matrices)
    scores = maxsim(Q, values, offsets, device="cuda")
    np.testing.assert_allclose(scores, reference.scores(Q, values, offsets), atol=1e-3)
    for i in range(0, 50, 9):
        assert maxsim(Q, *packed(matrices[i : i + 1]), device="cuda")[0] == scores[i]


def test_a_store_made_on_the_gpu_serves_on_the_cpu(tmp_path: Path, starter_encoder: Encoder) -> None:
    gpu = Encoder.load("starter", device="cuda")
    store = ingested(tmp_path / "store", gpu, documents(60))
    first = bm25_of(store)
    for ours, theirs in zip(
        Reranker(store, gpu).run(queries(8), first, 50),
        Reranker(store, starter_encoder).run(queries(8), first, 50),
        strict=True,
    ):
        scores = {d.doc_id: d.score for d in theirs.ranked}
        assert [scores[d.doc_id] for d in ours.ranked] == pytest.approx([d.score for d in ours.ranked], abs=0.1)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("similarity", ["dot", "l2"])
def test_rows_of_every_codec_score_as_on_the_cpu(
    tmp_path: Path, starter_encoder: Encoder, codec: str, similarity: str
) -> None:
    store = ingested(tmp_path / "store", starter_encoder, documents(60), codec=codec)
    Q = starter_encoder.encode_queries([queries(1)[0].text])[0]
    gathered = store.gather([d.doc_id for d in documents(60)])
    on_cpu, on_gpu = (
        scores(Q, gathered.values, gathered.offsets, device, similarity, codec=gathered.codec)
        for device in ("cpu", "cuda")
    )
    np.testing.assert_allclose(on_gpu, on_cpu, atol=1e-3)
    assert gpu.fault("cuda") == ""
    np.testing.assert_allclose(gpu.scores([Q], gathered.on("cuda"), None, similarity), on_cpu, atol=1e-3)


@pytest.mark.parametrize("resident", ["auto", "gpu", "pinned", "mmap"])
@pytest.mark.parametrize("codec", ["float16", "residual2"])
def test_rankings_do_not_depend_on_where_rows_are_kept(
    tmp_path: Path, starter_encoder: Encoder, resident: Resident, codec: str
) -> None:
    store = ingested(tmp_path / "store", starter_encoder, documents(120), codec=codec)
    encoder = Encoder.load("starter", device="cuda")
    everywhere = Reranker(store, encoder, resident="mmap", memory_budget=0)
    here = Reranker(store, encoder, resident=resident)
    assert here.residence.why
    for _ in range(2):  # the second time from the cache
        for ours, theirs in zip(
            here.run(queries(8), bm25_of(store), 50), everywhere.run(queries(8), bm25_of(store), 50), strict=True
        ):
            assert ours.ranked == theirs.ranked
    assert (here.report.hot > 0) == (resident in ("pinned", "mmap"))
    assert everywhere.report.hot == 0


@pytest.mark.parametrize("sketches", ["int8", "binary"])
def test_the_first_places_are_those_of_exact_scores(tmp_path: Path, starter_encoder: Encoder, sketches: str) -> None:
    ingested(tmp_path / "store", starter_encoder, documents(200))
    compact(tmp_path / "store", sketches=sketches)
    store, encoder = Store.open(tmp_path / "store"), Encoder.load("starter", device="cuda")
    candidates = [(d.doc_id, 0.0) for d in documents(200)]
    for query in queries(20):
        exact = Reranker(store, encoder).rerank(query.text, candidates)
        assert Reranker(store, encoder, exact_top=10).rerank(query.text, candidates)[:10] == exact[:10]
