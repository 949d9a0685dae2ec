"""A checkpoint in PyLate's layout that is not what its authors meant is refused in words."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CamembertConfig, CamembertModel

from colbert_rerank.checkpoints import load_checkpoint
from colbert_rerank.checkpoints.pylate import DEFAULTS
from colbert_rerank.encoder import Encoder
from colbert_rerank.errors import CheckpointError
from colbert_rerank.identity import query_identity

CHECKPOINTS = Path(__file__).parent / "parity" / "checkpoints"
SETTINGS = "config_sentence_transformers.json"
Change = Callable[[Path], object]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(CHECKPOINTS / "pylate_modernbert", tmp_path / "model"))


def state(name: str, **values: object) -> Change:
    """Change keys of a JSON file."""

    def apply(folder: Path) -> None:
        data = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps(data | values), encoding="utf-8")

    return apply


def modules(change: Callable[[list[Any]], object]) -> Change:
    def apply(folder: Path) -> None:
        listed = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        change(listed)
        (folder / "modules.json").write_text(json.dumps(listed), encoding="utf-8")

    return apply


def tensors(name: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    def apply(folder: Path) -> None:
        found = load_file(folder / name)
        change(found)
        save_file(found, folder / name)

    return apply


REFUSED: dict[str, tuple[Change, str]] = {
    "no-dense": (modules(lambda m: m.__delitem__(slice(1, None))), "no token projection"),
    "pooled": (
        modules(lambda m: m.insert(1, {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"})),
        "modules.json lists Transformer, Pooling, Dense, Dense; token vectors are made by a Transformer and Dense",
    ),
    "no-transformer": (modules(lambda m: m.pop(0)), "modules.json lists Dense, Dense; token vectors"),
    "module-without-type": (modules(lambda m: m.append({"path": "x"})), "does not name type and path of each module"),
    "not-a-list": (lambda f: (f / "modules.json").write_text("{}"), "modules.json: expected a JSON array"),
    "dense-gone": (lambda f: shutil.rmtree(f / "2_Dense"), "2_Dense/config.json: cannot be read as JSON"),
    "dense-without-weights": (lambda f: (f / "2_Dense/model.safetensors").unlink(), "2_Dense: no model.safetensors"),
    "bias-missing": (
        tensors("2_Dense/model.safetensors", lambda t: t.pop("linear.bias")),
        "2_Dense: the tensors ['linear.weight'] are not those that config.json says (linear.bias is",
    ),
    "residual-missing": (
        tensors("1_Dense/model.safetensors", lambda t: t.pop("residual.weight")),
        "1_Dense: a residual of 32 to 40 dimensions needs residual.weight, which is missing",
    ),
    "residual-unasked": (state("1_Dense/config.json", use_residual=False), "(residual.weight is missing or too many)"),
    "dense-for-another-width": (
        tensors("2_Dense/model.safetensors", lambda t: t.update({"linear.weight": torch.ones(24, 41)})),
        "2_Dense: linear.weight has shape [24, 41], expected [dim, 40]",
    ),
    "activation-that-runs-code": (state("1_Dense/config.json", activation_function="os.system"), "'os.system'"),
    "activation-unknown": (
        state("1_Dense/config.json", activation_function="torch.nn.modules.activation.Mish"),
        "unknown activation 'torch.nn.modules.activation.Mish'; known are Identity, Tanh",
    ),
    "skip-words-a-text": (state(SETTINGS, skiplist_words="abc"), "skiplist_words must be a list of words, it is 'abc'"),
    "skip-words-numbers": (state(SETTINGS, skiplist_words=[1]), "skiplist_words must be a list of words"),
    "prompts-a-list": (state(SETTINGS, prompts=["query: "]), "prompts must be texts by name"),
    "prompt-unknown": (
        state(SETTINGS, default_prompt_name="passage"),
        "default_prompt_name is 'passage', and there is",
    ),
    "marker-unknown": (state(SETTINGS, query_prefix="[X] "), "the prefix '[X] ' is not in the tokenizer's vocabulary"),
    "marker-no-text": (state(SETTINGS, document_prefix=None), "the prefix None is not in"),
    "length-too-long": (state(SETTINGS, document_length=8193), "document_length must be 4 to 8192, it is 8193"),
    "length-null": (state(SETTINGS, query_length=None), "query_length must be 4 to 8192, it is None"),
    "backbone-tensor-missing": (
        tensors("model.safetensors", lambda t: t.pop("embeddings.tok_embeddings.weight")),
        "missing ['embeddings.tok_embeddings.weight']",
    ),
    "network-unknown": (state("config.json", model_type="mystery"), "config.json names no network of transformers"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(folder: Path, change: Change, message: str) -> None:
    change(folder)
    with pytest.raises(CheckpointError, match=re.escape(message)):
        load_checkpoint(str(folder))


def test_what_no_file_states_is_an_assumption_and_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / SETTINGS).unlink()
    checkpoint = load_checkpoint(str(folder))
    assert f"{SETTINGS} is missing, so PyLate's defaults are assumed: query_prefix = '[Q] '" in caplog.text
    assert (checkpoint.spec.query.length, checkpoint.spec.document.length) == (32, 180)
    assert checkpoint.spec.expansion is not None, "it was off"
    assert list(checkpoint.assumed) == list(DEFAULTS)


def test_skip_words_may_be_null(folder: Path) -> None:
    state(SETTINGS, skiplist_words=None)(folder)
    tokenizer = load_checkpoint(str(folder)).tokenizer
    assert load_checkpoint(str(folder)).spec.skip_ids == tuple(
        sorted(set(tokenizer.convert_tokens_to_ids(DEFAULTS["skiplist_words"])))
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_weights_are_read_as_they_are_whatever_they_were_trained_in(folder: Path, key: str, dtype: str) -> None:
    state("config.json", **{key: dtype})(folder)
    known = Encoder.load(str(CHECKPOINTS / "pylate_modernbert"), device="cpu").encode_documents(["the red house"])
    assert (
        Encoder.load(str(folder), device="cpu").encode_documents(["the red house"])[0].tobytes() == known[0].tobytes()
    )


def test_a_prompt_goes_before_its_texts(folder: Path) -> None:
    plain = Encoder.load(str(folder), device="cpu")
    state(SETTINGS, prompts={"query": "Find: ", "document": "", "other": "x"})(folder)
    prompted = Encoder.load(str(folder), device="cpu")
    assert prompted.tokenize_queries([" The house "]) == plain.tokenize_queries(["find:  the house"])
    assert prompted.tokenize_documents(["the house"]) == plain.tokenize_documents(["the house"])
    before, after = (query_identity(encoder.checkpoint) for encoder in (plain, prompted))
    assert {k: v for k, v in after.items() if before.get(k) != v} == {"query_prompt": "Find: "}


def test_a_default_prompt_is_of_both_sides(folder: Path) -> None:
    plain = Encoder.load(str(folder), device="cpu")
    state(SETTINGS, prompts={"all": "text: "}, default_prompt_name="all")(folder)
    prompted = Encoder.load(str(folder), device="cpu")
    assert prompted.tokenize_queries(["the house"]) == plain.tokenize_queries(["text: the house"])
    assert prompted.tokenize_documents(["the house"]) == plain.tokenize_documents(["text: the house"])


def test_positions_that_are_those_of_the_padding_are_not_read(tmp_path: Path) -> None:
    """As of RoBERTa and its kin, whatever they are called."""
    folder = Path(shutil.copytree(CHECKPOINTS / "pylate_bert", tmp_path / "model"))
    config = CamembertConfig.from_pretrained(folder, pad_token_id=1, max_position_embeddings=66, type_vocab_size=1)
    config.save_pretrained(folder)
    network = CamembertModel(config, add_pooling_layer=False)
    save_file({n: t.contiguous() for n, t in network.state_dict().items()}, folder / "model.safetensors")
    encoder = Encoder.load(str(folder), device="cpu")
    assert encoder.encode_documents(["word " * 100])[0].shape == (64, 24)
    state(SETTINGS, document_length=65)(folder)
    with pytest.raises(CheckpointError, match="document_length must be 4 to 64, it is 65"):
        load_checkpoint(str(folder))


def test_an_empty_prefix_leaves_its_place_to_the_text(folder: Path) -> None:
    state(SETTINGS, query_prefix="", query_length=8)(folder)
    encoder = Encoder.load(str(folder), device="cpu")
    (tokens,) = encoder.tokenize_queries(["red house " * 20])
    marked = Encoder.load(str(CHECKPOINTS / "pylate_modernbert"), device="cpu").tokenize_queries(["red house " * 20])[0]
    assert len(tokens.ids) == 8
    assert tokens.ids[:1] == marked.ids[:1]
    assert tokens.ids[1:7] == marked.ids[2:8]
    assert tokens.ids[-1] == marked.ids[-1]


def test_the_transformer_may_lie_in_a_folder_of_its_own(folder: Path) -> None:
    inner = folder / "0_Transformer"
    inner.mkdir()
    for path in list(folder.iterdir()):
        if path.is_file() and path.name not in ("modules.json", SETTINGS):
            path.rename(inner / path.name)
    modules(lambda m: m[0].update(path="0_Transformer"))(folder)
    moved, known = load_checkpoint(str(folder)), load_checkpoint(str(CHECKPOINTS / "pylate_modernbert"))
    assert (moved.tensor_hash, moved.tokenizer_hash, moved.spec) == (
        known.tensor_hash,
        known.tokenizer_hash,
        known.spec,
    )


def test_weights_beside_the_head_of_another_task(folder: Path) -> None:
    """As ModernBertForMaskedLM saves them."""
    found = load_file(folder / "model.safetensors")
    named = {f"model.{name}": tensor for name, tensor in found.items()}
    save_file(named | {"head.dense.weight": torch.ones(2, 2)}, folder / "model.safetensors")
    known = load_checkpoint(str(CHECKPOINTS / "pylate_modernbert"))
    assert load_checkpoint(str(folder)).tensor_hash == known.tensor_hash
