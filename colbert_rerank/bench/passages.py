"""Passages and queries of words drawn one by one, as often as the bundled collection has them.

They say nothing; but their words are as rare and as common as those of texts are, which is what BM25's time depends on.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from importlib.resources import files

import numpy as np

PASSAGE_WORDS, QUERY_WORDS = 60, 8


class Words:
    """Random, the same at each start."""

    def __init__(self) -> None:
        path = files("colbert_rerank").joinpath("data/musique_mini/corpus.jsonl")
        with path.open(encoding="utf-8") as lines:
            counted = Counter(
                word for line in lines for word in re.findall(r"[a-z]+", json.loads(line)["text"].lower())
            )
        self._words = np.array(list(counted))
        self._shares = np.array(list(counted.values())) / counted.total()
        self._rng = np.random.default_rng(20261127)

    def passages(self, count: int) -> Iterator[str]:
        for words in self._draw(count, PASSAGE_WORDS):
            yield " ".join(words)

    def queries(self, count: int) -> list[str]:
        return [" ".join(words) for words in self._draw(count, QUERY_WORDS)]

    def _draw(self, count: int, words: int) -> list[list[str]]:
        drawn: list[list[str]] = self._rng.choice(self._words, (count, words), p=self._shares).tolist()
        return drawn
