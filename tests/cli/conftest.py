"""A small collection on disk and a store made of it, by the commands themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cli.terminal import invoke
from tests.collection import MUSIQUE, documents, queries

DOCUMENTS = 60
QUERIES = 8


class Files(NamedTuple):
    corpus: Path
    topics: Path
    qrels: Path
    store: Path
    model: Path


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Files:
    """Real paragraphs and questions. For tests that leave them as they are."""
    folder = tmp_path_factory.mktemp("cli")
    found = Files(
        folder / "corpus.jsonl", folder / "topics.jsonl", MUSIQUE / "qrels" / "test.tsv", folder / "store", tiny
    )
    found.corpus.write_text("".join(json.dumps(d.fields) + "\n" for d in documents(DOCUMENTS)))
    found.topics.write_text("".join(json.dumps({"_id": q.query_id, "text": q.text}) + "\n" for q in queries(QUERIES)))
    invoke("ingest", found.corpus, "--store", found.store, "--model", tiny).check()
    return found
