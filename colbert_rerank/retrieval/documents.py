"""The live documents of a generation in the order in which their rows lie, and which of them a row belongs to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from colbert_rerank.store import Store, layout

Numbers = npt.NDArray[np.int64]


class LiveDocuments:
    """Numbered from 0, segment by segment: those of segment i are ``bounds[i]`` to ``bounds[i + 1]``.

    Of each, ``starts`` [n] and ``counts`` [n] are its rows within its segment.
    """

    def __init__(self, store: Store) -> None:
        columns = store.index.columns
        ordinals, segments = columns[layout.ORDINALS], columns[layout.SEGMENT_NUMBERS]
        self._index = store.index
        self._places: Numbers = np.lexsort((ordinals, segments))  # in the id index
        self._ordinals = ordinals[self._places]
        self.starts: Numbers = columns[layout.ROW_STARTS][self._places].astype(np.int64)
        self.counts: Numbers = columns[layout.ROW_COUNTS][self._places].astype(np.int64)
        numbers = np.arange(len(store.segments) + 1)
        self.bounds: Numbers = np.searchsorted(segments[self._places], numbers).astype(np.int64)

    def __len__(self) -> int:
        return self._places.size

    def ids(self, numbers: Numbers) -> list[str]:
        """The ids of these documents, in the order given."""
        return self._index.ids_at(self._places[numbers])

    def known(self, doc_ids: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Which of all documents [n] these ids name; ids that are not here name none."""
        named = np.zeros(len(self), dtype=bool)
        at = self._index.lookup(doc_ids)
        for number in np.unique(at.segments[at.found]).tolist():
            first, last = self.bounds[number : number + 2].tolist()
            ordinals = at.ordinals[at.found & (at.segments == number)]
            named[first + np.searchsorted(self._ordinals[first:last], ordinals)] = True
        return named
