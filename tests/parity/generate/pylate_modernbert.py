"""Make a tiny PyLate checkpoint with a ModernBERT encoder, without expansion, and record what PyLate makes of it.

    python3.12 -m venv VENV && VENV/bin/pip install -r pylate_modernbert.requirements.txt
    VENV/bin/python pylate_modernbert.py

The layout is that of ``mixedbread-ai/mxbai-edge-colbert-v0-32m``: markers "[Q] " and "[D] " added behind the
vocabulary, no query expansion, texts lowercased before the tokenizer sees them, two Dense modules. The first widens
with a residual of its own weight, the second narrows with bias. One word of the skiplist is no token: it becomes [UNK].
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tiny_modern as tiny
import tiny_pylate
from tokenizers import AddedToken

NAME = "pylate_modernbert"
WIDE, NARROW = 40, 24
SKIPLIST = (*"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", "the", "Ġthe", "late interaction")


def main() -> None:
    folder = tiny.CHECKPOINTS / NAME
    tokenizer = write_tokenizer(folder)
    vocabulary = tokenizer.get_vocab_size()
    draw = tiny.Draw(22)
    tiny.write_json(folder / "config.json", config(tokenizer, vocabulary))
    tiny.write_safetensors(folder / "model.safetensors", encoder(draw, vocabulary))
    identity = "torch.nn.modules.linear.Identity"
    widen = {"in_features": tiny.HIDDEN, "out_features": WIDE, "bias": False, "activation_function": identity}
    narrow = {"in_features": WIDE, "out_features": NARROW, "bias": True, "activation_function": identity}
    residual = draw.linear("residual", WIDE, tiny.HIDDEN, bias=False)
    tiny_pylate.write_layout(
        folder,
        prefixes=("[Q] ", "[D] "),
        lengths=(24, 64),
        expansion=False,
        skiplist=SKIPLIST,
        lowercase=True,
        dense=[
            ({**widen, "use_residual": True}, draw.linear("linear", WIDE, tiny.HIDDEN, bias=False) | residual),
            ({**narrow, "use_residual": False}, draw.linear("linear", NARROW, WIDE)),
        ],
    )
    tiny_pylate.encode_and_record(NAME, folder)


def write_tokenizer(folder: Path) -> Any:
    special = [AddedToken(t, normalized=False, special=True) for t in ("[UNK]", "[CLS]", "[SEP]", "[PAD]")]
    special.append(AddedToken("[MASK]", lstrip=True, normalized=False, special=True))
    special += [AddedToken(f"[unused{i}]") for i in range(3)]
    special += [AddedToken(t) for t in ("[Q] ", "[D] ")]
    names: dict[str, Any] = {"cls_token": "[CLS]", "mask_token": "[MASK]", "pad_token": "[PAD]", "sep_token": "[SEP]"}
    names |= {"unk_token": "[UNK]"}
    behaviour = {
        "clean_up_tokenization_spaces": True,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 8192,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    return tiny.byte_pairs(folder, special, {**names, **behaviour}, template=("[CLS]", "[SEP]"))


def config(tokenizer: Any, vocabulary: int) -> dict[str, Any]:
    """Three layers, the middle one with local attention; as in the real one, the first has no norm before attention."""
    return {
        "architectures": ["ModernBertModel"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": tokenizer.token_to_id("[CLS]"),
        "classifier_activation": "gelu",
        "classifier_bias": False,
        "classifier_dropout": 0.0,
        "classifier_pooling": "mean",
        "cls_token_id": tokenizer.token_to_id("[CLS]"),
        "decoder_bias": True,
        "deterministic_flash_attn": False,
        "embedding_dropout": 0.0,
        "eos_token_id": tokenizer.token_to_id("[SEP]"),
        "global_attn_every_n_layers": 2,
        "global_rope_theta": 160000.0,
        "hidden_activation": "gelu",
        "hidden_size": tiny.HIDDEN,
        "initializer_cutoff_factor": 2.0,
        "initializer_range": 0.02,
        "intermediate_size": tiny.INTERMEDIATE,
        "layer_norm_eps": 1e-05,
        "local_attention": 8,
        "local_rope_theta": 10000.0,
        "max_position_embeddings": 8192,
        "mlp_bias": False,
        "mlp_dropout": 0.0,
        "model_type": "modernbert",
        "norm_bias": False,
        "norm_eps": 1e-05,
        "num_attention_heads": tiny.HEADS,
        "num_hidden_layers": 3,
        "pad_token_id": tokenizer.token_to_id("[PAD]"),
        "position_embedding_type": "absolute",
        "reference_compile": False,
        "sep_token_id": tokenizer.token_to_id("[SEP]"),
        "sparse_pred_ignore_index": -100,
        "sparse_prediction": False,
        "torch_dtype": "float32",
        "vocab_size": vocabulary,
    }


def encoder(draw: tiny.Draw, vocabulary: int) -> tiny.Weights:
    weights = {"embeddings.tok_embeddings.weight": draw.normal(vocabulary, tiny.HIDDEN, scale=1.0)}
    weights |= draw.norm("embeddings.norm", tiny.HIDDEN, bias=False)
    for i in range(3):
        layer = f"layers.{i}"
        if i:
            weights |= draw.norm(f"{layer}.attn_norm", tiny.HIDDEN, bias=False)
        weights |= draw.linear(f"{layer}.attn.Wqkv", 3 * tiny.HIDDEN, tiny.HIDDEN, bias=False)
        weights |= draw.linear(f"{layer}.attn.Wo", tiny.HIDDEN, tiny.HIDDEN, bias=False, gain=0.7)
        weights |= draw.norm(f"{layer}.mlp_norm", tiny.HIDDEN, bias=False)
        weights |= draw.linear(f"{layer}.mlp.Wi", 2 * tiny.INTERMEDIATE, tiny.HIDDEN, bias=False)
        weights |= draw.linear(f"{layer}.mlp.Wo", tiny.HIDDEN, tiny.INTERMEDIATE, bias=False)
    return weights | draw.norm("final_norm", tiny.HIDDEN, bias=False)


if __name__ == "__main__":
    main()
