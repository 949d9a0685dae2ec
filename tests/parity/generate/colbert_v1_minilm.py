"""ColBERT v1 weights in a transformers folder, as in vespa-engine/col-minilm and vespa-engine/colbert-medium.

    python3.10 -m venv VENV && VENV/bin/pip install -r colbert_v1_minilm.requirements.txt
    VENV/bin/python colbert_v1_minilm.py

``config.json`` says ``ColBERT``; there is no ``artifact.metadata`` and no safetensors file. Two goldens: the checkpoint
does not say whether punctuation keeps its rows, so there is one for either. The first one holds a second set of
documents as well, made in the way of Vespa's ``ColBertEmbedder``, which drops punctuation before it encodes.

``tokenizer.json`` knows [unused0] and [unused1] as special tokens, as that of col-minilm does. v1 itself reads the
tokeniser of bert-base-uncased, which does not: ``without_special_markers`` in the settings gives the ids of the texts
in which that makes a difference.
"""

from __future__ import annotations

import json
import string
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import torch
from colbert_v1 import (
    PACKAGES,
    Arguments,
    ColBERT,
    encode_documents,
    encode_queries,
    project,
    score,
    settings,
    tensorize_documents,
    tensorize_queries,
)
from golden import CHECKPOINTS, Encoded, Texts, record, texts, write
from torch.nn.functional import normalize
from transformers import BertTokenizerFast
from weights import bert_colbert, bert_config
from wordpieces import ENGLISH, write_vocabulary

NAME = "colbert_v1_minilm"
DIM = 16
CONFIG = bert_config(len(ENGLISH))

Tensorize = Callable[[ColBERT, list[str]], tuple[torch.Tensor, torch.Tensor]]


def main() -> None:
    folder = CHECKPOINTS / NAME
    plain = BertTokenizerFast(vocab_file=str(write_vocabulary(folder, ENGLISH)), do_lower_case=True)
    state = bert_colbert(3, len(ENGLISH), DIM)
    write_checkpoint(folder, state)
    tokenizer = BertTokenizerFast.from_pretrained(folder)
    queries, documents = texts()
    for name, mask_punctuation in ((NAME, False), (f"{NAME}_mask_punctuation", True)):
        model = ColBERT(CONFIG, state, tokenizer, Arguments(mask_punctuation=mask_punctuation))
        if (model.query_marker_id, model.document_marker_id) != (1, 2):
            raise SystemExit("v1 asserts the markers' ids")
        Q = encode_queries(model, queries)
        D, _ = encode_documents(model, documents)
        encoded = {"queries": Q, "documents": D}
        scores = {"scores": score(model, Q[1], D[1])}
        if not mask_punctuation:
            encoded["vespa_documents"] = encode_as_vespa(model, documents)
            scores["vespa_scores"] = score(model, Q[1], encoded["vespa_documents"][1])
        unmarked = ColBERT(CONFIG, state, plain, model.arguments)
        write(
            name,
            folders=(NAME,),
            packages=PACKAGES,
            settings={
                **settings(model),
                "punctuation_ids": sorted(punctuation_ids(model)),
                "without_special_markers": {
                    "queries": differing(model, unmarked, queries, tensorize_queries),
                    "documents": differing(model, unmarked, documents, tensorize_documents),
                },
            },
            encoded=encoded,
            scores=scores,
        )


def write_checkpoint(folder: Path, state: dict[str, torch.Tensor]) -> None:
    config = {"architectures": ["ColBERT"], **CONFIG, "transformers_version": "4.4.2", "use_cache": True}
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{\n  "do_lower_case": true\n}', encoding="utf-8")
    marked = BertTokenizerFast(vocab_file=str(folder / "vocab.txt"), do_lower_case=True)
    marked.add_special_tokens({"additional_special_tokens": ["[unused0]", "[unused1]"]})
    marked.backend_tokenizer.save(str(folder / "tokenizer.json"))
    torch.save(OrderedDict(state), folder / "pytorch_model.bin")


def punctuation_ids(model: ColBERT) -> set[int]:
    """Vespa's PUNCTUATION_TOKEN_IDS; its numbers are those of ``string.punctuation`` in bert-base-uncased."""
    return set(model.tokenizer.convert_tokens_to_ids(list(string.punctuation)))


def encode_as_vespa(model: ColBERT, named: Texts) -> Encoded:
    """vespa-engine/vespa, ColBertEmbedder.java, ``embedDocument``, as of 0a5a588.

    It tokenises without special tokens, drops the ids of punctuation, cuts to the maximal length less three, and adds
    [CLS], the marker and [SEP]. One document is encoded at a time, and each of its rows is kept. Vespa's own maximal
    length is 512; here it is that of v1.
    """
    records, rows = [], []
    punctuation = punctuation_ids(model)
    tokenizer = model.tokenizer
    for name, text in named.items():
        found = tokenizer(text, add_special_tokens=False, truncation=True, max_length=512)["input_ids"]
        kept = [i for i in found if i not in punctuation][: model.arguments.doc_maxlen - 3]
        ids = [tokenizer.cls_token_id, model.document_marker_id, *kept, tokenizer.sep_token_id]
        batch = torch.tensor([ids])
        [d] = normalize(project(model, batch, torch.ones_like(batch)), p=2, dim=2)
        records.append(record(name, text, ids, len(ids), d))
        rows.append(d)
    return records, rows


def differing(one: ColBERT, other: ColBERT, named: Texts, tensorize: Tensorize) -> dict[str, list[int]]:
    """By name of the text, the ids that ``other`` gives where they are not those of ``one``."""
    found = {}
    for name, text in named.items():
        ids = tensorize(other, [text])[0][0]
        if not torch.equal(ids, tensorize(one, [text])[0][0]):
            found[name] = ids.tolist()
    return found


if __name__ == "__main__":
    main()
