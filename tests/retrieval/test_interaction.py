"""The compiled scan is the obvious one, and the obvious one is MaxSim with centroids in the place of vectors."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colbert_rerank.maxsim import reference as maxsim
from colbert_rerank.native import library
from colbert_rerank.retrieval import interaction
from colbert_rerank.retrieval.interaction import Table, reference, sums


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    tokens=st.integers(1, 100),
    centroids=st.integers(1, 300),
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=30),
    threads=st.integers(1, 3),
)
def test_the_library_is_the_reference(seed: int, tokens: int, centroids: int, counts: list[int], threads: int) -> None:
    random = np.random.default_rng(seed)
    Q, C = (random.standard_normal((n, 16)).astype(np.float32) for n in (tokens, centroids))
    table = Table.of(Q, C)
    sizes = np.array(counts, dtype=np.int64)
    codes = random.integers(0, centroids, sizes.sum() + 7).astype(np.uint16)
    starts = np.cumsum(sizes) - sizes + random.integers(0, 8)
    order = random.permutation(sizes.size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interaction, "WORTH_A_THREAD", 20)
        found = sums(table, codes, starts[order], sizes[order], threads=threads)
    assert (found == reference(table, codes, starts[order], sizes[order])).all()


def test_without_what_only_some_machines_have(monkeypatch: pytest.MonkeyPatch) -> None:
    native = library()
    assert native is not None
    random = np.random.default_rng(3)
    table = Table(random.integers(0, 256, (500, 64)).astype(np.uint8), 0, 1)
    counts = random.integers(0, 9, 200)
    codes, starts = random.integers(0, 500, counts.sum()).astype(np.uint16), np.cumsum(counts) - counts
    expected = reference(table, codes, starts, counts)
    asked = []

    class Any:
        def interaction_scores(self, scan: ctypes._SimpleCData[int], _: int) -> None:
            asked.append(1)
            native.interaction_scores(scan, 1)  # type: ignore[union-attr]

    monkeypatch.setattr(interaction, "library", Any)
    assert (sums(table, codes, starts, counts) == expected).all()
    assert asked
    monkeypatch.setattr(interaction, "library", lambda: None)
    assert (sums(table, codes, starts, counts) == expected).all()


@pytest.mark.parametrize("similarity", ["dot", "cosine", "l2"])
def test_it_is_maxsim_of_centroids_in_steps(similarity: str) -> None:
    random = np.random.default_rng(11)
    Q, C = (random.standard_normal((n, 24)).astype(np.float32) for n in (20, 90))
    table = Table.of(Q, C, similarity)
    counts = random.integers(1, 30, 50)
    codes, starts = random.integers(0, 90, counts.sum()).astype(np.uint16), np.cumsum(counts) - counts
    found = table.least + table.step * sums(table, codes, starts, counts)
    for i, (start, count) in enumerate(zip(starts, counts, strict=True)):
        exact = maxsim.maxsim(Q, C[codes[start : start + count]], similarity)
        assert abs(found[i] - exact) <= 20 * table.step / 2 + 1e-3, "half a step for each token"


def test_a_query_to_which_all_is_the_same() -> None:
    table = Table.of(np.zeros((3, 4), np.float32), np.ones((5, 4), np.float32))
    one = np.array([0], dtype=np.int64)
    assert table.least + table.step * sums(table, np.array([4], np.uint16), one, one + 1)[0] == 0
