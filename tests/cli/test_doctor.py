"""`colbert-rerank doctor` says what is in use, and what is missing."""

from __future__ import annotations

import json
import re
from importlib.metadata import PackageNotFoundError, version

import pytest
import torch

from colbert_rerank import machine
from colbert_rerank.maxsim import gpu, native
from tests.cli.terminal import invoke


def test_what_is_here() -> None:
    found = json.loads(invoke("doctor", "--json").check().out)
    assert found["scoring on the CPU"].startswith(f"compiled kernel, {native.isas()[0]} ")
    assert found["scipy"] == version("scipy")
    lines = invoke("doctor").check().out.splitlines()
    assert {line.partition("  ")[0].strip() for line in lines} == {*found}


def test_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(machine, "version", missing)
    monkeypatch.setattr(native, "isas", tuple)
    shown = invoke("doctor").check().out
    assert "by torch, more slowly: the kernel was not compiled" in shown
    assert "not installed; it is for token pooling (--pool-factor)" in shown


@pytest.mark.parametrize(
    ("fault", "said"),
    [("", "kernel compiled by Triton"), ("no C compiler", "by torch, more slowly: .* cannot be used: no C compiler")],
)
def test_a_gpu(monkeypatch: pytest.MonkeyPatch, fault: str, said: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (3_100_000_000, 8_000_000_000))
    monkeypatch.setattr(gpu, "fault", lambda device: fault)
    found = machine.facts()
    assert found["device"] == "cuda: a card, 3.1 of 8.0 GB of its memory free"
    assert re.fullmatch(said, found["scoring on the GPU"])


@pytest.mark.parametrize("spec", [None, object()], ids=["no-triton", "triton"])
def test_no_gpu(monkeypatch: pytest.MonkeyPatch, spec: object) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine, "find_spec", lambda name: spec)
    found = machine.facts()["scoring on the GPU"]
    assert found.startswith("not here: torch finds no GPU")
    assert ("nor is Triton" in found) == (spec is None)
