"""Record what colbert-ai itself makes of the starter checkpoint, as data for ``tests/parity/test_starter.py``.

    python3.10 -m venv VENV && VENV/bin/pip install -r colbert_ai.requirements.txt
    VENV/bin/python colbert_ai.py path/to/checkpoint

Runs in an environment of its own and imports nothing of this repository, so that it cannot inherit our mistakes.
``colbert.modeling.checkpoint.Checkpoint`` tokenises and encodes on the CPU in float32, ``colbert_score`` scores every
query against every document. colbert-ai compiles a small C++ extension on its first CPU use: a compiler is needed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # on a GPU, colbert-ai rounds to float16
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import torch
from colbert.infra import ColBERTConfig
from colbert.modeling.checkpoint import Checkpoint
from colbert.modeling.colbert import colbert_score
from golden import by_entry, sha256

HERE = Path(__file__).resolve().parent
BATCH = 8
RECORDED_SETTINGS = (
    "query_token_id",
    "doc_token_id",
    "query_maxlen",
    "doc_maxlen",
    "dim",
    "similarity",
    "interaction",
    "mask_punctuation",
    "attend_to_mask_tokens",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="folder of the starter checkpoint (HF_ColBERT layout)")
    parser.add_argument("--golden", type=Path, default=HERE.parent / "golden", help="where to write")
    arguments = parser.parse_args()
    inputs = json.loads((HERE / "inputs.json").read_text(encoding="utf-8"))
    checkpoint = load(arguments.checkpoint)
    queries, query_rows = encode_queries(checkpoint, inputs["queries"])
    documents, document_rows = encode_documents(checkpoint, inputs["documents"])
    write(arguments.golden, arguments.checkpoint, checkpoint, inputs, queries, documents, query_rows, document_rows)


def load(folder: Path) -> Any:
    torch.manual_seed(0)  # the starter has no pooler; its unused weights are drawn at random
    torch.set_num_threads(1)
    checkpoint = Checkpoint(str(folder), colbert_config=ColBERTConfig(), verbose=0)
    other = {p.dtype for p in checkpoint.parameters()} - {torch.float32}
    if other:
        raise SystemExit(f"expected float32 weights only, found {other}")
    return checkpoint


def encode_queries(checkpoint: Any, texts: dict[str, str]) -> tuple[list[dict[str, Any]], list[torch.Tensor]]:
    """A record and the rows [Lq, dim] of each query."""
    ids, mask = checkpoint.query_tokenizer.tensorize(list(texts.values()))
    Q = checkpoint.queryFromText(list(texts.values()), bsize=BATCH, to_cpu=True)
    if Q.dtype != torch.float32:
        raise SystemExit(f"expected float32 query rows, got {Q.dtype}")
    records = [
        {"name": name, "text": text, "rows": len(rows), "ids": i.tolist(), "attended": int(m.sum())}
        for (name, text), rows, i, m in zip(texts.items(), Q, ids, mask, strict=True)
    ]
    return records, list(Q)


def encode_documents(checkpoint: Any, texts: dict[str, str]) -> tuple[list[dict[str, Any]], list[torch.Tensor]]:
    """A record and the rows [T, dim] of each document, T without punctuation and padding."""
    ids, mask = checkpoint.doc_tokenizer.tensorize(list(texts.values()))
    D, *_ = checkpoint.docFromText(list(texts.values()), bsize=BATCH, keep_dims=False)
    if {d.dtype for d in D} != {torch.float32}:
        raise SystemExit("expected float32 document rows")
    records = [
        {"name": name, "text": text, "rows": len(rows), "ids": i[m.bool()].tolist()}
        for (name, text), rows, i, m in zip(texts.items(), D, ids, mask, strict=True)
    ]
    return records, D


def score(query_rows: list[torch.Tensor], document_rows: list[torch.Tensor]) -> list[list[float]]:
    """colbert-ai's own MaxSim of every query (outer) against every document (inner), in float32."""
    padded = torch.nn.utils.rnn.pad_sequence(document_rows, batch_first=True)  # [n, T, dim]
    lengths = torch.tensor([len(d) for d in document_rows])
    mask = torch.arange(padded.size(1)) < lengths.unsqueeze(1)  # [n, T]
    return [colbert_score(q.unsqueeze(0), padded, mask, config=ColBERTConfig()).tolist() for q in query_rows]


def write(
    golden: Path,
    folder: Path,
    checkpoint: Any,
    inputs: dict[str, Any],
    queries: list[dict[str, Any]],
    documents: list[dict[str, Any]],
    query_rows: list[torch.Tensor],
    document_rows: list[torch.Tensor],
) -> None:
    record = {
        "attribution": inputs["attribution"],
        "python": platform.python_version(),
        "packages": {p: version(p) for p in ("colbert-ai", "torch", "transformers", "tokenizers", "numpy")},
        "sha256": {f: sha256(folder / f) for f in ("model.safetensors", "tokenizer.json")},
        "settings": {name: getattr(checkpoint.colbert_config, name) for name in RECORDED_SETTINGS},
        "tokenizer": type(checkpoint.raw_tokenizer).__name__,
        "queries": queries,
        "documents": documents,
        "scores": score(query_rows, document_rows),
    }
    golden.mkdir(parents=True, exist_ok=True)
    path = golden / "starter_colbert_ai.json"
    path.write_text(by_entry(record), encoding="utf-8")
    arrays = {}
    for kind, records, rows in (("queries", queries, query_rows), ("documents", documents, document_rows)):
        kept = set(inputs["rows_kept"][kind])
        unknown = kept - {r["name"] for r in records}
        if unknown:
            raise SystemExit(f"rows_kept names unknown {kind}: {sorted(unknown)}")
        arrays.update({f"{kind}:{i}": rows[i].numpy() for i, r in enumerate(records) if r["name"] in kept})
    np.savez(golden / "starter_colbert_ai.npz", allow_pickle=False, **arrays)
    print(f"{len(queries)} queries, {len(documents)} documents, rows of {len(arrays)}: {path}")


if __name__ == "__main__":
    main()
