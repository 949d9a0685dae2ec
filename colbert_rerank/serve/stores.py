"""The stores that are served, by name: each replaced by its newest generation while it is searched."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from colbert_rerank.encoder import Encoder
from colbert_rerank.errors import ColbertRerankError, UsageError
from colbert_rerank.rerank import Reranker
from colbert_rerank.store import Store
from colbert_rerank.types import Candidates, Query, ScoredDoc

_log = logging.getLogger(__name__)


FirstStage = Callable[[Store], tuple[Store, Candidates | None]]


class Generation(NamedTuple):
    """What is served of a store at a time: who takes it goes on with it, whatever happens meanwhile."""

    reranker: Reranker
    candidates: Candidates | None


class ServedStore:
    """A store and what re-ranks by it. ``options`` are those of `Reranker`.

    ``first_stage`` opens what finds candidates for a store, and the generation that they go with; without it there is
    nothing that is searched by text.
    """

    def __init__(
        self,
        name: str,
        store: Store,
        encoder: Encoder,
        options: Mapping[str, Any],
        first_stage: FirstStage | None = None,
    ) -> None:
        self.name = name
        self.fault = ""  # why the newest generation is not the one that is served
        self._encoder = encoder
        self._options = dict(options)
        self._first_stage = first_stage
        self._searching = threading.Lock()  # candidates are searched by one thread at a time
        self.current = self._opened(store)

    @property
    def reranker(self) -> Reranker:
        return self.current.reranker

    @property
    def generation(self) -> int:
        return self.reranker.store.manifest.generation

    def search(self, query: str, k: int) -> list[ScoredDoc]:
        """The first stage's best ``k``. Raises UsageError where there is none, and as `Candidates.search` does."""
        with self._searching:
            (found,) = self._candidates().search([Query("", query)], k)
        return found

    def texts(self, doc_ids: Sequence[str]) -> dict[str, str]:
        """The texts that documents were encoded from, as they are now, of those that the first stage knows."""
        recipe = self.reranker.store.manifest.recipe
        return {document.doc_id: recipe.text(document.fields) for document in self._candidates().fetch(doc_ids)}

    def refresh(self) -> bool:
        """Whether there was a newer generation, which is served from now on.

        One that cannot be (of another model, damaged, gone) is left alone, and `fault` says so; nothing is raised.
        """
        try:
            newest = self.reranker.store.refresh()
            if newest is self.reranker.store:
                self.fault = ""
                return False
            self.current = self._opened(newest)
        except (ColbertRerankError, OSError) as error:
            if type(error).__name__ != self.fault:
                _log.error("store %s stays at generation %s: %s", self.name, self.generation, type(error).__name__)
            self.fault = type(error).__name__
            return False
        self.fault = ""
        _log.info("store %s: generation %s is served now", self.name, self.generation)
        return True

    def _opened(self, store: Store) -> Generation:
        opened, candidates = self._first_stage(store) if self._first_stage else (store, None)
        return Generation(Reranker(opened, self._encoder, **self._options), candidates)

    def _candidates(self) -> Candidates:
        if self.current.candidates is None:
            raise UsageError(f"the store {self.name!r} is served without a first stage: it is not searched by text")
        return self.current.candidates
