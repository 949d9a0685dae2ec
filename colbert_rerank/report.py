"""What a re-ranker has done, and where the time went."""

from __future__ import annotations

import statistics
import time
from collections import Counter, deque
from dataclasses import dataclass, field

TIMES_KEPT = 100_000  # of each stage; a re-ranker may live for months


@dataclass
class Report:
    """What a re-ranker has done so far: counts, and seconds by stage."""

    queries: int = 0
    empty: int = 0  # queries without a single candidate
    candidates: int = 0
    scored: int = 0
    truncated_queries: int = 0
    hot: int = 0  # documents whose rows were in a GPU's memory, of those read there (0 where all stay in one place)
    read: int = 0
    missing: Counter[str] = field(default_factory=Counter)  # candidates without vectors, by what became of them
    seconds: dict[str, deque[float]] = field(default_factory=dict)  # stage -> the last queries' times

    def mean_ms(self) -> dict[str, float]:
        """Milliseconds a query by stage. No medians: the first of a batch takes all its time."""
        return {stage: 1000 * statistics.fmean(times) for stage, times in self.seconds.items() if times}

    def timed(self, stage: str) -> _Timer:
        """A context whose time is one of ``stage``."""
        return _Timer(self.seconds.setdefault(stage, deque(maxlen=TIMES_KEPT)))


class _Timer:
    def __init__(self, times: deque[float]) -> None:
        self._times = times

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._times.append(time.perf_counter() - self._start)
