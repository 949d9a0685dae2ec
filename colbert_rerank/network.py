"""A checkpoint's backbone, its projection and its normalisation, as one network."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import normalize


class Network(torch.nn.Module):
    """Token ids to token vectors, as a checkpoint's `EncoderSpec` has them."""

    def __init__(self, backbone: torch.nn.Module, head: torch.nn.Module, *, normalized: bool) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self._normalized = normalized

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Vectors [n, length, dim] of ids and attention mask [n, length]."""
        return self._vectors(self.backbone(input_ids=ids, attention_mask=mask).last_hidden_state)

    def page(self, page: Any) -> torch.Tensor:
        """Vectors [T, dim] of one page, as its checkpoint's reader read it."""
        return self._vectors(self.backbone.page(page))  # type: ignore[operator]  # a PageNetwork

    def _vectors(self, hidden: torch.Tensor) -> torch.Tensor:
        vectors: torch.Tensor = self.head(hidden)
        return normalize(vectors, dim=-1) if self._normalized else vectors
