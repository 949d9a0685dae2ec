"""From text to score in the way of ColBERT v1, put together again from its published code.

The code is that of stanford-futuredata/ColBERT, branch ``colbertv1`` at 706a726; each function names the file and the
function that it follows. It cannot be run itself any more: it downloads bert-base-uncased by name, reads no other
tokeniser, and needs a transformers of 2020. Where we depart from it, a comment says so.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import Any

import torch
from golden import Encoded, Texts, record
from torch.nn.functional import normalize
from transformers import BertConfig, BertModel

PACKAGES = ("torch", "transformers", "tokenizers", "numpy")


@dataclass(frozen=True)
class Arguments:
    """colbert/utils/parser.py, ``add_model_parameters``, with the defaults of that file."""

    query_maxlen: int = 32
    doc_maxlen: int = 180
    mask_punctuation: bool = False
    similarity: str = "cosine"


class ColBERT:
    """colbert/modeling/colbert.py, ``ColBERT.__init__``, with the markers of the two tokenisers."""

    def __init__(self, config: dict[str, Any], state: dict[str, torch.Tensor], tokenizer: Any, arguments: Arguments):
        torch.set_num_threads(1)
        self.arguments = arguments
        self.tokenizer = tokenizer
        # tokenization/query_tokenization.py and doc_tokenization.py, ``__init__``; they assert the ids 1 and 2, which
        # those of a multilingual vocabulary are not.
        self.query_marker_id = tokenizer.convert_tokens_to_ids("[unused0]")
        self.document_marker_id = tokenizer.convert_tokens_to_ids("[unused1]")
        self.skip_ids: set[int] = set()
        if arguments.mask_punctuation:
            self.skip_ids = {tokenizer.encode(s, add_special_tokens=False)[0] for s in string.punctuation}
        self.bert = BertModel(BertConfig.from_dict(config, attn_implementation="eager")).eval()
        found = {n.removeprefix("bert."): t for n, t in state.items() if n.startswith("bert.")}
        found.pop("embeddings.position_ids")
        self.bert.load_state_dict(found, strict=True)
        self.linear = state["linear.weight"]


def tensorize_queries(model: ColBERT, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """query_tokenization.py, ``QueryTokenizer.tensorize``: ids and mask [n, query_maxlen]."""
    ids, mask = _tokenize(model, texts, padding="max_length", max_length=model.arguments.query_maxlen)
    ids[:, 1] = model.query_marker_id
    ids[ids == 0] = model.tokenizer.mask_token_id  # the attention mask stays 0 where padding was
    return ids, mask


def tensorize_documents(model: ColBERT, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """doc_tokenization.py, ``DocTokenizer.tensorize``: ids and mask [n, longest]."""
    ids, mask = _tokenize(model, texts, padding="longest", max_length=model.arguments.doc_maxlen)
    ids[:, 1] = model.document_marker_id
    return ids, mask


def _tokenize(model: ColBERT, texts: list[str], *, padding: str, max_length: int) -> tuple[torch.Tensor, torch.Tensor]:
    # The full stop is a placeholder: the marker takes its place.
    batch = model.tokenizer(
        [f". {text}" for text in texts], padding=padding, truncation=True, max_length=max_length, return_tensors="pt"
    )
    return batch["input_ids"], batch["attention_mask"]


@torch.no_grad()
def project(model: ColBERT, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """What colbert.py, ``query`` and ``doc`` have in common: [n, length] to [n, length, dim], not normalised."""
    hidden: torch.Tensor = model.bert(ids, attention_mask=mask)[0]
    return hidden @ model.linear.T


def encode_queries(model: ColBERT, named: Texts) -> Encoded:
    """colbert.py, ``ColBERT.query``."""
    ids, mask = tensorize_queries(model, list(named.values()))
    Q = normalize(project(model, ids, mask), p=2, dim=2)
    rows = list(Q)
    records = [
        record(name, text, i.tolist(), int(m.sum()), q)
        for (name, text), i, m, q in zip(named.items(), ids, mask, rows, strict=True)
    ]
    return records, rows


def encode_documents(model: ColBERT, named: Texts) -> tuple[Encoded, torch.Tensor]:
    """colbert.py, ``ColBERT.doc`` and ``mask``: with ``keep_dims=False``, and all documents in one padded tensor.

    Without ``keep_dims`` v1 rounds the rows to float16, for its index; here they stay in float32.
    """
    ids, mask = tensorize_documents(model, list(named.values()))
    kept = torch.tensor([[i != 0 and i not in model.skip_ids for i in row] for row in ids.tolist()])
    D = normalize(project(model, ids, mask) * kept.unsqueeze(2).float(), p=2, dim=2)
    rows = [d[k] for d, k in zip(D, kept, strict=True)]
    records = [
        record(name, text, i[m.bool()].tolist(), int(m.sum()), d)
        for (name, text), i, m, d in zip(named.items(), ids, mask, rows, strict=True)
    ]
    return (records, rows), D


def score(model: ColBERT, Q: list[torch.Tensor], D: list[torch.Tensor]) -> list[list[float]]:
    """colbert.py, ``ColBERT.score``, of every query (outer) against every document (inner).

    v1's re-ranking (colbert/evaluation/slow.py) scores documents padded to one length: then the rows of padding and of
    dropped punctuation are zeros and take part, so a score depends on who else is in the batch. ``score`` given rows
    only of what was kept has nothing of that; given the padded tensor, it is v1 to the letter.
    """
    return [[float(_score(model.arguments.similarity, q, d)) for d in D] for q in Q]


def _score(similarity: str, q: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    if similarity == "cosine":
        return (q @ d.T).max(1).values.sum()
    return (-((q.unsqueeze(1) - d.unsqueeze(0)) ** 2).sum(-1)).max(1).values.sum()  # "l2"


def settings(model: ColBERT) -> dict[str, Any]:
    return {
        **vars(model.arguments),
        "dim": len(model.linear),
        "query_marker_id": model.query_marker_id,
        "document_marker_id": model.document_marker_id,
        "skip_ids": sorted(model.skip_ids),
    }
