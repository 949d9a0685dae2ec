"""What the layouts of the ColBERT code share: ``bert.*`` (or, of jina-colbert-v2, ``roberta.*``) tensors beside
``linear.weight`` [dim, hidden] without bias.

The rules are those of the authors' code, v1 and v2 alike (colbert/modeling): the marker stands at position 1; a query
is filled with [MASK] to its length; document rows of punctuation may be dropped; vectors are L2-normalised.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from colbert_rerank.checkpoints.files import Files
from colbert_rerank.checkpoints.layout import Built, check_lengths, fill, flag, holds, linear, unstated
from colbert_rerank.checkpoints.spec import EncoderSpec, Expansion, TextRules
from colbert_rerank.errors import CheckpointError

if TYPE_CHECKING:
    import torch

BACKBONE = "bert."
ROTARY = "roberta."
PROJECTION = "linear.weight"
# Tensors that other tasks of the same backbone leave behind; the authors' code ignores them as well.
IGNORED = ("cls.", "bert.pooler.", "roberta.pooler.", "bert.embeddings.position_ids")


def is_bert_colbert(tensors: Mapping[str, torch.Tensor]) -> bool:
    return holds(tensors, PROJECTION, BACKBONE) or holds(tensors, PROJECTION, ROTARY)


def no_projection(files: Files) -> CheckpointError:
    """For weights in which nothing makes token vectors of hidden states."""
    tensors = files.tensors
    return CheckpointError(
        f"{files.folder}: no token projection ({PROJECTION}) beside {BACKBONE}* tensors; found {len(tensors)} tensors, "
        f"among them {sorted(tensors)[:3] + sorted(tensors)[-3:]}. A plain BERT or a dense retriever has no token "
        "projection and cannot be used."
    )


def first_of_punctuation(tokenizer: Any) -> set[int]:
    """The first id of each ASCII punctuation mark, as the authors' skip list has it."""
    encode = tokenizer.backend_tokenizer.encode
    return {int(encode(symbol, add_special_tokens=False).ids[0]) for symbol in string.punctuation}


def decoded_punctuation(tokenizer: Any) -> set[int]:
    """The ids that stand for one ASCII punctuation mark, with a space before it or without.

    Of word pieces they are those of ``first_of_punctuation``. SentencePiece begins a text with a space, which is often
    a token of its own: the authors' rule then drops the space and keeps the mark.
    """
    backend = tokenizer.backend_tokenizer
    texts = backend.decode_batch([[i] for i in range(backend.get_vocab_size())], skip_special_tokens=False)
    return {i for i, text in enumerate(texts) if text.strip() in set(string.punctuation)}


def build(
    files: Files,
    tensors: Mapping[str, torch.Tensor],
    base: Files,
    settings: Mapping[str, Any],
    markers: tuple[int, int],
    layout: str,
    assumed: Mapping[str, str],
    skip_list: Callable[[Any], set[int]] = first_of_punctuation,
) -> Built:
    """From ``tensors`` of ``files``; tokenizer and config.json are those of ``base``, ``settings`` as colbert-ai names
    them: query_maxlen, doc_maxlen, mask_punctuation, attend_to_mask_tokens, similarity.
    ``skip_list`` finds the ids of punctuation in a tokenizer."""
    folder = files.folder
    prefix = BACKBONE if holds(tensors, PROJECTION, BACKBONE) else ROTARY
    backbone, config, positions = _bert(tensors, base) if prefix == BACKBONE else _rotary(base)
    head = linear(tensors[PROJECTION], None, config.hidden_size, folder, PROJECTION)
    skip = skip_list(base.tokenizer) if flag(folder, settings, "mask_punctuation") else set()
    spec = _spec(files, base, settings, markers, skip, len(tensors[PROJECTION]), positions)
    assumed = {**assumed, **unstated(base, config)}
    if prefix == ROTARY and not hasattr(config, "rotary_emb_base"):
        assumed = {**assumed, "rotary_emb_base": "10000, the default of the authors' code"}
    ours = {n: t for n, t in tensors.items() if not n.startswith(IGNORED)}
    fill(backbone, {n: t for n, t in ours.items() if n != PROJECTION}, folder, layout, prefix)
    return Built(spec, base.tokenizer, positions, backbone, head, ours, {**assumed, **base.tokenizer_assumed})


def _bert(tensors: Mapping[str, torch.Tensor], base: Files) -> tuple[torch.nn.Module, Any, int]:
    """The network without its weights, its config, and how many tokens it reads."""
    from transformers import BertConfig, BertModel

    from colbert_rerank.checkpoints.alibi_bert import GATED, AlibiBert

    _check_kind(base, "model_type", "bert", BACKBONE)
    config = BertConfig.from_pretrained(base.folder)
    if BACKBONE + GATED not in tensors:
        _check_kind(base, "position_embedding_type", "absolute", BACKBONE)
        return BertModel(config, add_pooling_layer=False), config, config.max_position_embeddings
    for key, needed in (("hidden_act", "gelu"), ("position_embedding_type", "alibi"), ("feed_forward_type", "geglu")):
        _check_kind(base, key, needed, BACKBONE)  # jina-colbert-v1: config.json calls it "bert", too
    return AlibiBert(config), config, config.max_position_embeddings


def _rotary(base: Files) -> tuple[torch.nn.Module, Any, int]:
    from transformers import XLMRobertaConfig

    from colbert_rerank.checkpoints.rotary_roberta import RotaryRoberta

    _check_kind(base, "model_type", "xlm-roberta", ROTARY)
    config = XLMRobertaConfig.from_pretrained(base.folder)
    fixed = {"position_embedding_type": "rotary", "hidden_act": "gelu", "rotary_emb_interleaved": False}
    fixed |= {"rotary_emb_dim": config.hidden_size // config.num_attention_heads}
    for key, needed in fixed.items():
        _check_kind(base, key, needed, ROTARY)
    return RotaryRoberta(config), config, config.max_position_embeddings - config.pad_token_id - 1


def _check_kind(base: Files, key: str, needed: object, prefix: str) -> None:
    """What config.json says of the network must be what is built here, as far as it says something."""
    found = base.config.get(key)
    if found is not None and found != needed:
        raise CheckpointError(f"{base.folder}: config.json says {key} {found!r}, {prefix}* needs {needed!r}")


def _spec(
    files: Files,
    base: Files,
    settings: Mapping[str, Any],
    markers: tuple[int, int],
    skip: set[int],
    dim: int,
    positions: int,
) -> EncoderSpec:
    folder, tokenizer = files.folder, base.tokenizer
    if settings["similarity"] not in ("cosine", "l2"):
        raise CheckpointError(f"{folder}: unknown similarity {settings['similarity']!r}, expected cosine or l2")
    if settings.get("dim", dim) != dim:
        raise CheckpointError(f"{folder}: dim is said to be {settings['dim']}, {PROJECTION} has {dim}")
    check_lengths(folder, {key: settings[key] for key in ("query_maxlen", "doc_maxlen")}, positions)
    check_empty_text(folder, tokenizer)
    cls, sep, pad = (base.special_id("cls"),), (base.special_id("sep"),), base.special_id("pad")
    return EncoderSpec(
        dim=dim,
        query=TextRules((*cls, markers[0]), sep, settings["query_maxlen"]),
        document=TextRules((*cls, markers[1]), sep, settings["doc_maxlen"]),
        expansion=Expansion(base.special_id("mask"), attended=flag(folder, settings, "attend_to_mask_tokens")),
        pad_id=pad,
        # the authors' code drops the padding id wherever it stands, as it does punctuation
        skip_ids=tuple(sorted(skip | {pad})),
        normalize=True,
        similarity=settings["similarity"],
    )


def check_empty_text(folder: object, tokenizer: Any) -> None:
    """Raises CheckpointError where the tokenizer does not put a text between [CLS] and [SEP]."""
    rendered = tokenizer.backend_tokenizer.encode("", add_special_tokens=True).ids
    if rendered != [tokenizer.cls_token_id, tokenizer.sep_token_id]:
        raise CheckpointError(f"{folder}: the tokenizer renders an empty text as {rendered}, expected [CLS] [SEP]")


def marker(folder: object, tokenizer: Any, token: object) -> int:
    """The id of a marker's token. Raises CheckpointError where the vocabulary lacks it."""
    found = tokenizer.convert_tokens_to_ids(token) if isinstance(token, str) else None
    if found is None or found == tokenizer.unk_token_id:
        raise CheckpointError(f"{folder}: the marker {token!r} is not in the tokenizer's vocabulary")
    return int(found)
