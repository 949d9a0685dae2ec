"""Make a tiny checkpoint in the layout of answerdotai/answerai-colbert-small-v1 and record what PyLate makes of it.

    python3.12 -m venv VENV && VENV/bin/pip install -r answerai_small.requirements.txt
    VENV/bin/python answerai_small.py

That is ColBERT's own layout (architecture HF_ColBERT, ``bert.*`` and ``linear.weight`` in one file, settings in
``artifact.metadata``), read by what PyLate calls its loading of Stanford weights.
"""

from __future__ import annotations

from typing import Any

import tiny_modern as tiny
import tiny_pylate

NAME = "answerai_small"
DIM = 24


def main() -> None:
    folder = tiny.CHECKPOINTS / NAME
    vocabulary = tiny.wordpiece(folder)
    draw = tiny.Draw(26)
    label = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}  # the real one keeps these, too
    tiny.write_json(folder / "config.json", tiny.bert_config(vocabulary, "HF_ColBERT") | label)
    tiny.write_json(folder / "artifact.metadata", metadata())
    encoder = {f"bert.{name}": array for name, array in draw.bert(vocabulary, positions=128, types=2).items()}
    tiny.write_safetensors(folder / "model.safetensors", encoder | draw.linear("linear", DIM, tiny.HIDDEN, bias=False))
    tiny_pylate.encode_and_record(NAME, folder)


def metadata() -> dict[str, Any]:
    """The settings that matter for encoding, and some that do not, in the order ColBERT saves them."""
    return {
        "query_token_id": "[unused0]",
        "doc_token_id": "[unused1]",
        "query_token": "[Q]",
        "doc_token": "[D]",
        "ncells": None,
        "index_path": None,
        "nbits": 1,
        "kmeans_niters": 4,
        "pool_factor": 1,
        "clustering_mode": "hierarchical",
        "protected_tokens": 0,
        "similarity": "cosine",
        "bsize": 32,
        "lr": 1e-05,
        "maxsteps": 15626,
        "relu": False,
        "nway": 32,
        "model_name": "answerdotai/AnswerAI-ColBERTv2.5-small",
        "kldiv_loss": True,
        "query_maxlen": 32,
        "attend_to_mask_tokens": False,
        "interaction": "colbert",
        "dim": DIM,
        "doc_maxlen": 60,
        "mask_punctuation": True,
        "checkpoint": None,
        "gpus": 8,
    }


if __name__ == "__main__":
    main()
