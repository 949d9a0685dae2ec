"""Indices that are not ours, by the commands: filled, read, and searched as their owners made them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from colbert_rerank.errors import OpenSearchUnreachableError
from colbert_rerank.store import Store
from ingest.first_stage import OpenSearchFirstStage
from tests.cli.terminal import Result, invoke
from tests.server.indices import count, make_index, put_documents, put_settings, source_of
from tests.server.rest import call

TEXT = {"properties": {"title": {"type": "text"}}}


class Job:
    """The commands against one server, with a small model."""

    def __init__(self, url: str, model: Path) -> None:
        self.url, self.model = url, model

    def ingest(self, source: object, store: Path, *options: object) -> Result:
        arguments = ("ingest", source, "--store", store, "--opensearch", self.url, "--model", self.model)
        return invoke(*arguments, "--fields", "title", *options)

    def rerank(self, query: str, store: Path, *options: object) -> list[dict[str, Any]]:
        done = invoke("rerank", query, "--store", store, "--opensearch", self.url, "--json", *options).check()
        return [json.loads(line) for line in done.out.splitlines()]


@pytest.fixture
def job(opensearch_url: str, tiny: Path) -> Job:
    return Job(opensearch_url, tiny)


def corpus(path: Path, titles: Mapping[str, str]) -> Path:
    path.write_text("".join(json.dumps({"_id": i, "title": t}) + "\n" for i, t in titles.items()))
    return path


def test_what_is_there_already_is_not_replaced_unasked(job: Job, index_name: str, tmp_path: Path) -> None:
    """Neither what its owner put there nor what another store did, which would score it by the wrong vectors."""
    make_index(job.url, index_name, {"owned": {"title": "the owner's"}}, mappings=TEXT)
    first = corpus(tmp_path / "first", {"1": "white matter", "2": "tides and moon"})
    options = ("--index", index_name, "--into-existing")
    job.ingest(first, tmp_path / "a", *options).check()
    job.ingest(first, tmp_path / "a", *options).check()
    second = corpus(tmp_path / "second", {"new": "before it", "2": "football match", "after": "it"})
    refused = job.ingest(second, tmp_path / "b", *options)
    assert (refused.status, f"{second}:2: " in refused.error) == (1, True)
    assert f"{index_name!r}" in refused.error
    assert "has another document '2' already, which would be replaced" in refused.error
    assert source_of(job.url, index_name, "2")["title"] == "tides and moon"
    assert Store.open(tmp_path / "b").index.ids() == ["new"], "what came before it is kept"
    third = corpus(tmp_path / "third", {"owned": "mine"})
    assert "another document 'owned'" in job.ingest(third, tmp_path / "c", *options).error
    job.ingest(third, tmp_path / "c", *options, "--allow-other-index").check()
    assert source_of(job.url, index_name, "owned")["title"] == "mine"
    assert count(job.url, index_name) == 4


def test_what_was_stored_and_not_yet_posted_replaces_nothing_either(job: Job, index_name: str, tmp_path: Path) -> None:
    """What another put there between a lost server and the next attempt."""
    make_index(job.url, index_name, mappings=TEXT)
    source = corpus(tmp_path / "corpus", {"1": "white matter", "2": "tides and moon"})
    options = ("--index", index_name, "--into-existing")
    with patch.object(OpenSearchFirstStage, "post", side_effect=OpenSearchUnreachableError("gone")):
        assert job.ingest(source, tmp_path / "store", *options).status == 1
    assert len(Store.open(tmp_path / "store")) == 2
    put_documents(job.url, index_name, {"2": {"title": "the owner's"}})
    assert "another document '2'" in job.ingest(source, tmp_path / "store", *options).error
    assert source_of(job.url, index_name, "2")["title"] == "the owner's"
    done = job.ingest(source, tmp_path / "store", *options, "--on-error", "skip").check()
    assert "Warning: 1 skipped: id taken in the index" in done.err
    assert source_of(job.url, index_name, "1")["title"] == "white matter"
    assert source_of(job.url, index_name, "2")["title"] == "the owner's"
    changed = corpus(tmp_path / "corpus", {"1": "grey matter"})
    assert "1 encoded" in job.ingest(changed, tmp_path / "store", *options).check().err
    assert source_of(job.url, index_name, "1")["title"] == "grey matter", "what is ours may change"


def test_what_others_made_of_a_document_of_ours_is_theirs(job: Job, index_name: str, tmp_path: Path) -> None:
    make_index(job.url, index_name, mappings=TEXT)
    titles = {"1": "white matter", "2": "tides and moon", "3": "ice"}
    options = ("--index", index_name, "--into-existing")
    source = corpus(tmp_path / "corpus", titles)
    job.ingest(source, tmp_path / "store", *options).check()
    put_documents(job.url, index_name, {"2": {"title": "edited by the owner"}})
    assert "(0 encoded" in job.ingest(source, tmp_path / "store", *options).check().err
    assert source_of(job.url, index_name, "2")["title"] == "edited by the owner", "what has not changed is not sent"
    corpus(source, titles | {"1": "grey matter", "2": "tides", "3": "edited by the owner"})
    put_documents(job.url, index_name, {"3": {"title": "edited by the owner"}})
    done = job.ingest(source, tmp_path / "store", *options, "--on-error", "skip").check()
    assert "Warning: 1 skipped: id taken in the index" in done.err
    assert source_of(job.url, index_name, "1")["title"] == "grey matter"
    assert source_of(job.url, index_name, "2")["title"] == "edited by the owner"


def test_the_same_documents_may_be_put_there_by_a_second_store(job: Job, index_name: str, tmp_path: Path) -> None:
    make_index(job.url, index_name, mappings=TEXT)
    source = corpus(tmp_path / "corpus", {"1": "white matter", "2": "tides and moon"})
    for store in ("a", "b"):
        job.ingest(source, tmp_path / store, "--index", index_name, "--into-existing").check()
        assert [d["doc_id"] for d in job.rerank("tides", tmp_path / store)] == ["2"]


def test_nested_fields_are_searched(job: Job, index_name: str, tmp_path: Path) -> None:
    nested = {"type": "nested", "properties": {"body": {"type": "text"}}}
    mappings = {"properties": {"title": {"type": "text"}, "parts": nested}}
    docs = {
        "1": {"title": "brain", "parts": [{"body": "white matter"}, {"body": "grey"}]},
        "2": {"title": "white matter", "parts": [{"body": "moon"}]},
        "3": {"title": "nothing", "parts": [{"body": "of it"}]},
    }
    make_index(job.url, index_name, docs, mappings=mappings)
    source = f"opensearch:{index_name}"
    for fields, found in (("parts.body", {"1"}), ("title,parts.body", {"1", "2"})):
        store = tmp_path / fields
        job.ingest(source, store, "--fields", fields).check()
        assert {d["doc_id"] for d in job.rerank("white matter", store)} == found


def test_a_filtered_alias_is_searched_as_it_was_read(job: Job, index_name: str, tmp_path: Path) -> None:
    docs = {str(i): {"title": f"tides and moon {i}", "group": "ab"[i % 2]} for i in range(10)}
    make_index(job.url, index_name, docs)
    alias = f"{index_name}-a"
    put_settings(job.url, f"/{index_name}/_alias/{alias}", {"filter": {"term": {"group.keyword": "a"}}})
    done = job.ingest(f"opensearch:{alias}", tmp_path / "store").check()
    assert "5 documents" in done.err
    found = job.rerank("tides", tmp_path / "store")
    assert {d["doc_id"] for d in found} == {"0", "2", "4", "6", "8"}
    assert all(d["scored"] for d in found)
    assert len(job.rerank("tides", tmp_path / "store", "--index", index_name)) == 10


def test_a_data_stream_grows(job: Job, index_name: str, tmp_path: Path) -> None:
    template = {"index_patterns": [index_name], "data_stream": {}, "template": {"settings": {"number_of_replicas": 0}}}
    put_settings(job.url, f"/_index_template/{index_name}", template)
    try:
        when = {"@timestamp": "2026-01-01T00:00:00Z"}
        for i in range(2):
            lines = [{"create": {"_id": str(i)}}, {"title": f"white matter {i}", **when}]
            assert not call(job.url, "POST", f"/{index_name}/_bulk?refresh=true", lines).json()["errors"]
            assert call(job.url, "POST", f"/{index_name}/_rollover").status == 200
        store, source = tmp_path / "store", f"opensearch:{index_name}"
        job.ingest(source, store, "--qualified-ids").check()
        assert len(job.rerank("matter", store)) == 2
        lines = [{"create": {"_id": "2"}}, {"title": "white matter 2", **when}]
        assert not call(job.url, "POST", f"/{index_name}/_bulk?refresh=true", lines).json()["errors"]
        assert call(job.url, "POST", f"/{index_name}/_rollover").status == 200
        found = job.rerank("matter", store)
        assert [d["scored"] for d in found] == [True, True, False], "found, and known to be without vectors"
        assert "(1 encoded, 2 stored before)" in job.ingest(source, store, "--qualified-ids").check().err
        assert all(d["scored"] for d in job.rerank("matter", store))
    finally:
        call(job.url, "DELETE", f"/_data_stream/{index_name}")
        call(job.url, "DELETE", f"/_index_template/{index_name}")


def test_an_index_of_small_windows_is_read(job: Job, index_name: str, tmp_path: Path) -> None:
    docs = {str(i): {"title": f"tides {i}"} for i in range(120)}
    make_index(job.url, index_name, docs, settings={"max_result_window": 7})
    store = tmp_path / "store"
    assert "120 documents" in job.ingest(f"opensearch:{index_name}", store).check().err
    assert len(job.rerank("tides", store, "--k", 7)) == 7


def test_a_closed_index_is_called_closed(job: Job, index_name: str, tmp_path: Path) -> None:
    make_index(job.url, index_name, {"1": {"title": "tides"}})
    job.ingest(f"opensearch:{index_name}", tmp_path / "store").check()
    assert call(job.url, "POST", f"/{index_name}/_close").status == 200
    failed = invoke("rerank", "tides", "--store", tmp_path / "store", "--opensearch", job.url)
    assert failed.error.endswith(f"index {index_name!r}: the index is closed; open it to search it")


def test_where_an_index_was_made_again_the_advice_is_for_one_that_is_read(
    job: Job, index_name: str, tmp_path: Path
) -> None:
    make_index(job.url, index_name, {"1": {"title": "tides"}})
    source = f"opensearch:{index_name}"
    job.ingest(source, tmp_path / "store").check()
    call(job.url, "DELETE", f"/{index_name}")
    make_index(job.url, index_name)
    put_documents(job.url, index_name, {"1": {"title": "tides"}})
    assert job.ingest(source, tmp_path / "store").error.endswith("pass --allow-other-index to go on from it")
    job.ingest(source, tmp_path / "store", "--allow-other-index").check()
