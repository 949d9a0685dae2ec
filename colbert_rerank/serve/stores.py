"""The stores that are served, by name: each replaced by its newest generation while it is searched."""

from __future__ import annotations

import gc
import logging
import re
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from colbert_rerank.encoder import Encoder
from colbert_rerank.errors import (
    ColbertRerankError,
    OpenSearchError,
    OpenSearchUnreachableError,
    StoreCorruptError,
    StoreMismatchError,
    UsageError,
)
from colbert_rerank.rerank import Reranker
from colbert_rerank.store import Store
from colbert_rerank.types import Candidates, Query, ScoredDoc

# Seconds that requests have to be done with a generation before another one takes its place on a GPU.
PATIENCE = 60.0
MAPPED = {"resident": "mmap", "memory_budget": 0}

_FOLDERS = re.compile(r"(?<![\w:/.])/(?:[^\s/]+/)*")  # up to the last part of a path

_log = logging.getLogger(__name__)


FirstStage = Callable[[Store], tuple[Store, Candidates | None]]


class FirstStageAwayError(Exception):
    """A store's first stage cannot be asked now."""

    def __init__(self, store: str) -> None:
        super().__init__(
            f"the first stage of the store {store!r} cannot be reached; re-ranking by id goes on meanwhile"
        )


class Generation(NamedTuple):
    """What is served of a store at a time: who takes it goes on with it, whatever happens meanwhile."""

    reranker: Reranker
    candidates: Candidates | None
    away: str = ""  # why it is not searched by text now


class ServedStore:
    """A store and what re-ranks by it. ``options`` are those of `Reranker`.

    ``first_stage`` opens what finds candidates for a store, and the generation that they go with; without it there is
    nothing that is searched by text. Nor is there while it raises OpenSearchError: it is asked again at each `refresh`.
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
        self.fault = ""  # why what is in its folder is not what is served
        self.damage = ""  # what of its files scoring ran into, until a newer generation is served
        self._encoder = encoder
        self._options = dict(options)
        self._first_stage = first_stage
        self._searching = threading.Lock()  # candidates are searched by one thread at a time
        self._replaced: threading.Event | None = None  # of a GPU, which is to get these rows: that it has room for them
        self.current = self._opened(store)
        self._where = self.reranker.residence.where

    @property
    def reranker(self) -> Reranker:
        return self.current.reranker

    @property
    def away(self) -> str:
        return self.current.away

    @property
    def generation(self) -> int:
        return self.reranker.store.manifest.generation

    def search(self, query: str, k: int) -> list[ScoredDoc]:
        """The first stage's best ``k``. Raises UsageError where there is none, FirstStageAwayError, and as
        `Candidates.search` does.
        """
        with self._searching:
            try:
                (found,) = self._candidates().search([Query("", query)], k)
            except OpenSearchUnreachableError:
                raise FirstStageAwayError(self.name) from None
        return found

    def texts(self, doc_ids: Sequence[str]) -> dict[str, str]:
        """The texts that documents were encoded from, as they are now, of those that the first stage knows."""
        recipe = self.reranker.store.manifest.recipe
        return {document.doc_id: recipe.text(document.fields) for document in self._candidates().fetch(doc_ids)}

    def refresh(self) -> bool:
        """Whether there was a newer generation, which is served from now on.

        One that cannot be (of another model, damaged, gone) is left alone, and so is an older one and another store;
        `fault` says why. Nothing is raised.
        """
        fault, newer = "", False
        try:
            newest = self.reranker.store.refresh()
            if newest is not self.reranker.store:
                self._check(newest)
                self._replace(newest)
                newer, self.damage = True, ""
                _log.info("store %s: generation %s is served now", self.name, self.generation)
            if self._replaced is not None:
                self._place(self._replaced)
            if self._first_stage is not None and self.away:
                self._look_for(self._first_stage)
        except Exception as error:  # of ours, of the system, of h5py, of torch: whatever it is, the old one goes on
            fault = self._told(error)
            if fault != self.fault:
                _log.error("store %s stays at generation %s: %s", self.name, self.generation, fault)
        if self.fault and not fault:
            _log.info("store %s: generation %s is what is in its folder again", self.name, self.generation)
        self.fault = fault
        return newer

    def note(self, reranker: Any, error: StoreCorruptError) -> None:
        """That scoring by this generation found files damaged."""
        if reranker is self.reranker and not self.damage:
            self.damage = self._told(error)
            _log.error("store %s, generation %s, is damaged: %s", self.name, self.generation, self.damage)

    def _told(self, error: Exception) -> str:
        """Its kind, and of what is ours the message, without where this machine keeps things."""
        if not isinstance(error, ColbertRerankError):
            return type(error).__name__
        message = str(error).replace(str(self.reranker.store.folder), self.name)
        return f"{type(error).__name__}: {_FOLDERS.sub('', message)}"

    def _check(self, newest: Store) -> None:
        """Raises StoreMismatchError for what is no newer generation of this store."""
        ours, theirs = self.reranker.store.manifest, newest.manifest
        if theirs.store_id != ours.store_id:
            raise StoreMismatchError("another store is in its folder now; to have it served, start the service again")
        if theirs.generation < ours.generation:
            raise StoreMismatchError(
                f"the older generation {theirs.generation} is in its folder now; to have it served, start the service "
                "again"
            )

    def _replace(self, newest: Store) -> None:
        """A GPU has seldom room for two generations: there the new one is first served from the map of its files."""
        if self._encoder.device.type != "cuda":
            self.current = self._opened(newest, self.away)
            return
        released = threading.Event()
        weakref.finalize(self.reranker, released.set)
        self.current = self._opened(newest, self.away, MAPPED)
        self._replaced = released

    def _place(self, released: threading.Event) -> None:
        """Keep the rows where they are to be, when all requests are done with those of the generation before."""
        gc.collect()
        released.wait(PATIENCE)
        reranker = Reranker(self.reranker.store, self._encoder, **self._options)
        self.current = self.current._replace(reranker=reranker)
        self._replaced = None
        if reranker.residence.where != self._where:
            _log.warning("store %s: %s; before it was %s", self.name, reranker.residence.why, self._where)
            self._where = reranker.residence.where

    def _opened(self, store: Store, away: str = "", more: Mapping[str, Any] = MappingProxyType({})) -> Generation:
        """With its first stage; one that is known to be ``away`` is not waited for: vectors come first."""
        candidates = None
        if self._first_stage is not None and not away:
            try:
                store, candidates = self._first_stage(store)
            except OpenSearchError as error:  # re-ranking by id does not need it
                away = type(error).__name__
                _log.error("store %s is not searched by text now: %s", self.name, error)
        return Generation(Reranker(store, self._encoder, **{**self._options, **more}), candidates, away)

    def _look_for(self, first_stage: FirstStage) -> None:
        try:
            _, candidates = first_stage(self.reranker.store)
        except OpenSearchError as error:
            self.current = self.current._replace(away=type(error).__name__)
        else:
            self.current = self.current._replace(candidates=candidates, away="")
            _log.info("store %s is searched by text again", self.name)

    def _candidates(self) -> Candidates:
        if self.current.candidates is not None:
            return self.current.candidates
        if self.away:
            raise FirstStageAwayError(self.name)
        raise UsageError(f"the store {self.name!r} is served without a first stage: it is not searched by text")
