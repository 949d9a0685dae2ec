"""The small size of what `scripts/soak` does at full size."""

from __future__ import annotations

import pytest

from tests.serve.loading import CLIENTS, load

pytestmark = pytest.mark.proof


def test_load_and_overload() -> None:
    report = load(1000, seed=7)
    assert [row["clients"] for row in report.clients] == [*CLIENTS]
    assert all(0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"] for row in report.clients)
