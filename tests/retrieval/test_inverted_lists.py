"""Lists in a file are those that FAISS makes of the same vectors, in one part or in several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colbert_rerank.retrieval.faiss_library import library
from colbert_rerank.retrieval.inverted_lists import InvertedLists, attach, write

faiss = library()

DIM, LISTS, WIDTH = 8, 5, 2


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an index that has learnt, and has no vectors."""
    path = tmp_path_factory.mktemp("lists") / "learnt"
    index = faiss.IndexIVFPQ(faiss.IndexFlatL2(DIM), DIM, LISTS, WIDTH, 8)
    for means in (index.cp, index.pq.cp):
        means.min_points_per_centroid = 1
    index.train(np.random.default_rng(0).standard_normal((300, DIM)).astype(np.float32))
    faiss.write_index(index, str(path))
    return path


def coded(index: Any, vectors: Any, first: int) -> InvertedLists:
    codes = index.sa_encode(vectors)
    return InvertedLists.of(codes[:, 1:], codes[:, 0].astype(np.int64), first, LISTS)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), counts=st.lists(st.integers(0, 40), min_size=1, max_size=4))
def test_they_are_those_of_faiss(
    trained: Path, tmp_path_factory: pytest.TempPathFactory, seed: int, counts: list[int]
) -> None:
    folder, random = tmp_path_factory.mktemp("parts"), np.random.default_rng(seed)
    ours, theirs = faiss.read_index(str(trained)), faiss.read_index(str(trained))
    parts, first = [], 1 << 40  # numbers are no places
    for i, count in enumerate(counts):
        vectors = random.standard_normal((count, DIM)).astype(np.float32)
        write(folder / str(i), [coded(ours, vectors, first)])
        parts.append(InvertedLists.read(folder / str(i), LISTS, WIDTH))
        theirs.add_with_ids(vectors, np.arange(first, first + count))
        first += count + 3
    write(folder / "all", parts)
    attach(ours, folder / "all")
    assert ours.ntotal == theirs.ntotal == sum(counts)
    for number in range(LISTS):
        size = theirs.invlists.list_size(number)
        assert ours.invlists.list_size(number) == size
        if size:
            for read, width in (("get_codes", WIDTH), ("get_ids", 1)):
                one, other = (
                    faiss.rev_swig_ptr(getattr(index.invlists, read)(number), size * width) for index in (ours, theirs)
                )
                np.testing.assert_array_equal(one, other)
    query = random.standard_normal((3, DIM)).astype(np.float32)
    found, expected = (
        index.search(query, 10, params=faiss.SearchParametersIVF(nprobe=LISTS)) for index in (ours, theirs)
    )
    np.testing.assert_array_equal(found[0], expected[0])
