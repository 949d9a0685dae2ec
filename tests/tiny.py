"""A checkpoint in the HF_ColBERT layout that is small enough to encode hundreds of texts a second.

It has the starter's own tokenizer and two layers of random weights: for tests that ask where vectors go, not what they
mean.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertModel

import colbert_rerank

STARTER = Path(colbert_rerank.__file__).parent / "data" / "starter"
HIDDEN = 32
DIM = 16
DOCUMENT_LENGTH = 64
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def tiny_weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """Random tensors by their HF_ColBERT names, the same for one seed. Vectors of different texts differ."""
    config = tiny_config()
    backbone = BertModel(config, add_pooling_layer=False)
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, tensor in backbone.state_dict().items():
        if name.endswith("LayerNorm.weight"):
            value = torch.ones_like(tensor)
        elif name.endswith("LayerNorm.bias"):
            value = torch.zeros_like(tensor)
        else:
            value = torch.randn(tensor.shape, generator=generator) * 0.3
        weights[f"bert.{name}"] = value
    weights["linear.weight"] = torch.randn((DIM, HIDDEN), generator=generator)
    return weights


def tiny_config() -> BertConfig:
    known = json.loads((STARTER / "config.json").read_text(encoding="utf-8"))
    return BertConfig(
        vocab_size=known["vocab_size"],
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * HIDDEN,
        max_position_embeddings=128,
    )


def tiny_checkpoint(folder: Path, weights: dict[str, torch.Tensor] | None = None) -> Path:
    """Write a checkpoint into ``folder``, made if need be, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tiny_config().save_pretrained(folder)
    for name in TOKENIZER_FILES:
        shutil.copyfile(STARTER / name, folder / name)
    metadata = json.loads((STARTER / "artifact.metadata").read_text(encoding="utf-8"))
    metadata |= {"dim": DIM, "doc_maxlen": DOCUMENT_LENGTH}
    (folder / "artifact.metadata").write_text(json.dumps(metadata), encoding="utf-8")
    save_file(weights or tiny_weights(), folder / "model.safetensors")
    return folder
