"""A text's vectors depend on that text alone, to the bit."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from colbert_rerank.encoder import Encoder
from colbert_rerank.errors import CheckpointError, NonFiniteError, UsageError
from colbert_rerank.recipe import Recipe
from ingest.sources import SourceOptions, open_source
from ingest.validation import InputReport
from tests.tiny import tiny_checkpoint

COLLECTION = Path(__file__).parents[1] / "colbert_rerank" / "data" / "musique_mini"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return Encoder.load(str(tiny_checkpoint(tmp_path_factory.mktemp("tiny"))), device="cpu")


def texts(count: int) -> list[str]:
    source = open_source(str(COLLECTION), SourceOptions(), InputReport())
    return [Recipe().text(d.fields) for d in islice(source, count)]


@given(st.data())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_bits_do_not_depend_on_batch_mates(tiny: Encoder, data: st.DataObject) -> None:
    corpus = texts(60)
    whole = tiny.encode_documents(corpus)
    order = data.draw(st.permutations(range(len(corpus))))[: data.draw(st.integers(1, 60))]
    for i, matrix in zip(order, tiny.encode_documents([corpus[i] for i in order]), strict=True):
        np.testing.assert_array_equal(matrix, whole[i])


def test_bits_of_the_starter_do_not_depend_on_batch_mates() -> None:
    encoder, corpus = Encoder.load("starter", device="cpu"), texts(24)
    whole = encoder.encode_documents(corpus)
    for part in (corpus[:1], corpus[5:17][::-1]):
        for text, matrix in zip(part, encoder.encode_documents(part), strict=True):
            np.testing.assert_array_equal(matrix, whole[corpus.index(text)])
    together = encoder.encode_queries(corpus[:5])
    for i in range(5):
        np.testing.assert_array_equal(encoder.encode_queries([corpus[i]])[0], together[i])


def test_truncation_is_counted_at_the_boundary(tiny: Encoder) -> None:
    room = tiny.checkpoint.spec.document_length - 3
    fits, over = tiny.tokenize_documents(["tide " * room, "tide " * (room + 2)])
    assert (len(fits.ids), fits.truncated) == (room + 3, 0)
    assert (len(over.ids), over.truncated) == (room + 3, 2)
    fits, over = tiny.tokenize_queries(["tide " * 29, "tide " * 30])
    assert (len(fits.ids), fits.truncated, len(over.ids), over.truncated) == (32, 0, 32, 1)


@pytest.mark.parametrize(
    "text", ["", "...!?", "😀", "東京 Москва", "\x00\x01"], ids=["empty", "dots", "emoji", "cjk", "nul"]
)
def test_odd_texts_have_finite_unit_vectors(text: str, tiny: Encoder) -> None:
    (matrix,) = tiny.encode_documents([text])
    assert len(matrix) >= 3
    np.testing.assert_allclose(np.linalg.norm(matrix, axis=1), 1, atol=1e-5)
    assert tiny.encode_queries([text]).shape == (1, 32, 16)


def test_nothing_in_nothing_out(tiny: Encoder) -> None:
    assert tiny.encode_documents([]) == []
    assert tiny.encode_queries([]).shape == (0, 32, 16)


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "cpu:x", "meta"])
def test_a_device_that_is_not_there_is_refused(device: str, tiny: Encoder) -> None:
    with pytest.raises(UsageError, match="device"):
        Encoder.load(tiny.checkpoint, device=device)


def test_fp16_on_a_cpu_is_refused_and_bf16_is_near(tiny: Encoder) -> None:
    with pytest.raises(UsageError, match="fp16"):
        Encoder.load(tiny.checkpoint, device="cpu", dtype="fp16")
    half = Encoder.load(tiny.checkpoint, device="cpu", dtype="bf16").encode_queries(["tides"])
    full = tiny.encode_queries(["tides"])
    assert 0 < np.abs(half - full).max() < 0.1


def test_weights_that_give_nan_name_the_query(tmp_path: Path) -> None:
    encoder = Encoder.load(str(tiny_checkpoint(tmp_path / "m")), device="cpu")
    with torch.no_grad():
        encoder.projection[0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match="'how do tides work'"):
        encoder.encode_queries(["how do tides work"])


def test_a_model_without_projection_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tiny_checkpoint(tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    save_file({n: t for n, t in tensors.items() if n != "linear.weight"}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"no token projection \(linear.weight\)"):
        Encoder.load(str(folder))
    save_file({n: t for n, t in tensors.items() if "layer.1.attention" not in n}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="missing"):
        Encoder.load(str(folder))
    (folder / "model.safetensors").write_bytes(b"\x10" * 100)
    with pytest.raises(CheckpointError, match="cannot be read"):
        Encoder.load(str(folder))


def test_bin_and_safetensors_of_the_same_weights_are_the_same_model(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    folder = tiny_checkpoint(tmp_path / "m")
    one = Encoder.load(str(folder)).checkpoint
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert Encoder.load(str(folder)).checkpoint.tensor_hash == one.tensor_hash


@pytest.mark.parametrize("name", ["no-such-folder", "/nowhere/at/all"])
def test_a_model_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        Encoder.load(name)
