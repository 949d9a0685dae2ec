"""A checkpoint's tokenizer, as its files have it, whatever the installed transformers would make of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from colbert_rerank.errors import CheckpointError

FILES = ("tokenizer.json", "vocab.txt", "sentencepiece.bpe.model")
SPECIAL = ("cls", "sep", "mask", "pad", "unk")
# Encoded once per load: a tokenizer that treats any of these differently is another tokenizer.
PROBES = (
    "What is late interaction?",
    "Ünïcode, CASE & accents: naïve café, ÅNGSTRÖM",
    "numbers 3.14 1,000 2024-01-31; C++ e-mail@host snake_case",
    "東京 Москва القاهرة 😀 \t newline\n [MASK] [SEP] [unused1]",
    "pneumonoultramicroscopicsilicovolcanoconiosis antidisestablishmentarianism",
)
# What tokenizer_config.json may say of a normalizer that tokenizer.json holds, by the names of each.
_TWICE = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}


def load_tokenizer(folder: Path, config: Mapping[str, Any]) -> Any:
    """The fast tokenizer, which neither cuts nor pads; ``config`` is tokenizer_config.json.

    ``tokenizer.json`` is taken at its word. transformers 5 makes the tokenizers of some classes anew from the
    vocabulary in it, so that what else it says would be lost. Raises CheckpointError.
    """
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer, BertTokenizerFast, PreTrainedTokenizerFast

    whole = (folder / "tokenizer.json").exists()
    if not any((folder / name).exists() for name in FILES):  # transformers would make an empty one
        raise CheckpointError(f"{folder}: no tokenizer here; expected one of {', '.join(FILES)}")
    # a vocab.txt alone is of word pieces, whatever config.json calls the network
    kind = BertTokenizerFast if (folder / "vocab.txt").exists() and not whole else AutoTokenizer
    try:
        made = kind.from_pretrained(folder, use_fast=True, trust_remote_code=False)
        if whole:
            backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
            _check_agreement(folder, json.loads(backend.to_str())["normalizer"], config)
            special = {f"{name}_token": getattr(made, f"{name}_token", None) for name in SPECIAL}
            known, made = (
                made,
                PreTrainedTokenizerFast(
                    tokenizer_object=backend, **{name: token for name, token in special.items() if token is not None}
                ),
            )
            if added := sorted(known.get_vocab().keys() ^ made.get_vocab().keys()):
                raise CheckpointError(
                    f"{folder}: tokenizer.json and tokenizer_config.json have other tokens, among them {added[:5]}"
                )
        # A tokenizer.json may say how its texts were cut and padded in training; here the EncoderSpec alone says so.
        made.backend_tokenizer.no_truncation()
        made.backend_tokenizer.no_padding()
    except CheckpointError:
        raise
    except Exception as error:  # tokenizers has no class of errors of its own
        raise CheckpointError(f"{folder}: no usable tokenizer: {error}") from None
    return made


def _check_agreement(folder: Path, normalizer: Any, config: Mapping[str, Any]) -> None:
    """Of two files that say the same thing differently, none can be followed."""
    if not isinstance(normalizer, dict) or normalizer.get("type") != "BertNormalizer":
        return
    for ours, theirs in _TWICE.items():
        if config.get(ours) is not None and config[ours] != normalizer.get(theirs):
            raise CheckpointError(
                f"{folder}: tokenizer_config.json says {ours} {config[ours]!r}, tokenizer.json {theirs} "
                f"{normalizer.get(theirs)!r}"
            )


def special_id(folder: object, tokenizer: Any, name: str) -> int:
    """The id of a tokenizer's ``cls``, ``sep``, ``mask`` or ``pad`` token. Raises CheckpointError where it has none."""
    found = getattr(tokenizer, f"{name}_token_id", None)
    if found is None or found == tokenizer.unk_token_id:
        token = getattr(tokenizer, f"{name}_token", None)
        raise CheckpointError(f"{folder}: the tokenizer's {name}_token {token!r} is no token of its vocabulary")
    return int(found)


def assumed(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """What no file says of a tokenizer that is a list of word pieces."""
    listed = (folder / "vocab.txt").exists() and not (folder / "tokenizer.json").exists()
    return {"do_lower_case": "True, BERT's default"} if listed and "do_lower_case" not in config else {}


def tokenizer_hash(tokenizer: Any) -> str:
    """Of the ids of `PROBES`, and of all tokens by their ids."""
    encodings = tokenizer.backend_tokenizer.encode_batch(list(PROBES), add_special_tokens=False)
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    known = repr(([e.ids for e in encodings], vocabulary))
    return hashlib.blake2b(known.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
