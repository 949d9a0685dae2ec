"""Why a document scores as it does: which of its vectors each vector of the query chose, and what tokens these are of.

A store keeps vectors, and no tokens. Those are found out by making them again of the document's text; where that is no
longer the text that was encoded, or vectors are not of one token each, nothing is claimed of them, and why is said.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from colbert_rerank.encoder import Encoder, Tokens
from colbert_rerank.errors import InputError
from colbert_rerank.recipe import content_hash
from colbert_rerank.request import check_text
from colbert_rerank.rerank import Reranker, rounded_score
from colbert_rerank.types import Query

CHANGED = "the text has changed since it was encoded"
POOLED = "vectors were pooled: each is of several tokens"
PAGE = "the document is a page image"
NO_TEXT = "the text is not to be had"
NOT_ITS = "the text gives another number of vectors than are stored"


class Match(NamedTuple):
    """What one vector of the query chose: ``row`` of the document's, and the similarity that this adds to the score."""

    query_token: str
    row: int
    similarity: float


class Explanation(NamedTuple):
    """``score`` is the sum, or mean, of all matches' similarities, as it is printed.

    ``tokens`` [T] are those of the document's vectors, or ``None``, and then ``why_not`` says why.
    """

    score: float
    matches: list[Match]
    tokens: list[str] | None
    why_not: str = ""


def explain(reranker: Reranker, query: str, doc_id: str, text: str | None) -> Explanation:
    """``text`` is the document's, as the store's recipe makes it of the fields, ``None`` where it is not known.

    Raises InputError for an empty query, and for a document that is not in the store or has no vectors.
    """
    check_text(Query("", query))
    encoder, store = reranker.encoder, reranker.store
    (tokens,) = encoder.tokenize_queries([query])
    (Q,) = encoder.encode_query_tokens([tokens], [query])
    (score,) = reranker.score(Q, [doc_id]).tolist()
    if np.isneginf(score):
        raise InputError(f"document {doc_id!r} has no vectors in {store.folder}")
    (matrix,) = store.gather([doc_id]).matrices()
    similarities = similarity(Q, matrix, encoder.checkpoint.spec.similarity)
    rows = similarities.argmax(axis=1).tolist()
    names = _names(encoder, tokens.ids[encoder.checkpoint.spec.first_row :])
    matches = [
        Match(name, row, float(similarities[i, row])) for i, (name, row) in enumerate(zip(names, rows, strict=True))
    ]
    found = document_tokens(reranker, doc_id, text, len(matrix))
    return Explanation(rounded_score(score), matches, *((None, found) if isinstance(found, str) else (found,)))


def similarity(Q: npt.NDArray[np.float32], D: npt.NDArray[np.float32], kind: str) -> npt.NDArray[np.float64]:
    """Of each of a query's vectors [Lq, d] with each of a document's [T, d]: [Lq, T], in float64."""
    products: npt.NDArray[np.float64] = Q.astype(np.float64) @ D.astype(np.float64).T
    if kind != "l2":
        return products
    squares: npt.NDArray[np.float64] = np.add.outer(
        (Q.astype(np.float64) ** 2).sum(1), (D.astype(np.float64) ** 2).sum(1)
    )
    return 2 * products - squares


def document_tokens(reranker: Reranker, doc_id: str, text: str | None, rows: int) -> list[str] | str:
    """The tokens of the document's ``rows`` vectors, in order; or why they cannot be told."""
    recipe, encoder = reranker.store.manifest.recipe, reranker.encoder
    if recipe.pages:
        return PAGE
    if recipe.pool_factor > 1:
        return POOLED
    if text is None:
        return NO_TEXT
    (stored,) = reranker.store.describe([doc_id])
    if stored is None or stored.content_hash != content_hash(text):
        return CHANGED
    (tokens,) = encoder.tokenize_documents([text], stride=recipe.stride)
    found = [name for window in tokens.windows for name in _names(encoder, kept_ids(encoder, window))]
    return found if len(found) == rows else NOT_ITS


def kept_ids(encoder: Encoder, tokens: Tokens) -> list[int]:
    """The ids of one window of a document whose vectors are kept."""
    spec = encoder.checkpoint.spec
    return [i for i in tokens.ids[spec.first_row :] if i not in spec.skip_ids]


def _names(encoder: Encoder, ids: list[int]) -> list[str]:
    """Each id as its tokenizer writes it."""
    return [encoder.checkpoint.tokenizer.decode([i]).strip() or "\u2423" for i in ids]
