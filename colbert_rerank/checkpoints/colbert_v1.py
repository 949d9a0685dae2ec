"""Weights of the ColBERT v1 code: converted (vespa-engine's col-minilm, colbert-medium), or as training left them.

Rules from the branch colbertv1 of the authors' repository (colbert/modeling, colbert/utils/parser.py). A ``.dnn`` file
(vjeronymo2/mColBERT) holds the state of training, its arguments among it, and neither tokenizer nor config.json: they
are those of the model that was trained. v1 looks its markers up as [unused0] and [unused1], and then insists on the
ids 1 and 2. A vocabulary without [unused0], such as that of multilingual BERT, makes [UNK] of it, so whoever trained
one changed either the names or the check: what training changed in the embeddings tells which.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from colbert_rerank.checkpoints import bert_colbert
from colbert_rerank.checkpoints.files import Files
from colbert_rerank.checkpoints.hf_colbert import METADATA
from colbert_rerank.checkpoints.layout import Built, Choices, holds
from colbert_rerank.checkpoints.location import locate
from colbert_rerank.errors import CheckpointError

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)

NAME = "ColBERT v1"
DNN = "**/*.dnn"
MARKERS = ("[unused0]", "[unused1]")
V1_IDS = (1, 2)
WORDS = bert_colbert.BACKBONE + "embeddings.word_embeddings.weight"
DEFAULTS: dict[str, Any] = {
    "query_maxlen": 32,
    "doc_maxlen": 180,
    "mask_punctuation": True,
    "similarity": "cosine",
    "attend_to_mask_tokens": False,  # v1 has no such choice
}
# By the size of its vocabulary, the model that a .dnn was trained from.
BASES = {105879: "google-bert/bert-base-multilingual-uncased", 30522: "google-bert/bert-base-uncased"}


def matches(files: Files) -> bool:
    if not files.has_weights:
        return any(files.folder.glob(DNN))
    return (
        bert_colbert.is_bert_colbert(files.tensors)
        and files.config.get("architectures") == ["ColBERT"]
        and not files.has(METADATA)
    )


def build(files: Files, choices: Choices) -> Built:
    if files.has_weights:
        stated: dict[str, Any] = {}
        tensors, where = files.tensors, files
    else:
        tensors, stated = _training_state(files)
        where = Files(locate(choices.base or _base(files, tensors)))
    assumed = {key: f"{value!r}, v1's usage" for key, value in DEFAULTS.items() if key not in stated}
    if where is files:
        query, document = (bert_colbert.marker(files.folder, files.tokenizer, token) for token in MARKERS)
        assumed["markers"] = f"{' and '.join(MARKERS)}, v1's usage"
    else:
        query, document = (int(where.tokenizer.convert_tokens_to_ids(token)) for token in MARKERS)
        assumed["tokenizer and config.json"] = f"those of {where.folder.name}"
        if where.has_weights:
            query, document = _trained_markers(tensors, where, (query, document))
            assumed["markers"] = f"{query} and {document}, whose embeddings training changed"
        elif query == where.tokenizer.unk_token_id:
            assumed["markers"] = f"{query} and {document}, as v1 looks them up; the weights of the base would tell"
            _log.warning("%s: markers: %s", files.folder, assumed["markers"])
    return bert_colbert.build(
        files, tensors, where, DEFAULTS | stated, (query, document), f"a {NAME} checkpoint", assumed
    )


def _trained_markers(tensors: Mapping[str, torch.Tensor], base: Files, looked_up: tuple[int, int]) -> tuple[int, int]:
    """Those ids whose embeddings training changed: v1's own, or what v1 makes of the vocabulary.

    A row that no text leads to is left as it was in the base, to the bit.
    """
    before = base.tensors.get(WORDS, base.tensors.get(WORDS.removeprefix(bert_colbert.BACKBONE)))
    after = tensors[WORDS]
    if before is None or before.shape != after.shape:
        raise CheckpointError(f"{base.folder}: its {WORDS} is not that of the model the .dnn was trained from")
    changed = (before.float() != after.float()).any(dim=1)
    if changed.all():
        raise CheckpointError(
            f"{base.folder}: not one row of its {WORDS} is that of the .dnn, which was trained from another model"
        )
    unknown = base.tokenizer.unk_token_id
    for markers in (V1_IDS, looked_up) if unknown in looked_up else (looked_up,):
        if changed[list(markers)].all():
            return markers
    raise CheckpointError(
        f"{base.folder}: training changed neither the embeddings of the ids {V1_IDS} nor those of {looked_up}, so it "
        "is not the model that the .dnn was trained from"
    )


def _training_state(files: Files) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The model's tensors in the one ``.dnn`` file, without the optimizer's, and what its arguments state."""
    found = sorted(files.folder.glob(DNN))
    if len(found) > 1:
        names = ", ".join(str(path.relative_to(files.folder)) for path in found[:3])
        raise CheckpointError(f"{files.folder}: {len(found)} .dnn files ({names}); give the folder of one of them")
    state = files.unpickle(str(found[0].relative_to(files.folder)))
    try:
        tensors = {name.removeprefix("module."): tensor for name, tensor in state["model_state_dict"].items()}
        arguments = dict(state.get("arguments") or {})
    except (TypeError, KeyError, AttributeError, ValueError):
        raise CheckpointError(f"{found[0]}: not what ColBERT v1 saves in training: no model_state_dict") from None
    if not holds(tensors, bert_colbert.PROJECTION, bert_colbert.BACKBONE):
        raise CheckpointError(f"{found[0]}: no {bert_colbert.PROJECTION} beside {bert_colbert.BACKBONE}* tensors")
    return tensors, {key: arguments[key] for key in DEFAULTS if key in arguments}


def _base(files: Files, tensors: dict[str, torch.Tensor]) -> str:
    size = len(tensors[WORDS])
    if size not in BASES:
        raise CheckpointError(
            f"{files.folder}: it has no tokenizer, and {size:,} word pieces are of no model known here. Give the model "
            "it was trained from: --base NAME"
        )
    return BASES[size]
