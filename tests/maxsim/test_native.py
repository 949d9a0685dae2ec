"""The compiled kernel, by each instruction set of this machine: against the reference, and against itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colbert_rerank import native as compiled
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


@given(cases, kinds, isas, st.data())
@settings(max_examples=100, deadline=None)
def test_bits_depend_neither_on_mates_nor_on_order_nor_on_threads(
    case: Case, kind: dict[str, Any], isa: str, data: st.DataObject
) -> None:
    documents = case.docs.counts.size
    some = data.draw(st.permutations(range(documents)))[: data.draw(st.integers(1, documents))]
    part = case.docs._replace(starts=case.docs.starts[some], counts=case.docs.counts[some])
    options: dict[str, Any] = {**kind, "isa": isa}
    whole = native.scores(case.query, case.docs, **options, threads=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            native, "_PROCESS", data.draw(st.sampled_from([os.getpid(), 0]))
        )  # threads of OpenMP, or new ones
        found = native.scores(case.query, part, **options, threads=data.draw(st.sampled_from([1, 2, 7])))
    np.testing.assert_array_equal(found, whole[some])


def test_threads_are_those_of_torch() -> None:
    assert native._openmp() is not None, "where torch comes from a wheel for Linux"


def test_it_goes_on_after_a_fork() -> None:
    """OpenMP's threads do not live on in the child, which would wait for them for ever."""
    program = """
import os, sys
import numpy as np
from colbert_rerank.maxsim import native
from colbert_rerank.store.codecs import Floats
from colbert_rerank.store import RowRanges
query, rows, each = np.ones((2, 8), np.float32), np.ones((2000, 8), np.float32), np.arange(2000)
docs = RowRanges(np.ones(2000, bool), rows, each, np.ones(2000, np.int64), Floats("float32", 8))
assert (native.scores(query, docs, threads=2) == 16).all()
child = os.fork()
if not child:
    os._exit(0 if (native.scores(query, docs, threads=2) == 16).all() else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], timeout=60, check=False)
    assert done.returncode == 0


class Near(NamedTuple):
    """Documents that are hard to tell apart: their rows are near one another, and some are the same."""

    spread: float
    scale: float
    lengths: tuple[int, ...]

    def case(self, codec: str, dim: int, tokens: int, seed: int) -> Case:
        rng = np.random.default_rng(seed)
        counts = np.array(self.lengths, dtype=np.int64)
        middles = rng.standard_normal((counts.size, dim))
        rows = np.repeat(middles, counts, axis=0)
        rows += self.spread * rng.standard_normal(rows.shape) * rng.choice([0, 1, 10], (len(rows), 1))
        coder = make_codec(codec, dim, unit_length=False)
        values = coding.encode(coder, (self.scale * rows).astype(np.float32))
        docs = RowRanges(np.ones(counts.size, bool), values, np.cumsum(counts) - counts, counts, coder)
        query = (rng.standard_normal((tokens, dim)) * rng.choice([1e-3, 1, 30], (tokens, 1))).astype(np.float32)
        return Case(query, docs, coding.decode(coder, values))


near = st.builds(
    Near,
    spread=st.sampled_from([0, 1e-4, 1e-3, 1e-2, 0.1]),
    scale=st.sampled_from([1e-3, 1, 100]),
    lengths=st.lists(st.sampled_from([0, 1, 3, 4, 11, 12, 30, 95, 96, 97, 250]), min_size=1, max_size=8).map(tuple),
)


def check_to_the_rounding(case: Case) -> None:
    """Scores, of single tokens as well, are the reference's, up to what sums in single precision may be wrong by.

    A row that is left out in error costs a hundred times that.
    """
    longest = float(np.linalg.norm(case.decoded, axis=1).max(initial=0))
    for some in (slice(None), *(slice(t, t + 1) for t in range(0, len(case.query), 5))):
        one = case._replace(query=case.query[some])
        allowed = reference.rounding(one.query, longest)
        np.testing.assert_allclose(native.scores(one.query, one.docs), one.expected(), rtol=0, atol=allowed)


@given(
    near,
    st.sampled_from(CODECS),
    st.sampled_from([1, 3, 63, 64, 96, 128, 130]),
    st.sampled_from([1, 31, 32, 33, 70]),
    st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_the_filter_leaves_out_no_row_that_counts(
    documents: Near, codec: str, dim: int, tokens: int, seed: int
) -> None:
    check_to_the_rounding(documents.case(codec, dim, tokens, seed))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("spread", [1e-3, 1e-2])
def test_rows_that_8_bits_do_not_tell_apart(codec: str, spread: float) -> None:
    check_to_the_rounding(Near(spread, 1, (250, 90, 250)).case(codec, 128, 70, seed=3))


@pytest.mark.parametrize(
    ("codec", "size"),
    [
        *((codec, size) for codec in ("float32", "int8") for size in (1e-38, 1e-30, 1e-13, 1e-6, 1e4, 1e13, 1e30, 0)),
        *(("float16", size) for size in (1e-6, 1e4, 0)),
    ],
)
def test_numbers_of_any_size(codec: str, size: float) -> None:
    """Those that the filter cannot tell about go the plain way, a document at a time."""
    rng = np.random.default_rng(1)
    coder = coding.plain(codec, 40)
    vectors = rng.standard_normal((30, 40)).astype(np.float32)
    vectors[12:15] *= np.float32(size)  # three rows of the second document
    values = coding.encode(coder, vectors)
    docs = RowRanges(np.ones(3, bool), values, np.array([0, 10, 20]), np.array([10, 10, 10]), coder)
    decoded = coding.decode(coder, values)
    for query in (rng.standard_normal((5, 40)), size * rng.standard_normal((5, 40))):
        Q = query.astype(np.float32)
        expected = Case(Q, docs, decoded).expected()
        for isa in ISAS:
            if size >= 1e30:  # products that single precision does not hold are not finite, and no one's are wrong
                found = native.scores(Q, docs, isa=isa)
                finite = np.isfinite(found)
                np.testing.assert_allclose(found[finite], expected[finite], rtol=1e-5)
            else:
                np.testing.assert_allclose(native.scores(Q, docs, isa=isa), expected, rtol=1e-5, atol=1e-42)


def test_what_the_filter_leaves_out_of_rows_at_its_worst() -> None:
    """The best row loses half a step in each dimension, all against the query, and the other gains as much."""
    dim = 100
    query = np.full((1, dim), 127, np.float32)  # whole steps
    best, other = np.full((2, dim), 10, np.float32)
    best += np.float32(0.499)
    other += np.float32(0.501)
    other[1] -= 0.501
    rows = np.stack([best, other, *np.full((10, dim), -10, np.float32)])  # of too few, all are multiplied
    rows[:, 0] = 127  # so that a step is 1
    check_to_the_rounding(_one_document(query, rows, "float32"))


def test_what_the_filter_leaves_out_of_queries_at_its_worst() -> None:
    dim = 100
    query = np.full((1, dim), 0.49, np.float32)
    query[0, 0] = 127  # in whole steps all that is left
    best, other = np.full(dim, 127, np.float32), np.full(dim, -127, np.float32)
    best[0], other[0] = 1, 97
    far = np.zeros((10, dim), np.float32)
    far[:, 0] = -127
    check_to_the_rounding(_one_document(query, np.stack([best, other, *far]), "int8"))


def test_what_single_precision_itself_leaves_out() -> None:
    """Rows and a query of whole steps, whose products differ by less than what sums in single precision are off."""
    dim, count, coder = 4096, 16, coding.plain("int8", 4096)
    rng, scale = np.random.default_rng(0), np.frombuffer(np.float32(2**-7).tobytes(), np.uint8)
    for _ in range(40):
        query = np.sort(rng.integers(64, 128, dim))
        query[-1] = 127
        alike = np.split(np.arange(dim), np.flatnonzero(np.diff(query)) + 1)
        steps = np.concatenate([rng.permutation(rng.integers(65, 126, dim)[at]) for at in alike])
        rows = []
        for more in range(count):
            row = np.concatenate([rng.permutation(steps[at]) for at in alike])  # the same product, summed otherwise
            row[alike[more % 7][0]] += 1
            row[alike[0][0]] -= 1
            rows.append(np.concatenate([row.astype(np.uint8), scale]))
        values = np.stack(rows).view(coding.encode(coder, np.ones((1, dim), np.float32)).dtype)
        each = RowRanges(
            np.ones(count, bool),
            np.repeat(values, count, axis=0),
            np.arange(count) * count,
            np.full(count, count),
            coder,
        )
        whole = RowRanges(np.ones(1, bool), values, np.zeros(1, np.int64), np.array([count]), coder)
        Q = (query / 128).astype(np.float32)[None]
        assert native.scores(Q, whole)[0] == native.scores(Q, each).max()


def _one_document(query: npt.NDArray[np.float32], rows: npt.NDArray[np.float32], codec: str) -> Case:
    coder = coding.plain(codec, rows.shape[1])
    values = coding.encode(coder, rows)
    docs = RowRanges(np.ones(1, bool), values, np.array([0]), np.array([len(rows)]), coder)
    return Case(query, docs, coding.decode(coder, values))


def test_a_step_that_no_codec_writes() -> None:
    """-128, in what is damaged: it is read as what it says."""
    case = Near(1e-2, 1, (200,)).case("int8", 128, 70, seed=1)
    values = case.docs.values.copy()
    values[:, :64] = 128
    docs = case.docs._replace(values=values)
    check_to_the_rounding(case._replace(docs=docs, decoded=coding.decode(docs.codec, values)))


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


def test_an_instruction_set_that_is_not_here() -> None:
    case = make_case("float16", 8, 3, [2, 3], seed=1)
    with pytest.raises(ValueError, match="this machine has"):
        native.scores(case.query, case.docs, isa="mmx")


def test_the_last_row_of_all_is_read_to_its_end_and_no_further() -> None:
    """NumPy calls one row contiguous, whatever its stride."""
    case = make_case("binary", 16, 3, [1], seed=1)
    row = case.docs.values[case.docs.starts[0] :][:1].copy()
    strided = np.lib.stride_tricks.as_strided(row, row.shape, (40, 1))
    docs = case.docs._replace(values=strided, starts=np.array([0]))
    expected = native.scores(case.query, docs._replace(values=row))
    np.testing.assert_array_equal(native.scores(case.query, docs), expected)


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
    path = tmp_path / "_native.so"
    monkeypatch.setattr(compiled, "LIBRARY", path)
    compiled.library.cache_clear()
    yield path
    compiled.library.cache_clear()


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
    assert f"{library} cannot be used, so all is slower" in record.message
