"""BAAI/bge-m3: XLM-RoBERTa with ``colbert_linear.pt``, a projection with a bias; bge-m3-unsupervised has none.

Rules from FlagEmbedding (inference/embedder/encoder_only/m3.py, finetune/embedder/encoder_only/m3/modeling.py): no
markers, no expansion, no skip list; the row of <s> is dropped and that of </s> kept; vectors are L2-normalised, and the
query's maxima are averaged.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from colbert_rerank.checkpoints.files import Files
from colbert_rerank.checkpoints.layout import Built, Choices, fill, linear, unstated
from colbert_rerank.checkpoints.spec import EncoderSpec, TextRules
from colbert_rerank.errors import CheckpointError

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)

NAME = "bge-m3"
KIND = "xlm-roberta"
HEAD = "colbert_linear.pt"
LENGTH = 512  # FlagEmbedding's default


def matches(files: Files) -> bool:
    return files.has(HEAD) or (files.has("config.json") and files.config.get("model_type") == KIND)


def build(files: Files, choices: Choices) -> Built:
    from transformers import XLMRobertaConfig, XLMRobertaModel

    folder, tokenizer = files.folder, files.tokenizer
    if files.config.get("model_type") != KIND:
        raise CheckpointError(
            f"{folder}: {HEAD} belongs to {KIND}, config.json says {files.config.get('model_type')!r}"
        )
    config = XLMRobertaConfig.from_pretrained(folder)
    head, tensors, dim = _head(files, config.hidden_size, choices)
    backbone = XLMRobertaModel(config, add_pooling_layer=False)
    ours = {n: t for n, t in files.tensors.items() if not n.startswith(("pooler.", "embeddings.position_ids"))}
    fill(backbone, ours, folder, NAME)
    positions = config.max_position_embeddings - config.pad_token_id - 1
    rules = TextRules((files.special_id("cls"),), (files.special_id("sep"),), min(LENGTH, positions))
    spec = EncoderSpec(
        dim=dim,
        query=rules,
        document=rules,
        expansion=None,
        pad_id=files.special_id("pad"),
        skip_ids=(),
        normalize=True,
        aggregation="mean",
        first_row=1,
    )
    named = {f"colbert_linear.{n}": t for n, t in tensors.items()}
    why = (
        "FlagEmbedding's default" if positions >= LENGTH else f"all that it reads; FlagEmbedding's default is {LENGTH}"
    )
    assumed = {f"{side}_length": f"{rules.length}, {why}" for side in ("query", "document")} | unstated(files, config)
    if not tensors:
        assumed["projection"] = "identity, as was asked for: the token vectors were never trained to be compared"
        _log.warning("%s: projection: %s", folder, assumed["projection"])
    return Built(spec, tokenizer, positions, backbone, head, ours | named, assumed)


def _head(files: Files, hidden: int, choices: Choices) -> tuple[torch.nn.Module, dict[str, torch.Tensor], int]:
    """The projection, its tensors and its dimensions."""
    import torch

    if not files.has(HEAD):
        if choices.projection != "identity":
            raise CheckpointError(
                f"{files.folder}: {HEAD} is missing. That of BAAI/bge-m3 has to lie beside the weights; "
                "BAAI/bge-m3-unsupervised has no trained token projection. To rank by its hidden states all the same, "
                "which no one trained for that, choose --projection identity"
            )
        return torch.nn.Identity(), {}, hidden
    tensors = files.load(HEAD)
    if tensors.keys() != {"weight", "bias"}:
        raise CheckpointError(f"{files.folder}: {HEAD} holds {sorted(tensors)}, expected weight and bias")
    return linear(tensors["weight"], tensors["bias"], hidden, files.folder, HEAD), tensors, len(tensors["weight"])
