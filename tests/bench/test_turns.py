"""Candidates are drawn anew in each turn; passages are as words are drawn."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from colbert_rerank.bench import turns
from colbert_rerank.bench.passages import PASSAGE_WORDS, QUERY_WORDS, Words
from colbert_rerank.bench.turns import Work, in_turns, warm


def test_each_turn_draws_other_documents_of_those_that_a_work_has(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, list[int]]] = []

    def work(name: str, documents: int) -> Work:
        def timed(numbers: list[int]) -> float:
            seen.append((name, numbers))
            return float(len(seen))

        return Work(documents, timed)

    monkeypatch.setattr(turns, "WARM_UP", 0)
    times = in_turns({"all": work("all", 1000), "few": work("few", 6)}, k=5, repeats=9)
    order = [name for name, _ in seen]
    assert order[::2] == order[1::2], "each runs twice in its turn"
    assert all({*order[i : i + 4]} == {"all", "few"} for i in range(0, 36, 4)), "in turns"
    assert len({*order[::4]}) == 2, "of which now one comes first and now the other"
    counted = {name: [float(i + 1) for i in range(1, 36, 2) if order[i] == name] for name in times}
    assert times == counted, "the second time counts"
    for name, numbers in seen:
        assert len(set(numbers)) == 5
        assert set(numbers) <= set(range({"all": 1000, "few": 6}[name]))
    assert len({tuple(numbers) for name, numbers in seen if name == "all"}) == 18


def test_a_work_warms_up_for_a_while() -> None:
    begun, ran = time.perf_counter(), 0

    def timed(number: int) -> int:
        nonlocal ran
        ran += 1
        return number

    assert warm(timed, iter(range(10**9)).__next__) == ran - 1 > 1, "what was drawn last"
    assert time.perf_counter() - begun >= turns.PAUSE + turns.WARM_UP


def test_words_are_as_common_as_in_the_bundled_collection() -> None:
    passages = list(Words().passages(200))
    assert passages == list(Words().passages(200)), "the same at each start"
    assert {len(text.split()) for text in passages} == {PASSAGE_WORDS}
    assert {len(text.split()) for text in Words().queries(20)} == {QUERY_WORDS}
    counted = Counter(word for text in passages for word in text.split())
    assert counted.most_common(1)[0][0] == "the"
    assert sum(count == 1 for count in counted.values()) > len(counted) / 3, "most are rare"
