"""What every layout gives, and what they share in giving it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from colbert_rerank.checkpoints.files import Files
from colbert_rerank.checkpoints.spec import BUCKET, EncoderSpec
from colbert_rerank.errors import CheckpointError

if TYPE_CHECKING:
    import torch

    from colbert_rerank.checkpoints.page_network import PageReader

_log = logging.getLogger(__name__)

SHORTEST = 4  # tokens: [CLS], a marker, one of the text, [SEP]


@dataclass(frozen=True)
class Choices:
    """What users may decide where a checkpoint leaves it open, and the lengths against what it says."""

    query_length: int | None = None  # tokens, special ones included
    document_length: int | None = None
    doc_skip: Literal["after-encode", "before-encode"] = "after-encode"
    base: str = ""  # where tokenizer and config.json are, of weights that come without
    projection: Literal["trained", "identity", "fresh"] = "trained"  # what makes vectors of hidden states
    text_documents: bool = False  # for a model of page images: texts as documents all the same

    def stated(self) -> dict[str, Any]:
        """Those that were made, by name."""
        return {name: value for name, value in asdict(self).items() if value != getattr(AS_MEANT, name)}


AS_MEANT = Choices()


class Built(NamedTuple):
    """A network with its rules: ids through ``backbone`` and ``head`` are vectors, both in float32 on the CPU.

    ``positions`` is the longest text the network reads, in tokens; ``tensors`` are those that scores depend on, by
    name; ``assumed`` says what no file states, by its name; ``trained`` whether anything but chance made the head;
    ``reader`` is for page images.
    """

    spec: EncoderSpec
    tokenizer: Any
    positions: int
    backbone: torch.nn.Module
    head: torch.nn.Module
    tensors: Mapping[str, torch.Tensor]
    assumed: Mapping[str, str] = MappingProxyType({})
    trained: bool = True
    reader: PageReader | None = None


def holds(tensors: Mapping[str, torch.Tensor], projection: str, backbone: str) -> bool:
    """Whether there is this projection beside tensors of a backbone with this prefix."""
    return projection in tensors and any(name.startswith(backbone) for name in tensors)


def fill(
    module: torch.nn.Module, weights: Mapping[str, torch.Tensor], folder: Path, layout: str, prefix: str = ""
) -> None:
    """Load ``weights``, named with ``prefix``, all of them and no others, in float32. Raises CheckpointError."""
    _check_numbers(weights, folder)
    stray = sorted(name for name in weights if not name.startswith(prefix))
    ours = {n.removeprefix(prefix): t.float() for n, t in weights.items() if n.startswith(prefix)}
    try:
        result = module.load_state_dict(ours, strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"{folder}: the tensors do not have the shapes of config.json: {error}") from None
    if stray or result.missing_keys or result.unexpected_keys:
        raise CheckpointError(
            f"{folder}: the tensors are not those of {layout}: missing {result.missing_keys[:5]}, unknown "
            f"{(stray + result.unexpected_keys)[:5]}"
        )


def _check_numbers(tensors: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Raises CheckpointError for quantized weights, whose scales lie elsewhere."""
    other = {n: t.dtype for n, t in tensors.items() if not t.is_floating_point() or t.dtype.itemsize < 2}
    if other:
        name, dtype = next(iter(other.items()))
        raise CheckpointError(f"{folder}: {name} is {dtype}; expected the weights as they were trained, not quantized")


def linear(weight: torch.Tensor, bias: torch.Tensor | None, hidden: int, folder: Path, name: str) -> torch.nn.Module:
    """The projection of hidden states by ``weight`` [dim, hidden] and ``bias`` [dim]. Raises CheckpointError."""
    import torch

    _check_numbers({name: weight}, folder)
    if weight.ndim != 2 or weight.shape[1] != hidden:
        raise CheckpointError(f"{folder}: {name} has shape {list(weight.shape)}, expected [dim, {hidden}]")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise CheckpointError(f"{folder}: the bias of {name} has shape {list(bias.shape)}, not [{len(weight)}]")
    made = torch.nn.Linear(hidden, len(weight), bias=bias is not None, device="meta")
    made.weight = torch.nn.Parameter(weight.float(), requires_grad=False)
    if bias is not None:
        made.bias = torch.nn.Parameter(bias.float(), requires_grad=False)
    return made


def defaults_of(
    files: Files, name: str, stated: Mapping[str, object], defaults: Mapping[str, object], library: str
) -> dict[str, str]:
    """What the settings in the file ``name`` leave to the defaults of a library; a missing file is said aloud."""
    assumed = {key: repr(value) for key, value in defaults.items() if key not in stated}
    if not files.has(name):
        _log.warning(
            "%s: %s is missing, so %s's defaults are assumed: %s",
            files.folder,
            name,
            library,
            ", ".join(f"{key} = {value}" for key, value in assumed.items()),
        )
    return {key: f"{value}, {library}'s default" for key, value in assumed.items()}


def flag(folder: Path, settings: Mapping[str, object], key: str) -> bool:
    """A setting that is true or false. Raises CheckpointError for anything else, such as the text "false"."""
    found = settings[key]
    if not isinstance(found, bool):
        raise CheckpointError(f"{folder}: {key} must be true or false, it is {found!r:.100}")
    return found


def unstated(files: Files, config: Any) -> dict[str, str]:
    """What config.json leaves to the defaults of transformers, of what changes the network's numbers."""
    keys = ("num_attention_heads", "hidden_act", "layer_norm_eps")
    return {key: f"{getattr(config, key)!r}, transformers' default" for key in keys if key not in files.config}


def check_lengths(folder: Path, lengths: Mapping[str, object], positions: int) -> None:
    """Raises CheckpointError for lengths that the network cannot read, padded as they are to whole buckets."""
    limit = positions // BUCKET * BUCKET
    for key, length in lengths.items():
        if type(length) is not int or not SHORTEST <= length <= limit:
            raise CheckpointError(f"{folder}: {key} must be {SHORTEST} to {limit}, it is {length!r}")
