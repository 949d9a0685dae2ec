"""Random weights of tiny encoders, by the names that their checkpoints give them.

Drawn by numpy, so that they do not depend on a version of torch; scaled such that a token's row tells its neighbours,
its position and what it may attend to.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

HIDDEN = 32
LAYERS = 2
HEADS = 2
INTERMEDIATE = 48
POSITIONS = 192

Tensors = dict[str, torch.Tensor]


class Draw:
    """Tensors collected by name, drawn one after the other from a seed."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.tensors: Tensors = {}

    def table(self, name: str, rows: int, columns: int, scale: float = 1.0) -> None:
        self._add(f"{name}.weight", self._normal((rows, columns), scale))

    def linear(self, name: str, outputs: int, inputs: int, *, bias: bool = True) -> None:
        self._add(f"{name}.weight", self._normal((outputs, inputs), 1.5 / np.sqrt(inputs)))
        if bias:
            self._add(f"{name}.bias", self._normal((outputs,), 0.2))

    def norm(self, name: str, size: int) -> None:
        self._add(f"{name}.weight", 1 + self._normal((size,), 0.1))
        self._add(f"{name}.bias", self._normal((size,), 0.1))

    def _normal(self, shape: tuple[int, ...], scale: float) -> Any:
        return self.random.standard_normal(shape, dtype=np.float32) * np.float32(scale)

    def _add(self, name: str, array: Any) -> None:
        self.tensors[name] = torch.from_numpy(array.astype(np.float32))


def bert_colbert(seed: int, vocabulary: int, dim: int) -> Tensors:
    """A BertModel under ``bert.``, pooler included, and ``linear.weight`` [dim, hidden]: HF_ColBERT and ColBERT v1."""
    draw = Draw(seed)
    # transformers before 4.31 kept this buffer in the checkpoint.
    draw.tensors["bert.embeddings.position_ids"] = torch.arange(POSITIONS).unsqueeze(0)
    draw.table("bert.embeddings.word_embeddings", vocabulary, HIDDEN)
    draw.table("bert.embeddings.position_embeddings", POSITIONS, HIDDEN, 0.5)
    draw.table("bert.embeddings.token_type_embeddings", 2, HIDDEN, 0.5)
    draw.norm("bert.embeddings.LayerNorm", HIDDEN)
    for i in range(LAYERS):
        layer = f"bert.encoder.layer.{i}"
        for part in ("query", "key", "value"):
            draw.linear(f"{layer}.attention.self.{part}", HIDDEN, HIDDEN)
        draw.linear(f"{layer}.attention.output.dense", HIDDEN, HIDDEN)
        draw.norm(f"{layer}.attention.output.LayerNorm", HIDDEN)
        draw.linear(f"{layer}.intermediate.dense", INTERMEDIATE, HIDDEN)
        draw.linear(f"{layer}.output.dense", HIDDEN, INTERMEDIATE)
        draw.norm(f"{layer}.output.LayerNorm", HIDDEN)
    draw.linear("bert.pooler.dense", HIDDEN, HIDDEN)
    draw.linear("linear", dim, HIDDEN, bias=False)
    return draw.tensors


def bert_config(vocabulary: int, **other: Any) -> dict[str, Any]:
    """What ``config.json`` says of the encoder of ``bert_colbert``."""
    return {
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": INTERMEDIATE,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": POSITIONS,
        "model_type": "bert",
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "pad_token_id": 0,
        "type_vocab_size": 2,
        "vocab_size": vocabulary,
        **other,
    }
