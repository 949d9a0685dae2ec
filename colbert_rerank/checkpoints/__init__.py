"""Checkpoints: from a name or a folder to a tokenizer, a network and the rules its authors meant.

Layouts are told apart by their tensors. What does not match is refused: a projection that is missing must never become
a random layer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from colbert_rerank.checkpoints import (
    bert_colbert,
    bge_m3,
    colbert_v1,
    colqwen2,
    hf_colbert,
    hofstaetter,
    pylate,
    untrained,
)
from colbert_rerank.checkpoints.files import Files
from colbert_rerank.checkpoints.layout import AS_MEANT, Built, Choices, check_lengths
from colbert_rerank.checkpoints.location import STARTER, locate
from colbert_rerank.checkpoints.spec import EncoderSpec
from colbert_rerank.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    import torch

    from colbert_rerank.checkpoints.page_network import PageReader

__all__ = ["AS_MEANT", "PROBES", "STARTER", "Checkpoint", "Choices", "EncoderSpec", "load_checkpoint"]

# In order: what the weights show goes before what another file says of them.
LAYOUTS = (colqwen2, colbert_v1, hf_colbert, hofstaetter, pylate, bge_m3, untrained)
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

    Both are float32 on the CPU; the encoder moves and casts them. ``assumed`` says what no file stated, by its name.
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
    assumed: Mapping[str, str] = field(default_factory=dict)
    choices: Choices = AS_MEANT  # by which it is not as its authors meant
    trained: bool = True  # whether anything but chance made the head
    reader: PageReader | None = None  # of page images, for a model of such


def load_checkpoint(name: str = STARTER, choices: Choices = AS_MEANT) -> Checkpoint:
    """Load ``starter``, a folder, or a hub name. Runs no code from the checkpoint.

    Raises CheckpointError where the folder holds no known layout, naming the tensors found, and UsageError for choices
    that this checkpoint does not leave.
    """
    import torch

    files = Files(locate(name))
    if not any(map(files.has, ("config.json", pylate.MODULES))) and not any(files.folder.glob(colbert_v1.DNN)):
        raise CheckpointError(f"{files.folder}: no config.json here, so this is not a checkpoint folder")
    layout = next((layout for layout in LAYOUTS if layout.matches(files)), None)
    if layout is None:
        raise bert_colbert.no_projection(files)
    built = layout.build(files, choices)
    if choices.projection != "trained" and built.trained and not isinstance(built.head, torch.nn.Identity):
        raise UsageError(f"{files.folder}: it has a trained projection, so there is no choice of another")
    if choices.text_documents and built.spec.text_documents and built.reader is None:
        raise UsageError(f"{files.folder}: its documents are texts, so there is no choice of them")
    if choices.base and files.has_weights:
        raise UsageError(f"{files.folder}: it has a tokenizer of its own, so there is no choice of a base")
    return Checkpoint(
        name=name,
        folder=files.folder,
        layout=layout.NAME,
        spec=_chosen(built, files, choices),
        tokenizer=built.tokenizer,
        backbone=built.backbone.eval(),
        head=built.head.eval(),
        tensor_hash=_tensor_hash(built.tensors),
        tokenizer_hash=_tokenizer_hash(built.tokenizer),
        assumed=_left(built.assumed, choices),
        choices=choices,
        trained=built.trained,
        reader=built.reader,
    )


def _chosen(built: Built, files: Files, choices: Choices) -> EncoderSpec:
    """The rules as users want them, where they have a choice."""
    spec = built.spec
    if choices.doc_skip == "before-encode":  # as Vespa does, to whom a padding id in a text is one like others
        skipped = tuple(i for i in spec.skip_ids if i != spec.pad_id)
        if not skipped:
            raise UsageError(f"{files.folder}: it leaves no document tokens out, so there is no choice of when")
        spec = replace(spec, skip_before=True, skip_ids=skipped)
    added = spec.expansion.count or 0 if spec.expansion else 0
    try:
        if choices.query_length is not None:
            check_lengths(files.folder, {"the length of a query": choices.query_length}, built.positions - added)
            spec = replace(spec, query=replace(spec.query, length=choices.query_length))
        if choices.document_length is not None:
            check_lengths(files.folder, {"the length of a document": choices.document_length}, built.positions)
            spec = replace(spec, document=replace(spec.document, length=choices.document_length))
    except CheckpointError as error:  # it is not the checkpoint that is at fault
        raise UsageError(str(error)) from None
    return spec


def _left(assumed: Mapping[str, str], choices: Choices) -> dict[str, str]:
    """What is still assumed where users have chosen lengths."""
    chosen = {
        ("query_length", "query_maxlen"): choices.query_length,
        ("document_length", "doc_maxlen"): choices.document_length,
    }
    dropped = {name for names, length in chosen.items() if length is not None for name in names}
    return {name: value for name, value in assumed.items() if name not in dropped}


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
