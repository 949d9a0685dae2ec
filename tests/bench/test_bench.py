"""`colbert-rerank bench` measures what it says, beside peers that do the same work; no time is asserted."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from colbert_rerank import rerank
from colbert_rerank.bench import cases, cross_encoder, documents, gpu, resident, rows, server
from colbert_rerank.bench import peer as peers
from colbert_rerank.device_rows import DeviceRows, InMemory, Rows
from colbert_rerank.maxsim import scores_of
from colbert_rerank.residency import Residence, keep
from colbert_rerank.store import Store
from tests.cli.terminal import Result, invoke

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

# Stand-ins for libraries: the product of what they are given, times a number.
MAXSIM_CPU = """
def maxsim_scores_variable(query, matrices):
    return [{factor} * (matrix @ query.T).max(axis=0).sum() for matrix in matrices]
"""
# Lives as long as it takes to be compared: called once to be ready, and once for its scores.
ENDS = """
import itertools, os
calls = itertools.count()
def maxsim_scores_variable(query, matrices, compared=maxsim_scores_variable):
    return compared(query, matrices) if next(calls) < 2 else os._exit(1)
"""
FLASH_MAXSIM = """
def flash_maxsim(query, documents):
    return (documents.float() @ query.float().T).amax(dim=1).sum(dim=1)
"""
SMALL_BERT = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "last_cache", lambda: 1 << 17)
    monkeypatch.setattr(cross_encoder, "BERT_BASE", SMALL_BERT)
    monkeypatch.setattr(gpu, "KERNEL_DOCUMENTS", 20)
    monkeypatch.setattr(gpu, "RAGGED", 20)
    monkeypatch.setattr(resident, "QUERIES", 4)
    monkeypatch.setattr(resident, "PAIRS", 15)  # of three queries, and one is left
    monkeypatch.setattr(server, "DEPTHS", dict.fromkeys(server.DEPTHS, 1))


def library(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    (folder / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(folder))


def table(done: Result, file: Path) -> dict[str, dict[str, Any]]:
    """The rows by name, as the JSON has them; each is a line of what was printed."""
    found = json.loads(file.read_text())
    assert {"machine", "versions", "rows"} <= found.keys()
    by_name = {row["name"]: row for row in found["rows"]}
    every = (*rows.PASSAGES, *rows.SCORING, *rows.SERVER, *rows.CROSS_ENCODER, *rows.GPU)
    assert [*by_name] == [row.name for row in every]
    lines = done.check().out.splitlines()
    for (name, row), line in zip(by_name.items(), lines, strict=True):
        why = f"not measured: {row['missing'].removeprefix('not yet measured: ')}" if "missing" in row else ""
        assert line.startswith(f"{name}: {why}")
    return by_name


def check_times(row: Mapping[str, Any], k: int, repeats: int) -> None:
    assert (row["k"], row["repeats"]) == (k, repeats)
    assert row["threads"] >= 1
    for side in ("ours", "peer") if row["peer"] else ("ours",):
        assert 0 < row[f"{side}_p10_ms"] <= row[f"{side}_ms"] <= row[f"{side}_p90_ms"]
    if row["peer"]:
        assert row["ratio"] == pytest.approx(row["peer_ms"] / row["ours_ms"])


def check_resident(by_name: Mapping[str, dict[str, Any]], k: int, repeats: int) -> None:
    for row in rows.RESIDENT:
        check_times(by_name[row.name], k, repeats)
    pinned, on_gpu, batch = (by_name[row.name] for row in rows.RESIDENT)
    for row_of_one in (pinned, on_gpu):
        assert {"encode", "score", "order"} <= row_of_one["stages_ms"].keys()
    assert 0 <= pinned["hot_share"] < 1
    assert "hot_share" not in on_gpu
    assert batch["queries_per_second"] == pytest.approx(1000 * batch["queries"] / batch["ours_ms"])


@pytest.mark.usefixtures("small")
def test_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library(tmp_path, monkeypatch, "maxsim_cpu", MAXSIM_CPU.format(factor=1.0))
    file = tmp_path / "bench.json"
    python = os.path.relpath(sys.executable)
    done = invoke("bench", "--k", "100", "--repeats", "3", "--json", file, "--peer", f"maxsim_cpu={python}")
    by_name = table(done, file)
    found = json.loads(file.read_text())
    assert by_name["cpu_fp16_passages_vs_maxsim_cpu"]["mean_passage_tokens"] == pytest.approx(documents.TOKENS, abs=5)
    assert found["documents"] * documents.TOKENS * (documents.DIM + 4) >= 9.9 * cases.last_cache()
    for row in (*rows.PASSAGES, *rows.SCORING):
        if row.peer == "pylate":
            assert "No module named 'pylate'" in by_name[row.name]["missing"]
        else:
            check_times(by_name[row.name], 100, 3)
    assert found["versions"]["maxsim_cpu"] == "unknown", "the stand-in has none"
    assert by_name["cpu_fp16_vs_opensearch_k1000"]["missing"] == "not asked for: --opensearch URL"
    assert by_name["time_cross_encoder_vs_colbert"]["missing"] == "not asked for: --cross-encoder"


@pytest.mark.usefixtures("small")
def test_a_peer_that_does_other_work_is_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library(tmp_path, monkeypatch, "maxsim_cpu", MAXSIM_CPU.format(factor=1.1))
    done = invoke("bench", "--k", "10", "--repeats", "1", "--work", tmp_path).check()
    assert "cpu_fp16_vs_maxsim_cpu: not measured: its scores are others, by up to" in done.out
    assert [path.name for path in tmp_path.iterdir()] == ["maxsim_cpu.py"], "what it made is removed"


def test_operations_are_those_of_the_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_encoder, "BERT_BASE", SMALL_BERT)
    hidden, inner, tokens, query = 8, 16, 7, documents.QUERY_TOKENS

    def layer(length: int) -> int:
        return 2 * length * (4 * hidden**2 + 2 * hidden * inner) + 4 * length**2 * hidden

    pooled_and_classified = 2 * (hidden**2 + hidden)
    assert cross_encoder.cross_encoder_flops([tokens, tokens, 9]) == (
        2 * layer(tokens) + layer(9) + 3 * pooled_and_classified
    )
    encoded, rows_scored = layer(query) + 2 * query * hidden * documents.DIM, 2 * 16 * documents.DIM * query
    assert cross_encoder.colbert_flops([tokens, 9]) == encoded + rows_scored


def test_passages_are_as_long_as_they_are_said_to_be() -> None:
    lengths = documents.passage_lengths(1000)
    assert lengths == documents.passage_lengths(1000)
    assert sum(lengths) / 1000 == pytest.approx(documents.TOKENS, abs=3)
    assert documents.SHORTEST <= min(lengths) < max(lengths) <= documents.LONGEST


@pytest.mark.triton
@pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0:DeprecationWarning")  # Triton's interpreter
@pytest.mark.usefixtures("small")
def test_a_cross_encoder_and_the_rows_of_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is none on a CPU, which shows that they run; the clock of a GPU is not looked at."""
    library(tmp_path, monkeypatch, "flash_maxsim", FLASH_MAXSIM)
    if DEVICE == "cpu":
        monkeypatch.setattr(gpu, "cuda", lambda: DEVICE)

        def place(store: Store, device: str, where: Any, _: int | None) -> tuple[Rows, Residence]:
            residence = Residence(where, 1 << 20, where)
            return keep(store, device, residence), residence

        monkeypatch.setattr(rerank, "place", place)
    file = tmp_path / "bench.json"
    by_name = table(invoke("bench", "--k", "5", "--repeats", "2", "--json", file, "--cross-encoder"), file)
    check_times(by_name["gpu_kernel_vs_flash_maxsim"], 5, 2)
    check_times(by_name["gpu_ragged_vs_memory_bandwidth"], gpu.RAGGED, 2)
    assert "late_interaction_kernels" in by_name["gpu_kernel_vs_late_interaction_kernels"]["missing"]
    for name in ("time_cross_encoder_vs_colbert", "gpu_time_cross_encoder_vs_colbert"):
        check_times(by_name[name], 5, 3)
        assert by_name[name]["peer_repeats"] == cross_encoder.REPEATS
    for name in ("flops_cross_encoder_vs_colbert_paper", "flops_cross_encoder_vs_colbert_own_lengths"):
        assert by_name[name]["ratio"] == by_name[name]["peer_flops"] / by_name[name]["ours_flops"]
    check_resident(by_name, 5, 2)


@pytest.mark.parametrize("fault", ["", "no C compiler"])
@pytest.mark.usefixtures("small")
def test_a_store_that_there_is_no_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """As a CPU has none; and a kernel that there is not."""
    monkeypatch.setattr("colbert_rerank.maxsim.gpu.fault", lambda device: fault)
    made = documents.Documents(tmp_path, [5] * 20, 20)
    found = resident.measure(made, tmp_path, "cpu", {"k": 5, "threads": 1, "repeats": 1})
    pinned, on_gpu, batch = (found[row.name]["missing"] for row in rows.RESIDENT)
    assert pinned.startswith("resident pinned is for a CUDA GPU")
    assert on_gpu.startswith("resident gpu is for a CUDA GPU")
    assert batch == (fault or on_gpu)


@pytest.mark.triton
@pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0:DeprecationWarning")
@pytest.mark.parametrize("pairs", [1, 7, 1000])
def test_a_batch_is_its_queries_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pairs: int) -> None:
    monkeypatch.setattr(resident, "PAIRS", pairs)
    store, rng, k = documents.Documents(tmp_path, [5] * 20, 20).stores["float16"], np.random.default_rng(1), 3
    docs = DeviceRows(store, [InMemory.of(store.plane()[0], DEVICE)]).read(
        [str(n) for n in rng.integers(20, size=5 * k)]
    )
    queries = [documents.unit_vectors(rng, 4, documents.DIM) for _ in range(5)]
    found = resident.batch_scores(queries, docs, k)
    for number, query in enumerate(queries):
        own = slice(number * k, (number + 1) * k)
        alone = docs._replace(found=docs.found[own], starts=docs.starts[own], counts=docs.counts[own])
        assert found[own].tolist() == scores_of(query, alone, DEVICE, "dot", "sum").tolist()


@pytest.mark.gpu
@pytest.mark.usefixtures("small")
def test_on_a_gpu(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    by_name = table(invoke("bench", "--k", "5", "--repeats", "2", "--json", file, "--cross-encoder"), file)
    check_times(by_name["gpu_ragged_vs_memory_bandwidth"], gpu.RAGGED, 2)
    check_times(by_name["gpu_time_cross_encoder_vs_colbert"], 5, 3)
    check_resident(by_name, 5, 2)
    assert json.loads(file.read_text())["machine"]["gpu"]


@pytest.mark.usefixtures("small")
def test_a_peer_that_ends_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library(tmp_path, monkeypatch, "maxsim_cpu", MAXSIM_CPU.format(factor=1.0) + ENDS)
    assert "maxsim_cpu ended while it was measured" in invoke("bench", "--k", "5", "--repeats", "1").error


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--peer", "pylate", "expected NAME=PYTHON, of maxsim_cpu, pylate"),
        ("--peer", "pylate=/no/python", "/no/python is no program that can be run"),
        ("--json", "/no/folder/bench.json", "the folder /no/folder is not there"),
        ("--model", "starter", "--model: only with --opensearch URL"),
        ("--os-user", "me", "--os-user: only with --opensearch URL"),
    ],
)
@pytest.mark.usefixtures("small")
def test_what_is_not_there(option: str, value: str, message: str) -> None:
    assert message in invoke("bench", "--k", "1", "--repeats", "1", option, value).error


def test_every_peer_has_a_name() -> None:
    assert [*peers.LIBRARIES] == [*rows.LABELS]
    assert {*peers.ON_GPU} <= {*peers.WITH_TORCH} <= {*peers.LIBRARIES}
