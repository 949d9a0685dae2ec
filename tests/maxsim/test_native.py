"""The compiled kernel, by each instruction set of this machine: against the reference, and against itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colbert_rerank.maxsim import AGGREGATIONS, SIMILARITIES, in_place, maxsim, native, reference
from colbert_rerank.store import RowRanges
from colbert_rerank.store import codecs as coding
from colbert_rerank.types import CODECS
from tests.store.test_codecs import make_codec, vectors

ISAS = native.isas()

# Why: products are summed in float32 over at most 130 dimensions of vectors about as long as 12.
RELATIVE, ABSOLUTE = 1e-4, 1e-3


def test_the_kernel_is_built() -> None:
    """Where there is a C compiler, as wherever this is tested."""
    assert ISAS[-1:] == ("any",)
    assert in_place("cpu")
    assert not in_place("cuda")


class Case(NamedTuple):
    query: npt.NDArray[np.float32]
    docs: RowRanges
    decoded: npt.NDArray[np.float32]

    def expected(self, **kind: Any) -> npt.NDArray[np.float64]:
        ends = self.docs.starts + self.docs.counts
        spans = zip(self.docs.starts.tolist(), ends.tolist(), strict=True)
        found = [reference.maxsim(self.query, self.decoded[a:b], **kind) for a, b in spans]
        return np.array(found)


def make_case(codec: str, dim: int, tokens: int, lengths: list[int], seed: int, unit_length: bool = True) -> Case:
    """Documents that lie in any order among other rows."""
    rng = np.random.default_rng(seed)
    coder = make_codec(codec, dim, unit_length=unit_length)
    counts = np.array(lengths, dtype=np.int64)
    gaps = rng.integers(0, 3, counts.size)
    order = rng.permutation(counts.size)
    starts = np.empty_like(counts)
    starts[order] = (np.cumsum(counts[order] + gaps) - counts[order]).astype(np.int64)
    rows = coding.encode(coder, vectors(seed, int(counts.sum() + gaps.sum()), dim, unit_length=unit_length))
    query = rng.standard_normal((tokens, dim)).astype(np.float32)
    docs = RowRanges(np.ones(counts.size, bool), rows, starts, counts, coder)
    return Case(query, docs, coding.decode(coder, rows))


cases = st.builds(
    make_case,
    codec=st.sampled_from(CODECS),
    dim=st.sampled_from([1, 2, 7, 8, 16, 20, 33, 96, 128, 130]),
    tokens=st.sampled_from([1, 2, 16, 31, 32, 33, 70]),
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=40),
    seed=st.integers(0, 1000),
    unit_length=st.booleans(),
)
kinds = st.fixed_dictionaries(
    {"similarity": st.sampled_from(SIMILARITIES), "aggregation": st.sampled_from(AGGREGATIONS)}
)
isas = st.sampled_from(ISAS)


@given(cases, kinds, isas)
@settings(max_examples=100, deadline=None)
def test_scores_are_those_of_the_reference(case: Case, kind: dict[str, Any], isa: str) -> None:
    np.testing.assert_allclose(
        native.scores(case.query, case.docs, **kind, isa=isa), case.expected(**kind), rtol=RELATIVE, atol=ABSOLUTE
    )


@given(cases, kinds, isas, st.booleans(), st.data())
@settings(max_examples=100, deadline=None)
def test_bits_depend_neither_on_mates_nor_on_order_nor_on_threads(
    case: Case, kind: dict[str, Any], isa: str, int16_query: bool, data: st.DataObject
) -> None:
    documents = case.docs.counts.size
    some = data.draw(st.permutations(range(documents)))[: data.draw(st.integers(1, documents))]
    part = case.docs._replace(starts=case.docs.starts[some], counts=case.docs.counts[some])
    options: dict[str, Any] = {**kind, "isa": isa, "int16_query": int16_query}
    whole = native.scores(case.query, case.docs, **options, threads=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "WORTH_A_THREAD", 1)
        found = native.scores(case.query, part, **options, threads=data.draw(st.sampled_from([1, 2, 7])))
    np.testing.assert_array_equal(found, whole[some])


@given(cases.filter(lambda case: case.docs.codec.name == "int8"), kinds)
@settings(max_examples=50, deadline=None)
def test_a_query_of_16_bits(case: Case, kind: dict[str, Any]) -> None:
    """In whole numbers there is no error but that of rounding the query, whatever the instruction set."""
    scales = np.abs(case.query).max(axis=1, keepdims=True) / np.float32(32767)
    rounded = np.rint(case.query / scales).astype(np.float64) * scales
    found = [native.scores(case.query, case.docs, **kind, isa=isa, int16_query=True) for isa in ISAS]
    expected = case._replace(query=rounded).expected(**kind)
    if kind["similarity"] == "l2":  # whose own length is not rounded
        of_tokens = np.square(rounded).sum(axis=1) - np.square(case.query, dtype=np.float64).sum(axis=1)
        expected = expected + (of_tokens.mean() if kind["aggregation"] == "mean" else of_tokens.sum())
    else:
        for other in found[1:]:
            np.testing.assert_array_equal(other, found[0])
    for one in found:
        np.testing.assert_allclose(one, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("isa", ISAS)
def test_whole_numbers_do_not_overflow(isa: str) -> None:
    """All numbers as large as can be, in as many dimensions as models have."""
    dim = 4096
    codec = coding.plain("int8", dim)
    rows = coding.encode(codec, np.full((1, dim), 2.0, np.float32))
    docs = RowRanges(np.ones(1, bool), rows, np.array([0]), np.array([1]), codec)
    found = native.scores(np.full((2, dim), -3.0, np.float32), docs, int16_query=True, isa=isa)
    np.testing.assert_allclose(found, [-2 * dim * 6.0], rtol=1e-6)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("width", [1, 19])
def test_every_half_is_read_as_it_is(isa: str, width: int) -> None:
    """All 65,536 of them, each in a row of its own; in vectors, and in what is left of a row behind them."""
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    values = np.zeros((halves.size, width), np.float16)
    values[:, -1] = halves
    docs = RowRanges(
        np.ones(halves.size, bool),
        values,
        np.arange(halves.size),
        np.ones(halves.size, np.int64),
        coding.plain("float16", width),
    )
    query = np.ones((1, width), np.float32)
    for place in {0, width - 1}:
        values[:] = 0
        values[:, place] = halves
        found = native.scores(query, docs, isa=isa)
        finite = np.isfinite(halves)
        np.testing.assert_array_equal(found[finite], halves[finite].astype(np.float64))
        assert np.isnan(found[~finite]).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=["nan", "inf", "minus-inf"])
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_a_row_that_is_not_finite_spoils_its_document_alone(isa: str, bad: float, similarity: str) -> None:
    case = make_case("float32", 20, 5, [3, 30, 1, 4], seed=1)
    for row in (0, 12, 29):
        values = case.docs.values.copy()
        values[case.docs.starts[1] + row, 3] = bad
        found = native.scores(case.query, case.docs._replace(values=values), similarity, isa=isa)
        assert np.isnan(found).tolist() == [False, True, False, False]


@pytest.mark.parametrize("isa", ISAS)
def test_a_centroid_that_is_not_there(isa: str) -> None:
    """As a damaged store may name one where nothing is verified."""
    case = make_case("residual2", 16, 5, [3, 4], seed=1)
    values = case.docs.values.copy()
    values[case.docs.starts[1], :2] = 255
    found = native.scores(case.query, case.docs._replace(values=values), isa=isa)
    assert np.isnan(found).tolist() == [False, True]


@pytest.mark.parametrize(("start", "count"), [(-1, 1), (0, -1), (0, 1000), (2**62, 2**62)])
def test_ranges_beyond_the_rows_are_refused(start: int, count: int) -> None:
    case = make_case("float16", 8, 3, [2, 3], seed=1)
    docs = case.docs._replace(starts=np.array([0, start]), counts=np.array([1, count]))
    with pytest.raises(ValueError, match="must lie within the rows"):
        native.scores(case.query, docs)


def test_no_documents() -> None:
    case = make_case("float16", 8, 3, [2], seed=1)
    none = np.empty(0, np.int64)
    assert native.scores(case.query, case.docs._replace(starts=none, counts=none)).shape == (0,)


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the kernel is looked for: nothing is there."""
    monkeypatch.setattr(native, "LIBRARY", tmp_path / "_kernel.so")
    native._library.cache_clear()
    native.isas.cache_clear()
    yield native.LIBRARY
    native._library.cache_clear()
    native.isas.cache_clear()


def test_without_the_kernel_torch_scores(library: Path, caplog: pytest.LogCaptureFixture) -> None:
    case = make_case("float16", 16, 5, [3, 4], seed=1)
    assert not in_place("cpu")
    with pytest.raises(RuntimeError, match="was not built"):
        native.scores(case.query, case.docs)
    values = np.concatenate(
        [case.docs.values[s : s + c] for s, c in zip(case.docs.starts, case.docs.counts, strict=True)]
    )
    np.testing.assert_allclose(maxsim(case.query, values, [0, 3, 7]), case.expected(), rtol=RELATIVE, atol=ABSOLUTE)
    assert not caplog.records


def test_what_is_no_kernel_is_said_to_be_none(library: Path, caplog: pytest.LogCaptureFixture) -> None:
    library.write_bytes(b"no library")
    assert not in_place("cpu")
    (record,) = caplog.records
    assert f"{library} cannot be used, so scoring is slower" in record.message
