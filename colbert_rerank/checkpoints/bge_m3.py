"""BAAI/bge-m3: XLM-RoBERTa with ``colbert_linear.pt``, a projection with a bias.

Rules from FlagEmbedding (inference/embedder/encoder_only/m3.py, finetune/embedder/encoder_only/m3/modeling.py): no
markers, no expansion, no skip list; the row of <s> is dropped and that of </s> kept; vectors are L2-normalised, and the
query's maxima are averaged.
"""

from __future__ import annotations

from colbert_rerank.checkpoints.files import Files
from colbert_rerank.checkpoints.layout import Built, Choices, fill, linear
from colbert_rerank.checkpoints.spec import EncoderSpec, TextRules
from colbert_rerank.errors import CheckpointError

NAME = "bge-m3"
KIND = "xlm-roberta"
HEAD = "colbert_linear.pt"
LENGTH = 512  # FlagEmbedding's default


def matches(files: Files) -> bool:
    return files.has(HEAD)


def build(files: Files, choices: Choices) -> Built:
    from transformers import XLMRobertaConfig, XLMRobertaModel

    folder, tokenizer = files.folder, files.tokenizer
    if files.config.get("model_type") != KIND:
        raise CheckpointError(
            f"{folder}: {HEAD} belongs to {KIND}, config.json says {files.config.get('model_type')!r}"
        )
    config = XLMRobertaConfig.from_pretrained(folder)
    tensors = files.load(HEAD)
    if tensors.keys() != {"weight", "bias"}:
        raise CheckpointError(f"{folder}: {HEAD} holds {sorted(tensors)}, expected weight and bias")
    head = linear(tensors["weight"], tensors["bias"], config.hidden_size, folder, HEAD)
    backbone = XLMRobertaModel(config, add_pooling_layer=False)
    ours = {n: t for n, t in files.tensors.items() if not n.startswith(("pooler.", "embeddings.position_ids"))}
    fill(backbone, ours, folder, NAME)
    positions = config.max_position_embeddings - config.pad_token_id - 1
    rules = TextRules((tokenizer.cls_token_id,), (tokenizer.sep_token_id,), min(LENGTH, positions))
    spec = EncoderSpec(
        dim=len(tensors["weight"]),
        query=rules,
        document=rules,
        expansion=None,
        pad_id=tokenizer.pad_token_id,
        skip_ids=(),
        normalize=True,
        aggregation="mean",
        first_row=1,
    )
    named = {f"colbert_linear.{n}": t for n, t in tensors.items()}
    assumed = f"lengths {rules.length}, FlagEmbedding's default; the model reads {positions:,} tokens"
    return Built(spec, tokenizer, positions, backbone, head, ours | named, (assumed,))
