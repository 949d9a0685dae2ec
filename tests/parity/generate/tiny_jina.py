"""The encoder of jinaai/jina-colbert-v2, written down from its published description. A helper, no generator.

The authors' own code is licensed for non-commercial use only and is not copied: this is XLM-R with four changes. There
are no position embeddings; queries and keys are rotated instead, first half of a head against second half, from
position 0; query, key and value are one projection (``Wqkv``, in this order); dropped attention is an addend of -10000.
On these weights and texts its rows were equal, bit for bit, to those of the authors' code in colbert-ai.

``jina_v2.py`` lays this file beside a copy of the checkpoint, where colbert-ai loads it as the model's remote code:
hence the classes transformers asks for, the names of the tensors, and no import of its neighbours.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel


class RotaryRobertaConfig(PretrainedConfig):  # type: ignore[misc]  # transformers has no types here
    model_type = "xlm-roberta"


class RotaryRobertaPreTrainedModel(PreTrainedModel):  # type: ignore[misc]  # the same
    config_class = RotaryRobertaConfig
    base_model_prefix = "roberta"

    def _init_weights(self, module: nn.Module) -> None:
        """All weights come from the checkpoint."""


class RotaryRobertaModel(RotaryRobertaPreTrainedModel):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.embeddings = Embeddings(config)
        self.emb_ln = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.encoder = nn.ModuleDict({"layers": layers})
        self.pooler = nn.ModuleDict({"dense": nn.Linear(config.hidden_size, config.hidden_size)})  # unused here

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor]:
        """Hidden states [b, n, hidden] of ids [b, n]."""
        hidden = self.emb_ln(self.embeddings(input_ids))
        dropped = torch.where(attention_mask.bool(), 0.0, -10000.0)[:, None, None, :]  # [b, 1, 1, n]
        for layer in self.encoder["layers"].children():
            hidden = layer(hidden, dropped)
        return (hidden,)


class Embeddings(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        embedded: torch.Tensor = self.word_embeddings(input_ids) + self.token_type_embeddings.weight[0]
        return embedded


class Block(nn.Module):
    """Attention, sum, norm, feed-forward, sum, norm."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.mixer = Attention(config)
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = nn.ModuleDict(
            {
                "fc1": nn.Linear(config.hidden_size, config.intermediate_size),
                "fc2": nn.Linear(config.intermediate_size, config.hidden_size),
            }
        )
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden: torch.Tensor, dropped: torch.Tensor) -> torch.Tensor:
        hidden = self.norm1(hidden + self.mixer(hidden, dropped))
        inner = nn.functional.gelu(self.mlp["fc1"](hidden))
        out: torch.Tensor = self.norm2(hidden + self.mlp["fc2"](inner))
        return out


class Attention(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.width = config.hidden_size // self.heads
        self.base = config.rotary_emb_base
        self.Wqkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: torch.Tensor, dropped: torch.Tensor) -> torch.Tensor:
        b, n, _ = hidden.shape
        q, k, v = self.Wqkv(hidden).view(b, n, 3, self.heads, self.width).permute(2, 0, 3, 1, 4)  # each [b, h, n, w]
        # [b, h, n, n]; the key is scaled, not the product
        weights = self.rotated(q) @ (self.rotated(k) * self.width**-0.5).transpose(-1, -2) + dropped
        mixed = (weights.softmax(-1) @ v).transpose(1, 2).reshape(b, n, -1)
        out: torch.Tensor = self.out_proj(mixed)
        return out

    def rotated(self, x: torch.Tensor) -> torch.Tensor:
        """Every pair (i, i + w/2) of a vector [.., n, w] turned by position times base^(-2i/w)."""
        half = self.width // 2
        frequency = 1.0 / self.base ** (torch.arange(0, self.width, 2, dtype=torch.float32) / self.width)  # [w/2]
        angle = torch.outer(torch.arange(x.size(-2), dtype=torch.float32), frequency)  # [n, w/2]
        first, second = x[..., :half], x[..., half:]
        cos, sin = angle.cos(), angle.sin()
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
