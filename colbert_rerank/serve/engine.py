"""The engine: requests of all dialects, in the order in which they come, encoded together and scored by one thread.

Encoding and scoring take all cores, or the GPU: more threads would only take them from one another. What waits is
bounded, and so is what is encoded at once, in tokens; a score does not depend on what else is.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from colbert_rerank.checkpoints.location import public_name
from colbert_rerank.encoder import Encoder
from colbert_rerank.errors import InputError, MissingVectorsError, UsageError
from colbert_rerank.request import check_text
from colbert_rerank.serve.jobs import DEADLINE, NO_VECTORS, Answer, Job, Source, degraded, ranked
from colbert_rerank.serve.rankers import Ranker, TextRanker
from colbert_rerank.serve.stores import ServedStore
from colbert_rerank.types import Query

# Between two looks at the clock, where there is a deadline: less than a millisecond on two cores; some tens of them.
DOCUMENTS_AT_ONCE, TEXTS_AT_ONCE = 256, 8
NO_IDS = ("", "null")  # what OpenSearch sends where a document has no id
CHARACTERS = 4  # of a token, about

_log = logging.getLogger(__name__)


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
    texts = ()


class Batch(NamedTuple):
    """Requests whose queries are encoded together, and about how many tokens they have."""

    jobs: list[Job]
    asides: list[Aside]
    tokens: int


class Engine:
    """``texts`` encodes documents that are in no store. At most ``waiting`` requests wait, and requests are taken
    together while they have fewer than ``batch_tokens`` tokens. ``observe`` is told what each batch was.

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
        self._jobs: deque[Job | Aside] = deque()
        self._changed = threading.Condition()
        self._closed = False
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
        return len(self._jobs)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._closed

    def known(self, job: Job) -> dict[str, Any]:
        """What any answer to it says of who gave it."""
        return _known(self.ranker(job.store))

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
            if len(self._jobs) >= self._waiting:
                raise BusyError(max(1.0, self._seconds * len(self._jobs)))
            self._jobs.append(job)
            self._changed.notify()

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            start = time.perf_counter()
            _answer([_Run(job, self.ranker(job.store)) for job in batch.jobs])
            for aside in batch.asides:
                try:
                    aside.answer.set_result(aside.work())
                except Exception as error:
                    aside.answer.set_exception(error)
            if batch.jobs:
                self._observe(batch)
                self._seconds += ((time.perf_counter() - start) / len(batch.jobs) - self._seconds) / 8

    def _next(self) -> Batch | None:
        """The next requests that nobody has given up; ``None`` at the end, when none is left."""
        taken: list[Job | Aside] = []
        tokens = 0
        with self._changed:
            while not taken:
                while not self._jobs and not self._closed:
                    self._changed.wait()
                if not self._jobs:
                    return None
                while self._jobs and tokens < self._batch_tokens:
                    job = self._jobs.popleft()
                    if job.answer.set_running_or_notify_cancel():
                        taken.append(job)
                        tokens += sum(len(text) // CHARACTERS + 1 for text in job.texts)
        jobs = [job for job in taken if isinstance(job, Job)]
        return Batch(jobs, [job for job in taken if isinstance(job, Aside)], tokens)

    def ranker(self, store: str | None) -> Ranker:
        """What scores now, for a store by its name. Raises UnknownStoreError."""
        return self.texts if store is None else self.served(store).reranker

    def served(self, store: str) -> ServedStore:
        """Raises UnknownStoreError."""
        if store not in self.stores:
            raise UnknownStoreError(f"no store is called {store!r} here; there are {', '.join(map(repr, self.stores))}")
        return self.stores[store]


class _Run:
    """A job while it is answered: by one generation of its store, whatever is written meanwhile."""

    def __init__(self, job: Job, ranker: Ranker) -> None:
        self.job = job
        self.ranker = ranker
        self.timings = {"queue": 1000 * (time.perf_counter() - job.arrived)}
        self.tokens = 0

    def answer(self, Q: npt.NDArray[np.float32]) -> Answer:
        """Score what is stored and then the texts that are not, the first stage's best first, while there is time.

        Raises InputError and MissingVectorsError, as `Job.missing` says.
        """
        job, busy = self.job, dict(self.ranker.report.busy)
        scores: dict[int, tuple[float, Source]] = {}
        places: dict[str, list[int]] = {}  # an id may be asked for more than once
        absent: list[int] = []
        for i in job.first_stage_order:
            doc_id = job.documents[i].doc_id
            if doc_id is not None and doc_id not in NO_IDS:
                places.setdefault(doc_id, []).append(i)
            else:
                absent.append(i)
        late = False
        for ids in self._parts([*places], DOCUMENTS_AT_ONCE):
            if late := job.late:
                break
            for doc_id, score in zip(ids, self.ranker.score(Q, ids).tolist(), strict=True):
                if np.isneginf(score):
                    absent += places[doc_id]
                else:
                    scores |= dict.fromkeys(places[doc_id], (score, "store"))
        missing = [job.documents[i].doc_id for i in absent]
        texts = {i: text for i in absent if (text := job.documents[i].text) is not None}
        without = [i for i in absent if i not in texts]
        if without:
            self._check_missing(without)
        for part in self._parts([*texts], TEXTS_AT_ONCE):
            if late := late or job.late:
                break
            found = self.ranker.score_texts(Q, [texts[i] for i in part])
            scores |= {i: (score, "encoded") for i, score in zip(part, found.tolist(), strict=True)}
        for stage, seconds in self.ranker.report.busy.items():
            if seconds != busy.get(stage, 0.0):
                self.timings[stage] = 1000 * (seconds - busy.get(stage, 0.0))
        dropped = without if job.missing == "drop" else []
        reason = DEADLINE if late else NO_VECTORS if len(scores) + len(dropped) < len(job.documents) else ""
        return ranked(
            job,
            scores,
            dropped,
            status=("partial" if scores else "degraded") if reason else "ok",
            reason=reason,
            missing=tuple(dict.fromkeys(doc_id for doc_id in missing if doc_id is not None)),
        )

    def _parts(self, whole: list[_T], size: int) -> Iterator[list[_T]]:
        step = size if self.job.deadline is not None else max(1, len(whole))
        for start in range(0, len(whole), step):
            yield whole[start : start + step]

    def _check_missing(self, without: list[int]) -> None:
        ids = [self.job.documents[i].doc_id for i in without[:3]]
        if self.job.missing == "error":
            raise MissingVectorsError(
                f"{len(without)} of {len(self.job.documents)} documents have no vectors in the store, among them {ids}"
            )
        if self.job.missing == "encode":
            raise InputError(
                f"missing: {len(without)} documents have no vectors in the store, among them {ids}; to encode them, "
                "send their text"
            )


def _answer(runs: list[_Run]) -> None:
    """Encode all queries, and answer one after the other: those first that have no texts to be encoded."""
    by_encoder: dict[int, list[_Run]] = defaultdict(list)
    for run in runs:
        by_encoder[id(run.ranker.encoder)].append(run)
    encoded = [pair for some in by_encoder.values() for pair in _encoded(some)]
    for run, Q in sorted(encoded, key=lambda pair: len(pair[0].job.texts) > 1):
        _settle(run, partial(run.answer, Q))


def _encoded(runs: list[_Run]) -> list[tuple[_Run, npt.NDArray[np.float32]]]:
    """Those whose query could be encoded in time, by one encoder; the others are answered."""
    encoder, start = runs[0].ranker.encoder, time.perf_counter()
    late = [run for run in runs if run.job.late]
    for run in late:
        _settle(run, partial(degraded, run.job, DEADLINE))
    runs = [run for run in runs if run not in late]
    queries = [run.job.query for run in runs]
    try:
        tokens = encoder.tokenize_queries(queries)
        matrices = encoder.encode_query_tokens(tokens, queries)
    except Exception as error:  # of one of them; which one, each finds out by itself
        if len(runs) > 1:
            return [pair for run in runs for pair in _encoded([run])]
        for run in runs:
            _settle(run, partial(_raise, error))
        return []
    for run, one in zip(runs, tokens, strict=True):
        run.timings["encode_query"] = 1000 * (time.perf_counter() - start)
        run.tokens = one.attended
    return list(zip(runs, matrices, strict=True))


def _known(ranker: Ranker) -> dict[str, Any]:
    """What an answer says of who gave it."""
    generation = None if isinstance(ranker, TextRanker) else ranker.store.manifest.generation
    return {"model": public_name(ranker.encoder.checkpoint.name), "generation": generation}


def _raise(error: Exception) -> Answer:
    raise error


def _settle(run: _Run, work: Callable[[], Answer]) -> None:
    """The job's answer: what is the caller's to mend is raised, and whatever else goes wrong is first-stage order."""
    try:
        answer = work()
    except (InputError, UsageError, MissingVectorsError) as error:
        run.job.answer.set_exception(error)
        return
    except Exception as error:
        _log.error("scoring failed: %s", type(error).__name__, extra={"store": run.job.store})
        answer = degraded(run.job, f"scoring failed: {type(error).__name__}")
    known = _known(run.ranker) | {"timings_ms": run.timings, "tokens": run.tokens}
    run.job.answer.set_result(answer._replace(**known))
