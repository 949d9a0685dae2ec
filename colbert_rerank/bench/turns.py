"""Measurements that take turns, each time with documents drawn anew."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

PAUSE = 0.25  # seconds


class Work(NamedTuple):
    """``timed`` gives the milliseconds that it takes with the documents of these numbers, of ``documents`` in all."""

    documents: int
    timed: Callable[[list[int]], float]


def in_turns(works: Mapping[str, Work], k: int, repeats: int) -> dict[str, list[float]]:
    """Milliseconds of each work with ``k`` documents, ``repeats`` times after one that warms up.

    They take turns in an order that is drawn each time, and not at once after one another: libraries' threads spin for
    a while when they have nothing to do any more.
    """
    rng = np.random.default_rng(1)
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(repeats + 1):
        for name in rng.permutation(list(works)).tolist():
            work = works[name]
            time.sleep(PAUSE)
            ms = work.timed(rng.choice(work.documents, k, replace=False).tolist())
            if number:
                times[name].append(ms)
    return times


def wall_ms(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - start)
