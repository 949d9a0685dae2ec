"""What a re-ranker is asked, checked: a query and its candidates."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from numbers import Real

from colbert_rerank.errors import InputError
from colbert_rerank.types import Query, ScoredDoc


def named(query: Query) -> str:
    return f"query {query.query_id!r}" if query.query_id else "query"


def check_text(query: Query) -> None:
    """Raises InputError for a query that is no text, or an empty one."""
    given: object = query.text  # by callers that no type checker has seen
    if not isinstance(given, str):
        raise InputError(f"{named(query)}: {given!r:.100} is not a text")
    if not query.text.strip():
        raise InputError(f"{named(query)} is empty; give it some text")
    if not in_utf8(query.text):
        raise InputError(f"{named(query)} is not text that UTF-8 can hold: {query.text!a}")


def request(query: str, candidates: Sequence[tuple[str, float]]) -> tuple[Query, list[ScoredDoc]]:
    """What was asked, with the candidates in first-stage order. Raises InputError for what is no such thing."""
    if not isinstance(candidates, Iterable):
        raise InputError(f"the candidates {candidates!r:.100} are no pairs of a document id and a first-stage score")
    asked, first_stage = Query("", query), [_candidate(c) for c in candidates]
    check_text(asked)
    check_candidates(asked, first_stage)
    return asked, first_stage


def check_texts(query: Query, first_stage: Sequence[ScoredDoc], texts: Sequence[str]) -> None:
    if len(texts) != len(first_stage):
        raise InputError(f"{named(query)}: {len(texts)} texts for {len(first_stage)} candidates")
    for document, text in zip(first_stage, texts, strict=True):
        given: object = text  # by callers that no type checker has seen
        if not isinstance(given, str):
            raise InputError(f"{named(query)}: candidate {document.doc_id!r} has {given!r:.100} for its text")
        if not in_utf8(text):
            raise InputError(f"{named(query)}: candidate {document.doc_id!r} has a text that UTF-8 cannot hold")


def in_utf8(text: str) -> bool:
    """Whether it is no half of a surrogate pair, which is no character."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _candidate(pair: tuple[str, float]) -> ScoredDoc:
    if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
        raise InputError(f"the candidate {pair!r:.100} is no pair of a document id and a first-stage score")
    return ScoredDoc("", *pair)


def check_candidates(query: Query, first_stage: Sequence[ScoredDoc]) -> None:
    ids, scores = [c.doc_id for c in first_stage], [c.score for c in first_stage]
    ordinary = {*map(type, ids)} <= {str} and {*map(type, scores)} <= {float} and all(map(math.isfinite, scores))
    given: Sequence[tuple[str, object, object, bool, bool]] = first_stage  # by callers that no type checker has seen
    for _, doc_id, score, *_ in () if ordinary else given:  # a thousand look-ups in the tower of numbers take a while
        if not isinstance(doc_id, str):
            raise InputError(f"{named(query)}: the candidate id {doc_id!r:.100} is not a string, as ids are")
        if not isinstance(score, Real) or not math.isfinite(score):
            raise InputError(
                f"{named(query)}: candidate {doc_id!r} has the first-stage score {score!r:.100}, not a finite number. "
                "Where a search was sorted by a field and gave none, pass minus the rank"
            )
    if len({*ids}) < len(ids):
        raise InputError(f"{named(query)}: candidate {Counter(ids).most_common(1)[0][0]!r} is given twice")
