"""A few rounds here; `scripts/soak` plays many."""

from tests.store.together import write_together


def test_several_writers_lose_nothing() -> None:
    report = write_together(n=10, seed=60)
    assert report.kills
    assert report.midway
