"""The GPU's kernel: on a GPU where there is one, else in Triton's interpreter (see `tests.conftest`)."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from colbert_rerank.maxsim import AGGREGATIONS, SIMILARITIES, gpu, native, packed, reference, scores_of
from colbert_rerank.store import RowRanges
from colbert_rerank.store.codecs import decode, encode, plain
from colbert_rerank.store.rows import DeviceRanges
from colbert_rerank.types import CODECS
from tests.maxsim.test_native import Case, make_case

pytestmark = [
    pytest.mark.triton,
    # Triton's interpreter takes arrays of one number for numbers
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0:DeprecationWarning"),
    # and NumPy, which it computes with, warns of what is not finite
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EXAMPLES = 400 if DEVICE == "cuda" else 25

# Why: products are summed in single precision over at most 300 dimensions of vectors about as long as 17.
RELATIVE, ABSOLUTE = 1e-4, 1e-3

cases = st.builds(
    make_case,
    codec=st.sampled_from(CODECS),
    dim=st.sampled_from([1, 7, 24, 33, 96, 100, 128, 130, 300]),
    tokens=st.sampled_from([1, 2, 31, 32, 33, 70]),
    lengths=st.lists(st.sampled_from([0, 1, 3, 20, 63, 64, 65, 130]), min_size=1, max_size=5),
    seed=st.integers(0, 1000),
    unit_length=st.booleans(),
)
kinds = st.fixed_dictionaries(
    {"similarity": st.sampled_from(SIMILARITIES), "aggregation": st.sampled_from(AGGREGATIONS)}
)


def there(docs: RowRanges) -> DeviceRanges:
    values = torch.from_numpy(docs.values).to(DEVICE)
    return DeviceRanges(docs.found, values, docs.starts, docs.counts, docs.codec)


def scored(case: Case, **kind: Any) -> npt.NDArray[np.float64]:
    return gpu.scores([case.query], there(case.docs), **kind)


@given(cases, kinds)
@settings(max_examples=EXAMPLES, deadline=None)
def test_scores_are_those_of_the_reference(case: Case, kind: dict[str, Any]) -> None:
    np.testing.assert_allclose(scored(case, **kind), case.expected(**kind), rtol=RELATIVE, atol=ABSOLUTE)


@given(cases, kinds, st.data())
@settings(max_examples=EXAMPLES, deadline=None)
def test_bits_depend_neither_on_mates_nor_on_order_nor_on_other_queries(
    case: Case, kind: dict[str, Any], data: st.DataObject
) -> None:
    documents = case.docs.counts.size
    some = data.draw(st.permutations(range(documents)))[: data.draw(st.integers(1, documents))]
    part = case.docs._replace(starts=case.docs.starts[some], counts=case.docs.counts[some])
    other = data.draw(st.sampled_from([1, 32, 40]))
    queries = [np.ones((other, case.query.shape[1]), np.float32), case.query, case.query[:1]]
    owners = np.array([data.draw(st.sampled_from([0, 1, 2])) for _ in some])
    found = gpu.scores(queries, there(part), owners, **kind)
    for number, query in enumerate(queries):
        alone = scored(case._replace(query=query), **kind)[some]
        np.testing.assert_array_equal(found[owners == number], alone[owners == number])


@given(cases, kinds)
@settings(max_examples=EXAMPLES, deadline=None)
def test_equal_documents_score_the_same_wherever_they_lie(case: Case, kind: dict[str, Any]) -> None:
    values = case.docs.values
    # all begin one row later, and elsewhere in words
    rows = np.concatenate([np.zeros((1, values.shape[1]), values.dtype), values])
    moved = case.docs._replace(values=rows, starts=case.docs.starts + 1)
    np.testing.assert_array_equal(scored(case._replace(docs=moved), **kind), scored(case, **kind))


@pytest.mark.parametrize("codec", ["float16", "int8"])
def test_the_query_is_not_rounded_to_half_precision(codec: str) -> None:
    """Large and small numbers beside each other, which cancel but for what half precision would leave out."""
    dim = 64
    coder = plain(codec, dim)
    rows = encode(coder, np.ones((1, dim), np.float32))
    for scale in (1e-6, 1.0, 1e6):
        query = np.zeros((1, dim), np.float32)
        query[0, :4] = np.array([1 + 2**-14, -1, 2**-20, -(2**-30)], np.float32) * np.float32(scale)
        docs = RowRanges(np.ones(1, bool), rows, np.zeros(1, np.int64), np.ones(1, np.int64), coder)
        expected = reference.maxsim(query, decode(coder, rows))
        assert gpu.scores([query], there(docs))[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("codec", ["float16", "float32"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=["nan", "inf", "minus-inf"])
def test_a_row_that_is_not_finite_spoils_its_document_alone(bad: float, codec: str, similarity: str) -> None:
    case = make_case(codec, 20, 5, [3, 70, 0, 4], seed=1)
    query = np.abs(case.query)  # a row of minus infinity is then no one's greatest
    for row in (0, 12, 69):
        values = case.docs.values.copy()
        values[case.docs.starts[1] + row, 3] = bad
        found = gpu.scores([query], there(case.docs._replace(values=values)), similarity=similarity)
        assert np.isnan(found).tolist() == [False, True, False, False]
        assert np.isneginf(found).tolist() == [False, False, True, False]
        docs = case.docs._replace(values=values)
        for other in (packed_scores(query, docs, similarity), native.scores(query, docs, similarity)):
            assert np.isfinite(other).tolist() == np.isfinite(found).tolist()
            assert np.isnan(other).tolist() == np.isnan(found).tolist()


def packed_scores(query: npt.NDArray[np.float32], docs: RowRanges, similarity: str = "dot") -> npt.NDArray[np.float64]:
    values, offsets = there(docs).packed()
    return packed.scores(query, values, offsets, DEVICE, similarity, codec=docs.codec)


def test_a_scale_that_is_not_finite() -> None:
    case = make_case("int8", 20, 5, [3, 4], seed=1)
    values = case.docs.values.copy()
    for bad in (np.nan, np.inf, -np.inf):
        values[case.docs.starts[1] + 2, -4:] = np.frombuffer(np.float32(bad).tobytes(), np.uint8)
        docs = case.docs._replace(values=values)
        for found in (gpu.scores([case.query], there(docs)), packed_scores(case.query, docs)):
            assert np.isnan(found).tolist() == [False, True]


def test_a_centroid_that_is_not_there() -> None:
    case = make_case("residual2", 16, 5, [3, 4], seed=1)
    values = case.docs.values.copy()
    values[case.docs.starts[1], :2] = 255
    found = gpu.scores([case.query], there(case.docs._replace(values=values)))
    assert np.isnan(found).tolist() == [False, True]


def test_a_query_that_is_not_finite() -> None:
    case = make_case("float16", 8, 3, [2], seed=1)
    case.query[1, 2] = np.nan
    assert np.isnan(scored(case)).all()


@pytest.mark.parametrize(("start", "count"), [(-1, 1), (0, -1), (0, 1000), (2**62, 2**62)])
def test_ranges_beyond_the_rows_are_refused(start: int, count: int) -> None:
    case = make_case("float16", 8, 3, [2, 3], seed=1)
    docs = case.docs._replace(starts=np.array([0, start]), counts=np.array([1, count]))
    with pytest.raises(ValueError, match="must lie within the rows"):
        gpu.scores([case.query], there(docs))


def test_no_documents() -> None:
    case = make_case("float16", 8, 3, [2], seed=1)
    none = np.empty(0, np.int64)
    assert gpu.scores([case.query], there(case.docs._replace(starts=none, counts=none))).shape == (0,)


def test_torch_takes_its_place(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Where Triton cannot do it, from the same rows; and it is said why, once."""
    case = make_case("int8", 24, 5, [3, 0, 70], seed=1)
    with caplog.at_level(logging.WARNING):
        gpu.fault.cache_clear()
        assert gpu.fault(DEVICE) == ""
        assert not caplog.records
        by_kernel = scores_of(case.query, there(case.docs), DEVICE, "l2", "mean")
        gpu.fault.cache_clear()
        monkeypatch.setattr(gpu, "scores", lambda *_: (_ for _ in ()).throw(RuntimeError("no C compiler\nat all")))
        for _ in range(2):
            by_torch = scores_of(case.query, there(case.docs), DEVICE, "l2", "mean")
    gpu.fault.cache_clear()
    np.testing.assert_allclose(by_torch, by_kernel, rtol=RELATIVE, atol=ABSOLUTE)
    assert [r.message for r in caplog.records if r.name == gpu.__name__] == [
        f"Triton's kernel cannot be used on {DEVICE}, so scoring is slower: RuntimeError: no C compiler"
    ]


_COMPILE = """
import json, sys
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from colbert_rerank.maxsim import gpu, gpu_kernel
from tests.maxsim.test_native import make_case

POINTERS = {"float16": "*fp16", "float32": "*fp32", "int64": "*i64", "float64": "*fp64", "uint8": "*u8"}
shared = {}
for codec, dim in json.loads(sys.argv[1]):
    coder = make_case(codec, dim, 1, [1], seed=1).docs.codec
    constants = gpu.constants(coder, "l2")
    single = constants["kind"] in ("float32", "residual")
    types = dict.fromkeys(("starts", "counts", "owners", "bounds"), "*i64")
    types |= {"scores": "*fp64", "rows": POINTERS[coder.dtype], "query": "*fp32" if single else "*fp16"}
    types |= {"centroid_count": "i32"} | ({} if single else {"rest": "*fp16", "units": "*fp32"})
    types |= {"weights": "*fp32", "centroids": "*fp32"} if constants["kind"] == "residual" else {}
    names = gpu_kernel.maxsim_kernel.arg_names
    constants |= {name: None for name in names if name not in {*types, *constants}}
    source = ASTSource(
        gpu_kernel.maxsim_kernel,
        {name: types.get(name, "constexpr") for name in names},
        {(names.index(name),): value for name, value in constants.items()},
    )
    for capability in (80, 90):
        made = compile(source, target=GPUTarget("cuda", capability, 32))
        assert made.asm["cubin"]
        shared[f"{codec} {dim} sm_{capability}"] = made.metadata.shared
print(json.dumps(shared))
"""


def test_it_compiles_for_gpus_that_are_not_here_and_fits_their_shared_memory() -> None:
    """99 KiB is what the smallest of compute capability 8.0 and later has (8.6, 8.9, 12.0)."""
    wanted = [(codec, 128) for codec in CODECS] + [("float16", 1024), ("residual2", 1024), ("int8", 24)]
    done = subprocess.run(
        [sys.executable, "-c", _COMPILE, json.dumps(wanted)],
        env={**os.environ, "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    shared = json.loads(done.stdout)
    assert len(shared) == 2 * len(wanted)
    assert max(shared.values()) <= 99 * 1024, shared
