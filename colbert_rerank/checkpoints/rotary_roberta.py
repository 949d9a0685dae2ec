"""XLM-RoBERTa with rotary positions, the backbone of jina-colbert-v2.

Its authors publish it as code beside the weights, which is never run here. Written after their description (Jha et al.,
"Jina-ColBERT-v2", arXiv 2408.16672, section 3.1): instead of position embeddings, queries and keys are rotated (Su et
al., "RoFormer", arXiv 2104.09864), the first half of a head against the second; post-normalisation as in BERT.
Parameters are named as in their checkpoint.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn.functional import gelu, scaled_dot_product_attention

BASE = 10_000.0  # of the rotations, where config.json does not state rotary_emb_base (the default of the authors' code)


class RotaryRoberta(nn.Module):
    """``config`` is an XLMRobertaConfig; its lengths bound nothing here."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.embeddings = _Embeddings(config)
        self.emb_ln = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))})
        self._base = float(getattr(config, "rotary_emb_base", BASE))
        self._width = config.hidden_size // config.num_attention_heads

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
        """Hidden states [n, length, hidden] as ``last_hidden_state``, of ids and mask [n, length]."""
        hidden = self.emb_ln(self.embeddings(input_ids))
        angles = self._angles(input_ids.shape[1]).to(hidden.device)
        turns = angles.cos().to(hidden.dtype), angles.sin().to(hidden.dtype)
        seen = attention_mask.bool()[:, None, None, :]
        for layer in self.encoder["layers"].children():
            hidden = layer(hidden, turns, seen)
        return SimpleNamespace(last_hidden_state=hidden)

    def _angles(self, length: int) -> torch.Tensor:
        """By how much a place turns each pair of a head's coordinates [length, width / 2], in radians."""
        frequencies = self._base ** -(torch.arange(0, self._width, 2, dtype=torch.float32) / self._width)
        return torch.outer(torch.arange(length, dtype=torch.float32), frequencies)


class _Embeddings(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.word_embeddings(ids) + self.token_type_embeddings.weight[0]
        return found


class _Layer(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        size = config.hidden_size
        self.mixer = _Attention(config)
        self.norm1 = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(size, config.intermediate_size), "fc2": nn.Linear(config.intermediate_size, size)}
        )
        self.norm2 = nn.LayerNorm(size, eps=config.layer_norm_eps)

    def forward(
        self, hidden: torch.Tensor, turns: tuple[torch.Tensor, torch.Tensor], seen: torch.Tensor
    ) -> torch.Tensor:
        hidden = self.norm1(hidden + self.mixer(hidden, turns, seen))
        normed: torch.Tensor = self.norm2(hidden + self.mlp["fc2"](gelu(self.mlp["fc1"](hidden))))
        return normed


class _Attention(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.Wqkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, hidden: torch.Tensor, turns: tuple[torch.Tensor, torch.Tensor], seen: torch.Tensor
    ) -> torch.Tensor:
        parts = self.Wqkv(hidden).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = parts.unbind()  # [n, heads, length, width]
        mixed = scaled_dot_product_attention(_turned(q, turns), _turned(k, turns), v, attn_mask=seen)
        out: torch.Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out


def _turned(x: torch.Tensor, turns: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Each pair (i, i + width / 2) of the vectors [.., length, width], turned by its place's angle."""
    cos, sin = turns
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
