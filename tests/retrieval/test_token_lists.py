"""The union of tokens' lists is scored as the obvious loops do it; with whole lists, as MaxSim does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colbert_rerank.maxsim import reference as maxsim
from colbert_rerank.retrieval.token_lists import reference, union


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    tokens=st.integers(1, 8),
    length=st.integers(0, 20),
    documents=st.integers(1, 15),
    missing=st.sampled_from([0, 0.3, 1]),
    k=st.integers(1, 20),
)
def test_it_is_the_reference(seed: int, tokens: int, length: int, documents: int, missing: float, k: int) -> None:
    random = np.random.default_rng(seed)
    owners = random.integers(0, documents, (tokens, length))
    owners[random.random(owners.shape) < missing] = -1
    # of few different values, so that some are equal: in eighths, whose sums are exact
    similarities = -np.sort(-random.integers(-16, 16, owners.shape) / 8, axis=1).astype(np.float32)
    numbers, scores = union(owners, similarities, k)
    assert list(zip(numbers.tolist(), scores.tolist(), strict=True)) == reference(owners, similarities, k)


def test_of_whole_lists_it_is_maxsim() -> None:
    random = np.random.default_rng(1)
    Q, D = (random.standard_normal((n, 8)).astype(np.float32) for n in (4, 60))
    owners = np.sort(random.integers(0, 9, 60))
    order = np.argsort(-(Q @ D.T), axis=1)
    numbers, scores = union(owners[order], np.take_along_axis(Q @ D.T, order, axis=1), 100)
    exact = {n: maxsim.maxsim(Q, D[owners == n]) for n in np.unique(owners).tolist()}
    assert dict(zip(numbers.tolist(), scores.tolist(), strict=True)) == pytest.approx(exact, abs=1e-5)
    assert (np.diff(scores) <= 0).all()


def test_what_was_not_found_counts_as_the_last_that_was() -> None:
    numbers, scores = union(np.array([[3, 5], [5, 5]]), np.array([[0.9, 0.5], [0.75, 0.25]], np.float32), 9)
    assert numbers.tolist() == [5, 3]
    assert scores.tolist() == pytest.approx([0.5 + 0.75, 0.9 + 0.25])
