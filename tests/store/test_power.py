"""Power loss at any moment. scripts/soak plays more crashes by the same function."""

from __future__ import annotations

import pytest

from tests.store.power import FSYNCS, HarmError, lose_power

pytestmark = pytest.mark.proof


def test_no_crash_does_harm() -> None:
    report = lose_power(n=1, seed=1)
    assert report.operations > 50
    assert report.crashes == report.operations


def until_harm(without: str) -> None:
    for seed in range(10):
        lose_power(n=1, seed=seed, without=without)


@pytest.mark.parametrize("without", FSYNCS)
def test_each_fsync_is_needed(without: str) -> None:
    with pytest.raises(HarmError):
        until_harm(without)
