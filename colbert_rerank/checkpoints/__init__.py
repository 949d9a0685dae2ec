"""Checkpoints: from a name or a folder to a tokenizer, a network and the rules its authors meant.

Layouts are told apart by their tensors. What does not match is refused: a projection that is missing must never become
a random layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
from colbert_rerank.checkpoints.tokenizer import PROBES, tokenizer_hash
from colbert_rerank.errors import CheckpointError, ColbertRerankError, UsageError

if TYPE_CHECKING:
    import torch

    from colbert_rerank.checkpoints.page_network import PageReader

__all__ = ["AS_MEANT", "PROBES", "STARTER", "Checkpoint", "Choices", "EncoderSpec", "load_checkpoint"]

# In order: what the weights show goes before what another file says of them.
LAYOUTS = (colqwen2, colbert_v1, hf_colbert, hofstaetter, pylate, bge_m3, untrained)
# Of config.json: what no layout here is.
OTHER_NETWORKS = ("is_decoder", "add_cross_attention", "quantization_config")
EMBEDDINGS = ("word_embeddings.weight", "tok_embeddings.weight", "embed_tokens.weight")


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
    fingerprint: tuple[float, ...]  # what the network makes of a fixed text, which is more than its tensors tell
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

    from colbert_rerank.checkpoints.hashes import fingerprint, tensor_hash

    files = Files(locate(name))
    if not any(map(files.has, ("config.json", pylate.MODULES))) and not any(files.folder.glob(colbert_v1.DNN)):
        raise CheckpointError(f"{files.folder}: no config.json here, so this is not a checkpoint folder")
    with _building(files.folder, "any kind"):
        layout = next((layout for layout in LAYOUTS if layout.matches(files)), None)
    if layout is None:
        raise bert_colbert.no_projection(files)
    if other := [key for key in OTHER_NETWORKS if files.has("config.json") and files.config.get(key)]:
        raise CheckpointError(f"{files.folder}: config.json says {', '.join(other)}: not a network that is read here")
    with _building(files.folder, layout.NAME):
        built = layout.build(files, choices)
        _check_vocabulary(built, files.folder)
        numbers = fingerprint(built)
    if not all(map(math.isfinite, numbers)) or not any(numbers):
        raise CheckpointError(f"{files.folder}: damaged weights: its vectors are all zeros, or not finite numbers")
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
        tensor_hash=tensor_hash(built.tensors),
        tokenizer_hash=tokenizer_hash(built.tokenizer),
        fingerprint=numbers,
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
    if choices.document_length is not None and not spec.text_documents:
        raise UsageError(f"{files.folder}: its documents are page images, so there is no choice of their length")
    try:
        if choices.query_length is not None:
            check_lengths(files.folder, {"the length of a query": choices.query_length}, built.positions - added)
            spec = replace(spec, query=replace(spec.query, length=choices.query_length))
        if choices.document_length is not None:
            check_lengths(files.folder, {"the length of a document": choices.document_length}, built.positions)
            spec = replace(spec, document=replace(spec.document, length=choices.document_length))
    except CheckpointError as error:  # it is not the checkpoint that is at fault
        raise UsageError(str(error)) from None
    for side, rules, chosen in (
        ("query", spec.query, choices.query_length),
        ("document", spec.document, choices.document_length),
    ):
        around = len(rules.prefix_ids) + len(rules.suffix_ids)
        around += len(built.tokenizer.backend_tokenizer.encode(rules.prompt, add_special_tokens=False).ids)
        if rules.length <= around:
            kind = CheckpointError if chosen is None else UsageError
            raise kind(
                f"{files.folder}: a {side} of {rules.length} tokens has no room for its text: {around} stand around it"
            )
    return spec


def _left(assumed: Mapping[str, str], choices: Choices) -> dict[str, str]:
    """What is still assumed where users have chosen lengths."""
    chosen = {
        ("query_length", "query_maxlen"): choices.query_length,
        ("document_length", "doc_maxlen"): choices.document_length,
    }
    dropped = {name for names, length in chosen.items() if length is not None for name in names}
    return {name: value for name, value in assumed.items() if name not in dropped}


def _check_vocabulary(built: Built, folder: Path) -> None:
    """Raises CheckpointError where the tokenizer knows ids that the network has no embedding of."""
    last = max(built.tokenizer.get_vocab().values())
    for name, parameter in built.backbone.named_parameters():
        if name.endswith(EMBEDDINGS) and last >= len(parameter):
            raise CheckpointError(
                f"{folder}: the tokenizer has ids up to {last}, and {name} is of {len(parameter)}: they are not of one "
                "checkpoint"
            )


@contextmanager
def _building(folder: Path, layout: str) -> Iterator[None]:
    """Turn what torch and transformers raise for a damaged checkpoint into CheckpointError."""
    try:
        yield
    except (ColbertRerankError, ImportError):
        raise
    except Exception as error:  # of many kinds: config.json may hold anything
        raise CheckpointError(
            f"{folder}: cannot be read as a checkpoint of the layout {layout}: {type(error).__name__}: "
            f"{str(error).strip()[:300]}"
        ) from error
