"""A plain BERT with a fresh projection: where training begins. Nothing that it ranks means anything.

The rules are HF_ColBERT's, with colbert-ai's defaults.
"""

from __future__ import annotations

from colbert_rerank.checkpoints import bert_colbert
from colbert_rerank.checkpoints.files import Files
from colbert_rerank.checkpoints.hf_colbert import DEFAULTS, marker_ids
from colbert_rerank.checkpoints.layout import Built, Choices

NAME = "untrained"
DIM = 128
SEED = 0


def matches(files: Files) -> bool:
    """A BERT; of what has a projection the other layouts have thought before."""
    return files.has("config.json") and files.config.get("model_type") == "bert" and files.has_weights


def build(files: Files, choices: Choices) -> Built:
    import torch

    if choices.projection != "fresh":
        raise bert_colbert.no_projection(files)
    named = files.tensors
    if not any(name.startswith(bert_colbert.BACKBONE) for name in named):  # as BertModel saves itself
        named = {bert_colbert.BACKBONE + name: tensor for name, tensor in named.items()}
    hidden = int(files.config["hidden_size"])
    drawn = torch.randn((DIM, hidden), generator=torch.Generator().manual_seed(SEED))
    head = {bert_colbert.PROJECTION: drawn * hidden**-0.5}
    assumed = {"projection": f"to {DIM} dimensions, drawn at random (seed {SEED}), to be trained"}
    settings = {**DEFAULTS, "doc_maxlen": min(DEFAULTS["doc_maxlen"], int(files.config["max_position_embeddings"]))}
    built = bert_colbert.build(files, named | head, files, settings, marker_ids(files, settings), NAME, assumed)
    return built._replace(trained=False)
