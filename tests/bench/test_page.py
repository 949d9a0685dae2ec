"""docs/benchmarks.md as it is made from what was recorded, here from figures that are made up."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import benchmarks.bench
from benchmarks import render
from colbert_rerank.bench import rows

MACHINE = {"processor": "A Processor", "cores": 2, "memory_gib": 22, "system": "Linux x86_64"}
VERSIONS = {"python": "3.10.13", "torch": "2.11.0", "maxsim_cpu": "0.1.0", "opensearch": "3.6.0"}
SHAPE = {
    "documents": 1000,
    "tokens": 68,
    "dim": 128,
    "query_tokens": 32,
    "k": 1000,
    "scoring": "avx512",
    "commit": "abc",
}


def recorded(*found: dict[str, Any], **machine: Any) -> dict[str, Any]:
    return {"machine": MACHINE | machine, "versions": VERSIONS, **SHAPE, "rows": list(found)}


def line(text: str, name: str) -> list[str]:
    """The cells of a row of the table."""
    (found,) = re.findall(rf"^\| `?{re.escape(name)}`? \| (.*) \|$", text, flags=re.M)
    return [cell.strip() for cell in str(found).split(" | ")]


def named(name: str) -> rows.Row:
    (row,) = (
        r for r in (*rows.PASSAGES, *rows.SCORING, *rows.SERVER, *rows.CROSS_ENCODER, *rows.GPU) if r.name == name
    )
    return row


def test_a_row_that_was_measured() -> None:
    row = rows.measured(named("cpu_fp16_vs_maxsim_cpu"), [2.0, 3.0, 4.0], [1100.0, 1200.0, 1300.0], k=1000)
    text = render.bench(recorded(row))
    assert line(text, "cpu_fp16_vs_maxsim_cpu") == [
        *("float16", "3 (2.2 to 3.8)"),
        *("maxsim-cpu, matrices in memory", "1,200 (1,120 to 1,280)", "400", "3"),
    ]
    assert "commit abc, A Processor" in text
    assert "2 cores, 22 GiB, maxsim_cpu 0.1.0, opensearch 3.6.0" in text


def test_rows_that_were_not_measured_say_so() -> None:
    text = render.bench(recorded(rows.missing(named("cpu_fp16_vs_pylate"), "No module named 'pylate'")))
    assert line(text, "cpu_fp16_vs_pylate")[-2:] == ["not measured: No module named 'pylate'", "20"]
    assert line(text, "cpu_fp16_vs_opensearch_k1000")[-2:] == ["not yet measured", "200"]
    assert line(text, "FLOPs a query, counted as the paper does") == ["", "", "not yet measured"]


def test_the_stages_of_a_query() -> None:
    stages = {"candidates": 4.04, "encode": 10.0}
    row = rows.measured(named("cpu_reranking_vs_bm25_with_source"), [1.0], [2.0], stages_ms=stages)
    assert "BM25 candidates (OpenSearch) 4.0, encode the query 10.0." in render.bench(recorded(row))


def test_the_paper_s_claim_beside_its_own_table() -> None:
    counted = rows.counted(named("flops_cross_encoder_vs_colbert_paper"), 6_950_000_000, 96_600_000_000_000)
    timed = rows.measured(named("time_cross_encoder_vs_colbert"), [30.0], [90_000.0])
    text = render.bench(recorded(counted, timed))
    assert line(text, "FLOPs a query, the paper") == ["97 T", "7 G", "13,900"]
    assert line(text, "FLOPs a query, counted as the paper does") == ["96.6 T", "7.0 G", "13,899"]
    assert line(text, "ms a query, passages as long as they are, on a CPU") == ["90,000", "30", "3,000"]


def test_the_rows_of_a_gpu_name_it() -> None:
    row = rows.measured(named("gpu_ragged_vs_memory_bandwidth"), [0.25], [0.2])
    waits = rows.missing(named("gpu_query_to_ranking_pinned"), "not yet measured: no store")
    text = render.bench_gpu(recorded(row, waits, gpu="A GPU"))
    assert line(text, "gpu_ragged_vs_memory_bandwidth")[-2:] == ["0.8", "0.9"]
    assert line(text, "gpu_query_to_ranking_pinned")[1:] == ["", "", "", "not measured: no store", "ours 5 ms"]
    assert "Kernel: avx512. A GPU, 2 cores" in text


def test_rows_that_nothing_stands_beside() -> None:
    alone = rows.measured(named("gpu_query_to_ranking_resident"), [1.0, 2.0, 3.0], [], stages_ms={"encode": 1.0})
    batch = rows.measured(named("gpu_batch_of_1000_queries"), [40.0], [], queries_per_second=25_000.0)
    text = render.bench_gpu(recorded(alone, batch))
    assert line(text, "gpu_query_to_ranking_resident")[1:] == ["2 (1.2 to 2.8)", "", "", "", "ours 2 ms"]
    assert line(text, "gpu_batch_of_1000_queries")[1] == "40 (40 to 40): 25,000 queries a second"


@pytest.mark.parametrize("table", render.AHEAD, ids=lambda table: table.__name__)
def test_nothing_is_recorded_yet(table: Any) -> None:
    text = table({"rows": []})
    assert f"`python -m benchmarks.bench` writes benchmarks/results/{table.__name__}.json" in text
    assert text.count("not yet measured") >= 7


@pytest.mark.parametrize(
    ("gpu", "name", "options"),
    [(False, "bench", []), (True, "bench_gpu", []), (False, "other", ["--as", "other"])],
    ids=["a CPU", "a GPU", "another CPU"],
)
def test_what_is_recorded_names_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: bool, name: str, options: list[str]
) -> None:
    path = tmp_path / f"{name}.json"

    def measured() -> None:
        assert sys.argv == ["bench.py", "bench", "--json", str(path), "--k", "5"]
        path.write_text('{"rows": []}', encoding="utf-8")
        sys.exit(0)

    monkeypatch.setattr(sys, "argv", ["bench.py", *options, "--k", "5"])
    monkeypatch.setattr(benchmarks.bench, "RESULTS", tmp_path)
    monkeypatch.setattr(benchmarks.bench, "colbert_rerank", measured)
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    monkeypatch.setattr("benchmarks.record.environment", lambda: {"commit": "abc"})
    benchmarks.bench.main()
    assert json.loads(path.read_text()) == {"commit": "abc", "rows": []}
