"""What users may choose about a checkpoint, and what no one may do with one that has no trained projection."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from colbert_rerank import identity
from colbert_rerank.checkpoints import Choices, load_checkpoint
from colbert_rerank.encoder import Encoder
from colbert_rerank.errors import CheckpointError, StoreMismatchError, UsageError
from colbert_rerank.rerank import Reranker
from ingest.cli.ingest import ingest
from tests.cli.conftest import Files, files
from tests.cli.terminal import invoke
from tests.collection import documents, ingested
from tests.store.stores import new_manifest
from tests.tiny import DOCUMENT_LENGTH, HIDDEN

__all__ = ["files"]

pytestmark = pytest.mark.usefixtures("one_thread")

CHECKPOINTS = Path(__file__).parent / "parity" / "checkpoints"
DNN = str(CHECKPOINTS / "colbert_v1_dnn_cosine")
TEXT = "Tides, say the fishermen, follow the moon."


@pytest.fixture
def headless(tmp_path: Path) -> Path:
    """As BAAI/bge-m3-unsupervised is published."""
    folder = Path(shutil.copytree(CHECKPOINTS / "bge_m3", tmp_path / "unsupervised"))
    (folder / "colbert_linear.pt").unlink()
    return folder


@pytest.fixture
def plain(tiny: Path, tmp_path: Path) -> Path:
    """A BERT as BertModel saves it."""
    folder = Path(shutil.copytree(tiny, tmp_path / "plain"))
    found = load_file(folder / "model.safetensors")
    bert = {n.removeprefix("bert."): t for n, t in found.items() if n.startswith("bert.")}
    save_file(bert, folder / "model.safetensors")
    (folder / "artifact.metadata").unlink()
    return folder


def test_lengths_are_the_user_s(tiny: Path) -> None:
    encoder = Encoder.load(str(tiny), device="cpu", choices=Choices(query_length=12, document_length=9))
    assert [len(t.ids) for t in encoder.tokenize_queries(["tides", TEXT * 3])] == [12, 12]
    assert [len(t.ids) for t in encoder.tokenize_documents(["tides", TEXT * 3])] == [4, 9]


@pytest.mark.parametrize("choices", [Choices(query_length=3), Choices(document_length=129)], ids=["short", "long"])
def test_a_length_that_the_network_cannot_read(tiny: Path, choices: Choices) -> None:
    with pytest.raises(UsageError, match=r"the length of a (query|document) must be 4 to 128, it is"):
        load_checkpoint(str(tiny), choices)


def test_what_is_added_to_a_query_needs_room(tmp_path: Path) -> None:
    folder = str(CHECKPOINTS / "hofstaetter")
    positions = len(load_checkpoint(folder).backbone.get_parameter("embeddings.position_embeddings.weight"))
    encoder = Encoder.load(folder, device="cpu", choices=Choices(query_length=positions - 8))
    assert len(encoder.encode_queries(["tide " * 1000])[0]) == positions
    with pytest.raises(UsageError, match=f"the length of a query must be 4 to {positions - 8}, it is {positions}"):
        load_checkpoint(folder, Choices(query_length=positions))


def test_what_is_chosen_is_no_longer_assumed() -> None:
    folder = str(CHECKPOINTS / "bge_m3")
    assert list(load_checkpoint(folder).assumed) == ["query_length", "document_length"]
    assert load_checkpoint(folder, Choices(query_length=32)).assumed == {
        "document_length": "128, all that it reads; FlagEmbedding's default is 512"
    }


@pytest.mark.parametrize(
    ("name", "choices", "needed"),
    [
        ("colqwen2", {"query_length": 10}, 17),
        ("pylate_prompts", {"query_length": 8}, 17),
        ("pylate_prompts", {"document_length": 8}, 20),
    ],
)
def test_a_length_without_room_for_a_text_is_refused(name: str, choices: dict[str, int], needed: int) -> None:
    folder = str(CHECKPOINTS / name)
    with pytest.raises(UsageError, match=rf"has no room for its text: {needed} stand around it"):
        load_checkpoint(folder, Choices(**choices))  # type: ignore[arg-type]
    encoder = Encoder.load(folder, device="cpu", choices=Choices(**dict.fromkeys(choices, needed + 4)))  # type: ignore[arg-type]
    tokenize = encoder.tokenize_queries if "query_length" in choices else encoder.tokenize_documents
    (short,), (long,) = tokenize(["a"]), tokenize(["the river and the old city " * 9])
    assert len(short.ids) <= len(long.ids) == needed + 4


def test_a_page_has_no_length_to_choose() -> None:
    with pytest.raises(UsageError, match="its documents are page images, so there is no choice of their length"):
        load_checkpoint(str(CHECKPOINTS / "colqwen2"), Choices(document_length=100))


def test_a_store_remembers_its_base_wherever_it_is_searched_from(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = Path(shutil.copytree(CHECKPOINTS / "colbert_v1_dnn_base", tmp_path / "base"))
    monkeypatch.chdir(tmp_path)
    store = tmp_path / "store"
    ingest = ("ingest", files.corpus, "--store", store, "--model", DNN, "--base")
    invoke(*ingest, "base").check()
    monkeypatch.chdir("/")
    invoke("rerank", "tides", "--store", store).check()
    base.rename(tmp_path / "moved")
    done = invoke("rerank", "tides", "--store", store)
    assert done.status == 1
    assert f"and where its base '{base}' is with --base" in done.err
    invoke("rerank", "tides", "--store", store, "--base", tmp_path / "moved").check()
    invoke(*ingest, tmp_path / "moved").check()
    invoke("rerank", "tides", "--store", store).check()


MEANINGLESS = {
    "base": ("hf_colbert_bin", Choices(base="x"), "it has a tokenizer of its own, so there is no choice of a base"),
    "skip": ("bge_m3", Choices(doc_skip="before-encode"), "it leaves no document tokens out"),
    "skip-of-none": ("hofstaetter", Choices(doc_skip="before-encode"), "it leaves no document tokens out"),
}


@pytest.mark.parametrize(("name", "choices", "message"), MEANINGLESS.values(), ids=MEANINGLESS)
def test_a_choice_that_means_nothing_is_refused(name: str, choices: Choices, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_checkpoint(str(CHECKPOINTS / name), choices)


def test_a_loaded_checkpoint_leaves_no_choice(tiny: Path) -> None:
    with pytest.raises(UsageError, match="choices are made when a checkpoint is loaded"):
        Encoder.load(load_checkpoint(str(tiny)), choices=Choices(query_length=8))


def test_another_way_to_skip_is_another_document_identity(tiny: Path, tmp_path: Path) -> None:
    after = Encoder.load(str(tiny), device="cpu")
    before = Encoder.load(str(tiny), device="cpu", choices=Choices(doc_skip="before-encode"))
    (a,), (b,) = after.encode_documents([TEXT]), before.encode_documents([TEXT])
    assert len(a) == len(b)
    assert np.abs(a - b).max() > 1e-3, "the same tokens, seen without the punctuation between them"
    store = ingested(tmp_path / "store", after, documents(3))
    with pytest.raises(StoreMismatchError, match="way of making texts"):
        ingested(tmp_path / "store", before, documents(3))
    Reranker(store, before)
    with pytest.raises(
        StoreMismatchError, match=r"\(--doc-skip before-encode: the store has none, this run True.* with what it was"
    ):
        Reranker(store, before, missing="encode")


def test_what_differs_is_named_by_its_option(files: Files, tmp_path: Path) -> None:
    arguments = ("ingest", files.corpus, "--store", tmp_path / "store", "--model", files.model)
    invoke(*arguments, "--long-docs", "windows", "--stride", "20", "--pool-factor", "2").check()
    options = ("--doc-length", "20", "--doc-skip", "before-encode", "--fields", "text", "--pool-factor", "3")
    failed = invoke(*arguments, *options)
    for difference in (
        f"--doc-length: the store has {DOCUMENT_LENGTH}, this run 20",
        "--doc-skip before-encode: the store has none, this run True",
        "--fields: the store has ['title', 'text'], this run ['text']",
        "--long-docs windows --stride: the store has 20, this run none",
        "--pool-factor: the store has 2, this run 3",
    ):
        assert difference in failed.error


def test_every_choice_is_an_option_of_ingest() -> None:
    choices = Choices(8, 9, "before-encode", "base", "identity", text_documents=True)
    manifest = replace(new_manifest(), provenance={"model": "m", "choices": choices.stated()})
    assert identity.described(manifest) == (
        "model 'm', --query-length 8, --doc-length 9, --doc-skip before-encode, --base base, --projection identity, "
        "--text-documents"
    )
    options = {option for parameter in ingest.params for option in parameter.opts}
    assert {word for name in identity.OPTIONS.values() for word in name.split() if word.startswith("--")} <= options


def test_a_store_is_searched_with_what_it_was_made_with(files: Files, tmp_path: Path) -> None:
    """Nobody has to say it again, in whatever folder; not even where the model was moved meanwhile."""
    store, model = tmp_path / "store", tmp_path / "model"
    shutil.copytree(files.model, model)
    arguments = ("ingest", files.corpus, "--store", store, "--model", model)
    options = ("--query-length", 16, "--doc-length", 20)
    done = invoke(*arguments, *options).check()
    assert "longer than the 20 tokens the model reads" in done.err
    found = invoke("rerank", "Publix", "--store", store).check().out
    assert found
    reranker = Reranker.open(store)
    assert reranker.encoder.checkpoint.choices == Choices(query_length=16, document_length=20)
    failed = invoke(*arguments)
    assert "--query-length: the store has 16, this run 32" in failed.error
    assert f"with what this store was made with (model '{model}', --query-length 16, --doc-length 20)" in failed.error
    model.rename(tmp_path / "moved")
    failed = invoke("rerank", "Publix", "--store", store)
    assert f"{store}: it was made with the model '{model}'" in failed.error
    assert failed.error.endswith("Where it is now, say with --model")
    assert invoke("rerank", "Publix", "--store", store, "--model", tmp_path / "moved").check().out == found
    moved = ("ingest", files.corpus, "--store", store, "--model", tmp_path / "moved", *options)
    assert "(0 encoded" in invoke(*moved).check().err
    assert invoke("rerank", "Publix", "--store", store).check().out == found, "an ingest says where it is now"


def test_a_length_that_no_network_reads_is_the_user_s_fault(files: Files, tmp_path: Path) -> None:
    failed = invoke("ingest", files.corpus, "--store", tmp_path / "store", "--model", files.model, "--doc-length", 2)
    assert (failed.status, "must be 4 to 128, it is 2" in failed.error) == (2, True)


def test_a_model_without_a_trained_projection_is_refused(headless: Path) -> None:
    with pytest.raises(CheckpointError, match=r"colbert_linear.pt is missing.*choose --projection identity"):
        load_checkpoint(str(headless))


def test_its_hidden_states_are_taken_where_that_is_asked_for(headless: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder = Encoder.load(str(headless), device="cpu", choices=Choices(projection="identity"))
    assert "were never trained to be compared" in caplog.text
    assert encoder.checkpoint.assumed["projection"].startswith("identity")
    (rows,) = encoder.encode_documents([TEXT])
    (tokens,) = encoder.tokenize_documents([TEXT])
    ids = torch.tensor([tokens.ids])
    with torch.inference_mode():
        states = encoder.network.backbone(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0, 1:]
    np.testing.assert_allclose(rows, torch.nn.functional.normalize(states, dim=-1).numpy(), atol=1e-5)
    trained = load_checkpoint(str(CHECKPOINTS / "bge_m3"))
    assert encoder.dim == trained.spec.dim == HIDDEN
    assert encoder.checkpoint.tensor_hash != trained.tensor_hash


@pytest.mark.parametrize("name", ["bge_m3", "hf_colbert_bin", "pylate_bert"])
def test_a_trained_projection_leaves_no_choice(name: str) -> None:
    with pytest.raises(UsageError, match="it has a trained projection"):
        load_checkpoint(str(CHECKPOINTS / name), Choices(projection="identity"))


def test_a_plain_bert_is_for_training_only(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no token projection"):
        load_checkpoint(str(plain))
    encoder = Encoder.load(str(plain), device="cpu", choices=Choices(projection="fresh"))
    assert not encoder.checkpoint.trained
    assert "drawn at random" in encoder.checkpoint.assumed["projection"]
    assert encoder.encode_documents([TEXT])[0].shape[1] == 128
    with pytest.raises(CheckpointError, match="drawn at random and is not trained"):
        ingested(tmp_path / "store", encoder, documents(2))
    assert not (tmp_path / "store").exists()
    again = load_checkpoint(str(plain), Choices(projection="fresh"))
    assert again.tensor_hash == encoder.checkpoint.tensor_hash


@pytest.fixture
def trained_from(tmp_path: Path) -> Path:
    """The base of a .dnn with weights of its own: those of the .dnn, before training changed words and markers."""
    folder = Path(shutil.copytree(CHECKPOINTS / "colbert_v1_dnn_base", tmp_path / "base"))
    words = load_checkpoint(DNN, Choices(base=str(folder))).backbone.get_parameter("embeddings.word_embeddings.weight")
    before = words.detach().clone()
    before[100:] += 1
    save_file({"bert.embeddings.word_embeddings.weight": before}, folder / "model.safetensors")
    return folder


def _spoil(folder: Path, *ids: int) -> None:
    found = load_file(folder / "model.safetensors")
    found["bert.embeddings.word_embeddings.weight"][list(ids)] += 1
    save_file(found, folder / "model.safetensors")


@pytest.mark.parametrize(("changed", "markers"), [([1, 2], (1, 2)), ([1], (100, 1))], ids=["v1-ids", "looked-up"])
def test_markers_are_those_that_training_changed(
    trained_from: Path, changed: list[int], markers: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    _spoil(trained_from, *changed)
    caplog.clear()
    spec = load_checkpoint(DNN, Choices(base=str(trained_from))).spec
    assert (spec.query.prefix_ids[1], spec.document.prefix_ids[1]) == markers
    assert caplog.messages == []


def test_a_base_that_was_not_trained_into_it_is_refused(trained_from: Path) -> None:
    with pytest.raises(CheckpointError, match=r"neither the embeddings of the ids \(1, 2\) nor those of \(100, 1\)"):
        load_checkpoint(DNN, Choices(base=str(trained_from)))
    rows = len(load_file(trained_from / "model.safetensors")["bert.embeddings.word_embeddings.weight"])
    _spoil(trained_from, *range(rows))
    with pytest.raises(CheckpointError, match=r"not one row of its .* is that of the \.dnn, which was trained from"):
        load_checkpoint(DNN, Choices(base=str(trained_from)))
    save_file({"embeddings.word_embeddings.weight": torch.ones(3, 2)}, trained_from / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"is not that of the model the \.dnn was trained from"):
        load_checkpoint(DNN, Choices(base=str(trained_from)))


def test_without_the_weights_of_the_base_markers_are_assumed(caplog: pytest.LogCaptureFixture) -> None:
    spec = load_checkpoint(DNN, Choices(base=str(CHECKPOINTS / "colbert_v1_dnn_base"))).spec
    assert (spec.query.prefix_ids[1], spec.document.prefix_ids[1]) == (100, 1)
    assert "markers: 100 and 1, as v1 looks them up; the weights of the base would tell" in caplog.text


def test_the_base_of_weights_without_a_tokenizer(tmp_path: Path) -> None:
    """Its folder is enough; without it the name would be asked of the hub."""
    folder = CHECKPOINTS / "colbert_v1_dnn_cosine"
    encoder = Encoder.load(str(folder), device="cpu", choices=Choices(base=str(CHECKPOINTS / "colbert_v1_dnn_base")))
    assert encoder.encode_queries(["tides"])[0].shape == (32, encoder.dim)
    config = json.loads((CHECKPOINTS / "colbert_v1_dnn_base" / "config.json").read_text())
    with pytest.raises(CheckpointError, match=f"{config['vocab_size']:,} word pieces are of no model known here"):
        load_checkpoint(str(folder))
