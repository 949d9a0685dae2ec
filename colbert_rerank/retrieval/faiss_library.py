"""FAISS, which is an extra, and how many threads it may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from colbert_rerank.errors import UsageError

_STARTED_AS = os.getpid()


def library() -> Any:
    """The module. Raises UsageError where it is not installed."""
    try:
        import faiss
    except ImportError:
        raise UsageError(
            "what --retriever faiss searches needs faiss, which is not installed: pip install 'colbert-rerank[faiss]'"
        ) from None
    return faiss


@contextmanager
def safe_threads() -> Iterator[None]:
    """In a process that was forked, let this thread use FAISS alone, as long as the context lasts.

    The threads that OpenMP had before the fork are not there any more, and to wait for them takes for ever.
    """
    faiss = library()
    before = faiss.omp_get_max_threads()
    if os.getpid() != _STARTED_AS:
        faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
