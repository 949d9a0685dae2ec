"""The HF_ColBERT layout of colbert-ai: ``bert.*`` tensors, ``linear.weight`` [dim, hidden] without bias.

Rules from colbert-ai's own code (colbert/modeling): the marker stands at position 1; a query is filled with [MASK] to
its length, with attention 0 on what was filled in; document rows of punctuation are dropped; vectors are L2-normalised.
"""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import TYPE_CHECKING, Any

from colbert_rerank.checkpoints.spec import EncoderSpec, Expansion, TextRules
from colbert_rerank.errors import CheckpointError

if TYPE_CHECKING:
    import torch

KIND = "bert"
BACKBONE = "bert."
PROJECTION = "linear.weight"
# Tensors that other tasks of the same backbone leave behind; colbert-ai ignores them as well.
IGNORED = ("cls.", "bert.pooler.", "bert.embeddings.position_ids")
# colbert-ai's defaults, for what artifact.metadata does not state.
DEFAULTS: dict[str, Any] = {
    "query_token_id": "[unused0]",
    "doc_token_id": "[unused1]",
    "query_maxlen": 32,
    "doc_maxlen": 220,
    "mask_punctuation": True,
    "attend_to_mask_tokens": False,
    "similarity": "cosine",
}


def matches(tensors: dict[str, torch.Tensor]) -> bool:
    return PROJECTION in tensors and any(name.startswith(BACKBONE) for name in tensors)


def build(
    folder: Path, tensors: dict[str, torch.Tensor], tokenizer: Any
) -> tuple[EncoderSpec, torch.nn.Module, torch.nn.Module]:
    """The spec, the backbone (hidden states out) and the head (vectors out), both in float32."""
    from transformers import BertConfig, BertModel

    _check_kind(folder)
    config = BertConfig.from_pretrained(folder)
    projection = tensors[PROJECTION]
    if projection.ndim != 2 or projection.shape[1] != config.hidden_size:
        raise CheckpointError(
            f"{folder}: {PROJECTION} has shape {list(projection.shape)}, expected [dim, {config.hidden_size}]"
        )
    spec = _spec(folder, int(projection.shape[0]), tokenizer, config)
    backbone = BertModel(config, add_pooling_layer=False)
    weights = {n: t.float() for n, t in tensors.items() if n != PROJECTION and not n.startswith(IGNORED)}
    stray = sorted(n for n in weights if not n.startswith(BACKBONE))
    ours = {n.removeprefix(BACKBONE): t for n, t in weights.items() if n.startswith(BACKBONE)}
    try:
        result = backbone.load_state_dict(ours, strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"{folder}: the tensors do not have the shapes of config.json: {error}") from None
    if stray or result.missing_keys or result.unexpected_keys:
        raise CheckpointError(
            f"{folder}: the tensors are not those of an HF_ColBERT checkpoint: "
            f"missing {result.missing_keys[:5]}, unknown {(stray + result.unexpected_keys)[:5]}"
        )
    return spec, backbone, linear(projection.float())


def linear(weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.nn.Module:
    """A projection of hidden states by ``weight`` [dim, hidden]."""
    import torch

    made = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    made.weight = torch.nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        made.bias = torch.nn.Parameter(bias, requires_grad=False)
    return made


def _spec(folder: Path, dim: int, tokenizer: Any, config: Any) -> EncoderSpec:
    meta = DEFAULTS | _metadata(folder)
    if meta["similarity"] != "cosine":
        raise CheckpointError(f"{folder}: similarity {meta['similarity']!r} in artifact.metadata is not supported yet")
    if meta.get("dim", dim) != dim:
        raise CheckpointError(f"{folder}: artifact.metadata says dim {meta['dim']}, {PROJECTION} has {dim}")
    for key in ("query_maxlen", "doc_maxlen"):
        if not isinstance(meta[key], int) or not 4 <= meta[key] <= config.max_position_embeddings:
            raise CheckpointError(f"{folder}: {key} must be 4 to {config.max_position_embeddings}, it is {meta[key]!r}")
    rendered = tokenizer.backend_tokenizer.encode("", add_special_tokens=True).ids
    if rendered != [tokenizer.cls_token_id, tokenizer.sep_token_id]:
        raise CheckpointError(f"{folder}: the tokenizer renders an empty text as {rendered}, expected [CLS] [SEP]")
    skip = {_first_id(tokenizer, symbol) for symbol in string.punctuation} if meta["mask_punctuation"] else set()
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    markers = [_marker(folder, tokenizer, meta[key]) for key in ("query_token_id", "doc_token_id")]
    return EncoderSpec(
        dim=dim,
        query=TextRules((cls, markers[0]), (sep,), meta["query_maxlen"]),
        document=TextRules((cls, markers[1]), (sep,), meta["doc_maxlen"]),
        expansion=Expansion(tokenizer.mask_token_id, attended=bool(meta["attend_to_mask_tokens"])),
        pad_id=tokenizer.pad_token_id,
        # colbert-ai drops the padding id wherever it stands, as it does punctuation
        skip_ids=tuple(sorted(skip | {tokenizer.pad_token_id})),
        normalize=True,
    )


def _check_kind(folder: Path) -> None:
    data = _json_object(folder / "config.json")
    if data.get("model_type", KIND) != KIND:
        raise CheckpointError(
            f"{folder}: config.json says model_type {data['model_type']!r}, {BACKBONE}* needs {KIND!r}"
        )


def _metadata(folder: Path) -> dict[str, Any]:
    """What artifact.metadata states: lengths and markers among them."""
    path = folder / "artifact.metadata"
    return _json_object(path) if path.exists() else {}


def _json_object(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON: {error}. Restore it from the checkpoint") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return data


def _marker(folder: Path, tokenizer: Any, token: object) -> int:
    marker = tokenizer.convert_tokens_to_ids(token) if isinstance(token, str) else None
    if marker is None or marker == tokenizer.unk_token_id:
        raise CheckpointError(f"{folder}: the marker {token!r} is not in the tokenizer's vocabulary")
    return int(marker)


def _first_id(tokenizer: Any, symbol: str) -> int:
    return int(tokenizer.backend_tokenizer.encode(symbol, add_special_tokens=False).ids[0])
