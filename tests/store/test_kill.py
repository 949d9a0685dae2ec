"""kill -9 at random moments of writing. scripts/soak may run the same function for longer."""

from __future__ import annotations

import pytest

from tests.store.killing import kill_store

pytestmark = pytest.mark.proof


def test_killed_writers_lose_nothing() -> None:
    report = kill_store(n=20, seed=20)
    assert report.kills == 20
    assert report.commits >= 20  # else little was at stake
