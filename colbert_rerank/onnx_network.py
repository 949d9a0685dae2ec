"""A network by ONNX Runtime, which on a CPU encodes a short text in about half of torch's time.

Only queries are worth it: a full batch of documents keeps torch as busy as it can be.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from colbert_rerank.checkpoints.spec import BUCKET
from colbert_rerank.errors import MissingDependencyError
from colbert_rerank.network import Network


class OnnxNetwork:
    """``network``, float32 on the CPU, for one text at a time. Safe to call from several threads.

    Raises MissingDependencyError without onnx and onnxruntime.
    """

    def __init__(self, network: Network) -> None:
        try:
            import onnx  # noqa: F401  # torch's exporter needs it
            import onnxruntime
        except ImportError:
            raise MissingDependencyError("queries by ONNX Runtime", "onnx", "onnxruntime") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Threads that wait in a loop for the next query take the cores from MaxSim, which comes first.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.onnx"  # beside its tensors, where they have more than 2 GB
            _export(network, path)
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def __call__(self, ids: torch.Tensor, mask: torch.Tensor) -> npt.NDArray[np.float32]:
        """Vectors [1, length, dim] of ids and attention mask [1, length]."""
        vectors: npt.NDArray[np.float32]
        (vectors,) = self._session.run(["vectors"], {"ids": ids.numpy(), "mask": mask.numpy()})
        return vectors


def _export(network: Network, path: Path) -> None:
    ids, mask = torch.zeros(1, BUCKET, dtype=torch.long), torch.ones(1, BUCKET, dtype=torch.long)
    mask[:, -1] = 0  # transformers leaves out a mask that hides nothing
    tokens = {1: "tokens"}
    export: Any = torch.onnx.export
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates this exporter; its successor gets ModernBERT wrong
        export(
            network,
            (ids, mask),
            str(path),
            input_names=["ids", "mask"],
            output_names=["vectors"],
            dynamic_axes={"ids": tokens, "mask": tokens, "vectors": tokens},
            dynamo=False,
        )
