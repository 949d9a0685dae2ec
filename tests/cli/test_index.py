"""`index`, and searches by it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import DOCUMENTS, QUERIES, Files
from tests.cli.terminal import invoke


@pytest.fixture
def store(files: Files, tmp_path: Path) -> Path:
    return Path(shutil.copytree(files.store, tmp_path / "store"))


def test_it_is_built_searched_and_goes_on(files: Files, store: Path, tmp_path: Path) -> None:
    search = ("rerank", "who was it", "--store", store, "--retriever", "centroids", "--json")
    assert "no index for --retriever centroids here; make one with" in invoke(*search).error
    assert f"{DOCUMENTS} documents by" in invoke("index", "build", "--store", store).check().err
    found = [json.loads(line) for line in invoke(*search, "--k", DOCUMENTS).check().out.splitlines()]
    by_words = invoke("rerank", "who was it", "--store", store, "--json", "--k", DOCUMENTS).check().out
    assert len(found) == 10
    assert found[0]["score"] >= max(json.loads(line)["score"] for line in by_words.splitlines())
    assert "0 vectors added" in invoke("index", "build", "--store", store).check().err
    (tmp_path / "more.jsonl").write_text('{"_id": "more", "text": "who was it"}\n')
    invoke("ingest", tmp_path / "more.jsonl", "--store", store, "--model", files.model).check()
    assert "the index lacks" in invoke(*search).error
    invoke("index", "build", "--store", store).check()
    assert any(json.loads(line)["doc_id"] == "more" for line in invoke(*search, "--top", 99).check().out.splitlines())


def test_info(store: Path) -> None:
    assert "no index for --retriever centroids" in invoke("index", "info", store).error
    invoke("index", "build", "--store", store, "--partitions", 32).check()
    facts = json.loads(invoke("index", "info", store, "--json").check().out)
    assert (facts["centroids"], facts["vectors of the store that it lacks"]) == (32, 0)
    assert facts["bytes"] == sum(p.stat().st_size for p in (store / "index" / "centroids").glob("*.h5"))
    assert "centroids" in invoke("index", "info", store).check().out
    assert "pass --again" in invoke("index", "build", "--store", store, "--partitions", 16).error
    invoke("index", "build", "--store", store, "--partitions", 16, "--again").check()


def test_a_run(files: Files, store: Path, tmp_path: Path) -> None:
    invoke("index", "build", "--store", store).check()
    run = ("run", "--topics", files.topics, "--store", store, "--output", tmp_path / "run.txt")
    invoke(*run, "--retriever", "centroids", "--k", 20, "--qrels", files.qrels).check()
    rows = (tmp_path / "run.txt").read_text().splitlines()
    assert len(rows) == 20 * QUERIES
    shutil.copy(tmp_path / "run.txt", tmp_path / "first.txt")
    refused = invoke(*run, "--retriever", "centroids", "--candidates", tmp_path / "first.txt").error
    assert "choose one first stage" in refused
    for option in ("--dfs", "--query-template"):
        given = [option, *([files.topics] if option == "--query-template" else [])]
        assert option in invoke(*run, "--retriever", "centroids", *given).error
