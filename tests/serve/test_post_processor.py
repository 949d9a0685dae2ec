"""Every answer on a store's path is read by OpenSearch's connectors: a model of what their post-processor does with it.

As `connector.post_process.cohere.rerank` of OpenSearch 3.6 was seen to behave: numbers are cast to Integer and Double,
as they were parsed, scores are put at their index, and there must be as many as there are hits.
"""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from tests.collection import documents
from tests.serve.conftest import REAL

IDS = [d.doc_id for d in documents(REAL)]
LONGEST = 18  # characters of a number that is still a Double


class Number(str):
    """A number as it stands in the text."""


def post_processed(text: str, hits: int) -> list[float]:
    """The hits' new scores. Raises as the cluster answers 500."""
    answer = json.loads(text, parse_float=Number, parse_int=int, parse_constant=_refuse)
    scores: list[float | None] = [None] * len(answer["results"])
    for result in answer["results"]:
        index, score = result["index"], result["relevance_score"]
        if type(index) is not int:
            raise TypeError("class cannot be cast to class java.lang.Integer")
        if not isinstance(score, Number) or len(score) > LONGEST:
            raise TypeError("class cannot be cast to class java.lang.Double")
        scores[index] = float(score)
    if len(scores) != hits:
        raise ValueError("scores and hits are not the same length")
    if None in scores:
        raise TypeError("NullPointerException")
    return [score for score in scores if score is not None]


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


ids = st.one_of(st.sampled_from(IDS), st.sampled_from(["", "null", "gone"]), st.text(max_size=5))


@settings(deadline=None, max_examples=100)
@given(st.lists(ids, min_size=1, max_size=50), st.text(min_size=1, max_size=30).filter(str.strip))
@example(["null", ""], "tides")
@example([IDS[0], IDS[0], "gone", "gone"], "tides")
def test_every_hit_gets_a_score_of_its_own(client: TestClient, asked: list[str], query: str) -> None:
    body = {"model": "colbert-default", "query": query, "documents": asked, "top_n": len(asked)}
    answer = client.post("/v1/stores/real/rerank", json=body)
    assert answer.status_code == 200, answer.text
    scores = post_processed(answer.text, len(asked))
    best_first = sorted(range(len(asked)), key=lambda i: -scores[i])
    assert [scores[r["index"]] for r in answer.json()["results"]] == sorted(scores, reverse=True)
    held = [i for i in best_first if asked[i] in IDS]
    assert best_first[: len(held)] == held, "what has no vectors stands below"
