"""The Dense module of PyLate and sentence-transformers."""

from __future__ import annotations

import torch


class Dense(torch.nn.Module):
    """``activation(linear(x))``, plus ``residual(x)`` where there is one; from [.., width] to [.., dim]."""

    def __init__(
        self, linear: torch.nn.Module, activation: torch.nn.Module, residual: torch.nn.Module | None = None
    ) -> None:
        super().__init__()
        self.linear = linear
        self.activation = activation
        self.residual = residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.activation(self.linear(x))
        return y if self.residual is None else y + self.residual(x)
