"""Work on texts that is done step by step, as a test lets it; the fixtures are in conftest."""

from __future__ import annotations

import threading
from typing import Any

from colbert_rerank.rerank import Reranker

WAIT = 30


class Stepped:
    """A re-ranker that waits before it encodes a part of the texts, until it is let; ``done`` is what it scored."""

    def __init__(self, reranker: Reranker) -> None:
        self._reranker = reranker
        self._steps = threading.Semaphore(0)
        self._waits = threading.Semaphore(0)
        self._parts = 0
        self.done: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reranker, name)

    def score(self, Q: Any, ids: list[str]) -> Any:
        self.done.append(len(ids))
        return self._reranker.score(Q, ids)

    def score_texts(self, Q: Any, some: list[str]) -> Any:
        self._waits.release()
        assert self._steps.acquire(timeout=WAIT)
        self.done.append(-len(some))
        return self._reranker.score_texts(Q, some)

    def waits(self) -> None:
        assert self._waits.acquire(timeout=WAIT)

    def let(self, parts: int) -> None:
        self._steps.release(parts)
