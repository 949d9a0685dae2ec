"""The rows of the table as data: what is compared, and what this project has set itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Progress = Callable[[str], None]


class Row(NamedTuple):
    """One line of the table: ``peer`` is what takes ``ratio`` times as much as ``ours``; ``goal`` is of the ratio.

    Where nothing stands beside ours ``peer`` is empty, and the goal is of our time.
    """

    name: str
    ours: str
    peer: str
    goal: str = ""


SCORING = (
    Row("cpu_fp16_vs_maxsim_cpu", "float16", "maxsim_cpu", "3"),
    Row("cpu_int8_vs_maxsim_cpu", "int8", "maxsim_cpu", "6"),
    Row("cpu_fp16_vs_pylate", "float16", "pylate", "20"),
    Row("cpu_fp16_with_gather_vs_score_alone", "float16", "float16, score alone", "0.67: under 1.5 times as long"),
    Row("cpu_fp16_vs_one_copy", "float16", "one copy of the bytes"),
)

# The same with documents as long as passages are.
PASSAGES = (
    Row("cpu_fp16_passages_vs_maxsim_cpu", "float16", "maxsim_cpu", "as found"),
    Row("cpu_fp16_passages_vs_pylate", "float16", "pylate", "as found"),
)

_LATE = "OpenSearch lateInteractionScore, ids re-ordered"
SERVER = (
    Row("cpu_fp16_vs_opensearch_k100", "float16, ids re-ordered", _LATE),
    Row("cpu_fp16_vs_opensearch_k1000", "float16, ids re-ordered", _LATE, "200"),
    Row("cpu_reranking_vs_bm25_with_source", "encode, gather, score, order", "BM25 top k with _source", "1"),
)

_CROSS = "BERT-base cross-encoder"
CROSS_ENCODER = (
    Row("flops_cross_encoder_vs_colbert_paper", "ColBERT on BERT-base", _CROSS, "10,000"),
    Row("flops_cross_encoder_vs_colbert_own_lengths", "ColBERT on BERT-base", _CROSS, "as found"),
    Row("time_cross_encoder_vs_colbert", "ColBERT on BERT-base", _CROSS, "100"),
)

RESIDENT = (
    Row("gpu_query_to_ranking_pinned", "query text to ranking, float16 in pinned memory", "", "ours 5 ms"),
    Row("gpu_query_to_ranking_resident", "query text to ranking, float16 on the GPU", "", "ours 2 ms"),
    Row(
        "gpu_batch_of_1000_queries",
        "1000 queries scored, float16 on the GPU",
        "",
        "ours 40 ms: 25,000 queries a second",
    ),
)
GPU = (
    Row("gpu_kernel_vs_late_interaction_kernels", "float16", "late_interaction_kernels", "1; ours under 0.1 ms"),
    Row("gpu_kernel_vs_flash_maxsim", "float16", "flash_maxsim", "1; ours under 0.1 ms"),
    Row("gpu_ragged_vs_memory_bandwidth", "float16", "reading the bytes as a copy on the device does", "0.9"),
    *RESIDENT,
    Row("gpu_time_cross_encoder_vs_colbert", "ColBERT on BERT-base", _CROSS, "as found"),
)

# By name, what the table calls what a library does.
LABELS: Mapping[str, str] = {
    "maxsim_cpu": "maxsim-cpu, matrices in memory",
    "pylate": "PyLate rank.rerank, vectors in memory",
    "late_interaction_kernels": "late-interaction-kernels, vectors on the GPU",
    "flash_maxsim": "flash-maxsim, vectors on the GPU",
}


def measured(row: Row, ours: Sequence[float], peer: Sequence[float], **more: Any) -> dict[str, Any]:
    """The row with the median, 10th and 90th percentile of milliseconds on both sides, or on ours alone."""
    found = _named(row, more)
    for side, times in (("ours", ours), ("peer", peer)):
        if times:
            p10, median, p90 = np.percentile(times, [10, 50, 90]).tolist()
            found |= {f"{side}_ms": median, f"{side}_p10_ms": p10, f"{side}_p90_ms": p90}
    return found | ({"ratio": found["peer_ms"] / found["ours_ms"]} if peer else {})


def counted(row: Row, ours: int, peer: int, **more: Any) -> dict[str, Any]:
    """The row with operations on both sides."""
    return _named(row, more) | {"ours_flops": ours, "peer_flops": peer, "ratio": peer / ours}


def missing(row: Row, why: str) -> dict[str, Any]:
    """The row without figures."""
    return _named(row, {"missing": why})


def _named(row: Row, more: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": row.name, "ours": row.ours, "peer": LABELS.get(row.peer, row.peer), **more}
