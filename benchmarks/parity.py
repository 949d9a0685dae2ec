"""How far each layout is from an independent implementation, on the small checkpoints of `tests/parity`.

    python -m benchmarks.parity

In float32 on a CPU. Nothing is timed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import record
from colbert_rerank.encoder import Encoder
from colbert_rerank.maxsim import reference
from tests.parity.cases import load, row_errors, score_scale
from tests.parity.test_layouts import ROW_TOLERANCE, SCORE_TOLERANCE
from tests.parity.test_pages import FOLDER as PAGES_CHECKPOINT
from tests.parity.test_pages import read as read_pages

TRANSCRIPTION = "transcription of the authors' code"


class Family(NamedTuple):
    """Published checkpoints of one layout, and the goldens that it is held against."""

    checkpoints: str
    goldens: tuple[str, ...]
    but: str = ""  # what of the peer is not the peer's own


NETWORK = ", its network put together again from descriptions"
FAMILIES = (
    Family("colbert-ir/colbertv2.0, Crystalcareai/Colbertv2", ("hf_colbert_bin", "hf_colbert_no_punct")),
    Family("answerdotai/answerai-colbert-small-v1", ("answerai_small", "answerai_small_st")),
    Family("jinaai/jina-colbert-v1-en", ("jina_v1",), NETWORK),
    Family("jinaai/jina-colbert-v2", ("jina_v2",), NETWORK),
    Family("BAAI/bge-m3", ("bge_m3",)),
    Family("sebastian-hofstaetter/colbert-distilbert-margin_mse-T2-msmarco", ("hofstaetter",)),
    Family("vespa-engine/col-minilm, vespa-engine/colbert-medium", ("colbert_v1_minilm_mask_punctuation",)),
    Family("the same, `--doc-skip before-encode`", ("colbert_v1_minilm",)),
    Family("vjeronymo2/mColBERT", ("colbert_v1_dnn_l2", "colbert_v1_dnn_cosine")),
    Family("lightonai/GTE-ModernColBERT-v1, mxbai-edge-colbert, LateOn", ("pylate_modernbert", "pylate_modernbert_st")),
    Family("lightonai/ColBERT-Zero", ("pylate_prompts",)),
    Family("lightonai/colbertv2.0", ("pylate_bert", "pylate_bert_st")),
)


# Those that no other implementation reads for token vectors.
WITHOUT_PEER = (
    ("BAAI/bge-m3-unsupervised", "bge-m3", "refused, unless `--projection identity` is asked for"),
    ("a BERT without projection", "BERT", "to be trained; `ingest` refuses it"),
)


def main() -> None:
    rows = [_measured(family, name) for family in FAMILIES for name in family.goldens] + [_pages()]
    for row in rows:
        close = row["row_error"] <= ROW_TOLERANCE and row["score_error"] <= SCORE_TOLERANCE
        row["status"] = "in parity" if close else "NOT in parity"
    rows += [dict(zip(("checkpoints", "layout", "status"), row, strict=True)) for row in WITHOUT_PEER]
    record.write(Path(__file__).parent / "results" / "parity.json", rows)


def _measured(family: Family, name: str) -> dict[str, Any]:
    """The greatest differences over all texts of a golden."""
    golden = load(name)
    encoder, spec = golden.encoder, golden.encoder.checkpoint.spec
    ours = {
        "queries": encoder.encode_queries(golden.texts("queries")),
        "documents": [d.astype(np.float32) for d in encoder.encode_documents(golden.texts("documents"))],
    }
    scores = np.array(
        [
            [reference.maxsim(q, d, spec.similarity, spec.aggregation) for d in ours["documents"]]
            for q in ours["queries"]
        ]
    )
    differences = np.abs(scores - golden.scores)[np.isfinite(golden.scores)]
    pairs = [pair for kind in ours for pair in zip(ours[kind], golden.rows[kind], strict=True)]
    peer = next(iter(golden.record["packages"].items()))
    return {
        "checkpoints": family.checkpoints,
        "layout": encoder.checkpoint.layout,
        "golden": name,
        "peer": TRANSCRIPTION if peer[0] == "torch" else " ".join(peer) + family.but,
        "texts": len(pairs),
        "row_error": max(float(row_errors(a, b).max(initial=0)) for a, b in pairs),
        "score_error": float(differences.max()) / score_scale(golden.scores),
    }


def _pages() -> dict[str, Any]:
    """The same of page images and the texts that are asked for them."""
    golden = read_pages("colqwen2_pil")
    encoder = Encoder.load(str(PAGES_CHECKPOINT), device="cpu")
    queries, pages = encoder.encode_queries(golden.texts), encoder.encode_pages(golden.images)
    scores = np.array([[reference.maxsim(q, p) for p in pages] for q in queries])
    pairs = [*zip(queries, golden.queries, strict=True), *zip(pages, golden.pages, strict=True)]
    return {
        "checkpoints": "vidore/colqwen2-v1.0-hf",
        "layout": encoder.checkpoint.layout,
        "golden": "colqwen2_pil",
        "peer": f"transformers {golden.record['packages']['transformers']}, images by Pillow",
        "texts": len(pairs),
        "row_error": max(float(row_errors(a.astype(np.float32), b).max()) for a, b in pairs),
        "score_error": float(np.abs(scores - golden.scores).max()) / score_scale(golden.scores),
    }


if __name__ == "__main__":
    main()
