"""A store in step with its index: what has drifted is told by `audit`, and made good by `sync`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from colbert_rerank import binding
from colbert_rerank.encoder import Encoder
from colbert_rerank.errors import OpenSearchError, StoreMismatchError, UsageError
from colbert_rerank.store import Store, StoreWriter, rewriting, staging
from colbert_rerank.types import BM25, Document, Origin
from ingest import versions
from ingest.admission import check_encoder, check_identity
from ingest.drift import Comparison, Drift
from ingest.pipeline import IngestReport, encode_all
from ingest.sources.opensearch import OpenSearchSource
from ingest.validation import InputReport

PASSES = 5  # over an index that goes on changing
# Of 20 sampled documents, for another index to be a copy: the rest may have drifted, and is what `sync` is for.
ENOUGH = 5

MANY, FEW = 0.2, 10  # of a store's documents, to be deleted: a share, and a number that is never too much


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
    held = _belonging(store, index, allow_other_index, True)  # they are told to be orphaned
    index.refresh()
    comparison = Comparison(store, index, versions.load(folder, index.origin), numbered=held is not None)
    for _ in comparison.changed():
        pass
    return comparison.drift


def sync(
    folder: Path,
    load: Callable[[], Encoder],
    index: OpenSearchSource,
    *,
    index_name: str = "",
    allow_other_index: bool = False,
    allow_deletions: bool = False,
    report: SyncReport,
    progress: Callable[[IngestReport], None] = lambda report: None,
) -> None:
    """Let the store in ``folder`` hold what ``index`` holds: encode what is missing or stale, bury what is orphaned.

    ``load`` is called once something is to be encoded. All other writers are kept out. Passes over the index are made
    until one finds nothing, so that what changes meanwhile is seen, too; an index that never rests is left after five.
    Interrupted, the next call goes on: what is encoded is stored.

    For another index, which is to be called ``index_name``, all of it is done in a generation beside the one that is
    read, which takes its place at the end.

    Raises as `audit` does, and UsageError where more than a fifth of the store would be buried, unless that is allowed.
    """
    with ExitStack() as opened:
        writer = opened.enter_context(rewriting(folder))
        recipe = writer.manifest.recipe
        if recipe.pages:
            raise UsageError(f"{folder}: holds page images, which no index gives back. Run their `ingest` again")
        held = _belonging(writer.store(), index, allow_other_index, allow_deletions)
        if held is None:
            writer = opened.enter_context(staging(writer, index.origin, index_name or index.origin.name))
        noted = versions.load(folder, index.origin)
        encoder = None
        while report.passes < PASSES:
            index = _now(index, writer)
            index.refresh()
            store = writer.store()
            comparison = Comparison(store, index, noted)
            changed = comparison.changed()
            if first := next(changed, None):
                encoder = encoder or _fitting(load(), writer)
                found = _counted(chain([first], changed), report)
                _begin(writer)
                encode_all(found, store, writer, encoder, None, False, report.ingest, progress)
            drift = report.last = comparison.drift
            if not report.passes:
                report.first = drift
            report.passes += 1
            if drift.orphaned:
                _check_deletions(len(store), drift, index, allow_deletions)
                _bury(writer, drift.orphaned)
                report.buried += len(drift.orphaned)
            noted = versions.kept(folder, index.origin, noted, comparison.notes)
            if drift.clean:
                break
        if not writer.manifest.complete:
            _begin(writer)
        writer.mark_posted(*(entry.file for entry in writer.manifest.segments))
        if report.last.clean:  # the store holds what its index holds, whatever others were to bring
            writer.forget(*writer.manifest.unfinished)
            writer.extend(index.origin)
        writer.finish()


def check_kind(store: Store) -> None:
    """Raises UsageError for a store whose index is the one beside it."""
    origin = store.manifest.origin
    if origin is None or origin.kind == BM25:
        raise UsageError(
            f"{store.folder}: its index is the one beside it, which follows the store by itself. Only with an index of "
            "OpenSearch can it be out of step"
        )


def _belonging(store: Store, index: OpenSearchSource, allowed: bool, deletions: bool) -> Origin | None:
    """What the store belongs to, if that is ``index``; ``None`` where that is another one that may take its place.

    Raises StoreMismatchError, and, unless all of their documents may be deleted, UsageError where the store belongs to
    other indices, too, that are there.
    """
    check_kind(store)
    held = store.manifest.origin
    if held and binding.same(held, index.origin):
        if not deletions and (left := index.left_out(held)):
            raise UsageError(
                f"{store.folder}: belongs to {', '.join(left)}, too, which {index.name!r} does not reach (or they are "
                "closed), so that all of their documents would be deleted. Name a pattern of all of them, and open "
                "them; or, if they are to go, pass --allow-deletions"
            )
        return held
    if not allowed:
        raise StoreMismatchError(
            f"{store.folder}: belongs to {binding.named(held)}, not to {binding.named(index.origin)}. If that is a "
            "copy of it, changed or not, pass --allow-other-index"
        )
    binding.check_copy(store, index, ENOUGH)
    return None


def _check_deletions(stored: int, drift: Drift, index: OpenSearchSource, allowed: bool) -> None:
    """Raises UsageError where an index may have lost its documents, or is not the one that was meant."""
    lost, where = len(drift.orphaned), binding.named(index.origin)
    if drift.documents == drift.unusable.total():
        raise UsageError(
            f"{where} holds nothing that can be encoded, so all of the store would be deleted. If that is meant, "
            "remove the store"
        )
    if lost > max(FEW, MANY * stored) and not allowed:
        raise UsageError(
            f"{lost:,} of the {stored:,} documents of the store are not in {where} any more, as it is read through "
            f"{index.name!r}. If they are to be deleted, pass --allow-deletions"
        )


def _begin(writer: StoreWriter) -> None:
    """From the first change on, the store is not complete."""
    if writer.begun is None:
        writer.begin("sync")


def _now(index: OpenSearchSource, writer: StoreWriter) -> OpenSearchSource:
    """The index as it is now: of a data stream or a pattern, parts may have come and gone. Raises OpenSearchError."""
    now = index.again()
    held = writer.manifest.origin
    if held is None or not binding.same(held, now.origin):
        raise OpenSearchError(
            f"{index.name!r} stands for {binding.named(now.origin)} by now. Run the same command again"
        )
    writer.extend(binding.joined(held, now.origin))
    return now


def _fitting(encoder: Encoder, writer: StoreWriter) -> Encoder:
    """The encoder, if the store was made with it."""
    check_encoder(encoder, writer.manifest.recipe)
    check_identity(writer, encoder, writer.manifest.recipe, None, None)
    return encoder


def _counted(changed: Iterator[tuple[Document, str]], report: SyncReport) -> Iterator[tuple[Document, str]]:
    for document, text in changed:
        report.ingest.input.accepted += 1
        yield document, text


def _bury(writer: StoreWriter, doc_ids: Sequence[str]) -> None:
    _begin(writer)
    unit = writer.unit()
    for doc_id in doc_ids:
        unit.delete(doc_id)
    writer.commit(unit, posted=True)
