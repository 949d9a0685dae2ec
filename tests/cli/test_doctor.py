"""`colbert-rerank doctor` says what is in use, and what is missing."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version

import pytest

from colbert_rerank import machine
from colbert_rerank.maxsim import native
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
