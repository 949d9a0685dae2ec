"""Whether a store and an index belong together.

Ids like "1" exist everywhere, and a wrong pair would be scored without a sound.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from colbert_rerank.errors import StoreMismatchError
from colbert_rerank.recipe import content_hash
from colbert_rerank.store import Manifest, Store
from colbert_rerank.store.unit import UNKNOWN
from colbert_rerank.types import BM25, ELASTICSEARCH, OPENSEARCH, QUALIFIED, Index, Origin

SAMPLE = 20
DRAWN = 1000  # to find so many of which it is known what they were encoded from
# A copy may have moved on a little since it was made; an unrelated index shares next to no text.
ENOUGH = 16

_log = logging.getLogger(__name__)


def check_origin(store: Store, candidates: Index, *, allow_other_index: bool = False) -> None:
    """Refuse candidates from an index that the store was not made from. A run file names no index and passes.

    ``allow_other_index`` accepts a reindexed copy: of 20 documents drawn evenly from the store, at least 16 must be in
    the index with the same text. Raises StoreMismatchError.
    """
    ours, theirs = store.manifest.origin, candidates.origin
    if theirs is None or (ours is not None and same(ours, theirs)):
        return
    if not allow_other_index:
        raise StoreMismatchError(
            f"{store.folder}: made from {named(ours)}, but the candidates come from {named(theirs)}. Ids of one mean "
            "nothing in the other. If it is a reindexed copy of the same documents, pass --allow-other-index"
        )
    check_copy(store, candidates)


def check_copy(store: Store, index: Index, enough: int = ENOUGH) -> None:
    """Refuse an index that is no copy of the one the store was made from: ``enough`` of 20 sampled documents are equal.

    Of several indices behind one name that holds for each that is another one by now. Logs how many documents were
    equal: as a warning where not all were. Raises StoreMismatchError.
    """
    ids = store.index.ids()
    for part in _replaced(store.manifest.origin, index.origin):
        _check_part(store, index, [i for i in ids if i.startswith(part)], enough)


def _check_part(store: Store, index: Index, ids: Sequence[str], enough: int) -> None:
    stored = _sample(store, ids)
    if len(stored) < min(SAMPLE, len(ids)):
        raise StoreMismatchError(
            f"{store.folder}: of too many of its documents it is not known what they were encoded from, to compare "
            f"them with {named(index.origin)}. Ingest into another folder; or, if its own index is there, `sync` first"
        )
    recipe = store.manifest.recipe
    equal = sum(stored[d.doc_id] == content_hash(recipe.content(d.fields)) for d in index.fetch(list(stored)))
    if equal * SAMPLE < enough * len(stored):
        raise StoreMismatchError(
            f"{store.folder}: of {len(stored)} sampled documents only {equal} are in {named(index.origin)} with the "
            "text they were encoded from: this is not a copy of the index the store was made from"
        )
    outcome = (
        f"{store.folder}: {equal} of {len(stored)} sampled documents have the text they were encoded from in "
        f"{named(index.origin)}"
    )
    if equal < len(stored) and enough == ENOUGH:
        _log.warning("%s; the others were changed or removed there since, and count with their old vectors", outcome)
    else:
        _log.info(outcome)


def _replaced(ours: Origin | None, theirs: Origin | None) -> list[str]:
    """How ids begin that are of an index of the same name and another UUID; of all, where no name is the same."""
    if ours and theirs and ours.kind == theirs.kind == QUALIFIED:
        before, now = _concrete(ours), _concrete(theirs)
        if both := before.keys() & now.keys():
            return [f"{name}/" for name in sorted(both) if before[name] != now[name]]
    return [""]


def same(a: Origin, b: Origin) -> bool:
    """One index, by what does not change when it is renamed or mounted elsewhere.

    Of several under qualified ids some may have come and others gone, as in a data stream: an id names its index, so
    that it is enough if those that both have are the same.
    """
    if a.kind != b.kind or a.kind != QUALIFIED:
        return (a.kind, a.uuid) == (b.kind, b.uuid)
    ours, theirs = _concrete(a), _concrete(b)
    both = ours.keys() & theirs.keys()
    return bool(both) and all(ours[name] == theirs[name] for name in both)


def joined(a: Origin, b: Origin) -> Origin:
    """The indices of both, which are `same`."""
    if a.kind != QUALIFIED:
        return a
    whole = sorted((_concrete(a) | _concrete(b)).items())
    return Origin(a.kind, ",".join(name for name, _ in whole), ",".join(uuid for _, uuid in whole))


def _concrete(origin: Origin) -> dict[str, str]:
    """UUID by name: neither holds a comma."""
    return dict(zip(origin.name.split(","), origin.uuid.split(","), strict=True))


def index_name(manifest: Manifest) -> str | None:
    """What the user calls the OpenSearch index that a store belongs to, such as an alias; ``None`` if there is none."""
    origin = manifest.origin
    if origin is None or origin.kind == BM25:
        return None
    return str(manifest.provenance.get("index", origin.name))


def named(origin: Origin | None) -> str:
    if origin is None:
        return "no index"
    kinds = {
        OPENSEARCH: "OpenSearch index",
        QUALIFIED: "OpenSearch index (ids INDEX/ID)",
        ELASTICSEARCH: "Elasticsearch index",
        BM25: "BM25 index",
    }
    kind = kinds.get(origin.kind, origin.kind)
    return f"{kind} {origin.name!r} (uuid {origin.uuid})"


def _sample(store: Store, ids: Sequence[str]) -> dict[str, bytes]:
    """Documents at even distances through ``ids``, which are in order of hash and so as good as drawn.

    By id the hash of what each was encoded from; those of which it is not known are passed over.
    """
    for drawn in (SAMPLE, DRAWN):
        some = ids[:: max(1, len(ids) // drawn)][:drawn]
        described = zip(some, store.describe(some), strict=True)
        known = [(i, s.content_hash) for i, s in described if s and s.content_hash != UNKNOWN]
        if len(known) >= min(SAMPLE, len(ids)):
            break
    return dict(known[:: max(1, len(known) // SAMPLE)][:SAMPLE])
