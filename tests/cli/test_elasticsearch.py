"""Elasticsearch on the command line: the main job behind a real node, and what `elasticsearch setup` prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from colbert_rerank.types import Document
from tests.cli.conftest import DOCUMENTS, Files
from tests.cli.terminal import invoke
from tests.collection import documents
from tests.server.elasticsearch import ElasticsearchNode
from tests.server.indices import make_index

QUERY = "who founded Publix"
TEXTS = {"properties": {"title": {"type": "text"}, "text": {"type": "text"}}}
SETUP = ("elasticsearch", "setup", "--url", "http://service:8080", "--store", "articles")


def fields_of(document: Document) -> dict[str, object]:
    """Elasticsearch takes no field called _id."""
    return {name: value for name, value in document.fields.items() if name != "_id"}


@pytest.fixture
def copy(elasticsearch_node: ElasticsearchNode, elastic_index: str) -> str:
    """An index of the documents that the store was made of."""
    held = {d.doc_id: {**fields_of(d), "doc_id": d.doc_id} for d in documents(DOCUMENTS)}
    mappings = {"properties": TEXTS["properties"] | {"doc_id": {"type": "keyword"}}}
    make_index(elasticsearch_node.url, elastic_index, held, mappings=mappings)
    return elastic_index


@pytest.fixture
def login(elasticsearch_node: ElasticsearchNode, tmp_path: Path) -> tuple[str, ...]:
    """Options of one who may search and look at indices."""
    name, password = elasticsearch_node.reader
    (tmp_path / "password").write_text(f"{password}\n")
    at = ("--elasticsearch", elasticsearch_node.bare_url)
    return (*at, "--es-user", name, "--es-password-file", str(tmp_path / "password"))


def test_a_store_of_files_goes_with_an_index_of_the_same_documents(
    files: Files, copy: str, login: tuple[str, ...]
) -> None:
    search = ("rerank", QUERY, "--store", files.store, "--model", files.model, *login, "--index", copy)
    refused = invoke(*search).error
    assert f"but the candidates come from Elasticsearch index '{copy}'" in refused
    assert "--allow-other-index" in refused
    shown = invoke(*search, "--allow-other-index", "--json").check()
    assert (
        f"20 of 20 sampled documents have the text they were encoded from in Elasticsearch index '{copy}'" in shown.err
    )
    rows = [json.loads(line) for line in shown.out.splitlines()]
    assert len(rows) == 10
    assert all(row["scored"] for row in rows)
    # MaxSim, whoever found the candidates: the same as with the BM25 index beside the store, for those in both
    beside = invoke("rerank", QUERY, "--store", files.store, "--model", files.model, "--json", "--top", 60).check()
    scores = {row["doc_id"]: row["score"] for row in map(json.loads, beside.out.splitlines())}
    both = [row for row in rows if row["doc_id"] in scores]
    assert len(both) > 5
    assert all(row["score"] == pytest.approx(scores[row["doc_id"]], abs=1e-5) for row in both)


def test_an_index_of_other_documents_is_refused(
    files: Files, elasticsearch_node: ElasticsearchNode, elastic_index: str, login: tuple[str, ...]
) -> None:
    others = {
        own.doc_id: fields_of(other)
        for own, other in zip(documents(DOCUMENTS), documents(DOCUMENTS, DOCUMENTS), strict=True)
    }
    make_index(elasticsearch_node.url, elastic_index, others, mappings=TEXTS)
    search = ("rerank", QUERY, "--store", files.store, "--model", files.model, *login, "--index", elastic_index)
    assert "of 20 sampled documents only 0 are in Elasticsearch index" in invoke(*search, "--allow-other-index").error


def test_runs_are_the_same_bytes_each_time(
    files: Files, copy: str, login: tuple[str, ...], tmp_path: Path, elasticsearch_node: ElasticsearchNode
) -> None:
    usual = ("run", "--topics", files.topics, "--store", files.store, "--model", files.model, "--index", copy)
    invoke(*usual, *login, "--allow-other-index", "--k", 30, "--output", tmp_path / "one.txt").check()
    name, password = elasticsearch_node.reader
    environ = {"COLBERT_RERANK_ELASTICSEARCH_USER": name, "COLBERT_RERANK_ELASTICSEARCH_PASSWORD": password}
    again = (*usual, "--elasticsearch", elasticsearch_node.bare_url, "--allow-other-index", "--k", 30)
    done = invoke(*again, "--output", tmp_path / "two.txt", "-v", environ=environ).check()
    assert (tmp_path / "one.txt").read_bytes() == (tmp_path / "two.txt").read_bytes()
    assert len((tmp_path / "one.txt").read_text().splitlines()) > 50
    assert password not in done.err + done.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(
            ("--opensearch", "http://x", "--elasticsearch", "http://y"),
            "--opensearch, --elasticsearch: the candidates come from one of them; choose one",
            id="both",
        ),
        pytest.param(("--elasticsearch", "http://x", "--bm25"), "--bm25: the candidates come from --elast", id="bm25"),
        pytest.param(("--elasticsearch", "http://x"), "--index NAME", id="no-index"),
        pytest.param(("--elasticsearch", "x:9200", "--index", "i"), "the Elasticsearch URL must begin with", id="url"),
        pytest.param(("--es-user", "me"), "--es-user: only with --elasticsearch URL", id="login-without-server"),
        pytest.param(
            ("--opensearch", "http://x", "--es-api-key-file", "f"),
            "--es-api-key-file: only with --elasticsearch URL",
            id="login-of-the-other",
        ),
        pytest.param(
            ("--elasticsearch", "http://x", "--os-user", "me"),
            "--os-user: only with --opensearch URL",
            id="other-login",
        ),
        pytest.param(
            ("--elasticsearch", "http://x", "--add-doc-id-alias"), "--add-doc-id-alias: only with --open", id="alias"
        ),
        pytest.param(("--dfs",), "--dfs: only with --opensearch URL or --elasticsearch URL", id="dfs-without-server"),
        pytest.param(
            ("--elasticsearch", "http://x", "--index", "i", "--es-user", "me"),
            "set COLBERT_RERANK_ELASTICSEARCH_PASSWORD, or give it in a file",
            id="no-password",
        ),
    ],
)
def test_options_that_make_no_sense_together(files: Files, options: tuple[str, ...], message: str) -> None:
    failed = invoke("rerank", QUERY, "--store", files.store, "--model", files.model, *options)
    assert (failed.status, message in failed.error) == (2, True), failed.error


def test_a_run_file_leaves_no_room_for_a_server(files: Files, tmp_path: Path) -> None:
    (tmp_path / "bm25.txt").write_text("1 Q0 d1 1 2 x\n")
    usual = (
        "run",
        "--topics",
        files.topics,
        "--store",
        files.store,
        "--output",
        "-",
        "--candidates",
        tmp_path / "bm25.txt",
    )
    assert (
        "--elasticsearch: the candidates come from --candidates" in invoke(*usual, "--elasticsearch", "http://x").error
    )


def test_the_password_is_not_written_over(files: Files, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret")
    server = ("--elasticsearch", "http://x", "--es-user", "me", "--es-password-file", tmp_path / "password")
    usual = ("run", "--topics", files.topics, "--store", files.store, "--output", tmp_path / "password", *server)
    assert "is the file of --es-password-file" in invoke(*usual).error


def test_setup_prints_two_requests() -> None:
    shown = invoke(*SETUP, "--dry-run", "--index", "my-index", "--text-field", "body", "--k", 200).check()
    first, second = shown.out.split("\n\n")
    made, endpoint = first.split("\n", 1)
    asked, search = second.split("\n", 1)
    assert (made, asked) == ("PUT _inference/rerank/colbert", "POST my-index/_search")
    settings = json.loads(endpoint)["service_settings"]
    assert settings["url"] == "http://service:8080/v1/stores/articles/rerank"
    assert settings["secret_parameters"] == {"api_key": "CHANGE_ME"}
    reranker = json.loads(search)["retriever"]["text_similarity_reranker"]
    assert (reranker["inference_id"], reranker["rank_window_size"]) == ("colbert", 200)
    assert [*reranker["retriever"]["standard"]["query"]["match"]] == ["body"]
    assert reranker["allow_rerank_failures"] is True
    assert "CHANGE_ME" in shown.err
    assert "came with 8.19" in shown.err
    strict = invoke(*SETUP, "--dry-run", "--strict").check()
    assert "allow_rerank_failures" not in strict.out + strict.err


def test_setup_shows_no_key(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("s3cr3t-key\n")
    shown = invoke(*SETUP, "--dry-run", "--api-key-file", tmp_path / "key", "-v").check()
    assert "s3cr3t" not in shown.out + shown.err
    assert '"api_key": "********"' in shown.out
    shown = invoke(*SETUP, "--dry-run", environ={"COLBERT_RERANK_TOKEN": "s3cr3t-key"}).check()
    assert '"api_key": "********"' in shown.out
    (tmp_path / "key").write_text("one-key\ttwo")
    assert "cannot stand in an HTTP header" in invoke(*SETUP, "--dry-run", "--api-key-file", tmp_path / "key").error
    assert "cannot read the secret" in invoke(*SETUP, "--dry-run", "--api-key-file", tmp_path / "none").error


def test_setup_without_dry_run_says_why_it_does_nothing() -> None:
    failed = invoke(*SETUP)
    assert failed.status == 2
    assert "--dry-run" in failed.error
    assert "cannot be had for this package's tests" in failed.error


@pytest.mark.parametrize(
    ("url", "message"),
    [
        pytest.param("service:8080", "the service's URL must begin with http", id="no-scheme"),
        pytest.param("http://me:pw@service", "no user goes into it", id="user"),
        pytest.param("http://service/${x}", "the beginning of a template", id="template"),
    ],
)
def test_setup_refuses_urls_that_would_not_do(url: str, message: str) -> None:
    failed = invoke("elasticsearch", "setup", "--dry-run", "--url", url, "--store", "articles")
    assert (failed.status, message in failed.error, "pw" in failed.error) == (2, True, False), failed.error
