"""What is asked of the engine, and what it answers, whatever the dialect."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

from colbert_rerank.errors import InputError
from colbert_rerank.rerank import Missing, rounded_score, unscored_scores

Status = Literal["ok", "partial", "degraded"]
Source = Literal["store", "encoded", "first_stage"]

DEADLINE = "the deadline passed"
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


class Answer(NamedTuple):
    """All documents, best first (but for those that were to be dropped), and how they came by their places."""

    results: list[Result]
    status: Status
    reason: str = ""  # empty where the status is "ok"
    missing: tuple[str, ...] = ()  # ids that the store has no vectors of
    timings_ms: dict[str, float] = {}  # noqa: RUF012  # of a tuple, which no one writes to
    model: str = ""
    generation: int | None = None
    tokens: int = 0  # of the query


@dataclass(eq=False)
class Job:
    """A request on its way through the engine. ``deadline`` is of `time.perf_counter`."""

    store: str | None  # whose ids the documents have; None where all are texts
    query: str
    documents: Sequence[Asked]
    missing: Missing = "first_stage"
    deadline: float | None = None
    arrived: float = field(default_factory=time.perf_counter)
    answer: Future[Answer] = field(default_factory=Future)

    @property
    def late(self) -> bool:
        return self.deadline is not None and time.perf_counter() >= self.deadline

    @property
    def texts(self) -> list[str]:
        """All that may have to be encoded."""
        return [self.query, *(d.text for d in self.documents if d.text is not None)]

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


def ranked(job: Job, scores: Mapping[int, tuple[float, Source]], dropped: Collection[int] = (), **more: Any) -> Answer:
    """The answer where the documents at these indices have scores: all others that are not to be ``dropped`` stand
    below them, in first-stage order, with finite scores.

    Scores are rounded before they are sorted; ties go by document id, falling, as trec_eval reads a run, and where
    there are none by index.
    """
    ids = [d.doc_id or "" for d in job.documents]
    exact = [Result(i, rounded_score(score), source) for i, (score, source) in scores.items()]
    exact.sort(key=lambda r: r.place)
    exact.sort(key=lambda r: (r.score, ids[r.place]), reverse=True)
    lowest = exact[-1].score if exact else 0.0
    left = [i for i in job.first_stage_order if i not in scores and i not in dropped]
    below = [Result(i, score, "first_stage") for i, score in zip(left, unscored_scores(lowest, len(left)), strict=True)]
    return Answer([*exact, *below], **more)


def degraded(job: Job, reason: str) -> Answer:
    """The first stage's order, with finite scores: nothing was scored."""
    return ranked(job, {}, status="degraded", reason=reason)
