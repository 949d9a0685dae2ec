"""The stores that are served, by name: each replaced by its newest generation while it is searched."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from colbert_rerank.encoder import Encoder
from colbert_rerank.errors import ColbertRerankError
from colbert_rerank.rerank import Reranker
from colbert_rerank.store import Store

_log = logging.getLogger(__name__)


class ServedStore:
    """A store and what re-ranks by it. ``options`` are those of `Reranker`.

    ``reranker`` is of one generation: who takes it goes on with that one, whatever happens here meanwhile.
    """

    def __init__(self, name: str, store: Store, encoder: Encoder, options: Mapping[str, Any]) -> None:
        self.name = name
        self.fault = ""  # why the newest generation is not the one that is served
        self._options = dict(options)
        self.reranker = Reranker(store, encoder, **self._options)

    @property
    def folder(self) -> Path:
        return self.reranker.store.folder

    @property
    def generation(self) -> int:
        return self.reranker.store.manifest.generation

    def refresh(self) -> bool:
        """Whether there was a newer generation, which is served from now on.

        One that cannot be (of another model, damaged, gone) is left alone, and `fault` says so; nothing is raised.
        """
        try:
            newest = self.reranker.store.refresh()
            if newest is self.reranker.store:
                self.fault = ""
                return False
            self.reranker = Reranker(newest, self.reranker.encoder, **self._options)
        except (ColbertRerankError, OSError) as error:
            if type(error).__name__ != self.fault:
                _log.error("store %s stays at generation %s: %s", self.name, self.generation, error)
            self.fault = type(error).__name__
            return False
        self.fault = ""
        _log.info("store %s: generation %s is served now", self.name, self.generation)
        return True
