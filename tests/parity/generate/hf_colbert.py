"""The HF_ColBERT layout and its peer, colbert-ai: what the generators of such checkpoints share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from colbert_ai import RECORDED_SETTINGS, encode_documents, encode_queries, score
from golden import Encoded, texts, write

PACKAGES = ("colbert-ai", "torch", "transformers", "tokenizers", "numpy")

Encode = Callable[[Any, dict[str, str]], Encoded]


def write_settings(folder: Path, config: dict[str, Any], metadata: dict[str, Any]) -> None:
    """Write ``config.json`` and ``artifact.metadata``, the latter with colbert-ai's other entries around it."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"architectures": ["HF_ColBERT"], **config}, indent=2, sort_keys=True)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
    known = {
        "query_token_id": "[unused0]",
        "doc_token_id": "[unused1]",
        "query_token": "[Q]",
        "doc_token": "[D]",
        "ncells": None,
        "centroid_score_threshold": None,
        "ndocs": None,
        "index_path": None,
        "nbits": 1,
        "kmeans_niters": 20,
        "resume": False,
        "similarity": "cosine",
        "bsize": 32,
        "accumsteps": 1,
        "lr": 1e-05,
        "maxsteps": 400000,
        "warmup": 20000,
        "nway": 64,
        "use_ib_negatives": True,
        "dim": 128,
        "doc_maxlen": 180,
        "mask_punctuation": True,
        "query_maxlen": 32,
        "attend_to_mask_tokens": False,
        "interaction": "colbert",
    }
    unknown = metadata.keys() - known.keys()
    if unknown:
        raise SystemExit(f"not an entry of artifact.metadata: {sorted(unknown)}")
    (folder / "artifact.metadata").write_text(json.dumps(known | metadata, indent=4) + "\n", encoding="utf-8")


def one_at_a_time(encode: Encode) -> Encode:
    """The same, for each text in a batch of its own: nothing is padded."""

    def encode_each(checkpoint: Any, named: dict[str, str]) -> Encoded:
        each = [encode(checkpoint, {name: text}) for name, text in named.items()]
        return [record for [record], _ in each], [rows for _, [rows] in each]

    return encode_each


def record_golden(name: str, checkpoint: Any, *, batched: bool, **settings: Any) -> None:
    """Encode the shared texts and write what came out; ``settings`` tell what colbert-ai's own do not."""
    named_queries, named_documents = texts()
    wrap: Callable[[Encode], Encode] = (lambda encode: encode) if batched else one_at_a_time
    queries, Q = wrap(encode_queries)(checkpoint, named_queries)
    documents, D = wrap(encode_documents)(checkpoint, named_documents)
    # colbert-ai attends to all of a document but the padding, and that is not among the ids.
    documents = [{**document, "attended": len(document["ids"])} for document in documents]
    write(
        name,
        folders=(name,),
        packages=PACKAGES,
        settings={
            **{setting: getattr(checkpoint.colbert_config, setting) for setting in RECORDED_SETTINGS},
            "query_marker_id": checkpoint.query_tokenizer.Q_marker_token_id,
            "document_marker_id": checkpoint.doc_tokenizer.D_marker_token_id,
            "skip_ids": sorted(i for i in checkpoint.skiplist if isinstance(i, int)),
            "tokenizer": type(checkpoint.raw_tokenizer).__name__,
            **settings,
        },
        encoded={"queries": (queries, Q), "documents": (documents, D)},
        scores={"scores": score(Q, D)},
    )
