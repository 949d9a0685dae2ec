"""Checkpoints: from a name or a folder to a tokenizer, a network and the rules its authors meant.

Layouts are told apart by their tensors. What does not match is refused: a projection that is missing must never become
a random layer.
"""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from colbert_rerank.checkpoints import hf_colbert
from colbert_rerank.checkpoints.location import STARTER, locate
from colbert_rerank.checkpoints.spec import EncoderSpec
from colbert_rerank.errors import CheckpointError

if TYPE_CHECKING:
    import torch

__all__ = ["STARTER", "Checkpoint", "EncoderSpec", "load_checkpoint"]

TOKENIZERS = ("tokenizer.json", "vocab.txt")
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

    Both are float32 on the CPU; the encoder moves and casts them.
    """

    name: str
    folder: Path
    spec: EncoderSpec
    tokenizer: Any
    backbone: torch.nn.Module
    head: torch.nn.Module
    tensor_hash: str  # of the tensors by name, not of files: the same weights in another container are the same
    tokenizer_hash: str


def load_checkpoint(name: str = STARTER) -> Checkpoint:
    """Load ``starter``, a folder, or a hub name. Runs no code from the checkpoint.

    Raises CheckpointError where the folder holds no known layout, naming the tensors found.
    """
    folder = locate(name)
    if not (folder / "config.json").exists():
        raise CheckpointError(f"{folder}: no config.json here, so this is not a checkpoint folder")
    tensors = _tensors(folder)
    if not hf_colbert.matches(tensors):
        raise CheckpointError(
            f"{folder}: no token projection ({hf_colbert.PROJECTION}) beside {hf_colbert.BACKBONE}* tensors; "
            f"found {len(tensors)} tensors, among them {sorted(tensors)[:3] + sorted(tensors)[-3:]}. "
            "A plain BERT or a dense retriever has no token projection and cannot be used."
        )
    tokenizer = _tokenizer(folder)
    spec, backbone, head = hf_colbert.build(folder, tensors, tokenizer)
    return Checkpoint(
        name=name,
        folder=folder,
        spec=spec,
        tokenizer=tokenizer,
        backbone=backbone.eval(),
        head=head.eval(),
        tensor_hash=_tensor_hash(tensors),
        tokenizer_hash=_tokenizer_hash(tokenizer),
    )


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    tensors: dict[str, torch.Tensor]
    try:
        if (folder / "model.safetensors").exists():
            return load_file(folder / "model.safetensors")
        if not (folder / "pytorch_model.bin").exists():
            raise CheckpointError(f"{folder}: no model.safetensors and no pytorch_model.bin here")
        tensors = torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # torch's own message advises to load it all the same
        raise CheckpointError(
            f"{folder}: pytorch_model.bin is damaged, or holds more than tensors, which could run code when loaded. "
            "Save the weights as model.safetensors"
        ) from None
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise CheckpointError(
            f"{folder}: the weights cannot be read, the file is damaged or not weights: {error}"
        ) from None
    if not isinstance(tensors, dict) or not all(isinstance(t, torch.Tensor) for t in tensors.values()):
        raise CheckpointError(f"{folder}: pytorch_model.bin is not a dictionary of tensors by name")
    return tensors


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    if not any((folder / name).exists() for name in TOKENIZERS):  # transformers would make an empty one
        raise CheckpointError(f"{folder}: no tokenizer here; expected one of {', '.join(TOKENIZERS)}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False)
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{folder}: no usable tokenizer: {error}") from None
    # A tokenizer.json may say how its texts were cut and padded in training; here the EncoderSpec alone says so.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer


def _tensor_hash(tensors: dict[str, torch.Tensor]) -> str:
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
