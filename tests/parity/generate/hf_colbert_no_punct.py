"""HF_ColBERT weights in safetensors whose documents keep the rows of punctuation.

    python3.10 -m venv VENV && VENV/bin/pip install -r hf_colbert_no_punct.requirements.txt
    VENV/bin/python hf_colbert_no_punct.py

``mask_punctuation`` and ``attend_to_mask_tokens`` are false; lengths are 32 and 180. Each text is encoded in a batch
of its own, so that no padding can matter. colbert-ai 0.2.22 makes no ``skiplist`` where punctuation is kept and then
fails for want of it (colbert/modeling/colbert.py, ``ColBERT.__init__`` and ``doc``); it is given the empty one.
"""

from __future__ import annotations

from colbert_ai import load
from golden import CHECKPOINTS
from hf_colbert import record_golden, write_settings
from safetensors.torch import save_file
from weights import bert_colbert, bert_config
from wordpieces import ENGLISH, write_tokenizer

NAME = "hf_colbert_no_punct"
DIM = 16
METADATA = {"dim": DIM, "mask_punctuation": False, "attend_to_mask_tokens": False}


def main() -> None:
    folder = CHECKPOINTS / NAME
    write_tokenizer(folder, ENGLISH)
    write_settings(folder, bert_config(len(ENGLISH)), METADATA)
    save_file(bert_colbert(2, len(ENGLISH), DIM), folder / "model.safetensors", metadata={"format": "pt"})
    checkpoint = load(folder)
    if hasattr(checkpoint, "skiplist"):
        raise SystemExit("colbert-ai makes a skiplist now: do not overwrite it")
    checkpoint.skiplist = {}
    record_golden(NAME, checkpoint, batched=False)


if __name__ == "__main__":
    main()
