"""What a re-ranker has done, and where the time went."""

from __future__ import annotations

import statistics
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

TIMES_KEPT = 100_000  # of each stage; a re-ranker may live for months
# Stages that `Reranker.run`, and the command of this name, leave to a thread each; all others take turns in one, and so
# does the second gathering of a cascade, which is small.
OVERLAPPED = ("candidates", "gather", "gather sketches", "write")
RERANKING = "re-ranking"  # what those others are together


@dataclass
class Report:
    """What a re-ranker has done so far: counts, and seconds by stage."""

    queries: int = 0
    empty: int = 0  # queries without a single candidate
    candidates: int = 0
    scored: int = 0
    skipped: int = 0  # of those scored, by their sketches alone: none of them could be among the first
    truncated_queries: int = 0
    hot: int = 0  # documents whose rows were in a GPU's memory, of those read there (0 where all stay in one place)
    read: int = 0
    missing: Counter[str] = field(default_factory=Counter)  # candidates without vectors, by what became of them
    seconds: dict[str, deque[float]] = field(default_factory=dict)  # stage -> the last queries' times
    busy: dict[str, float] = field(default_factory=dict)  # stage -> seconds of all queries
    # Seconds that all queries took by the clock, what was done with each before the next among them. Where stages
    # overlap, ``busy`` adds up to more.
    wall: float = 0.0

    def mean_ms(self) -> dict[str, float]:
        """Milliseconds a query by stage. No medians: the first of a batch takes all its time."""
        return {stage: 1000 * statistics.fmean(times) for stage, times in self.seconds.items() if times}

    def last_ms(self) -> dict[str, float]:
        """Milliseconds that the last query took in each stage."""
        return {stage: 1000 * times[-1] for stage, times in self.seconds.items() if times}

    def wall_ms(self) -> float:
        """Milliseconds a query by the clock."""
        return 1000 * self.wall / max(1, self.queries)

    def busy_shares(self) -> dict[str, float]:
        """How much of the wall time each thread was busy, the busiest, which the others wait for, first.

        They are called `RERANKING` and by the stages in `OVERLAPPED`; there are none before the first query.
        """
        threads = {stage: self.busy[stage] for stage in OVERLAPPED if stage in self.busy}
        threads[RERANKING] = sum(self._in_turn().values())
        busiest_first = sorted(threads, key=threads.__getitem__, reverse=True)
        return {thread: threads[thread] / self.wall for thread in busiest_first} if self.wall else {}

    def longest_in_turn(self) -> str:
        """Of the stages that are `RERANKING`, the one that took the longest; empty where there was none."""
        stages = self._in_turn()
        return max(stages, key=stages.__getitem__, default="")

    def _in_turn(self) -> dict[str, float]:
        return {stage: seconds for stage, seconds in self.busy.items() if stage not in OVERLAPPED}

    def timed(self, stage: str) -> _Timer:
        """A context whose time is one of ``stage``."""
        return _Timer(self, stage)

    @contextmanager
    def clocked(self) -> Iterator[None]:
        """A context whose time is wall time."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.wall += time.perf_counter() - start


class _Timer:
    def __init__(self, report: Report, stage: str) -> None:
        self._report = report
        self._stage = stage

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        seconds = time.perf_counter() - self._start
        self._report.seconds.setdefault(self._stage, deque(maxlen=TIMES_KEPT)).append(seconds)
        self._report.busy[self._stage] = self._report.busy.get(self._stage, 0.0) + seconds
