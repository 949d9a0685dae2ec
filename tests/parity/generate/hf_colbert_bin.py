"""HF_ColBERT weights in a pickle, with an ``artifact.metadata`` that differs from colbert-ai's defaults.

    python3.10 -m venv VENV && VENV/bin/pip install -r hf_colbert_bin.requirements.txt
    VENV/bin/python hf_colbert_bin.py

As in Crystalcareai/Colbertv2 there is no safetensors file. Queries take 24 tokens and documents 48, and the [MASK]
tokens that fill a query are attended to. colbert-ai encodes the texts in batches of 8.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from colbert_ai import load
from golden import CHECKPOINTS
from hf_colbert import record_golden, write_settings
from weights import bert_colbert, bert_config
from wordpieces import ENGLISH, write_tokenizer

NAME = "hf_colbert_bin"
DIM = 16
METADATA = {
    "dim": DIM,
    "query_maxlen": 24,
    "doc_maxlen": 48,
    "mask_punctuation": True,
    "attend_to_mask_tokens": True,
}


def main() -> None:
    folder = CHECKPOINTS / NAME
    write_tokenizer(folder, ENGLISH)
    write_settings(folder, bert_config(len(ENGLISH)), METADATA)
    torch.save(OrderedDict(bert_colbert(1, len(ENGLISH), DIM)), folder / "pytorch_model.bin")
    record_golden(NAME, load(folder), batched=True)


if __name__ == "__main__":
    main()
