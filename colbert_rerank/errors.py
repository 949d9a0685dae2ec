"""Every error this package raises on purpose.

    ColbertRerankError
    ├── UsageError               an argument that makes no sense, alone or beside another
    ├── InputError               a line of a corpus, topics, run or qrels file that cannot be used (``where``)
    ├── CheckpointError          a model folder that cannot be loaded as its authors meant
    ├── NonFiniteError           NaN or infinity in token vectors, with the id it was found at
    ├── StoreError
    │   ├── StoreNotFoundError   no store in that folder, or no documents in it yet
    │   ├── StoreFormatError     a store of a format that this version does not read
    │   ├── StoreCorruptError    a truncated, altered or missing file
    │   ├── StoreMismatchError   a store made with another model, recipe or index
    │   ├── IndexBehindError     the BM25 index beside a store lacks what an ingest, or a deletion, is yet to put there
    │   ├── StoreReadError       a file that this process may not read, or cannot open for a limit of the system's
    │   └── StoreWriteError      the disk is full, read-only or failing; nothing committed was lost
    ├── MissingVectorsError      candidates without vectors under ``missing="error"``
    ├── OpenSearchError          of the search server: of Elasticsearch as well
    │   ├── OpenSearchUnreachableError
    │   ├── OpenSearchAuthError  401 or 403
    │   ├── IndexNotFoundError
    │   └── BulkError            documents that OpenSearch refused (``failures``)
    └── MissingDependencyError   an optional package is needed; the message says how to install it

One leaf, one cause that a user can act on. A message says what, where, and what to do next.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import NamedTuple


class ColbertRerankError(Exception):
    """Base of all errors that this package raises on purpose."""


class UsageError(ColbertRerankError):
    pass


class InputError(ColbertRerankError):
    """A line of input that cannot be used. ``where`` is ``file:line``, or as near as the source can say."""

    def __init__(self, message: str, *, where: str = "") -> None:
        super().__init__(f"{where}: {message}" if where else message)
        self.where = where


class CheckpointError(ColbertRerankError):
    pass


class NonFiniteError(ColbertRerankError):
    pass


class StoreError(ColbertRerankError):
    pass


class StoreNotFoundError(StoreError):
    pass


class StoreFormatError(StoreError):
    pass


class StoreCorruptError(StoreError):
    pass


class StoreMismatchError(StoreError):
    pass


class IndexBehindError(StoreError):
    pass


class StoreReadError(StoreError):
    pass


class StoreWriteError(StoreError):
    pass


class MissingVectorsError(ColbertRerankError):
    pass


class OpenSearchError(ColbertRerankError):
    pass


class OpenSearchUnreachableError(OpenSearchError):
    pass


class OpenSearchAuthError(OpenSearchError):
    pass


class IndexNotFoundError(OpenSearchError):
    pass


class BulkFailure(NamedTuple):
    doc_id: str
    status: int
    reason: str


class BulkError(OpenSearchError):
    """Documents that OpenSearch refused; all others were indexed."""

    def __init__(self, failures: Sequence[BulkFailure]) -> None:
        shown = "; ".join(f"{f.doc_id!r}: {f.status} {f.reason}" for f in failures[:5])
        more = f" (and {len(failures) - 5} more)" if len(failures) > 5 else ""
        super().__init__(f"OpenSearch refused {len(failures)} document(s), all others were indexed: {shown}{more}")
        self.failures = list(failures)


class MissingDependencyError(ColbertRerankError):
    """``what`` needs optional packages, named as they are installed."""

    def __init__(self, what: str, *packages: str) -> None:
        command = " ".join(["pip install", *map(shlex.quote, packages)])
        super().__init__(f"{what} need {' and '.join(packages)}. Install with: {command}")
