"""The engine: requests of all dialects, in the order in which they come, answered by one thread.

Encoding and scoring take all cores, or the GPU: more threads would only take them from one another. Queries are encoded
together as far as the device gains by it; a score does not depend on what else is. Requests whose texts are to be
encoded, which takes seconds, take turns with one another and with all that came meanwhile. What waits is bounded.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeVar

from colbert_rerank.encoder import QUERY_BATCH, Encoder
from colbert_rerank.errors import StoreCorruptError, UsageError
from colbert_rerank.request import check_text
from colbert_rerank.serve.jobs import Job, Progress
from colbert_rerank.serve.rankers import Ranker, TextRanker
from colbert_rerank.serve.runs import Run, known
from colbert_rerank.serve.stores import ServedStore
from colbert_rerank.types import Query

CHARACTERS = 4  # of a token, about


class BusyError(Exception):
    """As many requests wait as may. ``retry_after`` is in seconds."""

    def __init__(self, retry_after: float) -> None:
        super().__init__("too many requests are waiting already; try again later")
        self.retry_after = retry_after


_T = TypeVar("_T")
_R = TypeVar("_R")


class UnknownStoreError(UsageError):
    """No store of that name is served."""


class EndingError(Exception):
    """The engine takes nothing any more."""

    def __init__(self) -> None:
        super().__init__("the service is ending; ask another, or try again later")


@dataclass(eq=False)
class Aside:
    """Other work that wants the encoder, between requests."""

    work: Callable[[], Any]
    answer: Future[Any] = field(default_factory=Future)


class Batch(NamedTuple):
    """Requests whose queries are encoded together, and about how many tokens they have."""

    jobs: list[Job]
    asides: list[Aside]
    tokens: int


class Engine:
    """``texts`` encodes documents that are in no store. At most ``waiting`` requests wait. Queries are encoded together
    while they have fewer than ``batch_tokens`` tokens, and are no more than its device takes at once. ``observe`` is
    told what each batch was.

    Use it as a context: its thread ends with it, when all that was submitted is done.
    """

    def __init__(
        self,
        stores: Mapping[str, ServedStore],
        texts: Encoder,
        *,
        waiting: int = 256,
        batch_tokens: int = 4096,
        observe: Callable[[Batch], None] = lambda batch: None,
    ) -> None:
        self.stores = dict(stores)
        self.texts = TextRanker(texts)
        self._waiting = waiting
        self._batch_tokens = batch_tokens
        self._observe = observe
        self._together = QUERY_BATCH[texts.device.type]
        self._jobs: deque[Job | Aside] = deque()
        self._begun: deque[Run] = deque()  # that have texts which are yet to be encoded
        self._changed = threading.Condition()
        self._closed = False
        self._ending = threading.Event()
        self._seconds = 0.1  # that a request took, of late
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def __enter__(self) -> Engine:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def __len__(self) -> int:
        """How many requests wait."""
        return len(self._jobs) + len(self._begun)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._closed

    def hurry(self) -> None:
        """Answer all that was submitted by what is known of it by now; nothing more is taken."""
        self._ending.set()
        with self._changed:
            self._closed = True
            self._changed.notify()

    def known(self, job: Job) -> Progress:
        """What is known of it by now."""
        return job.progress or known(self.ranker(job.store))

    def submit(self, job: Job) -> None:
        """Have ``job.answer`` filled in. Raises BusyError, EndingError, InputError and UsageError.

        The answer may be an InputError, a UsageError or a MissingVectorsError, too. Whatever else goes wrong is an
        answer of status "degraded".
        """
        check_text(Query("", job.query))
        _ = job.first_stage_order  # what is wrong with it is said now
        self.ranker(job.store)
        self._enqueue(job)

    def aside(self, work: Callable[[_T], _R], what: _T) -> Future[_R]:
        """The result of ``work``, done in the engine's thread. Raises BusyError and EndingError."""
        aside = Aside(partial(work, what))
        self._enqueue(aside)
        return aside.answer

    def _enqueue(self, job: Job | Aside) -> None:
        with self._changed:
            if self._closed:
                raise EndingError
            if len(self) >= self._waiting:
                raise BusyError(max(1.0, self._seconds * len(self)))
            self._jobs.append(job)
            self._changed.notify()

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            self._answer(batch)

    def _answer(self, batch: Batch) -> None:
        """It, and a part of what was begun before: neither this nor what comes meanwhile waits for ever."""
        for run in self._encoded([self._run(job) for job in batch.jobs]):
            self._go_on(run)
        for aside in batch.asides:
            self._do(aside)
        if batch.jobs:
            self._observe(batch)
        if self._begun:
            self._go_on(self._begun.popleft())

    def _run(self, job: Job) -> Run:
        return Run(job, self.ranker(job.store), self._ending, self._damaged)

    def _damaged(self, job: Job, ranker: Ranker, error: StoreCorruptError) -> None:
        if job.store is not None:
            self.served(job.store).note(ranker, error)

    def _next(self) -> Batch | None:
        """The next requests, if there are some, but for those that were given up; ``None`` when all is done."""
        jobs: list[Job] = []
        asides: list[Aside] = []
        tokens = 0
        with self._changed:
            while not self._jobs and not self._begun and not self._closed:
                self._changed.wait()
            if not self._jobs and not self._begun:
                return None
            while self._jobs and tokens < self._batch_tokens and len(jobs) + len(asides) < self._together:
                job = self._jobs.popleft()
                if not job.answer.set_running_or_notify_cancel():
                    continue
                if isinstance(job, Aside):
                    asides.append(job)
                else:
                    jobs.append(job)
                    tokens += len(job.query) // CHARACTERS + 1
        return Batch(jobs, asides, tokens)

    def _encoded(self, runs: list[Run]) -> list[Run]:
        """Those whose query could be encoded in time; the others are answered."""
        by_encoder: dict[int, list[Run]] = defaultdict(list)
        for run in runs:
            if over := run.over:
                run.finish(over)
            else:
                by_encoder[id(run.ranker.encoder)].append(run)
        return [run for some in by_encoder.values() for run in _encoded(some)]

    def _go_on(self, run: Run) -> None:
        """Another part of it; the rest waits behind all others that have more to do."""
        if run.go_on():
            self._begun.append(run)
        else:
            self._seconds += (run.seconds - self._seconds) / 8

    def _do(self, aside: Aside) -> None:
        try:
            if self._ending.is_set():
                raise EndingError
            aside.answer.set_result(aside.work())
        except Exception as error:
            aside.answer.set_exception(error)

    def ranker(self, store: str | None) -> Ranker:
        """What scores now, for a store by its name. Raises UnknownStoreError."""
        return self.texts if store is None else self.served(store).reranker

    def served(self, store: str) -> ServedStore:
        """Raises UnknownStoreError."""
        if store not in self.stores:
            raise UnknownStoreError(f"no store is called {store!r} here; there are {', '.join(map(repr, self.stores))}")
        return self.stores[store]


def _encoded(runs: list[Run]) -> list[Run]:
    """Those whose query could be encoded, all by one encoder; the others are answered."""
    encoder, start = runs[0].ranker.encoder, time.perf_counter()
    queries = [run.job.query for run in runs]
    try:
        tokens = encoder.tokenize_queries(queries)
        matrices = encoder.encode_query_tokens(tokens, queries)
    except Exception as error:  # of one of them; which one, each finds out by itself
        if len(runs) > 1:
            return [run for one in runs for run in _encoded([one])]
        runs[0].fail(error)
        return []
    seconds = time.perf_counter() - start
    for run, Q, one in zip(runs, matrices, tokens, strict=True):
        run.begin(Q, one, seconds)
        run.seconds += seconds / len(runs)
    return runs
