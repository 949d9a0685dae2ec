"""`colbert-rerank bench --opensearch`: its rows are measured on a real node, and nothing of it stays there."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from colbert_rerank.bench import cases, gpu, server
from colbert_rerank.connection import Connection
from colbert_rerank.errors import UsageError
from colbert_rerank.opensearch import connect
from tests.cli.terminal import Result, invoke
from tests.server.indices import make_index, put_settings
from tests.server.node import OpenSearchNode
from tests.server.rest import call

K = 5


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "last_cache", lambda: 1 << 17)
    monkeypatch.setattr(server, "DEPTHS", dict.fromkeys(server.DEPTHS, K))
    monkeypatch.setattr(server, "INDEXED", 2 * K)
    monkeypatch.setattr(server, "PASSAGES", 300)
    monkeypatch.setattr(gpu, "cuda", lambda: None)


def bench(url: str, file: Path, *options: str) -> Result:
    return invoke("bench", "--k", K, "--repeats", 2, "--json", file, "--opensearch", url, *options)


def rows_of(file: Path) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads(file.read_text())["rows"]}


def indices(url: str) -> set[str]:
    listed = call(url, "GET", "/_cat/indices?h=index&format=json&expand_wildcards=all").json()
    return {row["index"] for row in listed if row["index"].startswith("colbert-rerank-bench")}


@pytest.mark.own_node
def test_beside_opensearch_s_own_late_interaction(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    with OpenSearchNode(plugins=["opensearch-knn"]) as node:
        bench(node.url, file).check()
        assert indices(node.url) == set()
    assert json.loads(file.read_text())["versions"]["opensearch"] == OpenSearchNode.version
    found = rows_of(file)
    for name in server.DEPTHS:
        row = found[name]
        assert (row["k"], row["repeats"], row["index_documents"]) == (K, 2, 2 * K)
        assert row["index_bytes"] > 10_000
        assert row["ratio"] == pytest.approx(row["peer_ms"] / row["ours_ms"])
    assert found["cpu_reranking_vs_bm25_with_source"]["missing"] == "not asked for: --model NAME"


def test_what_re_ranking_adds_to_bm25(opensearch_url: str, tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    bench(opensearch_url, file, "--model", str(tiny)).check()
    assert indices(opensearch_url) == set()
    found = rows_of(file)
    row = found["cpu_reranking_vs_bm25_with_source"]
    assert (row["k"], row["repeats"], row["index_documents"]) == (K, 2, 300)
    assert set(row["stages_ms"]) == {"candidates", *server.ADDED}
    assert row["ours_ms"] > max(row["stages_ms"][stage] for stage in server.ADDED) / 2
    assert row["ratio"] == pytest.approx(row["peer_ms"] / row["ours_ms"])
    assert "lateInteractionScore" in found["cpu_fp16_vs_opensearch_k1000"]["missing"], "a node without k-NN"


@pytest.mark.parametrize("name", [server.TOKENS_INDEX, server.PASSAGES_INDEX])
def test_an_index_that_is_there_is_refused_and_left(opensearch_url: str, tmp_path: Path, name: str) -> None:
    make_index(opensearch_url, name, {"a": {"text": "of another"}})
    try:
        done = bench(opensearch_url, tmp_path / "json")
        assert f"the index {name!r} is there already" in done.error
        assert "making stores" not in done.err, "at once"
        with (  # made since it was looked for
            closing(connect(Connection(opensearch_url))) as client,
            pytest.raises(UsageError, match="is there already"),
            server.temporary_index(client, name, {}),
        ):
            pass
        assert call(opensearch_url, "GET", f"/{name}/_count").json()["count"] == 1
    finally:
        call(opensearch_url, "DELETE", f"/{name}")


def test_an_interrupted_bench_deletes_its_index(
    opensearch_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def interrupted(*_: object) -> None:
        seen.append(indices(opensearch_url))
        raise KeyboardInterrupt

    monkeypatch.setattr(server, "_late_scores", interrupted)
    assert "interrupted" in bench(opensearch_url, tmp_path / "json").error
    assert seen == [{server.TOKENS_INDEX}]
    assert indices(opensearch_url) == set()


def test_an_index_that_cannot_be_deleted_is_named(
    opensearch_url: str, index_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    def locked_out() -> None:
        with closing(connect(Connection(opensearch_url))) as client, server.temporary_index(client, index_name, {}):
            put_settings(opensearch_url, f"/{index_name}/_settings", {"index.blocks.read_only": True})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        locked_out()
    put_settings(opensearch_url, f"/{index_name}/_settings", {"index.blocks.read_only": False})
    assert f"the index {index_name} was made for this and is left behind" in caplog.text
