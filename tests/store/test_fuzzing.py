"""The fuzzer, for a few seconds. scripts/soak runs it for longer."""

from __future__ import annotations

import pytest

from tests.store.fuzzing import TARGETS, fuzz

pytestmark = pytest.mark.proof


def test_no_bytes_do_more_than_raise_a_store_error() -> None:
    report = fuzz(n=5000, seed=1)
    assert report.coverage.keys() == {*TARGETS}
    assert min(report.coverage.values()) > 10  # else nothing was instrumented
