"""BERT with linear position biases and gated feed-forward layers, the backbone of jina-colbert-v1-en.

Its authors publish it as code beside the weights, which is never run here. Written after their description (Günther et
al., "Jina Embeddings 2", arXiv 2310.19923, section 3.1): ALiBi (Press et al., ICLR 2022) in both directions, GEGLU
(Shazeer, 2020) with the activation on the first half, post-normalisation as in BERT. Parameters are named as in their
checkpoint.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn.functional import gelu, scaled_dot_product_attention

GATED = "encoder.layer.0.mlp.gated_layers.weight"


class AlibiBert(nn.Module):
    """``config`` is a BertConfig; its lengths bound nothing here."""

    slopes: torch.Tensor

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.embeddings = _Embeddings(config)
        layers = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))
        self.encoder = nn.ModuleDict({"layer": layers})
        self.register_buffer("slopes", alibi_slopes(config.num_attention_heads), persistent=False)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
        """Hidden states [n, length, hidden] as ``last_hidden_state``, of ids and mask [n, length]."""
        hidden = self.embeddings(input_ids)
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        distances = (places[:, None] - places).abs().to(hidden.dtype)
        bias = -self.slopes.to(hidden.dtype)[:, None, None] * distances  # [heads, length, length]
        hole = torch.zeros_like(attention_mask, dtype=hidden.dtype).masked_fill(attention_mask == 0, -torch.inf)
        bias = bias + hole[:, None, None, :]
        for layer in self.encoder["layer"].children():
            hidden = layer(hidden, bias)
        return SimpleNamespace(last_hidden_state=hidden)


def alibi_slopes(heads: int) -> torch.Tensor:
    """One slope a head [heads]: a geometric series, and odd terms of the next finer where heads are no power of two."""
    whole = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * (i + 1) / whole) for i in range(whole)]
    slopes += [2 ** (-4 * (2 * i + 1) / whole) for i in range(heads - whole)]
    return torch.tensor(slopes)


class _Embeddings(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = self.LayerNorm(self.word_embeddings(ids) + self.token_type_embeddings.weight[0])
        return normed


class _Layer(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.attention = _Attention(config)
        self.mlp = _Gated(config)

    def forward(self, hidden: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.mlp(self.attention(hidden, bias))
        return found


class _Attention(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        size, self.heads = config.hidden_size, config.num_attention_heads
        self.self = nn.ModuleDict({name: nn.Linear(size, size) for name in ("query", "key", "value")})
        self.output = nn.ModuleDict(
            {"dense": nn.Linear(size, size), "LayerNorm": nn.LayerNorm(size, eps=config.layer_norm_eps)}
        )

    def forward(self, hidden: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        parts = (self.self[name](hidden) for name in ("query", "key", "value"))
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)  # [n, heads, length, d]
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2)
        normed: torch.Tensor = self.output["LayerNorm"](self.output["dense"](mixed) + hidden)
        return normed


class _Gated(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.gated_layers = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.wo = nn.Linear(config.intermediate_size, config.hidden_size)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        gate, value = self.gated_layers(hidden).chunk(2, dim=-1)
        normed: torch.Tensor = self.layernorm(self.wo(gelu(gate) * value) + hidden)
        return normed
