"""Checkpoints: from a name or a folder to a tokenizer, a network and the rules its authors meant.

Layouts are told apart by their tensors. What does not match is refused: a projection that is missing must never become
a random layer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from colbert_rerank.checkpoints import bge_m3, hf_colbert, hofstaetter
from colbert_rerank.checkpoints.files import Files
from colbert_rerank.checkpoints.location import STARTER, locate
from colbert_rerank.checkpoints.spec import EncoderSpec
from colbert_rerank.errors import CheckpointError

if TYPE_CHECKING:
    import torch

__all__ = ["STARTER", "Checkpoint", "EncoderSpec", "load_checkpoint"]

LAYOUTS = (hf_colbert, hofstaetter, bge_m3)
# Encoded once per load: a tokenizer that treats any of these differently is another tokenizer.
PROBES = (
    "What is late interaction?",
    "Ünïcode, CASE & accents: naïve café, ÅNGSTRÖM",
    "numbers 3.14 1,000 2024-01-31; C++ e-mail@host snake_case",
    "東京 Москва القاهرة 😀 \t newline\n [MASK] [SEP] [unused1]",
    "pneumonoultramicroscopicsilicovolcanoconiosis antidisestablishmentarianism",
)


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint: ids through ``backbone`` and ``head`` are vectors.

    Both are float32 on the CPU; the encoder moves and casts them. ``assumed`` says in words what no file stated.
    """

    name: str
    folder: Path
    layout: str
    spec: EncoderSpec
    tokenizer: Any
    backbone: torch.nn.Module
    head: torch.nn.Module
    tensor_hash: str  # of the tensors by name, not of files: the same weights in another container are the same
    tokenizer_hash: str
    assumed: tuple[str, ...] = ()


def load_checkpoint(name: str = STARTER) -> Checkpoint:
    """Load ``starter``, a folder, or a hub name. Runs no code from the checkpoint.

    Raises CheckpointError where the folder holds no known layout, naming the tensors found.
    """
    files = Files(locate(name))
    if not files.has("config.json"):
        raise CheckpointError(f"{files.folder}: no config.json here, so this is not a checkpoint folder")
    layout = next((layout for layout in LAYOUTS if layout.matches(files)), None)
    if layout is None:
        tensors = files.tensors
        raise CheckpointError(
            f"{files.folder}: no token projection ({hf_colbert.PROJECTION}) beside {hf_colbert.BACKBONE}* tensors; "
            f"found {len(tensors)} tensors, among them {sorted(tensors)[:3] + sorted(tensors)[-3:]}. "
            "A plain BERT or a dense retriever has no token projection and cannot be used."
        )
    tokenizer = files.tokenizer
    built = layout.build(files)
    return Checkpoint(
        name=name,
        folder=files.folder,
        layout=layout.NAME,
        spec=built.spec,
        tokenizer=tokenizer,
        backbone=built.backbone.eval(),
        head=built.head.eval(),
        tensor_hash=_tensor_hash(built.tensors),
        tokenizer_hash=_tokenizer_hash(tokenizer),
        assumed=built.assumed,
    )


def _tensor_hash(tensors: Mapping[str, torch.Tensor]) -> str:
    import torch

    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _tokenizer_hash(tokenizer: Any) -> str:
    encodings = tokenizer.backend_tokenizer.encode_batch(list(PROBES), add_special_tokens=True)
    return hashlib.blake2b(repr([e.ids for e in encodings]).encode(), digest_size=16).hexdigest()
