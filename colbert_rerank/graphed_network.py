"""A network whose forward passes over queries are CUDA graphs: one launch in place of hundreds.

A query is so short that a GPU is done with each kernel before the next is launched. A graph is captured for each shape
of a batch when it first comes; those are few, since queries are padded to fixed lengths and batches to one size.
"""

from __future__ import annotations

import logging
import threading
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import transformers

from colbert_rerank.network import Network

_log = logging.getLogger(__name__)

_WARM_UP = 3  # passes, in which libraries choose kernels and take memory: neither can be captured


def capturable() -> bool:
    """Whether networks can be captured at all: before transformers 5 they look at the mask's values, and an attempt
    that fails leaves torch's memory in the state of a capture.
    """
    return int(transformers.__version__.partition(".")[0]) >= 5


class _Captured(NamedTuple):
    graph: torch.cuda.CUDAGraph
    ids: torch.Tensor
    mask: torch.Tensor
    vectors: torch.Tensor


class GraphedNetwork:
    """``network`` on a GPU. Where a pass cannot be captured all go on without graphs. Safe to share between threads."""

    def __init__(self, network: Network, device: torch.device) -> None:
        self._network = network
        self._device = device
        self._graphs: dict[tuple[int, ...], _Captured] = {}
        self._capturable = True
        self._lock = threading.Lock()  # graphs have one place for inputs and outputs each, and share all other memory

    def __call__(self, ids: torch.Tensor, mask: torch.Tensor) -> npt.NDArray[np.float32]:
        """Vectors [n, length, dim] of ids and attention mask [n, length]."""
        shape = tuple(ids.shape)
        with self._lock, torch.inference_mode():
            if self._capturable and shape not in self._graphs:
                try:
                    self._graphs[shape] = self._capture(shape)
                except RuntimeError as error:
                    self._capturable = False
                    _log.warning("queries are encoded without CUDA graphs, more slowly: %s", str(error).splitlines()[0])
            if self._capturable:
                captured = self._graphs[shape]
                captured.ids.copy_(ids)
                captured.mask.copy_(mask)
                captured.graph.replay()
                vectors = captured.vectors
            else:
                vectors = self._network(ids.to(self._device), mask.to(self._device)).float()
            found: npt.NDArray[np.float32] = vectors.cpu().numpy()
            return found

    def _capture(self, shape: tuple[int, ...]) -> _Captured:
        """Raises RuntimeError where the network does what a graph cannot hold, as to look at a value."""
        with torch.cuda.device(self._device):
            ids = torch.zeros(shape, dtype=torch.long, device=self._device)
            # As of blanks: what a network leaves out where all tokens are attended to, it must not leave out for ever.
            mask = torch.zeros_like(ids)
            mask[:, 0] = 1
            aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(_WARM_UP):
                    self._network(ids, mask)
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            pool = next((other.graph.pool() for other in self._graphs.values()), None)
            # "thread_local": rows of candidates are brought to the GPU by another thread meanwhile
            # the outer "with": of a capture that fails torch does not leave its stream
            with (
                torch.cuda.stream(torch.cuda.current_stream()),
                torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"),
            ):
                vectors = self._network(ids, mask).float()
        return _Captured(graph, ids, mask, vectors)
