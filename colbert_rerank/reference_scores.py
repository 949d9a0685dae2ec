"""What other implementations say of published checkpoints: a query, documents, and their scores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np

from colbert_rerank.encoder import Encoder
from colbert_rerank.maxsim import reference


class ReferenceScores(NamedTuple):
    """``scores`` of ``documents`` for ``query`` that ``source`` published for ``models``.

    ``tolerance`` is relative, and as wide as what is published is exact.
    """

    models: Sequence[str]
    source: str
    query: str
    documents: Sequence[str]
    scores: Sequence[float]
    tolerance: float


class Comparison(NamedTuple):
    """``ours`` beside the scores of ``known``; ``error`` is the greatest relative difference."""

    known: ReferenceScores
    ours: Sequence[float]
    error: float

    @property
    def agrees(self) -> bool:
        return self.error <= self.known.tolerance


def reference_scores(model: str) -> list[ReferenceScores]:
    """What is known of a model: by its name, or by the last two parts of its folder."""
    names = {model, "/".join(Path(model).absolute().parts[-2:])}
    return [known for known in _all() if names & set(known.models)]


def known_models() -> list[str]:
    return sorted({model for known in _all() for model in known.models})


def _all() -> list[ReferenceScores]:
    text = (files("colbert_rerank") / "data" / "reference_scores.json").read_text(encoding="utf-8")
    return [ReferenceScores(**entry) for entry in json.loads(text)]


def compare(encoder: Encoder, known: ReferenceScores) -> Comparison:
    """Score the same texts, in float64 over the encoder's vectors."""
    spec = encoder.checkpoint.spec
    (query,) = encoder.encode_queries([known.query])
    documents = encoder.encode_documents(known.documents)
    ours = [reference.maxsim(query, d, spec.similarity, spec.aggregation) for d in documents]
    errors = np.abs(np.subtract(ours, known.scores)) / np.abs(known.scores)
    return Comparison(known, ours, float(errors.max()))  # NumPy's maximum, unlike Python's, of NaN is NaN
