"""The HF_ColBERT layout of colbert-ai: ``bert.*`` tensors, ``linear.weight`` [dim, hidden] without bias.

Rules from colbert-ai's own code (colbert/modeling): the marker stands at position 1; a query is filled with [MASK] to
its length, with attention 0 on what was filled in; document rows of punctuation are dropped; vectors are L2-normalised.
"""

from __future__ import annotations

import string
from typing import Any

from colbert_rerank.checkpoints.files import Files
from colbert_rerank.checkpoints.layout import Built, check_lengths, fill, linear
from colbert_rerank.checkpoints.spec import EncoderSpec, Expansion, TextRules
from colbert_rerank.errors import CheckpointError

NAME = "HF_ColBERT"
KIND = "bert"
BACKBONE = "bert."
PROJECTION = "linear.weight"
METADATA = "artifact.metadata"
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


def matches(files: Files) -> bool:
    return PROJECTION in files.tensors and any(name.startswith(BACKBONE) for name in files.tensors)


def build(files: Files) -> Built:
    from transformers import BertConfig, BertModel

    from colbert_rerank.checkpoints.alibi_bert import GATED, AlibiBert

    folder, tensors = files.folder, files.tensors
    if files.config.get("model_type", KIND) != KIND:
        raise CheckpointError(
            f"{folder}: config.json says model_type {files.config['model_type']!r}, {BACKBONE}* needs {KIND!r}"
        )
    config = BertConfig.from_pretrained(folder)
    head = linear(tensors[PROJECTION], None, config.hidden_size, folder, PROJECTION)
    stated = files.json(METADATA, default={})
    spec = _spec(files, stated, len(tensors[PROJECTION]), config.max_position_embeddings)
    gated = BACKBONE + GATED in tensors  # jina-colbert-v1: config.json calls it "bert", too
    backbone = AlibiBert(config) if gated else BertModel(config, add_pooling_layer=False)
    ours = {n: t for n, t in tensors.items() if n != PROJECTION and not n.startswith(IGNORED)}
    fill(backbone, {n.removeprefix(BACKBONE): t for n, t in ours.items()}, folder, f"an {NAME} checkpoint")
    assumed = [f"{key} = {value!r}" for key, value in DEFAULTS.items() if key not in stated]
    return Built(spec, backbone, head, tensors, tuple(f"{a} (colbert-ai's default)" for a in assumed))


def _spec(files: Files, stated: dict[str, Any], dim: int, positions: int) -> EncoderSpec:
    folder, tokenizer, meta = files.folder, files.tokenizer, DEFAULTS | stated
    if meta["similarity"] not in ("cosine", "l2"):
        raise CheckpointError(f"{folder}: unknown similarity {meta['similarity']!r} in {METADATA}")
    if meta.get("dim", dim) != dim:
        raise CheckpointError(f"{folder}: {METADATA} says dim {meta['dim']}, {PROJECTION} has {dim}")
    check_lengths(folder, {key: meta[key] for key in ("query_maxlen", "doc_maxlen")}, positions)
    check_empty_text(files)
    cls, sep = (tokenizer.cls_token_id,), (tokenizer.sep_token_id,)
    markers = [marker(files, meta[key]) for key in ("query_token_id", "doc_token_id")]
    skip = punctuation(tokenizer) if meta["mask_punctuation"] else set()
    return EncoderSpec(
        dim=dim,
        query=TextRules((*cls, markers[0]), sep, meta["query_maxlen"]),
        document=TextRules((*cls, markers[1]), sep, meta["doc_maxlen"]),
        expansion=Expansion(tokenizer.mask_token_id, attended=bool(meta["attend_to_mask_tokens"])),
        pad_id=tokenizer.pad_token_id,
        # colbert-ai drops the padding id wherever it stands, as it does punctuation
        skip_ids=tuple(sorted(skip | {tokenizer.pad_token_id})),
        normalize=True,
        similarity=meta["similarity"],
    )


def check_empty_text(files: Files) -> None:
    """Raises CheckpointError where the tokenizer does not put a text between [CLS] and [SEP]."""
    tokenizer = files.tokenizer
    rendered = tokenizer.backend_tokenizer.encode("", add_special_tokens=True).ids
    if rendered != [tokenizer.cls_token_id, tokenizer.sep_token_id]:
        raise CheckpointError(
            f"{files.folder}: the tokenizer renders an empty text as {rendered}, expected [CLS] [SEP]"
        )


def marker(files: Files, token: object) -> int:
    """The id of a marker's token. Raises CheckpointError where the vocabulary lacks it."""
    tokenizer = files.tokenizer
    found = tokenizer.convert_tokens_to_ids(token) if isinstance(token, str) else None
    if found is None or found == tokenizer.unk_token_id:
        raise CheckpointError(f"{files.folder}: the marker {token!r} is not in the tokenizer's vocabulary")
    return int(found)


def punctuation(tokenizer: Any) -> set[int]:
    """The first id of each ASCII punctuation mark, as colbert-ai's skip list has it."""
    encode = tokenizer.backend_tokenizer.encode
    return {int(encode(symbol, add_special_tokens=False).ids[0]) for symbol in string.punctuation}
