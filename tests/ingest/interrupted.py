"""An ingest in a process of its own, in small units, so that a test can kill it. Run with: MODEL STORE CORPUS."""

from __future__ import annotations

import sys
from pathlib import Path

from colbert_rerank.encoder import Encoder
from colbert_rerank.recipe import Recipe
from ingest import pipeline
from ingest.sources import SourceOptions, open_source
from ingest.validation import InputReport


def run(model: str, store: str, corpus: str) -> None:
    pipeline.READ_AHEAD = 8
    pipeline.UNIT_TOKENS = {"cpu": 700}
    report = pipeline.IngestReport(InputReport())
    source = open_source(corpus, SourceOptions(), report.input)
    encoder = Encoder.load(model, device="cpu")
    print("ready", flush=True)
    pipeline.ingest(source, Path(store), encoder, recipe=Recipe(), report=report)


if __name__ == "__main__":
    run(*sys.argv[1:])
