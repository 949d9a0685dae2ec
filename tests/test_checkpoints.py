"""A checkpoint that is not what its authors meant is refused in words; one that is has one identity."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from colbert_rerank.checkpoints import Checkpoint, load_checkpoint
from colbert_rerank.encoder import Encoder
from colbert_rerank.errors import CheckpointError, StoreMismatchError
from colbert_rerank.identity import check, query_identity
from tests.collection import texts
from tests.tiny import DIM, HIDDEN, TOKENIZER_FILES, tiny_weights

pytestmark = pytest.mark.usefixtures("one_thread")

Tensors = dict[str, torch.Tensor]
Change = Callable[[Path], object]
LAYOUTS = Path(__file__).parent / "parity" / "checkpoints"
JINA_V1, JINA_V2, HOFSTAETTER = (LAYOUTS / name for name in ("jina_v1", "jina_v2", "hofstaetter"))
DENSE = "bert.encoder.layer.0.output.dense.weight"


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    """A checkpoint that the test may break."""
    return Path(shutil.copytree(tiny, tmp_path / "model"))


def tensors(change: Callable[[Tensors], object]) -> Change:
    def apply(folder: Path) -> None:
        found = load_file(folder / "model.safetensors")
        change(found)
        save_file(found, folder / "model.safetensors")

    return apply


def state(name: str, **values: object) -> Change:
    """Change keys of a JSON file."""

    def apply(folder: Path) -> None:
        data = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps(data | values), encoding="utf-8")

    return apply


def leave_out(name: str, key: str) -> Change:
    """Take a key out of a JSON file."""

    def apply(folder: Path) -> None:
        data = json.loads((folder / name).read_text(encoding="utf-8"))
        del data[key]
        (folder / name).write_text(json.dumps(data), encoding="utf-8")

    return apply


def put(name: str, content: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(content)


def take(*names: str) -> Change:
    def apply(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return apply


def cut(name: str, size: int) -> Change:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def as_bin(content: object) -> Change:
    """Put ``pytorch_model.bin`` in the place of the weights: raw bytes, or what torch pickles."""

    def apply(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        if isinstance(content, bytes):
            (folder / "pytorch_model.bin").write_bytes(content)
        else:
            torch.save(content, folder / "pytorch_model.bin")

    return apply


def as_hofstaetter(left_out: str) -> Change:
    def apply(folder: Path) -> None:
        shutil.copytree(HOFSTAETTER, folder, dirs_exist_ok=True)
        (folder / "model.safetensors").unlink()
        found = torch.load(folder / "pytorch_model.bin")
        torch.save({name: tensor for name, tensor in found.items() if name != left_out}, folder / "pytorch_model.bin")

    return apply


def as_jina(source: Path, **values: object) -> Change:
    def apply(folder: Path) -> None:
        shutil.copytree(source, folder, dirs_exist_ok=True)
        state("config.json", **values)(folder)

    return apply


def in_parts(places: object) -> Change:
    """The weights in two files, and the index that says ``places`` of them."""

    def apply(folder: Path) -> None:
        found = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        save_file({"linear.weight": found.pop("linear.weight")}, folder / "b.safetensors")
        save_file(found, folder / "a.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps(places), encoding="utf-8")

    return apply


def special(name: str, token: object) -> Change:
    def apply(folder: Path) -> None:
        for file in ("tokenizer_config.json", "special_tokens_map.json"):
            state(file, **{name: token})(folder)

    return apply


def longer_vocabulary(folder: Path) -> None:
    data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    data["model"]["vocab"]["onemoreword"] = len(data["model"]["vocab"])
    (folder / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")


WHOLE = dict.fromkeys(tiny_weights(), "a.safetensors") | {"linear.weight": "b.safetensors"}


class RunsCode:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os._exit, (77,))


REFUSED: dict[str, tuple[Change, str]] = {
    "no-config": (take("config.json"), "no config.json here, so this is not a checkpoint folder"),
    "config-not-json": (put("config.json", b"{"), "config.json: cannot be read as JSON"),
    "config-not-an-object": (put("config.json", b"[]"), "config.json: expected a JSON object"),
    "config-of-another-network": (state("config.json", model_type="gpt2"), "config.json says model_type 'gpt2'"),
    "config-without-rotation": (
        as_jina(JINA_V2, position_embedding_type="absolute"),
        "config.json says position_embedding_type 'absolute', roberta.* needs 'rotary'",
    ),
    "rotation-of-other-pairs": (
        as_jina(JINA_V2, rotary_emb_interleaved=True),
        "config.json says rotary_emb_interleaved True, roberta.* needs False",
    ),
    "rotation-of-a-part": (
        as_jina(JINA_V2, rotary_emb_dim=4),
        "config.json says rotary_emb_dim 4, roberta.* needs 16",
    ),
    "rotary-of-another-activation": (
        as_jina(JINA_V2, hidden_act="relu"),
        "config.json says hidden_act 'relu', roberta.* needs 'gelu'",
    ),
    "alibi-of-another-activation": (
        as_jina(JINA_V1, feed_forward_type="reglu"),
        "config.json says feed_forward_type 'reglu', bert.* needs 'geglu'",
    ),
    "compressor-without-bias": (as_hofstaetter("compressor.bias"), "compressor.weight without compressor.bias"),
    "no-weights": (take("model.safetensors"), "no model.safetensors and no pytorch_model.bin here"),
    "no-projection": (
        tensors(lambda t: t.pop("linear.weight")),
        r"no token projection \(linear.weight\) beside bert.\* tensors; found 37 tensors, among them",
    ),
    "no-backbone": (
        tensors(lambda t: [t.pop(n) for n in list(t) if n.startswith("bert.")]),
        "no token projection .* found 1 tensors",
    ),
    "projection-of-one-dimension": (
        tensors(lambda t: t.update({"linear.weight": torch.ones(DIM)})),
        rf"linear.weight has shape \[16\], expected \[dim, {HIDDEN}\]",
    ),
    "projection-for-another-backbone": (
        tensors(lambda t: t.update({"linear.weight": torch.ones(DIM, HIDDEN + 1)})),
        rf"linear.weight has shape \[16, 33\], expected \[dim, {HIDDEN}\]",
    ),
    "projection-of-another-size": (
        tensors(lambda t: t.update({"linear.weight": torch.ones(8, HIDDEN)})),
        "dim is said to be 16, linear.weight has 8",
    ),
    "projection-with-a-bias": (
        tensors(lambda t: t.update({"linear.bias": torch.ones(DIM)})),
        r"missing \[\], unknown \['linear.bias'\]",
    ),
    "wrong-shape": (
        tensors(lambda t: t.update({DENSE: torch.ones(3, 3)})),
        r"do not have the shapes of config.json: [\s\S]*encoder.layer.0.output.dense.weight",
    ),
    "missing-tensor": (
        tensors(lambda t: t.pop(DENSE)),
        r"missing \['encoder.layer.0.output.dense.weight'\], unknown \[\]",
    ),
    "stray-layer": (
        tensors(lambda t: t.update({DENSE.replace("layer.0", "layer.2"): torch.ones(3, 3)})),
        r"missing \[\], unknown \['encoder.layer.2.output.dense.weight'\]",
    ),
    "backbone-tensor-without-its-prefix": (
        tensors(lambda t: t.update({DENSE.removeprefix("bert."): torch.ones_like(t[DENSE])})),
        r"missing \[\], unknown \['encoder.layer.0.output.dense.weight'\]",
    ),
    "stray-tensor": (
        tensors(lambda t: t.update({"classifier.weight": torch.ones(2)})),
        r"missing \[\], unknown \['classifier.weight'\]",
    ),
    "safetensors-cut-short": (cut("model.safetensors", 100_000), "the weights cannot be read, the file is damaged"),
    "safetensors-header-cut-short": (cut("model.safetensors", 100), "the weights cannot be read"),
    "safetensors-empty": (cut("model.safetensors", 0), "the weights cannot be read"),
    "bin-empty": (as_bin(b""), "the weights cannot be read"),
    "bin-no-pickle": (as_bin(b"not a pickle"), "pytorch_model.bin is damaged, or holds more than tensors"),
    "bin-runs-code": (as_bin(RunsCode()), "holds more than tensors, which could run code"),
    "bin-runs-code-when-old": (as_bin(pickle.dumps(RunsCode(), protocol=2)), "holds more than tensors"),
    "bin-a-list": (as_bin([torch.ones(2)]), "not a dictionary of tensors by name"),
    "bin-nested": (as_bin({"state_dict": {"linear.weight": torch.ones(2)}}), "not a dictionary of tensors by name"),
    "no-tokenizer": (take(*TOKENIZER_FILES), "no tokenizer here; expected one of tokenizer.json, vocab.txt"),
    "tokenizer-not-json": (put("tokenizer.json", b"{"), "no usable tokenizer"),
    "metadata-not-json": (put("artifact.metadata", b"{nope"), "artifact.metadata: cannot be read as JSON"),
    "metadata-not-utf-8": (put("artifact.metadata", b'{"a": "\xe9"}'), "artifact.metadata: cannot be read as JSON"),
    "metadata-a-list": (put("artifact.metadata", b"[]"), "artifact.metadata: expected a JSON object"),
    "query-marker-unknown": (
        state("artifact.metadata", query_token_id="[unused9999]"),
        r"the marker '\[unused9999\]' is not in the tokenizer's vocabulary",
    ),
    "document-marker-unknown": (state("artifact.metadata", doc_token_id="[D]"), r"the marker '\[D\]' is not in"),
    "marker-null": (state("artifact.metadata", query_token_id=None), "the marker None is not in"),
    "marker-a-number": (state("artifact.metadata", doc_token_id=2), "the marker 2 is not in"),
    "dimension-differs": (state("artifact.metadata", dim=128), "dim is said to be 128, linear.weight has 16"),
    "length-a-string": (state("artifact.metadata", query_maxlen="32"), "query_maxlen must be 4 to 128, it is '32'"),
    "length-too-short": (state("artifact.metadata", doc_maxlen=3), "doc_maxlen must be 4 to 128, it is 3"),
    "length-past-the-positions": (state("artifact.metadata", doc_maxlen=129), "doc_maxlen must be 4 to 128"),
    "length-null": (state("artifact.metadata", doc_maxlen=None), "doc_maxlen must be 4 to 128, it is None"),
    "another-interaction": (state("artifact.metadata", interaction="flipr"), "says interaction 'flipr', which is not"),
    "rectified": (state("artifact.metadata", relu=True), "artifact.metadata says relu True, which is not MaxSim"),
    "switch-a-word": (state("artifact.metadata", mask_punctuation="no"), "mask_punctuation must be true or false"),
    "switch-a-number": (state("artifact.metadata", attend_to_mask_tokens=0), "attend_to_mask_tokens must be true"),
    "mask-unknown": (special("mask_token", "[UNK]"), r"mask_token '\[UNK\]' is no token of its vocabulary"),
    "pad-null": (special("pad_token", None), "pad_token None is no token of its vocabulary"),
    "mask-beyond-the-embeddings": (special("mask_token", "[NOPE]"), "other tokens, among them|ids up to 30522"),
    "tokenizer-a-list": (put("tokenizer.json", b"[]"), "no usable tokenizer"),
    "tokenizer-empty": (put("tokenizer.json", b"{}"), "no usable tokenizer"),
    "tokenizer-with-a-word-more": (longer_vocabulary, r"ids up to 30522, and .*word_embeddings.weight is of 30522"),
    "case-told-twice": (
        state("tokenizer_config.json", do_lower_case=False),
        "says do_lower_case False, tokenizer.json",
    ),
    "heads-that-do-not-divide": (state("config.json", num_attention_heads=5), "cannot be read as a checkpoint of"),
    "unknown-activation": (state("config.json", hidden_act="foo"), "cannot be read as a checkpoint of the layout HF"),
    "size-a-word": (state("config.json", hidden_size="32"), "Field 'hidden_size' expected int, got str"),
    "decoder": (state("config.json", is_decoder=True), "config.json says is_decoder"),
    "quantized": (state("config.json", quantization_config={"bits": 4}), "config.json says quantization_config"),
    "relative-positions": (state("config.json", position_embedding_type="relative_key"), "needs 'absolute'"),
    "integers": (
        tensors(lambda t: t.update({"linear.weight": (t["linear.weight"] * 9).to(torch.int8)})),
        "linear.weight is torch.int8; expected the weights as they were trained, not quantized",
    ),
    "not-a-number": (
        tensors(lambda t: t["linear.weight"].fill_(float("nan"))),
        "vectors are all zeros, or not finite",
    ),
    "zeros": (tensors(lambda t: t["linear.weight"].zero_()), "vectors are all zeros, or not finite"),
    "git-lfs": (
        put("model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        "model.safetensors only says where git keeps the weights; fetch them with git lfs pull",
    ),
    "index-empty": (in_parts({}), "no weight_map, which says in what files the tensors lie"),
    "index-a-list": (in_parts({"weight_map": ["a"]}), "no weight_map"),
    "index-of-numbers": (in_parts({"weight_map": WHOLE | {"linear.weight": 2}}), "it names 2, which is no path"),
    "index-that-leads-out": (
        in_parts({"weight_map": WHOLE | {"linear.weight": "../model/b.safetensors"}}),
        r"it names '\.\./model/b\.safetensors', which is no path inside this folder",
    ),
    "index-that-leads-away": (in_parts({"weight_map": WHOLE | {"linear.weight": "/etc/passwd"}}), "no path inside"),
    "index-of-the-wrong-file": (
        in_parts({"weight_map": WHOLE | {"linear.weight": "a.safetensors"}}),
        r"a\.safetensors does not hold \['linear\.weight'\]",
    ),
    "another-similarity": (
        state("artifact.metadata", similarity="l1"),
        "unknown similarity 'l1', expected cosine or l2",
    ),
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(folder: Path, change: Change, message: str) -> None:
    change(folder)
    with pytest.raises(CheckpointError, match=message) as refusal:
        load_checkpoint(str(folder))
    assert str(folder) in str(refusal.value)


ACCEPTED: dict[str, Change] = {
    "heads-of-other-tasks": tensors(
        lambda t: t.update(
            {
                "cls.predictions.bias": torch.ones(3),
                "bert.pooler.dense.weight": torch.ones(HIDDEN, HIDDEN),
                "bert.embeddings.position_ids": torch.arange(128)[None],
            }
        )
    ),
    "in-parts": in_parts({"weight_map": WHOLE}),
    "only-vocab.txt": take("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    "only-tokenizer.json": take("vocab.txt", "special_tokens_map.json"),
    "markers-and-lengths-by-default": take("artifact.metadata"),
    "markers-swapped": state("artifact.metadata", query_token_id="[unused1]", doc_token_id="[unused0]"),
}


@pytest.mark.parametrize("change", ACCEPTED.values(), ids=ACCEPTED)
def test_accepted(folder: Path, change: Change) -> None:
    if change is ACCEPTED["markers-and-lengths-by-default"]:  # 220 tokens a document need as many positions
        state("config.json", max_position_embeddings=256)(folder)
        positions = "bert.embeddings.position_embeddings.weight"
        tensors(lambda t: t.update({positions: torch.cat([t[positions]] * 2)}))(folder)
    change(folder)
    spec = load_checkpoint(str(folder)).spec
    assert spec.dim == DIM
    assert {spec.query.prefix_ids[1], spec.document.prefix_ids[1]} == {1, 2}


def test_what_metadata_says_is_done(folder: Path) -> None:
    state("artifact.metadata", query_maxlen=40, doc_maxlen=50, attend_to_mask_tokens=True, mask_punctuation=False)(
        folder
    )
    encoder = Encoder.load(str(folder), device="cpu")
    [query] = encoder.tokenize_queries(["late interaction"])
    assert (len(query.ids), query.attended) == (40, 40)
    [document] = encoder.tokenize_documents(["late, " * 100])
    assert len(document.ids) == 50
    assert len(encoder.encode_documents(["late, " * 100])[0]) == 50, "punctuation is kept"


def test_punctuation_is_what_decodes_to_it_where_no_file_says_what_to_skip(folder: Path) -> None:
    """Before a mark SentencePiece puts a space, often a token: colbert-ai's rule drops that one and keeps the mark."""
    stated = Encoder.load(str(JINA_V2), device="cpu")
    shutil.rmtree(folder)
    shutil.copytree(JINA_V2, folder)
    leave_out("artifact.metadata", "mask_punctuation")(folder)
    unstated = Encoder.load(str(folder), device="cpu")
    name = unstated.checkpoint.tokenizer.convert_ids_to_tokens
    skipped, by_its_authors = (set(name(list(e.checkpoint.spec.skip_ids))) for e in (unstated, stated))
    assert (skipped - by_its_authors) >= {"!", "?", "-"}
    assert by_its_authors - skipped == {"▁"}
    assert "decodes to a punctuation mark" in unstated.checkpoint.assumed["mask_punctuation"]
    assert "mask_punctuation" not in stated.checkpoint.assumed
    few, all_of_them = (len(e.encode_documents(["late - interaction!"])[0]) for e in (unstated, stated))
    assert few != all_of_them


def test_word_pieces_of_punctuation_are_the_same_by_either_rule(folder: Path) -> None:
    stated = load_checkpoint(str(folder)).spec
    leave_out("artifact.metadata", "mask_punctuation")(folder)
    assert load_checkpoint(str(folder)).spec == stated


def test_how_a_tokenizer_cut_and_padded_in_training_is_not_how_texts_are_read(folder: Path, tiny: Path) -> None:
    """Many checkpoints carry both in tokenizer.json; they would cut documents early and pad them by their mates."""
    state(
        "tokenizer.json",
        truncation={"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0},
        padding={
            "strategy": "BatchLongest",
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "[PAD]",
        },
    )(folder)
    ours, plain = Encoder.load(str(folder), device="cpu"), Encoder.load(str(tiny), device="cpu")
    some = ["a", *texts(3)]
    assert ours.tokenize_documents(some) == plain.tokenize_documents(some)
    assert ours.tokenize_queries(some) == plain.tokenize_queries(some)
    assert identity(ours.checkpoint) == identity(plain.checkpoint)


def identity(checkpoint: Checkpoint) -> tuple[str, str]:
    return checkpoint.tensor_hash, checkpoint.tokenizer_hash


def test_the_container_of_the_weights_is_no_part_of_the_identity(folder: Path, tiny: Path) -> None:
    as_bin(load_file(folder / "model.safetensors"))(folder)
    assert not (folder / "model.safetensors").exists()
    assert identity(load_checkpoint(str(folder))) == identity(load_checkpoint(str(tiny)))


def test_the_order_of_tensors_in_the_file_is_no_part_of_the_identity(folder: Path, tiny: Path) -> None:
    found = load_file(folder / "model.safetensors")
    as_bin(dict(reversed(found.items())))(folder)
    assert identity(load_checkpoint(str(folder))) == identity(load_checkpoint(str(tiny)))


def test_what_scores_do_not_depend_on_is_no_part_of_the_identity(folder: Path, tiny: Path) -> None:
    ACCEPTED["heads-of-other-tasks"](folder)
    assert identity(load_checkpoint(str(folder))) == identity(load_checkpoint(str(tiny)))


OTHER_NETWORKS: dict[str, tuple[Path | None, Change]] = {
    "heads": (None, state("config.json", num_attention_heads=4)),
    "epsilon": (None, state("config.json", layer_norm_eps=0.05)),
    "activation": (None, state("config.json", hidden_act="relu")),
    "alibi-heads": (JINA_V1, state("config.json", num_attention_heads=1)),
    "rotary-base": (JINA_V2, state("config.json", rotary_emb_base=100.0)),
    "window": (LAYOUTS / "pylate_modernbert", state("config.json", local_attention=128)),
    "global-layers": (LAYOUTS / "pylate_modernbert", state("config.json", global_attn_every_n_layers=1)),
}


@pytest.mark.parametrize(("source", "change"), OTHER_NETWORKS.values(), ids=OTHER_NETWORKS)
def test_another_network_of_the_same_tensors_is_another_model(
    tiny: Path, tmp_path: Path, source: Path | None, change: Change
) -> None:
    folder = Path(shutil.copytree(source or tiny, tmp_path / "model"))
    change(folder)
    ours, theirs = load_checkpoint(str(folder)), load_checkpoint(str(source or tiny))
    assert identity(ours) == identity(theirs), "it is the network that differs"
    with pytest.raises(StoreMismatchError, match=r"made with another model \(fingerprint: "):
        check(tmp_path, "model", query_identity(theirs), query_identity(ours), "")


def test_the_last_digits_of_another_machine_are_the_same_model(tiny: Path, tmp_path: Path) -> None:
    stored = query_identity(load_checkpoint(str(tiny)))
    given = stored | {"fingerprint": [number + 1e-5 for number in stored["fingerprint"]]}
    check(tmp_path, "model", stored, given, "")


def _nudge(found: Tensors) -> None:
    found["linear.weight"][0, 0] = torch.nextafter(found["linear.weight"][0, 0], torch.tensor(9.0))


OTHER_WEIGHTS: dict[str, Change] = {
    "one-bit": tensors(_nudge),
    "half-precision": tensors(lambda t: t.update({"linear.weight": t["linear.weight"].half()})),
    "two-swapped": tensors(
        lambda t: t.update(
            {DENSE: t[DENSE.replace("layer.0", "layer.1")], DENSE.replace("layer.0", "layer.1"): t[DENSE]}
        )
    ),
}


@pytest.mark.parametrize("change", OTHER_WEIGHTS.values(), ids=OTHER_WEIGHTS)
def test_other_weights_are_another_model(folder: Path, tiny: Path, change: Change) -> None:
    change(folder)
    ours, theirs = identity(load_checkpoint(str(folder))), identity(load_checkpoint(str(tiny)))
    assert ours[0] != theirs[0]
    assert ours[1] == theirs[1]


def _cased(folder: Path) -> None:
    state("tokenizer_config.json", do_lower_case=False)(folder)
    data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    data["normalizer"]["lowercase"] = False
    (folder / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")


def swapped(one: str, other: str) -> Change:
    def apply(folder: Path) -> None:
        data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        vocabulary = data["model"]["vocab"]
        vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
        (folder / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")

    return apply


@pytest.mark.parametrize(
    "change",
    [_cased, swapped("what", "late"), swapped("king", "queen")],
    ids=["cased", "probed-words-swapped", "other-words-swapped"],
)
def test_another_tokenizer_is_another_model(folder: Path, tiny: Path, change: Change) -> None:
    change(folder)
    ours, theirs = identity(load_checkpoint(str(folder))), identity(load_checkpoint(str(tiny)))
    assert ours[0] == theirs[0]
    assert ours[1] != theirs[1]


OTHER_RULES: dict[str, dict[str, Any]] = {
    "normalizer": {"normalizer": {"type": "NFKC"}},
    "accents-kept": {
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": False,
            "lowercase": True,
        }
    },
    "split-at-blanks": {"pre_tokenizer": {"type": "WhitespaceSplit"}},
}


@pytest.mark.parametrize("rules", OTHER_RULES.values(), ids=OTHER_RULES)
def test_tokenizer_json_is_taken_at_its_word(folder: Path, tiny: Path, rules: dict[str, Any]) -> None:
    """transformers 5 reads no more of it than the vocabulary, for some classes."""
    state("tokenizer.json", **rules)(folder)
    encoder = Encoder.load(str(folder), device="cpu")
    text = "Ein naïves Café, don't: １２ ﬁ"
    want = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    ids = encoder.tokenize_documents([text])[0].ids
    assert ids[2:-1] == want
    assert ids != Encoder.load(str(tiny), device="cpu").tokenize_documents([text])[0].ids


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no-such-model", "model 'no-such-model': no such folder, and not a hub name of the form OWNER/NAME"),
        ("/nowhere/at/all", "no such folder, and not a hub name"),
        ("./not/here", "no such folder, and not a hub name"),
        ("~/not-here", "no such folder, and not a hub name"),
        ("owner/name/file", "no such folder, and not a hub name"),
        ("own er/na:me", "model 'own er/na:me': Repo id must"),
    ],
    ids=["word", "absolute", "relative", "home", "three-parts", "no-hub-name"],
)
def test_a_name_of_nothing(name: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(name)


def test_a_file_is_no_checkpoint(tiny: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is a file; give the folder that holds config\.json and the weights"):
        load_checkpoint(str(tiny / "model.safetensors"))


def test_an_empty_folder_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json here"):
        load_checkpoint(str(tmp_path))


def test_a_name_on_the_hub_while_offline(tmp_path: Path) -> None:
    """In a process of its own: huggingface_hub reads the variable when it is imported."""
    script = (
        "from colbert_rerank.checkpoints import load_checkpoint\n"
        "from colbert_rerank.errors import CheckpointError\n"
        "try:\n    load_checkpoint('colbert-ir/colbertv2.0')\n"
        "except CheckpointError as error:\n    print(error)\n"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(
        "model 'colbert-ir/colbertv2.0': no such folder here, it is not in the local cache, and the hub cannot be "
        "reached (HF_HUB_OFFLINE is set): "
    )
    assert "Copy the model's folder to this machine and give its path" in done.stdout
    assert done.stdout.count("\n") == 1
