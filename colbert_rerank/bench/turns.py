"""Measurements that take turns, each time with documents drawn anew."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np

PAUSE = 0.25  # seconds, after which libraries' threads have ceased to spin
WARM_UP = 0.1  # seconds, after which a system's scheduler and its processors know that there is work

_T = TypeVar("_T")
_R = TypeVar("_R")


class Work(NamedTuple):
    """``timed`` gives the milliseconds that it takes with the documents of these numbers, of ``documents`` in all."""

    documents: int
    timed: Callable[[list[int]], float]


def in_turns(works: Mapping[str, Work], k: int, repeats: int) -> dict[str, list[float]]:
    """Milliseconds of each work with ``k`` documents, ``repeats`` times.

    They take turns in an order that is drawn each time, each after a `PAUSE` and, untimed and with other documents, the
    same work for at least `WARM_UP`.
    """
    rng = np.random.default_rng(1)
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name in rng.permutation(list(works)).tolist():
            draw = partial(drawn, rng, works[name].documents, k)
            times[name].append(warm(works[name].timed, draw))
    return times


def drawn(rng: np.random.Generator, documents: int, k: int) -> list[int]:
    """Numbers of ``k`` of so many documents."""
    numbers: list[int] = rng.choice(documents, k, replace=False).tolist()
    return numbers


def warm(timed: Callable[[_T], _R], draw: Callable[[], _T]) -> _R:
    """What ``timed`` gives for what is drawn anew, after a `PAUSE`, and after the same for `WARM_UP`."""
    time.sleep(PAUSE)
    begun = time.perf_counter()
    timed(draw())
    while time.perf_counter() - begun < WARM_UP:
        timed(draw())
    return timed(draw())


def wall_ms(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - start)


def medians(turns: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median over all turns of each stage."""
    return {stage: float(np.median([turn[stage] for turn in turns])) for stage in turns[-1]}
