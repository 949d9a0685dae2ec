"""Work that is done beside the event loop, for as long as others take: searches, and files of new generations."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from colbert_rerank.serve.engine import BusyError

_R = TypeVar("_R")


class Threads:
    """At most so many pieces of work at a time, each in a thread of its own, which no end of the process waits for.

    asyncio's own are shared by all, and waited for: what hangs in one of them would stop all others.
    """

    def __init__(self, most: int) -> None:
        self._free = threading.Semaphore(most)

    async def run(self, work: Callable[..., _R], *arguments: Any) -> _R:
        """What ``work`` returns. Raises BusyError, and what it raises."""
        if not self._free.acquire(blocking=False):
            raise BusyError(1.0)
        result: Future[_R] = Future()
        result.set_running_or_notify_cancel()  # whoever does not wait for it any more does not stop it
        try:
            threading.Thread(target=self._do, args=(partial(work, *arguments), result), daemon=True).start()
        except RuntimeError:  # the system has no more of them now
            self._free.release()
            raise
        return await asyncio.wrap_future(result)

    def _do(self, work: Callable[[], Any], result: Future[Any]) -> None:
        try:
            settle = partial(result.set_result, work())
        except Exception as error:
            settle = partial(result.set_exception, error)
        self._free.release()  # before anybody hears of it, who may come with more
        settle()
