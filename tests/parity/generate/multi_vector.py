"""Record what sentence-transformers makes of the tiny checkpoints in PyLate's and ColBERT's layout: a second peer.

    python3.12 -m venv VENV && VENV/bin/pip install -r multi_vector.requirements.txt
    VENV/bin/python multi_vector.py

Makes no checkpoint: run ``pylate_bert.py``, ``pylate_modernbert.py`` and ``answerai_small.py`` first. The peer is
``sentence_transformers.MultiVectorEncoder`` on the CPU in float32 with its own ``similarity``. It does not follow
PyLate in everything, so each golden also says for which texts it differs from PyLate's.
"""

from __future__ import annotations

import json
import os
from typing import Any

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import tiny_modern as tiny
import torch
from sentence_transformers import MultiVectorEncoder

NAMES = ("pylate_bert", "pylate_modernbert", "answerai_small")
PACKAGES = ("sentence-transformers", "torch", "transformers", "tokenizers", "numpy")
TOLERANCE = 1e-5  # of rows against PyLate's: the same arithmetic in another version


def main() -> None:
    torch.set_num_threads(1)
    for name in NAMES:
        folder = tiny.CHECKPOINTS / name
        model = MultiVectorEncoder(str(folder), device="cpu", local_files_only=True)
        other = {p.dtype for p in model.parameters()} - {torch.float32}
        if other:
            raise SystemExit(f"expected float32 weights only, found {other}")
        queries, documents = tiny.texts()
        query_records, query_rows = encode(model, queries, task="query")
        document_records, document_rows = encode(model, documents, task="document")
        settings = {
            "prompts": model.prompts,
            "query_length": model[0].query_length,
            "document_length": model[0].document_length,
            "query_expansion": model[0].query_expansion,
            "max_seq_length": model[0].max_seq_length,
            "modules": [type(module).__name__ for module in model],
            "skiplist": skiplist(model),
            "tokenizer": type(model.tokenizer).__name__,
            "differs_from_pylate": {
                "queries": differing(name, "queries", query_records, query_rows),
                "documents": differing(name, "documents", document_records, document_rows),
            },
        }
        tiny.write_golden(
            f"{name}_st",
            checkpoint=folder,
            packages=PACKAGES,
            settings=settings,
            queries=query_records,
            documents=document_records,
            query_rows=query_rows,
            document_rows=document_rows,
            # Pair by pair: alone nothing is padded.
            scores=[[model.similarity([q], [d]).item() for d in document_rows] for q in query_rows],
        )


def encode(model: Any, texts: dict[str, str], *, task: str) -> tuple[list[dict[str, Any]], list[tiny.Rows]]:
    encode_side = model.encode_query if task == "query" else model.encode_document
    rows = encode_side(list(texts.values()), batch_size=8, convert_to_numpy=True, show_progress_bar=False)
    records = []
    for (name, text), kept in zip(texts.items(), rows, strict=True):
        seen = model.preprocess([text], prompt=model.prompts.get(task), task=task)
        [ids], [mask] = seen["input_ids"].tolist(), seen["attention_mask"].tolist()
        records.append(tiny.record(name, text, ids, sum(mask), kept))
    return records, rows


def skiplist(model: Any) -> list[int]:
    [mask] = [module for module in model if type(module).__name__ == "MultiVectorMask"]
    return [] if mask._skiplist_ids is None else mask._skiplist_ids.tolist()


def differing(name: str, side: str, records: list[dict[str, Any]], rows: list[tiny.Rows]) -> dict[str, str]:
    """By the text's name, the first thing in which PyLate's golden is another: ids, attended, number of rows, rows."""
    golden = json.loads((tiny.GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    found = {}
    with np.load(tiny.GOLDEN / f"{name}.npz") as theirs:
        for i, (ours, other) in enumerate(zip(records, golden[side], strict=True)):
            unlike = [key for key in ("ids", "attended", "rows") if ours[key] != other[key]]
            if unlike:
                found[ours["name"]] = unlike[0]
            elif np.abs(rows[i] - theirs[f"{side}:{i}"]).max() > TOLERANCE:
                found[ours["name"]] = "values"
    return found


if __name__ == "__main__":
    main()
