"""A few rounds here; `scripts/soak` plays many."""

import pytest

from tests.store.together import write_together

pytestmark = pytest.mark.proof


def test_several_writers_lose_nothing() -> None:
    report = write_together(n=10, seed=60)
    assert report.kills
    assert report.midway
