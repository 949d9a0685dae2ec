"""On a GPU: the kernel beside other kernels and beside the memory, with documents that are in no cache."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from colbert_rerank.bench import resident
from colbert_rerank.bench.cross_encoder import ASKED, time_row
from colbert_rerank.bench.documents import DIM, QUERY_TOKENS, Documents, Matrices, unit_vectors
from colbert_rerank.bench.peer import ON_GPU, device_ms
from colbert_rerank.bench.peers import started
from colbert_rerank.bench.rows import GPU, Progress, measured, missing
from colbert_rerank.bench.turns import Work, in_turns
from colbert_rerank.maxsim import scores_of
from colbert_rerank.store.codecs import Floats
from colbert_rerank.store.rows import DeviceRanges, Gathered

NO_GPU = "not yet measured: no CUDA device here"
KERNEL_TOKENS, KERNEL_DOCUMENTS = 180, 5000  # tokens of a document, and documents to draw from
RAGGED, SHORTEST, LONGEST = 10_000, 16, 300  # documents, and tokens of each
CROSS = GPU[-1]


def measure(
    documents: Documents,
    folder: Path,
    peers: Mapping[str, str],
    versions: dict[str, str],
    with_cross_encoder: bool,
    shape: dict[str, int],
    progress: Progress,
) -> list[dict[str, Any]]:
    device = cuda()
    if device is None:
        return [missing(row, NO_GPU) for row in GPU]
    progress("measuring the kernel on the GPU")
    found = _kernels(folder, peers, device, versions, shape)
    found["gpu_ragged_vs_memory_bandwidth"] = _ragged(device, shape)
    progress("measuring queries on the GPU")
    found |= resident.measure(documents, folder, device, shape)
    found[CROSS.name] = time_row(CROSS, documents, device, shape) if with_cross_encoder else missing(CROSS, ASKED)
    return [found[row.name] for row in GPU]


def cuda() -> str | None:
    """The device, where there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else None


def _kernels(
    folder: Path, peers: Mapping[str, str], device: str, versions: dict[str, str], shape: dict[str, int]
) -> dict[str, dict[str, Any]]:
    """One query with k documents of one length, beside other kernels."""
    tokens, count = KERNEL_TOKENS, max(KERNEL_DOCUMENTS, 2 * shape["k"])
    rng, rows = np.random.default_rng(4), {row.peer: row for row in GPU if row.peer in ON_GPU}
    query, vectors = unit_vectors(rng, QUERY_TOKENS, DIM), unit_vectors(rng, count * tokens, DIM)
    (folder / "gpu").mkdir()
    matrices = Matrices.make(folder / "gpu", query, [tokens] * count)
    np.load(matrices.vectors, mmap_mode="r+")[:] = vectors
    halves = vectors.astype(np.float16).reshape(count, tokens, DIM)

    def docs(numbers: list[int]) -> DeviceRanges:
        return on_device(halves[numbers].reshape(-1, DIM), np.full(len(numbers), tokens), device)

    def scores(numbers: list[int]) -> npt.NDArray[np.float64]:
        return scores_of(query, docs(numbers), device, "dot", "sum")

    with ExitStack() as opened:
        theirs, missed = started(opened, rows, peers, matrices, shape["threads"], scores, versions)
        works = {"ours": Work(count, lambda drawn: _ms(query, docs(drawn), device)), **theirs}
        times = in_turns(works, shape["k"], shape["repeats"])
    return {
        row.name: measured(row, times["ours"], times[peer], **shape, doc_tokens=tokens)
        if peer in times
        else missing(row, missed[peer])
        for peer, row in rows.items()
    }


def _ragged(device: str, shape: dict[str, int]) -> dict[str, Any]:
    """One query with many documents of all lengths, beside the time that their bytes take to be read.

    A copy on the device reads and writes as many bytes as it copies: half of its time is taken for the reading.
    """
    import torch

    (row,) = (row for row in GPU if row.name == "gpu_ragged_vs_memory_bandwidth")
    rng = np.random.default_rng(5)
    query, counts = unit_vectors(rng, QUERY_TOKENS, DIM), rng.integers(SHORTEST, LONGEST + 1, RAGGED)
    docs = on_device(unit_vectors(rng, int(counts.sum()), DIM).astype(np.float16), counts, device)
    copy = torch.empty_like(docs.values)
    ours, peer = [], []
    for number in range(shape["repeats"] + 1):
        ms = _ms(query, docs, device), device_ms(lambda: copy.copy_(docs.values))[0] / 2
        if number:  # the first warms up
            ours.append(ms[0])
            peer.append(ms[1])
    return measured(row, ours, peer, **shape | {"k": RAGGED}, bytes=docs.values.nbytes)


def _ms(query: npt.NDArray[np.float32], docs: DeviceRanges, device: str) -> float:
    return device_ms(lambda: scores_of(query, docs, device, "dot", "sum"))[0]


def on_device(rows: npt.NDArray[np.float16], counts: npt.NDArray[np.int64], device: str) -> DeviceRanges:
    """Documents one after the other, as the kernel reads them: their rows are there before the clock starts."""
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return Gathered(np.ones(len(counts), dtype=bool), rows, offsets, Floats("float16", DIM)).on(device)
