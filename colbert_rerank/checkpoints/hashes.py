"""By what a checkpoint's weights and network are known again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch

from colbert_rerank.checkpoints.layout import Built
from colbert_rerank.checkpoints.spec import BUCKET
from colbert_rerank.checkpoints.tokenizer import PROBES
from colbert_rerank.network import Network

TOKENS = 144  # past ModernBERT's window of 128
NUMBERS = 32


def tensor_hash(tensors: Mapping[str, torch.Tensor]) -> str:
    """Of tensors by name, with their dtypes and shapes."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def fingerprint(built: Built) -> tuple[float, ...]:
    """Some of the numbers that the network makes of a fixed text, in float32 on the CPU.

    Tensors do not tell the network: the number of heads, the activation and more stand in config.json alone.
    """
    text = built.tokenizer.backend_tokenizer.encode(" ".join(PROBES), add_special_tokens=False).ids * TOKENS
    length = min(TOKENS, built.positions // BUCKET * BUCKET)
    ids = torch.tensor([[*built.spec.query.prefix_ids, *text][:length]])
    network = Network(built.backbone.eval(), built.head.eval(), normalized=built.spec.normalize)
    with torch.inference_mode():
        numbers = network(ids, torch.ones_like(ids)).flatten()
    some = numbers[:: max(1, len(numbers) // NUMBERS)][:NUMBERS]
    return tuple(round(number, 6) for number in some.tolist())
