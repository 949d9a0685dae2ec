"""A checkpoint's backbone, its projection and its normalisation, as one network."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch.nn.functional import normalize

_process = 0  # that first ran a network


class Network(torch.nn.Module):
    """Token ids to token vectors, as a checkpoint's `EncoderSpec` has them.

    After a fork it goes on with one thread: a process does not inherit the threads of the one before, and OpenMP would
    wait for them for ever. To use more, load the encoder after the fork.
    """

    def __init__(self, backbone: torch.nn.Module, head: torch.nn.Module, *, normalized: bool) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self._normalized = normalized

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Vectors [n, length, dim] of ids and attention mask [n, length]."""
        _mind_forks()
        return self._vectors(self.backbone(input_ids=ids, attention_mask=mask).last_hidden_state)

    def page(self, page: Any) -> torch.Tensor:
        """Vectors [T, dim] of one page, as its checkpoint's reader read it."""
        _mind_forks()
        return self._vectors(self.backbone.page(page))  # type: ignore[operator]  # a PageNetwork

    def _vectors(self, hidden: torch.Tensor) -> torch.Tensor:
        vectors: torch.Tensor = self.head(hidden)
        return normalize(vectors, dim=-1) if self._normalized else vectors


def _mind_forks() -> None:
    global _process
    if not _process:
        _process = os.getpid()
    elif _process != os.getpid():
        torch.set_num_threads(1)
