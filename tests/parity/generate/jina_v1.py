"""HF_ColBERT around an ALiBi BERT without position embeddings, as in jinaai/jina-colbert-v1-en.

    python3.10 -m venv VENV && VENV/bin/pip install -r jina_v1.requirements.txt
    VENV/bin/python jina_v1.py

The backbone's code is remote code of another repository, jinaai/jina-bert-implementation (modeling_bert.py), which is
not to be had here. It is put together again below, each function named for the class or method it follows; where we
could not read the original, the formula was held against independent ports of it, which agree: candle-transformers
(models/jina_bert.rs), vLLM's JinaBertModel and the TPU port of it. The feed-forward is the one with ``gated_layers``,
GELU on its first half; jinaai/jina-bert-v2-qk-post-norm, a different model, has ``up_gated_layer`` and GELU on the
second half.

The rest is colbert-ai itself: markers, lengths, punctuation, projection, normalisation, scores. It cannot load a
checkpoint that names remote code, so it is given a copy whose ``config.json`` names none, and then the backbone. There
are 12 heads as in the real model: no power of two, which is where the slopes of ALiBi are not one geometric series.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from colbert_ai import load
from golden import CHECKPOINTS
from hf_colbert import record_golden, write_settings
from safetensors.torch import save_file
from torch.nn.functional import gelu, layer_norm, linear
from weights import INTERMEDIATE, LAYERS, Draw, Tensors, bert_config
from wordpieces import ENGLISH, write_tokenizer

NAME = "jina_v1"
HIDDEN = 36
HEADS = 12
DIM = 16
VOCABULARY = len(ENGLISH) + 6  # the real table too has six rows more than the tokeniser has tokens
REMOTE = "jinaai/jina-bert-implementation--"
CONFIG = bert_config(
    VOCABULARY,
    attn_implementation="torch",
    auto_map={
        "AutoConfig": f"{REMOTE}configuration_bert.JinaBertConfig",
        "AutoModel": f"{REMOTE}modeling_bert.JinaBertModel",
        "AutoModelForMaskedLM": f"{REMOTE}modeling_bert.JinaBertForMaskedLM",
    },
    emb_pooler="mean",
    feed_forward_type="geglu",
    hidden_size=HIDDEN,
    max_position_embeddings=8192,
    num_attention_heads=HEADS,
    position_embedding_type="alibi",
)
METADATA = {"dim": DIM, "doc_maxlen": 160}


def main() -> None:
    folder = CHECKPOINTS / NAME
    write_tokenizer(folder, ENGLISH)
    write_settings(folder, CONFIG, METADATA)
    state = jina_colbert(7)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    checkpoint = load_with(folder, JinaBert(state))
    record_golden(NAME, checkpoint, batched=True, heads=HEADS, alibi_slopes=slopes(HEADS))


def jina_colbert(seed: int) -> Tensors:
    """``JinaBertModel`` under ``bert.``, pooler included, and ``linear.weight`` [dim, hidden]."""
    draw = Draw(seed)
    draw.table("bert.embeddings.word_embeddings", VOCABULARY, HIDDEN)
    draw.table("bert.embeddings.token_type_embeddings", 2, HIDDEN, 0.5)
    draw.norm("bert.embeddings.LayerNorm", HIDDEN)
    for i in range(LAYERS):
        layer = f"bert.encoder.layer.{i}"
        for part in ("query", "key", "value"):
            draw.linear(f"{layer}.attention.self.{part}", HIDDEN, HIDDEN)
        draw.linear(f"{layer}.attention.output.dense", HIDDEN, HIDDEN)
        draw.norm(f"{layer}.attention.output.LayerNorm", HIDDEN)
        draw.linear(f"{layer}.mlp.gated_layers", 2 * INTERMEDIATE, HIDDEN, bias=False)
        draw.linear(f"{layer}.mlp.wo", HIDDEN, INTERMEDIATE)
        draw.norm(f"{layer}.mlp.layernorm", HIDDEN)
    draw.linear("bert.pooler.dense", HIDDEN, HIDDEN)
    draw.linear("linear", DIM, HIDDEN, bias=False)
    return draw.tensors


class JinaBert(torch.nn.Module):
    """modeling_bert.py, ``JinaBertModel``: ids and mask [n, length] to hidden states [n, length, hidden]."""

    def __init__(self, state: Tensors) -> None:
        super().__init__()
        self.state = {name.removeprefix("bert."): tensor for name, tensor in state.items()}

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor]:
        # JinaBertEmbeddings: token types are all 0; with "alibi" there are no positions.
        words = self.state["embeddings.word_embeddings.weight"][input_ids]
        x = self._norm("embeddings.LayerNorm", words + self.state["embeddings.token_type_embeddings.weight"][0])
        # BertModel.get_extended_attention_mask; JinaBertEncoder adds ALiBi to it.
        bias = (1.0 - attention_mask[:, None, None, :].float()) * torch.finfo(torch.float32).min
        bias = bias + alibi(HEADS, input_ids.size(1))
        for i in range(LAYERS):
            x = self._feed_forward(f"encoder.layer.{i}.mlp", self._attend(f"encoder.layer.{i}.attention", x, bias))
        return (x,)

    def _attend(self, name: str, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """``JinaBertSelfAttention`` and ``JinaBertSelfOutput``."""
        n, length, hidden = x.shape
        q, k, v = (
            self._linear(f"{name}.self.{part}", x).view(n, length, HEADS, -1).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        weights = (q @ k.transpose(2, 3) / math.sqrt(hidden // HEADS) + bias).softmax(-1)
        context = (weights @ v).transpose(1, 2).reshape(n, length, hidden)
        return self._norm(f"{name}.output.LayerNorm", self._linear(f"{name}.output.dense", context) + x)

    def _feed_forward(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """``JinaBertGLUMLP`` with ``feed_forward_type`` "geglu"."""
        gated, plain = linear(x, self.state[f"{name}.gated_layers.weight"]).chunk(2, dim=-1)
        return self._norm(f"{name}.layernorm", self._linear(f"{name}.wo", gelu(gated) * plain) + x)

    def _linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def _norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return layer_norm(x, x.shape[-1:], self.state[f"{name}.weight"], self.state[f"{name}.bias"], 1e-12)


def alibi(heads: int, length: int) -> torch.Tensor:
    """``JinaBertEncoder.rebuild_alibi_tensor``: minus slope times distance, both ways; [1, heads, length, length]."""
    position = torch.arange(length)
    distance = (position[None, :] - position[:, None]).abs()
    return (-torch.tensor(slopes(heads)).view(heads, 1, 1) * distance).unsqueeze(0)


def slopes(heads: int) -> list[float]:
    """``_get_alibi_head_slopes`` in there, after ALiBi's authors.

    A geometric series for a power of two; else that of the next lower power, then every second one of the next higher.
    """
    lower = 2 ** int(math.log2(heads))
    series = [2.0 ** (-8 * (i + 1) / lower) for i in range(lower)]
    return series if lower == heads else series + slopes(2 * lower)[::2][: heads - lower]


def load_with(folder: Path, backbone: torch.nn.Module) -> Any:
    """colbert-ai's checkpoint with ``backbone`` in place of its own."""
    with tempfile.TemporaryDirectory() as temporary:
        plain = Path(temporary) / folder.name
        shutil.copytree(folder, plain)
        config = {name: value for name, value in CONFIG.items() if name != "auto_map"}
        (plain / "config.json").write_text(json.dumps({"architectures": ["HF_ColBERT"], **config}), encoding="utf-8")
        checkpoint = load(plain)
    checkpoint.model.bert = backbone
    return checkpoint


if __name__ == "__main__":
    main()
