"""`index`, and searches by it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from colbert_rerank.retrieval import faiss_files
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


@pytest.mark.parametrize("kind", ["ivfpq", "hnsw", "flat"])
def test_by_faiss(files: Files, store: Path, tmp_path: Path, kind: str) -> None:
    search = ("rerank", "who was it", "--store", store, "--retriever", "faiss", "--json")
    assert "no index for --retriever faiss here; make one with" in invoke(*search).error
    build = ("index", "build", "--store", store, "--kind", kind)
    assert f"{DOCUMENTS} documents by {kind}" in invoke(*build).check().err
    everywhere = ("--k", DOCUMENTS, "--nprobe", 10**6, "--depth", 10**6, "--top", DOCUMENTS)
    found = [json.loads(line) for line in invoke(*search, *everywhere).check().out.splitlines()]
    assert len(found) == DOCUMENTS
    assert "0 vectors added" in invoke(*build).check().err
    invoke("index", "build", "--store", store).check()
    by_centroids = [*search[:5], "centroids", "--json", "--k", DOCUMENTS, "--top", DOCUMENTS]
    others = [json.loads(line) for line in invoke(*by_centroids).check().out.splitlines()]
    assert [(d["doc_id"], d["score"]) for d in found] == [(d["doc_id"], d["score"]) for d in others]
    (tmp_path / "more.jsonl").write_text('{"_id": "more", "text": "who was it"}\n')
    invoke("ingest", tmp_path / "more.jsonl", "--store", store, "--model", files.model).check()
    if kind != "flat":
        assert "the index lacks 61 of the store's 61 documents, which have come, or were" in invoke(*search).error
        invoke(*build).check()
    assert any(json.loads(line)["doc_id"] == "more" for line in invoke(*search, *everywhere).check().out.splitlines())
    invoke("run", "--topics", files.topics, "--store", store, "--output", tmp_path / "run.txt", *search[4:6]).check()


def test_info_of_two(store: Path) -> None:
    invoke("index", "build", "--store", store, "--kind", "ivfpq", "--subquantizers", 4, "--partitions", 8).check()
    (facts,) = map(json.loads, invoke("index", "info", store, "--json").check().out.splitlines())
    assert (facts["kind"], facts["partitions"], facts["subquantizers"]) == ("ivfpq", 8, 4)
    assert facts["vectors of deleted documents"] == facts["vectors of the store that it lacks"] == 0
    invoke("index", "build", "--store", store).check()
    shown = invoke("index", "info", store).check().out
    assert "centroids" in shown
    assert "ivfpq" in shown
    assert len(invoke("index", "info", store, "--json").check().out.splitlines()) == 2


def test_an_index_of_mostly_deleted_documents(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = ("index", "build", "--store", store, "--kind", "ivfpq")
    assert "--again" not in invoke(*build).check().err
    monkeypatch.setattr(faiss_files, "is_mostly_dead", lambda store: True)
    assert "--again leaves them out" in invoke(*build).check().err


def test_options_that_go_with_another_retriever(files: Files, store: Path, tmp_path: Path) -> None:
    search = ("rerank", "who was it", "--store", store)
    for option in ("--nprobe", "--depth"):
        assert f"{option}: only with --retriever faiss" in invoke(*search, option, 3).error
    build = ("index", "build", "--store", store)
    assert "--subquantizers: only with --kind ivfpq" in invoke(*build, "--subquantizers", 4).error
    assert (
        "--partitions: nothing is learnt for --kind flat" in invoke(*build, "--kind", "flat", "--partitions", 4).error
    )
    (tmp_path / "run.txt").touch()
    run = ("run", "--topics", files.topics, "--store", store, "--output", tmp_path / "new.txt")
    assert "choose one first stage" in invoke(*run, "--candidates", tmp_path / "run.txt", "--depth", 3).error
