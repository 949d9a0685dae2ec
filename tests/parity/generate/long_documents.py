"""What colbert-ai makes of one document as long as a model reads, 8192 tokens, for the checkpoints of two generators.

    python3.10 -m venv VENV && VENV/bin/pip install -r long_documents.requirements.txt
    VENV/bin/python long_documents.py

Makes no checkpoint: run ``jina_v1.py`` and ``jina_v2.py`` first. Of the rows one in ``EVERY`` is kept. It needs about
16 GB of memory.
"""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import version
from typing import Any

import jina_v1
import jina_v2
import numpy as np
import torch
from golden import CHECKPOINTS, GOLDEN, sha256, texts
from safetensors.torch import load_file

NAME = "long_documents"
LENGTH = 8192
EVERY = 64
PACKAGES = ("colbert-ai", "torch", "transformers", "tokenizers", "numpy")


def main() -> None:
    torch.set_num_threads(1)
    first = CHECKPOINTS / jina_v1.NAME
    second = CHECKPOINTS / jina_v2.NAME
    text = " ".join(texts()[1].values()) * 40
    records, rows = [], {}
    for folder, checkpoint in (
        (first, jina_v1.load_with(first, jina_v1.JinaBert(load_file(first / "model.safetensors")))),
        (second, jina_v2.load(second)),
    ):
        ids, found = encode(checkpoint, text)
        records.append({"checkpoint": folder.name, "tokens": len(ids), "ids": digest(ids), "rows": len(found)})
        records[-1]["sha256"] = {p.name: sha256(p) for p in sorted(folder.iterdir()) if p.is_file()}
        rows[folder.name] = found[::EVERY].numpy()
    data = {
        "python": platform.python_version(),
        "packages": {package: version(package) for package in PACKAGES},
        "every": EVERY,
        "documents": records,
        "text": text,
    }
    (GOLDEN / f"{NAME}.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    np.savez(GOLDEN / f"{NAME}.npz", allow_pickle=False, **rows)


def encode(checkpoint: Any, text: str) -> tuple[list[int], torch.Tensor]:
    """The ids of the document, and its rows [T, dim] without punctuation."""
    checkpoint.doc_tokenizer.doc_maxlen = LENGTH
    ids, mask = checkpoint.doc_tokenizer.tensorize([text])
    D, *_ = checkpoint.docFromText([text], bsize=1, keep_dims=False)
    return ids[0][mask[0].bool()].tolist(), D[0]


def digest(ids: list[int]) -> str:
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()


if __name__ == "__main__":
    main()
