"""MaxSim: the packed path against the reference, and against itself however the work is cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from colbert_rerank.errors import NonFiniteError, UsageError
from colbert_rerank.maxsim import AGGREGATIONS, SIMILARITIES, maxsim, packed, reference

# Why: products of unit vectors are summed in float32 over d terms (error below d * 2**-24), then over Lq tokens.
TOLERANCE = 1e-4


class Case(NamedTuple):
    query: npt.NDArray[np.float32]
    values: npt.NDArray[np.floating]
    offsets: npt.NDArray[np.int64]


def make_case(*, seed: int, lengths: Sequence[int], dim: int = 16, tokens: int = 8, dtype: str = "float16") -> Case:
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
    values = rng.standard_normal((int(offsets[-1]), dim)).astype(np.float32)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    query = rng.standard_normal((tokens, dim)).astype(np.float32)
    query /= np.linalg.norm(query, axis=1, keepdims=True)
    return Case(query, values.astype(dtype), offsets)


def take(case: Case, order: Sequence[int]) -> Case:
    parts = [case.values[case.offsets[i] : case.offsets[i + 1]] for i in order]
    offsets = np.concatenate([[0], np.cumsum([len(p) for p in parts])]).astype(np.int64)
    return Case(case.query, np.concatenate(parts), offsets)


lengths = st.lists(st.integers(0, 40), min_size=1, max_size=30).filter(any)
cases = st.builds(
    make_case,
    seed=st.integers(0, 2**32 - 1),
    lengths=lengths,
    dim=st.sampled_from([1, 8, 96, 128]),
    tokens=st.integers(1, 33),
    dtype=st.sampled_from(["float16", "float32"]),
)


kinds = st.fixed_dictionaries(
    {"similarity": st.sampled_from(SIMILARITIES), "aggregation": st.sampled_from(AGGREGATIONS)}
)


@given(cases, kinds)
@settings(max_examples=100, deadline=None)
def test_packed_equals_the_reference(case: Case, kind: dict[str, Any]) -> None:
    for found in (maxsim(*case, **kind), packed.scores(*case, **kind)):
        np.testing.assert_allclose(found, reference.scores(*case, **kind), rtol=0, atol=TOLERANCE)


@given(cases, kinds, st.data())
@settings(max_examples=100, deadline=None)
def test_bits_do_not_depend_on_batch_mates_or_order(case: Case, kind: dict[str, Any], data: st.DataObject) -> None:
    documents = case.offsets.size - 1
    order = data.draw(st.permutations(range(documents)))[: data.draw(st.integers(1, documents))]
    part = take(case, order)
    np.testing.assert_array_equal(maxsim(*part, **kind), maxsim(*case, **kind)[order])
    np.testing.assert_array_equal(packed.scores(*part, **kind), packed.scores(*case, **kind)[order])


@given(cases, kinds, st.sampled_from([32, 64, 256, 2048]))
@settings(max_examples=100, deadline=None)
def test_bits_do_not_depend_on_chunking(case: Case, kind: dict[str, Any], tile: int) -> None:
    np.testing.assert_array_equal(packed.scores(*case, tile=tile, **kind), packed.scores(*case, **kind))


def test_distances_of_unit_vectors_order_as_their_products_do() -> None:
    case = make_case(seed=3, lengths=[4, 9, 1, 30], dtype="float32")
    products, distances = maxsim(*case), maxsim(*case, similarity="l2")
    np.testing.assert_allclose(distances, 2 * products - 2 * len(case.query), atol=TOLERANCE)


@pytest.mark.parametrize("kind", [{"similarity": "l1"}, {"aggregation": "max"}], ids=["similarity", "aggregation"])
def test_an_unknown_kind_of_score(kind: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="expected of cosine, dot, l2; sum, mean"):
        maxsim(*make_case(seed=3, lengths=[4]), **kind)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_bits_do_not_depend_on_threads(threads: int) -> None:
    case = make_case(seed=5, lengths=list(range(1, 120)), dim=128, tokens=32)
    want = maxsim(*case)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        np.testing.assert_array_equal(maxsim(*case), want)
    finally:
        torch.set_num_threads(before)


@given(cases)
@settings(max_examples=40, deadline=None)
def test_the_accelerator_path_equals_the_reference(case: Case) -> None:
    """The scatter that a GPU uses, run on the CPU: the kernels differ, the arithmetic does not."""
    product = torch.from_numpy(case.values.astype(np.float32) @ case.query.T)
    best = torch.full((case.offsets.size - 1, case.query.shape[0]), -torch.inf)
    packed.scatter_maxima(best, product, case.offsets, 0, len(product))
    np.testing.assert_allclose(best.double().sum(1).numpy(), reference.scores(*case), rtol=0, atol=TOLERANCE)


def test_negative_similarities_are_not_lifted_to_zero() -> None:
    """Padding with zeros without a mask would score 0 here: a pad must never win."""
    query = np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    values = np.array([[-0.5, -0.25], [-1.0, -1.0], [-0.75, -0.5]], dtype=np.float16)
    np.testing.assert_array_equal(maxsim(query, values, [0, 1, 3]), [-0.75, -1.25])


def test_a_document_without_rows_scores_minus_infinity_and_leaves_the_others_alone() -> None:
    case = make_case(seed=1, lengths=[0, 3, 0, 0, 2, 0])
    got = maxsim(*case)
    assert np.isneginf(got[[0, 2, 3, 5]]).all()
    np.testing.assert_allclose(got[[1, 4]], reference.scores(*case)[[1, 4]], atol=TOLERANCE)


def test_no_documents() -> None:
    assert maxsim(np.ones((2, 4)), np.empty((0, 4), np.float16), [0]).shape == (0,)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=["nan", "inf", "-inf"])
def test_a_non_finite_document_is_refused_by_name(bad: float) -> None:
    case = make_case(seed=2, lengths=[2, 3, 4])
    case.values[3, 1] = bad
    with pytest.raises(NonFiniteError, match="'d7'"):
        maxsim(*case, doc_ids=["d6", "d7", "d8"])


def test_a_non_finite_query_is_refused() -> None:
    case = make_case(seed=2, lengths=[2])
    case.query[0, 0] = np.nan
    with pytest.raises(NonFiniteError, match="query"):
        maxsim(*case)


@pytest.mark.parametrize(
    ("query", "values", "offsets"),
    [
        (np.ones((2, 3)), np.ones((2, 4), np.float32), [0, 2]),
        (np.ones((2, 4)), np.ones((2, 4), np.float64), [0, 2]),
        (np.ones((2, 4)), np.ones((2, 4), np.float32), [0, 3]),
        (np.ones((2, 4)), np.ones((2, 4), np.float32), [0, 2, 1, 2]),
        (np.ones(4), np.ones((2, 4), np.float32), [0, 2]),
    ],
    ids=["dim", "dtype", "past-the-end", "falling", "query-not-a-matrix"],
)
def test_shapes_that_do_not_fit_are_refused(
    query: npt.NDArray[np.float64], values: npt.NDArray[np.floating], offsets: list[int]
) -> None:
    with pytest.raises(UsageError):
        maxsim(query, values, offsets)
