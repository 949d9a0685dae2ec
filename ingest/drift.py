"""Where a store and its index have drifted apart: documents that are missing, stale or orphaned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from colbert_rerank.recipe import content_hash
from colbert_rerank.store import Store, Stored, layout
from colbert_rerank.store.unit import UNKNOWN
from colbert_rerank.types import Document
from ingest.sources.opensearch import OpenSearchSource, Version
from ingest.validation import refusal
from ingest.versions import Noted, Notes

BATCH = 1000  # documents compared at once


@dataclass
class Drift:
    """How the documents of an index compare with those of a store.

    ``rewritten`` were written again with the text that is encoded. ``missing`` are in the index only; ``stale`` have
    another text there than was encoded; ``orphaned`` are in the store only, or have nothing to encode in the index any
    more. ``unusable`` counts, by cause, documents of the index that cannot be encoded. ``moved`` came or went while
    this was found out.
    """

    same: int = 0
    rewritten: int = 0
    missing: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    orphaned: list[str] = field(default_factory=list)
    unusable: Counter[str] = field(default_factory=Counter)
    moved: int = 0

    @property
    def clean(self) -> bool:
        return not (self.missing or self.stale or self.orphaned or self.moved)

    @property
    def documents(self) -> int:
        """How many the index holds."""
        return self.same + self.rewritten + len(self.missing) + len(self.stale) + self.unusable.total()


class Comparison:
    """One pass over an index, as it stood when the pass began.

    A document's sequence number tells whether it was written since; only then is its text read, as it is by then.
    Unless ``numbered``, those that the store knows are of another index.
    """

    def __init__(self, store: Store, index: OpenSearchSource, noted: Noted, *, numbered: bool = True) -> None:
        self.drift = Drift()
        self.notes = Notes()
        self._store = store
        self._index = index
        self._noted = noted
        self._numbered = numbered
        self._recipe = store.manifest.recipe
        # one entry for each document of each segment
        self._first = np.cumsum([0, *(segment.entry.documents for segment in store.segments)])
        self._met = np.zeros(self._first[-1], dtype=bool)

    def changed(self) -> Iterator[tuple[Document, str]]:
        """The documents that are missing or stale, with their texts; when all are given, the drift is complete."""
        versions = self._index.versions()
        while batch := list(islice(versions, BATCH)):
            yield from self._compare(batch)
        self._find_orphans()

    def _compare(self, versions: Sequence[Version]) -> Iterator[tuple[Document, str]]:
        ids = [version.doc_id for version in versions]
        at = self._store.lookup(ids)
        self._met[(self._first[at.segments] + at.ordinals)[at.found]] = True
        known = self._noted.content_hashes(versions)
        unsure: dict[str, tuple[Version, Stored | None]] = {}
        for version, stored, digest in zip(versions, self._store.describe(ids), known, strict=True):
            if stored and self._is_of(version, stored):
                self.drift.same += 1
            elif stored and digest == stored.content_hash:
                self._note(version, stored.content_hash)
            else:
                unsure[version.doc_id] = version, stored
        found = 0
        for document in self._index.fetch(list(unsure)) if unsure else ():
            version, stored = unsure[document.doc_id]
            if (document.primary_term, document.seq_no) < (version.primary_term, version.seq_no):
                continue  # by a copy of the index that lags behind
            found += 1
            text = self._recipe.text(document.fields)
            if problem := refusal(document, text, self._recipe):
                self._refuse(document.doc_id, stored, problem[0])
            elif stored is None:
                self.drift.missing.append(document.doc_id)
                yield document, text
            elif content_hash(self._recipe.content(document.fields)) != stored.content_hash:
                self.drift.stale.append(document.doc_id)
                yield document, text
            else:
                self._note(Version(document.doc_id, document.seq_no, document.primary_term), stored.content_hash)
        self.drift.moved += len(unsure) - found

    def _is_of(self, version: Version, stored: Stored) -> bool:
        """Whether what is stored is known to be of this writing of the document."""
        known = self._numbered and version.known and stored.content_hash != UNKNOWN
        return known and version[1:] == (stored.seq_no, stored.primary_term)

    def _note(self, version: Version, digest: bytes) -> None:
        self.drift.rewritten += 1
        self.notes.add(version, digest)

    def _refuse(self, doc_id: str, stored: Stored | None, cause: str) -> None:
        self.drift.unusable[cause] += 1
        if stored:
            self.drift.orphaned.append(doc_id)

    def _find_orphans(self) -> None:
        columns = self._store.index.columns
        places = self._first[columns[layout.SEGMENT_NUMBERS]] + columns[layout.ORDINALS]
        lost = ~self._met[places]
        if not lost.any():
            return
        ids = self._store.index.ids(lost)
        back = {document.doc_id for document in self._index.fetch(ids)}  # which came again during this pass
        self.drift.moved += len(back)
        self.drift.orphaned += [doc_id for doc_id in ids if doc_id not in back]
