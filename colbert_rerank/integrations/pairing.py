"""A framework's documents, paired by id with the re-ranker's candidates: what the adapters share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from colbert_rerank.errors import InputError, UsageError
from colbert_rerank.rerank import Reranker
from colbert_rerank.types import Document, ScoredDoc

# In a document's metadata: what its score is of. Without vectors it is made up, and keeps the document in its place.
SOURCE = "relevance_source"
VECTORS, SKETCHES, FIRST_STAGE = "vectors", "sketches", "first_stage"

ItemT = TypeVar("ItemT")


def reranked(
    reranker: Reranker,
    query: str,
    items: Sequence[ItemT],
    ids: Sequence[object],
    *,
    scores: Sequence[float | None] | None = None,
    texts: Sequence[str | None] | None = None,
) -> Iterator[tuple[ItemT, ScoredDoc]]:
    """`Reranker.rerank` of ``items`` [n] with these ``ids`` [n], in first-stage order: each with its score, best first.

    ``scores`` [n] are of the first stage; where it gave none they are its places, negated. ``texts`` [n] came along,
    and are what missing="encode" encodes: each is all the text of its document, whatever fields the store's have.

    Raises InputError for an item without an id, with one that is no string, or that another item has, and for scores
    that only some have, where they are mixed with MaxSim; and whatever `Reranker.rerank` does.
    """
    names = checked_ids(ids)
    texts_by_id = dict(zip(names, texts or [None] * len(names), strict=True))
    field = reranker.store.manifest.recipe.fields[0]

    def fetch(doc_ids: Sequence[str]) -> Iterable[Document]:
        return [Document(i, {field: text}) for i in doc_ids if (text := texts_by_id[i])]

    candidates = [*zip(names, first_stage_scores(reranker, names, scores), strict=True)]
    ranked = reranker.rerank(query, candidates, fetch=fetch)
    by_id = dict(zip(names, items, strict=True))
    return ((by_id[document.doc_id], document) for document in ranked)


def checked_ids(ids: Sequence[object]) -> list[str]:
    """``ids``, which are strings. Raises InputError with the number of the document whose id is none."""
    checked: list[str] = []
    for number, doc_id in enumerate(ids, start=1):
        where = f"document {number} of {len(ids)}"
        if doc_id is None or doc_id == "":
            raise InputError("it has no id, and is found in the store by nothing else", where=where)
        if not isinstance(doc_id, str):
            raise InputError(f"its id {doc_id!r:.100} is not a string, as the store's are", where=where)
        checked.append(doc_id)
    return checked


def source_of(document: ScoredDoc) -> str:
    """What a score is of."""
    return FIRST_STAGE if not document.scored else VECTORS if document.exact else SKETCHES


def check_count(name: str, count: int | None) -> None:
    """Raises UsageError for less than one document to return; None is for all."""
    if count is not None and count < 1:
        raise UsageError(f"{name}={count}: expected 1 or more, or None for all documents")


def first_stage_scores(reranker: Reranker, ids: Sequence[str], scores: Sequence[float | None] | None) -> list[float]:
    """First-stage scores [n], or, where not all have one, minus their places.

    Raises InputError where only some have one, and it would be mixed in.
    """
    known = [score for score in scores or () if score is not None]
    if known and len(known) == len(ids):
        return known
    if known and reranker.interpolate is not None:
        without = next(i for i, score in zip(ids, scores or (), strict=True) if score is None)
        raise InputError(f"document {without!r} has no first-stage score, as others have, and interpolate mixes these")
    return [-float(place) for place in range(len(ids))]
