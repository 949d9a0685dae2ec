"""A job while it is answered: part by part, so that others can pass, and so that what is known can be told any time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from threading import Event

import numpy as np
import numpy.typing as npt

from colbert_rerank.checkpoints.location import public_name
from colbert_rerank.encoder import Tokens
from colbert_rerank.errors import InputError, MissingVectorsError, StoreCorruptError, UsageError
from colbert_rerank.serve.jobs import Job, Progress, Source, answered
from colbert_rerank.serve.rankers import Ranker, TextRanker, passes

DOCUMENTS_AT_ONCE = 256  # where there is a deadline: less than a millisecond on two cores
TEXTS_AT_ONCE = 256  # that are told apart by their length: some tens of milliseconds
NO_IDS = ("", "null")  # what OpenSearch sends where a document has no id
ENDING = "the service is ending"

_log = logging.getLogger(__name__)


class Run:
    """By one generation of the job's store, whatever is written meanwhile. Once it is ``ending`` no more is done.

    ``damaged`` is told where that cannot be read.
    """

    def __init__(
        self, job: Job, ranker: Ranker, ending: Event, damaged: Callable[[Job, Ranker, StoreCorruptError], None]
    ) -> None:
        self.job = job
        self.ranker = ranker
        self.seconds = 0.0  # that it took so far
        self._ending = ending
        self._damaged = damaged
        self._timings = {"queue": 1000 * (time.perf_counter() - job.arrived)}
        self._scores: dict[int, tuple[float, Source]] = {}
        self._lacking: set[int] = set()
        self._without: set[int] = set()
        self._tokens, self._truncated = 0, False
        self._parts: Iterator[None]

    def begin(self, Q: npt.NDArray[np.float32], tokens: Tokens, seconds: float) -> None:
        """With the query's vectors, which took so long, others' among them."""
        self._parts = self._work(Q)
        self._tokens, self._truncated = tokens.attended, tokens.truncated > 0
        self._timings["encode_query"] = 1000 * seconds

    def go_on(self) -> bool:
        """Do another part; whether there is more to do. Where there is not, the job has its answer."""
        start = time.perf_counter()
        try:
            next(self._parts)
        except StopIteration as end:
            self.finish(end.value)
        except Exception as error:
            self.fail(error)
        else:
            return True
        finally:
            self.seconds += time.perf_counter() - start
        return False

    @property
    def over(self) -> str:
        """Why it ends before all is done; empty where it does not."""
        return self.job.over or (ENDING if self._ending.is_set() else "")

    def finish(self, reason: str = "") -> None:
        self.job.answer.set_result(answered(self.job, self._progress(), reason))

    def fail(self, error: Exception) -> None:
        """What is the caller's to mend is raised, and whatever else goes wrong ends it with what is known by then."""
        if isinstance(error, (InputError, UsageError, MissingVectorsError)):
            self.job.answer.set_exception(error)
            return
        if isinstance(error, StoreCorruptError):
            self._damaged(self.job, self.ranker, error)
        else:
            of = f"store {self.job.store}" if self.job.store is not None else "texts"
            _log.error("scoring failed, of %s: %s", of, type(error).__name__)
        self.finish(f"scoring failed: {type(error).__name__}")

    def _work(self, Q: npt.NDArray[np.float32]) -> Generator[None, None, str]:
        """Score what is stored and then the texts that are not, the first stage's best first, while there is time.

        Texts of one forward pass are a part: the network takes as long for fewer of them. Returns why it ended before
        all was done. Raises InputError and MissingVectorsError, as `Job.missing` says.
        """
        documents, order = self.job.documents, self.job.first_stage_order
        if over := self._score_stored(Q):
            return over
        # A text is stripped as the store's own were (`Recipe.text`); of a blank one there is nothing to be encoded.
        texts = {i: (documents[i].text or "").strip() for i in order if i not in self._scores}
        self._give_up({i for i in texts if not texts[i]})
        wanted = [i for i in texts if texts[i]]
        for start in range(0, len(wanted), TEXTS_AT_ONCE):
            some = wanted[start : start + TEXTS_AT_ONCE]
            for part in passes(self.ranker, [texts[i] for i in some]):
                yield
                if over := self.over:
                    return over
                self._score_texts(Q, {some[n]: texts[some[n]] for n in part})
        return ""

    def _score_stored(self, Q: npt.NDArray[np.float32]) -> str:
        places: dict[str, list[int]] = {}  # an id may be asked for more than once
        for i in self.job.first_stage_order:
            doc_id = self.job.documents[i].doc_id
            if doc_id is not None and doc_id not in NO_IDS:
                places.setdefault(doc_id, []).append(i)
            elif doc_id is not None:
                self._miss([i])
        ids = [*places]
        step = DOCUMENTS_AT_ONCE if self.job.deadline is not None else max(1, len(ids))
        for start in range(0, len(ids), step):
            if over := self.over:
                return over
            part = ids[start : start + step]
            with self._timed():
                found = self.ranker.score(Q, part).tolist()
            for doc_id, score in zip(part, found, strict=True):
                if np.isneginf(score):
                    self._miss(places[doc_id])
                else:
                    self._scores |= dict.fromkeys(places[doc_id], (score, "store"))
            self.job.progress = self._progress()
        return ""

    def _miss(self, places: list[int]) -> None:
        if self.job.store is not None:  # elsewhere an id is a name, and nothing is looked for by it
            self._lacking.update(places)

    def _score_texts(self, Q: npt.NDArray[np.float32], texts: dict[int, str]) -> None:
        with self._timed():
            found = self.ranker.score_texts(Q, [*texts.values()]).tolist()
        scores = dict(zip(texts, found, strict=True))
        self._scores |= {i: (score, "encoded") for i, score in scores.items() if not np.isneginf(score)}
        self._give_up({i for i, score in scores.items() if np.isneginf(score)})  # no token of them is kept
        self.job.progress = self._progress()

    def _give_up(self, without: set[int]) -> None:
        """Documents that cannot be scored. Raises InputError and MissingVectorsError where they have to be."""
        self._lacking |= without
        self._without |= without
        documents = self.job.documents
        names = [documents[i].doc_id if documents[i].doc_id is not None else i for i in sorted(without)[:3]]
        if without and self.job.missing == "error":
            raise MissingVectorsError(
                f"{len(without)} of {len(documents)} documents have no vectors in the store, among them {names}"
            )
        if without and self.job.missing == "encode":
            raise InputError(
                f"missing: {len(without)} documents have no vectors in the store, among them {names}; to encode them, "
                "send their text"
            )

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """What the ranker reports of its time meanwhile is this job's: nobody else uses it then."""
        busy = dict(self.ranker.report.busy)
        yield
        for stage, seconds in self.ranker.report.busy.items():
            if took := seconds - busy.get(stage, 0.0):
                self._timings[stage] = self._timings.get(stage, 0.0) + 1000 * took

    def _progress(self) -> Progress:
        return known(self.ranker)._replace(
            scores=dict(self._scores),
            lacking=frozenset(self._lacking),
            without=frozenset(self._without),
            timings_ms=dict(self._timings),
            tokens=self._tokens,
            query_truncated=self._truncated,
        )


def known(ranker: Ranker) -> Progress:
    """What is known of any job before it was begun: who answers it."""
    generation = None if isinstance(ranker, TextRanker) else ranker.store.manifest.generation
    return Progress(public_name(ranker.encoder.checkpoint.name), generation)
