"""How many refused documents are too many."""

from __future__ import annotations

from collections.abc import Sequence

from colbert_rerank.errors import BulkFailure, OpenSearchError

MOST_FAILURES = 10_000  # beyond it the fault is not in single documents, and the list would fill the memory


def check_failures(failures: Sequence[BulkFailure]) -> None:
    """Raises OpenSearchError where too many documents were refused to go on."""
    if len(failures) > MOST_FAILURES:
        first = failures[0]
        raise OpenSearchError(
            f"OpenSearch refused more than {MOST_FAILURES} documents, so ingest stopped; the first was "
            f"{first.doc_id!r}: {first.status} {first.reason}"
        )
