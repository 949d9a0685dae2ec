"""Random damage to a store. scripts/soak runs the same function for longer."""

from __future__ import annotations

import pytest

from tests.store.corrupting import corrupt_store

pytestmark = pytest.mark.proof


def test_a_damaged_store_is_refused_or_read_as_it_was() -> None:
    report = corrupt_store(n=500, seed=4)
    assert report.refused > 250
    assert report.refused + report.harmless == 500
