"""A store in step with its index: what has drifted is told by `audit`, and made good by `sync`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from colbert_rerank import binding
from colbert_rerank.encoder import Encoder
from colbert_rerank.errors import StoreMismatchError, UsageError
from colbert_rerank.store import Store, StoreWriter, rewriting, staging
from colbert_rerank.types import BM25, Document
from ingest import versions
from ingest.admission import check_encoder, check_identity
from ingest.drift import Comparison, Drift
from ingest.pipeline import IngestReport, encode_all
from ingest.sources.opensearch import OpenSearchSource
from ingest.validation import InputReport

PASSES = 5  # over an index that goes on changing
ENOUGH = (
    5  # of 20 sampled documents, for another index to be a copy: the rest may have drifted, and is what `sync` is for
)


@dataclass
class SyncReport:
    """What was done to a store.

    ``first`` and ``last`` are what the first and the last pass over the index found: nothing, in the end, unless the
    index goes on changing.
    """

    ingest: IngestReport = field(default_factory=lambda: IngestReport(InputReport("skip")))
    first: Drift = field(default_factory=Drift)
    last: Drift = field(default_factory=Drift)
    passes: int = 0
    buried: int = 0


def audit(folder: Path, index: OpenSearchSource, *, allow_other_index: bool = False) -> Drift:
    """Compare the store in ``folder`` with an index; nothing is changed.

    Raises StoreMismatchError for another index than the store's, unless it is allowed and a copy (`check_copy`, by 5);
    StoreError, OpenSearchError, and InputError for two documents of one id.
    """
    store = Store.open(folder)
    check_kind(store)
    belongs = _belongs(store, index, allow_other_index)
    index.refresh()
    comparison = Comparison(store, index, versions.load(folder, index.origin), numbered=belongs)
    for _ in comparison.changed():
        pass
    return comparison.drift


def sync(
    folder: Path,
    encoder: Encoder,
    index: OpenSearchSource,
    *,
    index_name: str = "",
    allow_other_index: bool = False,
    aside: bool = False,
    report: SyncReport,
    progress: Callable[[IngestReport], None] = lambda report: None,
) -> None:
    """Let the store in ``folder`` hold what ``index`` holds: encode what is missing or stale, bury what is orphaned.

    All other writers are kept out. Passes over the index are made until one finds nothing, so that what changes
    meanwhile is seen, too; an index that never rests is left after five. Interrupted, the next call goes on: what is
    encoded is stored.

    With ``aside`` all of it is done in a generation beside the one that is read, which takes its place at the end.

    Raises as `audit` does, and UsageError where the index is empty, for all of the store would be buried.
    """
    recipe = Store.open(folder).manifest.recipe
    if recipe.pages:
        raise UsageError(f"{folder}: holds page images, which no index gives back. Run their `ingest` again")
    check_encoder(encoder, recipe)
    with _writer(folder, index, index_name, allow_other_index, aside) as writer:
        check_identity(writer, encoder, recipe, None, None)
        held = writer.manifest.origin
        if held and binding.same(held, index.origin):
            writer.extend(binding.joined(held, index.origin))
        else:
            writer.rebind(index.origin, index_name)
        noted = versions.load(folder, index.origin)
        while report.passes < PASSES:
            index.refresh()
            store = writer.store()
            comparison = Comparison(store, index, noted)
            changed = _begun(writer, comparison.changed(), report)
            encode_all(changed, store, writer, encoder, None, False, report.ingest, progress)
            drift = report.last = comparison.drift
            if not report.passes:
                report.first = drift
            report.passes += 1
            if drift.orphaned:
                if drift.documents == drift.unusable.total():
                    raise UsageError(
                        f"{folder}: {binding.named(index.origin)} holds nothing that can be encoded, so all of the "
                        "store would be deleted. If that is meant, remove the store"
                    )
                _bury(writer, drift.orphaned)
                report.buried += len(drift.orphaned)
            noted = comparison.notes.noted()
            if drift.clean:
                break
        if not (writer.begun or writer.manifest.complete):
            writer.begin()
        writer.mark_posted(*(entry.file for entry in writer.manifest.segments))
        writer.finish()
        versions.save(folder, index.origin, noted)


def _writer(
    folder: Path, index: OpenSearchSource, index_name: str, allowed: bool, aside: bool
) -> AbstractContextManager[StoreWriter]:
    """Raises StoreMismatchError."""
    store = Store.open(folder)
    check_kind(store)
    if _belongs(store, index, allowed) or not aside:
        return rewriting(folder)
    return staging(folder, index.origin, index_name)


def check_kind(store: Store) -> None:
    """Raises UsageError for a store whose index is the one beside it."""
    origin = store.manifest.origin
    if origin is None or origin.kind == BM25:
        raise UsageError(
            f"{store.folder}: its index is the one beside it, which follows the store by itself. Only with an index of "
            "OpenSearch can it be out of step"
        )


def _belongs(store: Store, index: OpenSearchSource, allowed: bool) -> bool:
    """Whether ``index`` is the store's, or another one that may take its place. Raises StoreMismatchError."""
    held = store.manifest.origin
    if held and binding.same(held, index.origin):
        return True
    if not allowed:
        raise StoreMismatchError(
            f"{store.folder}: belongs to {binding.named(held)}, not to {binding.named(index.origin)}. If that is a "
            "copy of it, changed or not, pass --allow-other-index"
        )
    binding.check_copy(store, index, ENOUGH)
    return False


def _begun(
    writer: StoreWriter, changed: Iterator[tuple[Document, str]], report: SyncReport
) -> Iterator[tuple[Document, str]]:
    """Counted; with the first of them the store is not complete any more."""
    for document, text in changed:
        if not writer.begun:
            writer.begin()
        report.ingest.input.accepted += 1
        yield document, text


def _bury(writer: StoreWriter, doc_ids: Sequence[str]) -> None:
    if not writer.begun:
        writer.begin()
    unit = writer.unit()
    for doc_id in doc_ids:
        unit.delete(doc_id)
    writer.commit(unit, posted=True)
