"""A text's vectors depend on that text alone, and its length is counted right."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from colbert_rerank import passes
from colbert_rerank.checkpoints.spec import BUCKET
from colbert_rerank.encoder import BATCH_TOKENS, Encoder
from colbert_rerank.errors import CheckpointError, MissingDependencyError, NonFiniteError, UsageError
from colbert_rerank.graphed_network import GraphedNetwork
from colbert_rerank.onnx_network import OnnxNetwork
from tests.collection import queries, texts
from tests.tiny import DIM, DOCUMENT_LENGTH, tiny_checkpoint, tiny_weights

pytestmark = pytest.mark.usefixtures("one_thread")

ODD = {
    "empty": "",
    "spaces": " \t\n ",
    "punctuation": "?!...,;:",
    "one-letter": "a",
    "emoji": "😀😀 👩‍👩‍👧 🇩🇪",
    "chinese": "東京は日本の首都です。",
    "arabic": "القاهرة عاصمة مصر",
    "combining": "e\u0301e\u0301 n\u0303",
    "null-byte": "a\x00b",
    "special-tokens": "[CLS] [MASK] [SEP] [PAD] [unused1]",
    "long-word": "x" * 5000,
    "long": "late interaction " * 400,
}
REAL = texts(40) + [q.text for q in queries(20)]
POOL = st.sampled_from(REAL + list(ODD.values())) | st.text(max_size=80)

Rows = npt.NDArray[np.floating]


class Alone:
    """Each text's vectors when it is encoded on its own, kept for the next example."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self._documents: dict[str, Rows] = {}
        self._queries: dict[str, Rows] = {}

    def document(self, text: str) -> Rows:
        if text not in self._documents:
            self._documents[text] = self.encoder.encode_documents([text])[0]
        return self._documents[text]

    def query(self, text: str) -> Rows:
        if text not in self._queries:
            self._queries[text] = self.encoder.encode_queries([text])[0]
        return self._queries[text]


@pytest.fixture(scope="module")
def alone(tiny_encoder: Encoder) -> Alone:
    return Alone(tiny_encoder)


def of_length(encoder: Encoder, text: str, length: int) -> str:
    """``text`` cut or drawn out to exactly ``length`` tokens, markers included."""
    words = text.split()
    while len(encoder.tokenize_documents([" ".join(words)])[0].ids) > length:
        words.pop()
    words += ["of"] * (length - len(encoder.tokenize_documents([" ".join(words)])[0].ids))
    return " ".join(words)


@settings(deadline=None, max_examples=30)
@given(some=st.lists(POOL, max_size=20))
def test_a_document_does_not_depend_on_its_batch(alone: Alone, some: list[str]) -> None:
    together = alone.encoder.encode_documents(some)
    assert len(together) == len(some)
    for text, rows in zip(some, together, strict=True):
        np.testing.assert_array_equal(rows, alone.document(text), strict=True)


@settings(deadline=None, max_examples=30)
@given(some=st.lists(POOL, max_size=20))
def test_a_query_does_not_depend_on_its_batch(alone: Alone, some: list[str]) -> None:
    together = alone.encoder.encode_queries(some)
    assert [rows.shape for rows in together] == [(32, DIM)] * len(some)
    for text, rows in zip(some, together, strict=True):
        np.testing.assert_array_equal(rows, alone.query(text), strict=True)


@pytest.mark.parametrize("length", [8, 24, 64], ids="{}-tokens".format)
def test_batches_that_are_full_and_hold_no_padding(alone: Alone, length: int) -> None:
    """With nothing to mask, a network library may take another path than for the same text beside blanks."""
    size = BATCH_TOKENS["cpu"] // length
    pool = [of_length(alone.encoder, text, length) for text in REAL]
    some = [pool[i % len(pool)] for i in range(2 * size + 3)]  # two full batches, and one that is not
    for text, rows in zip(some, alone.encoder.encode_documents(some), strict=True):
        np.testing.assert_array_equal(rows, alone.document(text), strict=True)


def test_the_starter_does_not_mix_texts_either(starter_encoder: Encoder) -> None:
    torch.set_num_threads(2)
    full = [of_length(starter_encoder, text, 64) for text in texts(16)]
    some = [*full, "Publix", ODD["chinese"]]
    together = starter_encoder.encode_documents(some)
    for i in (0, 15, 17):
        np.testing.assert_array_equal(together[i], starter_encoder.encode_documents([some[i]])[0], strict=True)
    asked = [queries(3)[i].text for i in (2, 0, 1)]
    rows = starter_encoder.encode_queries(asked)
    for i, text in enumerate(asked):
        np.testing.assert_array_equal(rows[i], starter_encoder.encode_queries([text])[0], strict=True)


@given(lengths=st.lists(st.integers(3, 220), max_size=60))
def test_every_text_is_in_one_batch_whose_shape_follows_from_its_own_length(lengths: list[int]) -> None:
    seen: list[int] = []
    for positions, size, padded in passes.batches(lengths, 1024):
        assert 0 < len(positions) <= size
        for i in positions:
            assert padded == math.ceil(lengths[i] / BUCKET) * BUCKET
            assert size == max(1, 1024 // padded)
        seen += positions
    assert sorted(seen) == list(range(len(lengths)))


def test_batches_hold_every_document_once(tiny_encoder: Encoder) -> None:
    tokens = tiny_encoder.tokenize_documents(REAL)
    batches = list(tiny_encoder.encode_batches(tokens))
    assert len(batches) > 1
    assert sorted(i for batch in batches for i in batch) == list(range(len(REAL)))
    whole = tiny_encoder.encode_tokens(tokens)
    assert all(np.array_equal(matrix, whole[i]) for batch in batches for i, matrix in batch.items())


def test_float16_is_the_float32_rounded_once(tiny_encoder: Encoder) -> None:
    tokens = tiny_encoder.tokenize_documents(REAL[:8])
    for half, whole in zip(
        tiny_encoder.encode_tokens(tokens, np.float16), tiny_encoder.encode_tokens(tokens), strict=True
    ):
        assert half.dtype == np.float16
        np.testing.assert_array_equal(half, whole.astype(np.float16))


@pytest.mark.parametrize(
    ("words", "truncated"),
    [(0, 0), (1, 0), (28, 0), (29, 0), (30, 1), (31, 2), (500, 471)],
    ids="{}-words".format,
)
def test_query_truncation_is_counted(tiny_encoder: Encoder, words: int, truncated: int) -> None:
    [tokens] = tiny_encoder.tokenize_queries([" ".join(["late"] * words)])
    assert len(tokens.ids) == 32
    assert tokens.truncated == truncated
    assert tokens.attended == min(words + 3, 32)
    expansion = tiny_encoder.checkpoint.spec.expansion
    assert expansion
    assert tokens.ids.count(expansion.token_id) == 32 - tokens.attended
    assert tokens.ids[tokens.attended - 1] == tiny_encoder.checkpoint.spec.query.suffix_ids[0]


@pytest.mark.parametrize(
    ("words", "truncated"),
    [(0, 0), (60, 0), (61, 0), (62, 1), (63, 2), (1000, 939)],
    ids="{}-words".format,
)
def test_document_truncation_is_counted(tiny_encoder: Encoder, words: int, truncated: int) -> None:
    [tokens] = tiny_encoder.tokenize_documents([" ".join(["late"] * words)])
    assert len(tokens.ids) == tokens.attended == min(words + 3, DOCUMENT_LENGTH)
    assert tokens.truncated == truncated
    assert tokens.ids[-1] == tiny_encoder.checkpoint.spec.document.suffix_ids[0]


def test_no_texts(tiny_encoder: Encoder) -> None:
    assert tiny_encoder.encode_documents([]) == []
    assert tiny_encoder.encode_queries([]) == []


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_an_odd_text_gives_unit_rows(alone: Alone, text: str) -> None:
    rows = alone.document(text)
    [tokens] = alone.encoder.tokenize_documents([text])
    assert len(rows) == sum(i not in alone.encoder.checkpoint.spec.skip_ids for i in tokens.ids)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(alone.query(text), axis=1), 1, rtol=1e-5)


def test_punctuation_is_encoded_but_not_kept(alone: Alone) -> None:
    assert len(alone.document(ODD["punctuation"])) == 3, "[CLS], the marker and [SEP]"
    assert len(alone.document("")) == 3
    assert len(alone.document("a, b.")) == len(alone.document("a b")) == 5
    assert not np.array_equal(alone.document("a, b."), alone.document("a b")), "it was attended to"


def test_a_document_whose_every_token_is_skipped_has_no_rows(tiny_encoder: Encoder) -> None:
    tokens = tiny_encoder.tokenize_documents(["...", "a"])
    spec = tiny_encoder.checkpoint.spec
    skipping = dataclasses.replace(spec, skip_ids=tuple(sorted({*spec.skip_ids, *tokens[0].ids})))
    checkpoint = dataclasses.replace(tiny_encoder.checkpoint, spec=skipping)
    none, one = dataclasses.replace(tiny_encoder, checkpoint=checkpoint).encode_tokens(tokens)
    assert none.shape == (0, DIM)
    assert one.shape == (1, DIM)


def test_documents_and_queries_are_marked_differently(tiny_encoder: Encoder) -> None:
    spec = tiny_encoder.checkpoint.spec
    assert tiny_encoder.tokenize_documents(["a"])[0].ids[:2] == list(spec.document.prefix_ids)
    assert tiny_encoder.tokenize_queries(["a"])[0].ids[:2] == list(spec.query.prefix_ids)
    assert spec.document.prefix_ids != spec.query.prefix_ids


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("gpu", "unknown device 'gpu': expected auto, cpu, cuda, cuda:N or mps"),
        ("", "unknown device ''"),
        ("cuda:-1", "unknown device 'cuda:-1'"),
        ("meta", "device 'meta' is not supported"),
        ("cuda:63", "device 'cuda:63': .* use --device cpu"),
    ],
    ids=["unknown", "empty", "negative", "unsupported", "absent"],
)
def test_a_device_that_is_not_there(tiny: Path, device: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Encoder.load(str(tiny), device=device)


def test_an_absent_kind_of_device(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UsageError, match=r"device 'cuda': 0 CUDA device\(s\) here; use --device cpu"):
        Encoder.load(str(tiny), device="cuda")
    with pytest.raises(UsageError, match="device 'mps': no Apple GPU here; use --device cpu"):
        Encoder.load(str(tiny), device="mps")


def test_auto_is_float32_on_a_cpu(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    encoder = Encoder.load(str(tiny))
    assert (encoder.device.type, encoder.dtype) == ("cpu", "fp32")


def test_fp16_on_a_cpu_is_refused(tiny: Path) -> None:
    with pytest.raises(UsageError, match="fp16 is slower than fp32 on a CPU"):
        Encoder.load(str(tiny), device="cpu", dtype="fp16")


def test_an_unknown_dtype_is_refused(tiny: Path) -> None:
    with pytest.raises(UsageError, match="unknown dtype 'int8': expected auto, fp32, fp16, bf16"):
        Encoder.load(str(tiny), device="cpu", dtype="int8")


@pytest.fixture(scope="module")
def onnx(tiny_encoder: Encoder) -> Encoder:
    return Encoder.load(tiny_encoder.checkpoint, device="cpu", query_backend="onnx")


@settings(max_examples=25, deadline=None)
@given(st.lists(POOL, min_size=1, max_size=5))
def test_queries_by_onnx_runtime_are_those_of_torch(onnx: Encoder, tiny_encoder: Encoder, texts: list[str]) -> None:
    assert onnx.query_network is not None
    assert onnx.tokenize_queries(texts) == tiny_encoder.tokenize_queries(texts)
    for got, want in zip(onnx.encode_queries(texts), tiny_encoder.encode_queries(texts), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


def test_a_query_by_onnx_runtime_depends_on_itself_alone(onnx: Encoder) -> None:
    together = onnx.encode_queries(REAL[-20:])
    for text, rows in zip(REAL[-20:], together, strict=True):
        np.testing.assert_array_equal(onnx.encode_queries([text])[0], rows)


def test_documents_stay_with_torch(onnx: Encoder, tiny_encoder: Encoder) -> None:
    for got, want in zip(onnx.encode_documents(REAL[:6]), tiny_encoder.encode_documents(REAL[:6]), strict=True):
        np.testing.assert_array_equal(got, want)


def test_queries_by_onnx_runtime_from_several_threads(onnx: Encoder) -> None:
    texts = REAL[-20:] * 5
    alone = onnx.encode_queries(texts)
    with ThreadPoolExecutor(8) as pool:
        for rows, want in zip(pool.map(lambda text: onnx.encode_queries([text])[0], texts), alone, strict=True):
            np.testing.assert_array_equal(rows, want)


def test_another_network_than_torch_has_is_refused(tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    right = OnnxNetwork.__call__

    def wrong(self: OnnxNetwork, ids: torch.Tensor, mask: torch.Tensor) -> npt.NDArray[np.float32]:
        vectors = right(self, ids, mask)
        if ids.shape[1] > BUCKET:
            vectors[0, 3, 0] += 0.001
        return vectors

    monkeypatch.setattr(OnnxNetwork, "__call__", wrong)
    with pytest.raises(CheckpointError, match="ONNX Runtime gives other vectors than torch"):
        Encoder.load(tiny_encoder.checkpoint, device="cpu", query_backend="onnx")


def test_onnx_runtime_is_for_a_cpu_and_fp32(tiny: Path) -> None:
    with pytest.raises(UsageError, match="the query backend onnx is for a CPU and fp32; this is cpu and bf16"):
        Encoder.load(str(tiny), device="cpu", dtype="bf16", query_backend="onnx")
    with pytest.raises(UsageError, match="unknown query backend 'tensorrt': expected torch or onnx"):
        Encoder.load(str(tiny), device="cpu", query_backend="tensorrt")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_without_onnx_runtime_its_absence_is_said(
    tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        MissingDependencyError,
        match=r"queries by ONNX Runtime need onnx and onnxruntime\. Install with: pip install onnx onnxruntime",
    ):
        Encoder.load(tiny_encoder.checkpoint, device="cpu", query_backend="onnx")


def test_it_goes_on_after_a_fork(starter_encoder: Encoder) -> None:
    """OpenMP's threads do not live on in the child, which would wait for them for ever."""
    program = """
import os, sys
from colbert_rerank.encoder import Encoder
encoder = Encoder.load(device="cpu")
want = encoder.encode_queries(["what is late interaction"])[0]
child = os.fork()
if not child:
    got = encoder.encode_queries(["what is late interaction"])[0]
    os._exit(0 if abs(got - want).max() < 1e-5 else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], timeout=120, check=False, env=environment)
    assert done.returncode == 0


def test_bf16_is_close_and_not_the_same(tiny_encoder: Encoder) -> None:
    rough = Encoder.load(tiny_encoder.checkpoint, device="cpu", dtype="bf16")
    assert rough.dtype == "bf16"
    for a, b in zip(rough.encode_documents(REAL[:6]), tiny_encoder.encode_documents(REAL[:6]), strict=True):
        assert not np.array_equal(a, b)
        cosines = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1)
        assert cosines.min() > 0.95
    # and the checkpoint that both share is still float32
    assert {p.dtype for p in tiny_encoder.network.backbone.parameters()} == {torch.float32}
    np.testing.assert_array_equal(
        tiny_encoder.encode_queries(["a"])[0],
        Encoder.load(tiny_encoder.checkpoint, device="cpu").encode_queries(["a"])[0],
    )


@pytest.mark.parametrize("value", [math.nan, math.inf], ids=["nan", "inf"])
def test_weights_that_are_not_finite_are_found_at_the_first_query(
    tmp_path: Path, tiny_encoder: Encoder, value: float
) -> None:
    weights = tiny_weights()
    word = tiny_encoder.tokenize_queries(["founded"])[0].ids[2]  # of no text that is tried when it is loaded
    weights["bert.embeddings.word_embeddings.weight"][word, 0] = value
    encoder = Encoder.load(str(tiny_checkpoint(tmp_path / "broken", weights)), device="cpu")
    with pytest.raises(NonFiniteError, match="query 'who founded Publix': its vectors hold NaN or infinity"):
        encoder.encode_queries(["who founded Publix"])


def test_the_query_that_broke_is_named(tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = Encoder._forward

    def broken(self: Encoder, batch: Sequence[object], size: int, length: int) -> torch.Tensor:
        vectors = forward(self, batch, size, length).clone()  # type: ignore[arg-type]
        vectors[[2006 in t.ids for t in batch]] = torch.nan  # type: ignore[attr-defined]
        return vectors

    monkeypatch.setattr(Encoder, "_forward", broken)
    with pytest.raises(NonFiniteError, match="query 'based on fact'"):
        tiny_encoder.encode_queries(["in fact", "based on fact", "fact"])


def test_what_cannot_be_captured_is_encoded_without_a_graph(
    tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As where a network looks at a value. CUDA graphs themselves are tested on a GPU."""

    def refuse(self: GraphedNetwork, shape: tuple[int, ...]) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nmore of it")

    monkeypatch.setattr(GraphedNetwork, "_capture", refuse)
    other = dataclasses.replace(tiny_encoder, query_network=GraphedNetwork(tiny_encoder.network, tiny_encoder.device))
    for asked in (["how do tides work"], ["why", "how do the tides of a sea work"]):
        for ours, theirs in zip(other.encode_queries(asked), tiny_encoder.encode_queries(asked), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    (said,) = [record.message for record in caplog.records if "CUDA graphs" in record.message]
    assert said.endswith("more slowly: operation not permitted when stream is capturing")
