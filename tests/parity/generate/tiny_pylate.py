"""What the generators whose peer is PyLate share: how it is loaded, asked and recorded. A helper, not a generator."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import tiny_modern as tiny
import torch
from pylate import models
from pylate.scores import colbert_scores

PACKAGES = ("pylate", "sentence-transformers", "torch", "transformers", "tokenizers", "numpy")
RECORDED_SETTINGS = (
    "query_prefix",
    "document_prefix",
    "query_prefix_id",
    "document_prefix_id",
    "query_length",
    "document_length",
    "do_query_expansion",
    "attend_to_expansion_tokens",
    "skiplist_words",
    "skiplist",
)
NO_PROMPTS = {"query": "", "document": ""}  # as PyLate saves them


def write_layout(
    folder: Path,
    *,
    prefixes: tuple[str, str],
    lengths: tuple[int, int],
    expansion: bool | None,
    skiplist: Sequence[str],
    lowercase: bool,
    dense: Sequence[tuple[dict[str, Any], tiny.Weights]],
    prompts: Mapping[str, str] = NO_PROMPTS,
) -> None:
    """The files PyLate itself saves beside the encoder's; ``expansion`` None leaves its key out, as old versions do."""
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    for i, (configuration, weights) in enumerate(dense, start=1):
        path = f"{i}_Dense"
        modules.append({"idx": i, "name": str(i), "path": path, "type": "pylate.models.Dense.Dense"})
        tiny.write_json(folder / path / "config.json", configuration)
        tiny.write_safetensors(folder / path / "model.safetensors", weights)
    tiny.write_json(folder / "modules.json", modules)
    tiny.write_json(
        folder / "sentence_bert_config.json", {"max_seq_length": lengths[1] - 1, "do_lower_case": lowercase}
    )
    tiny.write_json(
        folder / "config_sentence_transformers.json",
        {
            "model_type": "ColBERT",
            "__version__": {"sentence_transformers": "5.3.0", "transformers": "5.3.0", "pytorch": "2.11.0"},
            "prompts": dict(prompts),
            "default_prompt_name": None,
            "similarity_fn_name": "MaxSim",
            "query_prefix": prefixes[0],
            "document_prefix": prefixes[1],
            "query_length": lengths[0],
            "document_length": lengths[1],
            "attend_to_expansion_tokens": False,
            "skiplist_words": list(skiplist),
            **({} if expansion is None else {"do_query_expansion": expansion}),
        },
    )


def encode_and_record(name: str, folder: Path) -> None:
    """Encode every text with PyLate on the CPU in float32, score all pairs, write the golden."""
    torch.set_num_threads(1)
    model = models.ColBERT(str(folder), device="cpu", local_files_only=True)
    other = {p.dtype for p in model.parameters()} - {torch.float32}
    if other:
        raise SystemExit(f"expected float32 weights only, found {other}")
    queries, documents = tiny.texts()
    prompted = model.prompts != NO_PROMPTS
    query_records, query_rows = encode(model, queries, is_query=True, prompt_name="query" if prompted else None)
    document_records, document_rows = encode(
        model, documents, is_query=False, prompt_name="document" if prompted else None
    )
    tiny.write_golden(
        name,
        checkpoint=folder,
        packages=PACKAGES,
        settings={s: getattr(model, s) for s in (*RECORDED_SETTINGS, *(["prompts"] if prompted else []))}
        | {"modules": [str(module) for module in list(model)[1:]], "tokenizer": type(model.tokenizer).__name__},
        queries=query_records,
        documents=document_records,
        query_rows=query_rows,
        document_rows=document_rows,
        scores=[[score(q, d) for d in document_rows] for q in query_rows],
    )


def encode(
    model: Any, texts: dict[str, str], *, is_query: bool, prompt_name: str | None
) -> tuple[list[dict[str, Any]], list[tiny.Rows]]:
    how = {"prompt_name": prompt_name, "is_query": is_query, "show_progress_bar": False}
    rows = model.encode(list(texts.values()), batch_size=8, **how)
    records = []
    for (name, text), kept in zip(texts.items(), rows, strict=True):
        # Alone a document is not padded; a query is padded only for expansion.
        seen = model.encode([text], output_value=None, **how)
        [ids], [mask] = seen["input_ids"], seen["attention_mask"]
        records.append(tiny.record(name, text, ids.tolist(), int(mask.sum()), kept))
    return records, rows


def score(query: tiny.Rows, document: tiny.Rows) -> float:
    """PyLate's own MaxSim of one pair: alone nothing is padded, and its zero padding can do no harm."""
    return float(colbert_scores(torch.from_numpy(query)[None], torch.from_numpy(document)[None])[0, 0])
