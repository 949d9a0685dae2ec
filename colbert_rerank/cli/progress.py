"""How far a command has come: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from colbert_rerank.cli.output import is_quiet, is_terminal, say

_log = logging.getLogger("colbert_rerank.cli")

# Seconds before the first line without a terminal. Each wait is twice the one before, up to the last of these.
FIRST_LINE = 10.0
LONGEST_WAIT = 600.0
WINDOW = 30.0  # seconds that a rate is taken over

Update = Callable[..., None]
"""Called with the number done so far, by ``free=`` those among them that were no work, by ``size=`` the bytes made."""


class _Seen(NamedTuple):
    time: float
    done: int
    work: int  # among those done


class Pace:
    """How fast work is done, over the last half minute, and how long the rest will take.

    What costs next to nothing, such as documents that are stored already, is no work: a resumed ingest begins with all
    that it did before.
    """

    def __init__(self, total: int | None, now: Callable[[], float]) -> None:
        self._total = total
        self._now = now
        self._seen = deque([_Seen(now(), 0, 0)])

    def add(self, done: int, free: int = 0) -> None:
        now = self._now()
        if done == free:
            self._seen.clear()  # no work yet: how long it took to come here says nothing
        self._seen.append(_Seen(now, done, done - free))
        while len(self._seen) > 2 and self._seen[1].time < now - WINDOW:
            self._seen.popleft()

    @property
    def rate(self) -> float | None:
        """Of work, a second; ``None`` while it is not known."""
        first, last = self._seen[0], self._seen[-1]
        if last.time == first.time or last.work == first.work:
            return None
        return (last.work - first.work) / (last.time - first.time)

    @property
    def seconds_left(self) -> float | None:
        """If as many of those to come are free as were of late."""
        first, last = self._seen[0], self._seen[-1]
        left = self._total - last.done if self._total else 0
        return left * (last.time - first.time) / (last.done - first.done) if left > 0 and self.rate else None

    def describe(self, size: int) -> str:
        """Rate, bytes, time to go, as far as they are known."""
        parts = []
        if (rate := self.rate) is not None:
            parts.append(f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s")
        if size:
            parts.append(f"{size / 1e6:,.1f} MB")
        if (left := self.seconds_left) is not None:
            parts.append(f"{_clock(left)} left")
        return ", ".join(parts)


@contextmanager
def progress(what: str, total: int | None, now: Callable[[], float] = time.monotonic) -> Iterator[Update]:
    """Yields an `Update` to call along the way."""
    pace = Pace(total, now)
    if is_terminal():
        with _bar(what, total, pace) as update:
            yield update
    elif is_quiet():
        yield lambda done, size=0, free=0: None
    else:
        yield _lines(what, total, pace, now)


@contextmanager
def working(what: str) -> Iterator[None]:
    """Say on a terminal what takes a few seconds, for as long as it does; elsewhere under ``--verbose``."""
    _log.debug(what)
    if not is_terminal():
        yield
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status(Text(f"{what} ...")):
        yield


@contextmanager
def _bar(what: str, total: int | None, pace: Pace) -> Iterator[Update]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[count]}"),
        TextColumn("{task.fields[pace]}"),
    )
    # stdout stays as it is: results may go there meanwhile
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as bar:
        task = bar.add_task(what, total=total, count="", pace="")

        def update(done: int, size: int = 0, free: int = 0) -> None:
            pace.add(done, free)
            bar.update(task, completed=done, count=_count(done, total, "/"), pace=pace.describe(size))

        yield update


def _lines(what: str, total: int | None, pace: Pace, now: Callable[[], float]) -> Update:
    wait = FIRST_LINE
    due = now() + wait

    def update(done: int, size: int = 0, free: int = 0) -> None:
        nonlocal wait, due
        pace.add(done, free)
        if now() < due:
            return
        wait = min(2 * wait, LONGEST_WAIT)
        due = now() + wait
        text = ", ".join(filter(None, [_count(done, total, " of "), pace.describe(size)]))
        left = pace.seconds_left
        say(
            f"{what}: {text}",
            done=done,
            total=total,
            rate=round(pace.rate or 0, 1),
            bytes=size,
            seconds_left=None if left is None else round(left),
        )

    return update


def _count(done: int, total: int | None, of: str) -> str:
    return f"{done:,}{of}{total:,}" if total else f"{done:,}"


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"
