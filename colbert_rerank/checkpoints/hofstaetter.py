"""sebastian-hofstaetter/colbert-distilbert-margin_mse-T2-msmarco: DistilBERT and a compressor, no normalisation.

Rules from the authors' minimal_colbert_usage_example.ipynb: no markers; 8 [MASK] follow a query's [SEP], with attention
1; every row is kept; the score is the sum of the greatest dot products.
"""

from __future__ import annotations

from colbert_rerank.checkpoints.bert_colbert import check_empty_text
from colbert_rerank.checkpoints.files import Files
from colbert_rerank.checkpoints.layout import Built, Choices, fill, holds, linear
from colbert_rerank.checkpoints.spec import EncoderSpec, Expansion, TextRules
from colbert_rerank.errors import CheckpointError

NAME = "ColBERT of Hofstätter et al."
BACKBONE = "bert_model."
PROJECTION = "compressor.weight"
BIAS = "compressor.bias"
MASKS = 8
# Of training, without the masks; the example cuts where the tokenizer does.
QUERY_LENGTH, DOCUMENT_LENGTH = 30, 200


def matches(files: Files) -> bool:
    return files.has_weights and holds(files.tensors, PROJECTION, BACKBONE)


def build(files: Files, choices: Choices) -> Built:
    from transformers import DistilBertConfig, DistilBertModel

    folder, tensors, tokenizer = files.folder, files.tensors, files.tokenizer
    config = DistilBertConfig()  # config.json only names distilbert-base-uncased; sizes are those of the tensors
    config.vocab_size, config.dim = tensors[BACKBONE + "embeddings.word_embeddings.weight"].shape
    config.max_position_embeddings = len(tensors[BACKBONE + "embeddings.position_embeddings.weight"])
    layers = {int(n.split(".")[3]) for n in tensors if n.startswith(BACKBONE + "transformer.layer.")}
    config.n_layers = len(layers)
    config.hidden_dim = len(tensors[BACKBONE + "transformer.layer.0.ffn.lin1.weight"])
    if BIAS not in tensors:
        raise CheckpointError(f"{folder}: {PROJECTION} without {BIAS}, which the authors' model has")
    stated = files.config.get("compression_dim", len(tensors[PROJECTION]))
    if stated != len(tensors[PROJECTION]):
        raise CheckpointError(f"{folder}: config.json says compression_dim {stated}, {PROJECTION} has another")
    head = linear(tensors[PROJECTION], tensors[BIAS], config.dim, folder, PROJECTION)
    backbone = DistilBertModel(config)
    check_empty_text(folder, tokenizer)
    ours = {n: t for n, t in tensors.items() if n not in (PROJECTION, BIAS)}
    fill(backbone, ours, folder, NAME, BACKBONE)
    cls, sep = (files.special_id("cls"),), (files.special_id("sep"),)
    spec = EncoderSpec(
        dim=len(tensors[PROJECTION]),
        query=TextRules(cls, sep, QUERY_LENGTH),
        document=TextRules(cls, sep, DOCUMENT_LENGTH),
        expansion=Expansion(files.special_id("mask"), attended=True, count=MASKS),
        pad_id=files.special_id("pad"),
        skip_ids=(),
        normalize=False,
        similarity="dot",
    )
    assumed = {
        "query_length": f"{QUERY_LENGTH}, before the {MASKS} [MASK], as in training",
        "document_length": f"{DOCUMENT_LENGTH}, as in training",
        "attention heads": f"{config.n_heads}, DistilBERT's",
    }
    return Built(spec, tokenizer, config.max_position_embeddings, backbone, head, tensors, assumed)
