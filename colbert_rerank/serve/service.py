"""The engine as asyncio asks it, within limits."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.types import Receive

from colbert_rerank.serve.engine import BusyError, Engine
from colbert_rerank.serve.errors import CallerLeftError, TooManyError
from colbert_rerank.serve.jobs import DEADLINE, Answer, Job, answered
from colbert_rerank.serve.metrics import Metrics
from colbert_rerank.serve.stores import ServedStore
from colbert_rerank.serve.threads import Threads

SEARCHES = 16  # at a time; of each store's first stage one, the others wait
GRACE = 0.01  # seconds after a deadline, for what was scored by then to come back

_log = logging.getLogger(__name__)
_A = TypeVar("_A")
_R = TypeVar("_R")


@dataclass(frozen=True)
class Limits:
    body: int = 16 << 20  # bytes
    documents: int = 10_000  # of a request
    texts: int = 1_000  # of them, that may have to be encoded
    refresh: float = 5.0  # seconds between two looks for a new generation


class Service:
    """``ready`` while it can re-rank."""

    def __init__(self, engine: Engine, limits: Limits, metrics: Metrics) -> None:
        self.engine = engine
        self.limits = limits
        self.metrics = metrics
        self.ready = False
        self._searches = Threads(SEARCHES)

    async def answer(self, job: Job, receive: Receive) -> Answer:
        """Raises what `errors.STATUS` lists. Of a job that is late, what is known by then.

        ``receive`` is the caller's, whose body was read: what comes after it is that nobody waits any more.
        """
        if len(job.texts) > self.limits.texts:
            raise TooManyError("texts", len(job.texts), self.limits.texts)
        try:
            self.engine.submit(job)
        except BusyError:
            self.metrics.refused()
            raise
        time_left = None if job.deadline is None else max(0.0, job.deadline - time.perf_counter()) + GRACE
        work, leaving = asyncio.wrap_future(job.answer), asyncio.ensure_future(_left(receive))
        first: set[asyncio.Future[Any]] = {work, leaving}
        try:
            await asyncio.wait(first, timeout=time_left, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                found = work.result()
            elif leaving.done():
                raise CallerLeftError
            else:
                found = answered(job, self.engine.known(job), DEADLINE)
        finally:
            leaving.cancel()
            if not work.done():  # nor will anybody wait for it
                job.given_up = True
                work.cancel()
        self.metrics.answer(job, found)
        return found

    async def aside(self, work: Callable[[_A], _R], what: _A) -> _R:
        """What the engine's thread gives when it comes to it. Raises BusyError, and what ``work`` raises."""
        return await asyncio.wrap_future(self.engine.aside(work, what))

    async def search(self, work: Callable[..., _R], *arguments: Any) -> _R:
        """What a first stage gives, which may take its time. Raises BusyError, and what ``work`` raises."""
        try:
            return await self._searches.run(work, *arguments)
        except BusyError:
            self.metrics.refused()
            raise

    async def refresh(self) -> None:
        """Look for new generations, for ever: of each store, whatever holds up the others."""
        await asyncio.gather(*map(self._refresh, self.engine.stores.values()))

    async def _refresh(self, store: ServedStore) -> None:
        threads = Threads(1)
        while True:
            await asyncio.sleep(self.limits.refresh)
            try:
                await threads.run(store.refresh)
            except Exception as error:  # of this look; there will be others
                _log.error("looking for generations of store %s failed: %s", store.name, type(error).__name__)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
