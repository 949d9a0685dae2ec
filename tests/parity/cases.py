"""The goldens of `tests/parity/golden`, each with an encoder of the checkpoint that a peer made it of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from colbert_rerank.checkpoints import Checkpoint, Choices, load_checkpoint
from colbert_rerank.encoder import Encoder

HERE = Path(__file__).parent
Rows = list[npt.NDArray[np.float32]]


class Golden(NamedTuple):
    """What a peer made of a checkpoint."""

    encoder: Encoder
    record: dict[str, Any]
    rows: dict[str, Rows]  # by "queries" and "documents"
    scores: npt.NDArray[np.float64]

    def texts(self, kind: str) -> list[str]:
        return [record["text"] for record in self.record[kind]]


BASE = str(HERE / "checkpoints" / "colbert_v1_dnn_base")
# Texts that sentence-transformers reads otherwise than PyLate, by whose rules the checkpoint was trained: it lowercases
# no text, and so on (`differs_from_pylate` in its golden).
ST_ALONE = ("literal masks", "literal markers", "mixed case, newlines, space around")
# colbert-ai, by whose rules this layout is read, takes a marker that a text spells out for text; PyLate does not.
PYLATE_ALONE = ("literal markers",)


class Case(NamedTuple):
    """A golden's checkpoint, what is chosen, and the texts that this peer alone reads as it does."""

    folder: str
    choices: Choices = Choices()
    others: tuple[str, ...] = ()
    vespa: bool = False  # its documents are those that Vespa's rule was recorded with


CASES = {
    "hf_colbert_bin": Case("hf_colbert_bin"),
    "hf_colbert_no_punct": Case("hf_colbert_no_punct"),
    "colbert_v1_minilm_mask_punctuation": Case("colbert_v1_minilm"),
    "colbert_v1_minilm": Case("colbert_v1_minilm", Choices(doc_skip="before-encode"), vespa=True),
    "colbert_v1_dnn_l2": Case("colbert_v1_dnn_l2", Choices(base=BASE)),
    "colbert_v1_dnn_cosine": Case("colbert_v1_dnn_cosine", Choices(base=BASE)),
    "hofstaetter": Case("hofstaetter"),
    "jina_v1": Case("jina_v1"),
    "jina_v2": Case("jina_v2"),
    "pylate_bert": Case("pylate_bert"),
    "pylate_modernbert": Case("pylate_modernbert"),
    "pylate_prompts": Case("pylate_prompts"),
    "pylate_bert_st": Case("pylate_bert"),
    "pylate_modernbert_st": Case("pylate_modernbert", others=ST_ALONE),
    "answerai_small": Case("answerai_small", others=PYLATE_ALONE),
    "answerai_small_st": Case("answerai_small", others=PYLATE_ALONE),
    "bge_m3": Case("bge_m3", Choices(query_length=64, document_length=64)),
}


def load(name: str, change: Callable[[Checkpoint], Checkpoint] = lambda checkpoint: checkpoint) -> Golden:
    """The golden, and an encoder of its checkpoint, which ``change`` may spoil."""
    case = CASES[name]
    record = json.loads((HERE / "golden" / f"{name}.json").read_text(encoding="utf-8"))
    keys = {"queries": "queries", "documents": "vespa_documents" if case.vespa else "documents"}
    rows: dict[str, Rows] = {}
    kept = {}
    with np.load(HERE / "golden" / f"{name}.npz") as archive:
        for kind, key in keys.items():
            kept[kind] = [i for i, text in enumerate(record[key]) if text["name"] not in case.others]
            rows[kind] = [archive[f"{key}:{i}"] for i in kept[kind]]
            record[kind] = [record[key][i] for i in kept[kind]]
    scores = np.array(record["vespa_scores" if case.vespa else "scores"])[np.ix_(kept["queries"], kept["documents"])]
    checkpoint = load_checkpoint(str(HERE / "checkpoints" / case.folder), case.choices)
    return Golden(Encoder.load(change(checkpoint), device="cpu"), record, rows, scores)


def row_errors(ours: npt.NDArray[np.float32], theirs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Differences, in the greatest value of rows that are not normalised. Raises ValueError for other shapes."""
    if ours.shape != theirs.shape:
        raise ValueError(f"shapes {ours.shape} and {theirs.shape}")
    scale = np.float32(max(1.0, float(np.abs(theirs).max(initial=0))))
    errors: npt.NDArray[np.float32] = np.abs(ours - theirs) / scale
    return errors


def score_scale(scores: npt.NDArray[np.float64]) -> float:
    """What scores are measured in: 1, or more where they exceed those of 32 unit vectors."""
    return max(1.0, float(np.abs(scores[np.isfinite(scores)]).max()) / 32)
