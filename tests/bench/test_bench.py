"""`colbert-rerank bench` measures what it says, beside peers that do the same work; no time is asserted."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from colbert_rerank.bench import cases
from colbert_rerank.bench import peer as peers
from colbert_rerank.bench.peers import LABELS
from tests.cli.terminal import invoke

# A stand-in for a library: the product of what it is given, times a number.
LIBRARY = """
import numpy as np
def maxsim_scores_variable(query, matrices):
    return [{factor} * (matrix @ query.T).max(axis=0).sum() for matrix in matrices]
"""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "last_cache", lambda: 1 << 17)


def library(folder: Path, monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    (folder / "maxsim_cpu.py").write_text(LIBRARY.format(factor=factor), encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(folder))


@pytest.mark.usefixtures("small")
def test_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library(tmp_path, monkeypatch, 1.0)
    file = tmp_path / "bench.json"
    done = invoke(
        "bench", "--k", "100", "--repeats", "3", "--json", file, "--peer", f"maxsim_cpu={sys.executable}"
    ).check()
    found = json.loads(file.read_text())
    assert {"machine", "versions", "rows"} <= found.keys()
    assert found["documents"] * cases.TOKENS * (cases.DIM + 4) >= 9.9 * cases.last_cache()
    rows = {row["name"]: row for row in found["rows"]}
    assert {"cpu_fp16_vs_maxsim_cpu", "cpu_int8_vs_maxsim_cpu", "cpu_fp16_vs_pylate"} <= rows.keys()
    for name, row in rows.items():
        if "pylate" in name:
            assert "No module named 'pylate'" in row["missing"]
            assert f"{name}: not measured" in done.out
            continue
        assert (row["k"], row["repeats"]) == (100, 3)
        assert row["threads"] >= 1
        assert 0 < row["ours_p10_ms"] <= row["ours_ms"] <= row["ours_p90_ms"]
        assert row["ratio"] == pytest.approx(row["peer_ms"] / row["ours_ms"])
        assert f"{name}: {row['ours']} " in done.out


@pytest.mark.usefixtures("small")
def test_a_peer_that_does_other_work_is_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library(tmp_path, monkeypatch, 1.1)
    done = invoke("bench", "--k", "10", "--repeats", "1", "--work", tmp_path).check()
    assert "cpu_fp16_vs_maxsim_cpu: not measured: its scores are others, by up to" in done.out
    assert [path.name for path in tmp_path.iterdir()] == ["maxsim_cpu.py"], "what it made is removed"


@pytest.mark.parametrize(
    ("peer", "message"),
    [("pylate", "expected NAME=PYTHON, of maxsim_cpu, pylate"), ("pylate=/no/python", "/no/python cannot be run")],
)
@pytest.mark.usefixtures("small")
def test_peers_that_are_not_there(peer: str, message: str) -> None:
    assert message in invoke("bench", "--k", "1", "--repeats", "1", "--peer", peer).error


def test_every_peer_has_a_name() -> None:
    assert [*peers.LIBRARIES] == [*LABELS]
