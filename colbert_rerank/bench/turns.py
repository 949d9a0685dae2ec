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
    """Milliseconds of each work with ``k`` documents, ``repeats`` times.

    They take turns in an order that is drawn each time. A pause is before each turn, since libraries' threads spin for
    a while when they have nothing to do any more; after it the work runs once with other documents and untimed, since
    a processor that slept is slow for some milliseconds.
    """
    rng = np.random.default_rng(1)
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name in rng.permutation(list(works)).tolist():
            work = works[name]
            time.sleep(PAUSE)
            for _ in range(2):
                ms = work.timed(rng.choice(work.documents, k, replace=False).tolist())
            times[name].append(ms)
    return times


def wall_ms(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - start)
