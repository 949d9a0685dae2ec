"""The HF_ColBERT layout of colbert-ai (v2): colbertv2.0, answerai-colbert-small, jina-colbert-v1 and v2.

What ``artifact.metadata`` does not state is colbert-ai's default (colbert/infra/config/settings.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from colbert_rerank.checkpoints import bert_colbert
from colbert_rerank.checkpoints.files import Files
from colbert_rerank.checkpoints.layout import Built, Choices, defaults_of
from colbert_rerank.errors import CheckpointError

NAME = "HF_ColBERT"
METADATA = "artifact.metadata"
MEANT = {"interaction": "colbert", "relu": False}  # other values are other ways to score
DEFAULTS: dict[str, Any] = {
    "query_token_id": "[unused0]",
    "doc_token_id": "[unused1]",
    "query_maxlen": 32,
    "doc_maxlen": 220,
    "mask_punctuation": True,
    "attend_to_mask_tokens": False,
    "similarity": "cosine",
}


def matches(files: Files) -> bool:
    return files.has_weights and bert_colbert.is_bert_colbert(files.tensors)


def build(files: Files, choices: Choices) -> Built:
    stated = files.json(METADATA, default={})
    settings = DEFAULTS | stated
    for key, meant in MEANT.items():
        if stated.get(key, meant) != meant:
            raise CheckpointError(f"{files.folder}: {METADATA} says {key} {stated[key]!r}, which is not MaxSim")
    assumed = defaults_of(files, METADATA, stated, DEFAULTS, "colbert-ai")
    markers = marker_ids(files, settings)
    if "mask_punctuation" in stated:
        skip_list = bert_colbert.first_of_punctuation  # quirks included: its authors' scores have them
    else:
        skip_list = bert_colbert.decoded_punctuation
        assumed["mask_punctuation"] = "True, colbert-ai's default, of every token that decodes to a punctuation mark"
    layout = f"an {NAME} checkpoint"
    return bert_colbert.build(files, files.tensors, files, settings, markers, layout, assumed, skip_list)


def marker_ids(files: Files, settings: Mapping[str, Any]) -> tuple[int, int]:
    """Of queries, and of documents."""
    query, document = (
        bert_colbert.marker(files.folder, files.tokenizer, settings[key]) for key in ("query_token_id", "doc_token_id")
    )
    return query, document
