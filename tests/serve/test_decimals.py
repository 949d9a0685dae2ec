"""Scores as OpenSearch's post-processor reads them: see docs of `decimals`."""

from __future__ import annotations

import json
import re

import numpy as np
import orjson
from hypothesis import example, given
from hypothesis import strategies as st

from colbert_rerank.serve.decimals import LONGEST, decimal


@given(st.floats(allow_nan=False, allow_infinity=False))
@example(0.0)
@example(-0.0)
@example(21.0)
@example(123456789.0)
@example(-1e11)
@example(1.7e308)
@example(-3.5e38)
def test_a_score_is_a_decimal_that_every_caller_reads(score: float) -> None:
    text = orjson.dumps([decimal(score)]).decode()[1:-1]
    assert len(text) <= LONGEST
    assert re.fullmatch(r"-?\d+\.\d+(e[+-]\d+)?", text), "never an integer, which Java takes for another type"
    read = json.loads(text)
    assert np.isfinite(np.float32(read))
    held = max(-3e38, min(3e38, score))
    assert abs(read - held) <= max(5e-7, abs(held) * 1e-9)


def test_it_is_what_is_printed_elsewhere() -> None:
    assert orjson.dumps([decimal(21.5), decimal(-1.0), decimal(0.12345678)]) == b"[21.500000,-1.000000,0.123457]"
