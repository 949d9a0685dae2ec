"""What the generators whose peer is transformers' ColQwen2 share: how it is asked and recorded. No generator."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import tiny_modern as tiny
import torch
from PIL import Image
from transformers import ColQwen2ForRetrieval, ColQwen2Processor

PACKAGES = ("transformers", "tokenizers", "torch", "torchvision", "pillow", "numpy")
PAGES = tiny.HERE.parent / "pages"


def encode_and_record(name: str, folder: Path, images: Any = None) -> None:
    """Encode the queries and the page images, one at a time and in float32 on the CPU; score all pairs.

    ``images`` is the image processor, where it is not the one that transformers chooses.
    """
    torch.set_num_threads(1)
    model = ColQwen2ForRetrieval.from_pretrained(folder, torch_dtype=torch.float32, attn_implementation="eager").eval()
    other = {p.dtype for p in model.parameters()} - {torch.float32}
    if other:
        raise SystemExit(f"expected float32 weights only, found {other}")
    processor = ColQwen2Processor.from_pretrained(folder)
    if images is not None:
        processor.image_processor = images
    queries, _ = tiny.texts()
    query_records, query_rows = [], []
    for query, text in queries.items():
        seen = processor.process_queries(text=[text])
        query_rows.append(rows(model, seen))
        query_records.append(record(query, text, seen, query_rows[-1]))
    document_records, document_rows = [], []
    for path in sorted(PAGES.glob("*.png")):
        with Image.open(path) as opened:
            page = opened.convert("RGB")
        seen = processor.process_images(images=[page])
        document_rows.append(rows(model, seen))
        pixels = seen["pixel_values"].double()
        of_page = {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "width": page.width,
            "height": page.height,
            "image_grid_thw": seen["image_grid_thw"][0].tolist(),
            "pixel_values_mean": pixels.mean().item(),
            "pixel_values_std": pixels.std().item(),
        }
        document_records.append(record(path.stem, path.name, seen, document_rows[-1]) | of_page)
    check_padding(model, processor, list(queries.values()), query_rows)
    tiny.write_golden(
        name,
        checkpoint=folder,
        packages=PACKAGES,
        settings={
            "query_prefix": processor.query_prefix,
            "query_augmentation_token": processor.query_augmentation_token,
            "visual_prompt_prefix": processor.visual_prompt_prefix,
            "padding_side": processor.tokenizer.padding_side,
            "tokenizer": type(processor.tokenizer).__name__,
            "image_processor": type(processor.image_processor).__name__,
            "embedding_dim": model.config.embedding_dim,
        },
        queries=query_records,
        documents=document_records,
        query_rows=query_rows,
        document_rows=document_rows,
        # Pair by pair: in a batch the processor pads with zeros, which can win the maximum.
        scores=[[score(processor, q, d) for d in document_rows] for q in query_rows],
    )


def rows(model: Any, seen: Any) -> tiny.Rows:
    """The rows [T, dim] of the one text or page, T its attended positions."""
    with torch.no_grad():
        embeddings = model(**seen).embeddings  # [1, T, dim]
    kept: tiny.Rows = embeddings[0][seen["attention_mask"][0].bool()].numpy()
    return kept


def record(name: str, text: str, seen: Any, kept: tiny.Rows) -> dict[str, Any]:
    one: dict[str, Any] = tiny.record(
        name, text, seen["input_ids"][0].tolist(), int(seen["attention_mask"].sum()), kept
    )
    return one


def score(processor: Any, query: tiny.Rows, document: tiny.Rows) -> float:
    return float(processor.score_retrieval([torch.from_numpy(query)], [torch.from_numpy(document)])[0, 0])


def check_padding(model: Any, processor: Any, texts: list[str], alone: list[tiny.Rows]) -> None:
    """Padded in one batch, the queries get the same rows as alone."""
    seen = processor.process_queries(text=texts)
    with torch.no_grad():
        embeddings = model(**seen).embeddings
    for i, expected in enumerate(alone):
        kept = embeddings[i][seen["attention_mask"][i].bool()].numpy()
        if kept.shape != expected.shape or np.abs(kept - expected).max() > 1e-5:
            raise SystemExit(f"padding changes the rows of query {i}")
