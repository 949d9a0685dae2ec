"""What is asked of the engine, and what it answers, whatever the dialect."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

from colbert_rerank.errors import InputError
from colbert_rerank.rerank import Missing, rounded_score, unscored_scores

Status = Literal["ok", "partial", "degraded"]
Source = Literal["store", "encoded", "first_stage"]

DEADLINE = "the deadline passed"
LEFT = "nobody waits for it"
NO_VECTORS = "documents without vectors"


class Asked(NamedTuple):
    """A document to be scored: by its id from the store, by its ``text``, or by this where it is not in the store."""

    doc_id: str | None
    text: str | None = None
    first_stage_score: float | None = None


class Result(NamedTuple):
    """``place`` is the document's index in the request; of a ``source`` "first_stage" the score means nothing."""

    place: int
    score: float
    source: Source


class Progress(NamedTuple):
    """What is known of a job by now, and who found it out; of its documents, by their indices."""

    model: str
    generation: int | None
    scores: Mapping[int, tuple[float, Source]] = {}
    lacking: frozenset[int] = frozenset()  # that were looked for in the store and are not there, and all of these:
    without: frozenset[int] = frozenset()  # that have neither vectors nor a text that gives some
    timings_ms: Mapping[str, float] = {}
    tokens: int = 0  # of the query
    query_truncated: bool = False


class Answer(NamedTuple):
    """All documents, best first (but for those that were to be dropped), and how they came by their places."""

    results: list[Result]
    status: Status
    reason: str = ""  # empty where the status is "ok"
    missing: tuple[str, ...] = ()  # ids that the store has no vectors of
    lacking: int = 0  # documents without vectors: one id may be of several, and some have none
    timings_ms: Mapping[str, float] = {}
    model: str = ""
    generation: int | None = None
    tokens: int = 0  # of the query
    query_truncated: bool = False


@dataclass(eq=False)
class Job:
    """A request on its way through the engine. ``deadline`` is of `time.perf_counter`.

    ``progress`` is replaced as a whole, so that another thread may look at it at any time.
    """

    store: str | None  # whose ids the documents have; None where all are texts
    query: str
    documents: Sequence[Asked]
    missing: Missing = "first_stage"
    deadline: float | None = None
    arrived: float = field(default_factory=time.perf_counter)
    answer: Future[Answer] = field(default_factory=Future)
    progress: Progress | None = None
    given_up: bool = False

    @property
    def over(self) -> str:
        """Why nothing more is to be done for it; empty while something is."""
        if self.given_up:
            return LEFT
        return DEADLINE if self.deadline is not None and time.perf_counter() >= self.deadline else ""

    @property
    def texts(self) -> list[str]:
        """All of its documents' texts, which may have to be encoded."""
        return [d.text for d in self.documents if d.text is not None]

    @cached_property
    def first_stage_order(self) -> list[int]:
        """Indices of the documents as the first stage ranks them: by its scores where it gave all, else as asked.

        Raises InputError where it gave some.
        """
        scores = [d.first_stage_score for d in self.documents if d.first_stage_score is not None]
        if not scores:
            return list(range(len(self.documents)))
        if len(scores) < len(self.documents):
            raise InputError("documents: give all of them a first_stage_score, best first, or none")
        return sorted(range(len(scores)), key=lambda i: -scores[i])


def answered(job: Job, known: Progress, reason: str = "") -> Answer:
    """The answer by what is ``known``; without a ``reason`` there is no more to be known.

    Documents without scores, but for those that are to be dropped, stand below all others, in first-stage order, with
    finite scores. Scores are rounded before they are sorted; ties go by document id, falling, as trec_eval reads a run,
    and where there are none by index.
    """
    ids = [d.doc_id or "" for d in job.documents]
    scored = [Result(i, rounded_score(score), source) for i, (score, source) in known.scores.items()]
    scored.sort(key=lambda r: r.place)
    scored.sort(key=lambda r: (r.score, ids[r.place]), reverse=True)
    lowest = scored[-1].score if scored else 0.0
    dropped = known.without if job.missing == "drop" else frozenset()
    left = [i for i in job.first_stage_order if i not in known.scores and i not in dropped]
    below = [Result(i, score, "first_stage") for i, score in zip(left, unscored_scores(lowest, len(left)), strict=True)]
    if left and not reason:
        reason = NO_VECTORS
    missing = [job.documents[i].doc_id for i in job.first_stage_order if i in known.lacking]
    return Answer(
        [*scored, *below],
        status=("partial" if scored else "degraded") if reason else "ok",
        reason=reason,
        missing=tuple(dict.fromkeys(i for i in missing if i is not None)) if job.store is not None else (),
        lacking=len(known.lacking),
        timings_ms=known.timings_ms,
        model=known.model,
        generation=known.generation,
        tokens=known.tokens,
        query_truncated=known.query_truncated,
    )
