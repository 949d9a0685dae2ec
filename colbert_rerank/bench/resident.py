"""A store whose rows are in pinned memory or on the GPU: a query from its text to its ranking, and many at once.

The encoder is ColBERT on BERT-base with random weights, on which no time depends. Candidates are drawn anew each time.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from colbert_rerank import identity
from colbert_rerank.bench import cross_encoder
from colbert_rerank.bench.documents import DIM, QUERY_TOKENS, Documents, ids_of, unit_vectors
from colbert_rerank.bench.passages import Words
from colbert_rerank.bench.rows import RESIDENT, Row, measured, missing
from colbert_rerank.bench.turns import drawn, medians, wall_ms, warm
from colbert_rerank.device_rows import DeviceRows, InMemory
from colbert_rerank.errors import UsageError
from colbert_rerank.maxsim import gpu
from colbert_rerank.residency import Resident
from colbert_rerank.store import Store
from colbert_rerank.store.rows import DeviceRanges

if TYPE_CHECKING:
    from colbert_rerank.encoder import Encoder

CODEC = "float16"
WARM_UPS = 5  # queries, after which graphs are captured, kernels compiled, and buffers taken
QUERIES = 1000  # of a batch
PAIRS = 100_000  # of queries and documents, that are scored in one launch


def measure(documents: Documents, folder: Path, device: str, shape: dict[str, int]) -> dict[str, dict[str, Any]]:
    """The rows `RESIDENT` by name; missing are those that this machine has no room for."""
    pinned, on_gpu, batch = RESIDENT
    encoder = bert_base(folder / "bert-base", device)
    store = documents.stores[CODEC]
    known = identity.query_identity(encoder.checkpoint)
    own = Store(store.folder, replace(store.manifest, query_identity=known), verify="off")  # it was when it was opened
    found = {
        pinned.name: _rankings(pinned, own, encoder, "pinned", shape),
        on_gpu.name: _rankings(on_gpu, own, encoder, "gpu", shape),
    }
    why_not = gpu.fault(device) or found[on_gpu.name].get("missing")
    return found | {batch.name: missing(batch, why_not) if why_not else _batch(batch, own, device, shape)}


def bert_base(folder: Path, device: str) -> Encoder:
    """Made in ``folder`` as a checkpoint, with the starter's tokenizer, and loaded as any other."""
    from safetensors.torch import save_file
    from transformers import BertConfig, BertModel

    from colbert_rerank.checkpoints import STARTER, Choices
    from colbert_rerank.checkpoints.location import locate
    from colbert_rerank.encoder import Encoder

    config = BertConfig(**cross_encoder.BERT_BASE)
    config.save_pretrained(folder)
    save_file(BertModel(config, add_pooling_layer=False).state_dict(), folder / "model.safetensors")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(locate(STARTER) / name, folder / name)
    return Encoder.load(str(folder), device=device, choices=Choices(projection="fresh"))


def _rankings(row: Row, store: Store, encoder: Encoder, resident: Resident, shape: dict[str, int]) -> dict[str, Any]:
    """One query after another, from its text to its ranking, as `Reranker.rerank` goes."""
    import torch

    from colbert_rerank.rerank import Reranker

    torch.cuda.empty_cache()  # what earlier rows took is free
    try:
        reranker = Reranker(store, encoder, resident=resident)
    except UsageError as error:
        return missing(row, str(error))
    queries, report = cycle(Words().queries(QUERIES)), reranker.report

    def timed(numbers: list[int]) -> tuple[float, dict[str, float]]:
        query, candidates = next(queries), [(doc_id, -float(rank)) for rank, doc_id in enumerate(ids_of(numbers))]
        return _settled_ms(lambda: reranker.rerank(query, candidates), str(encoder.device)), report.last_ms()

    draw = partial(drawn, np.random.default_rng(1), len(store), shape["k"])
    turns = [warm(timed, draw) for _ in range(WARM_UPS + shape["repeats"])][WARM_UPS:]
    times, stages = zip(*turns, strict=True)
    more: dict[str, Any] = {"codec": CODEC, "residence": reranker.residence.why, "compute_dtype": encoder.dtype}
    more["stages_ms"] = medians(stages)
    if report.read:
        more["hot_share"] = report.hot / report.read
    return measured(row, times, (), **shape, **more)


def _batch(row: Row, store: Store, device: str, shape: dict[str, int]) -> dict[str, Any]:
    """Many queries' vectors to the scores of their candidates; looking these up has a time of its own."""
    rows = DeviceRows(store, [InMemory.of(store.plane()[0], device)])
    rng, k = np.random.default_rng(6), shape["k"]
    queries = [*unit_vectors(rng, QUERIES * QUERY_TOKENS, DIM).reshape(QUERIES, QUERY_TOKENS, DIM)]

    def turn() -> tuple[float, float]:
        ids = ids_of(rng.integers(len(store), size=QUERIES * k).tolist())
        docs = rows.read(ids)
        return _settled_ms(lambda: batch_scores(queries, docs, k), device), wall_ms(lambda: rows.read(ids))

    turn()  # warms up
    scored, looked_up = zip(*(turn() for _ in range(shape["repeats"])), strict=True)
    more = {"queries": QUERIES, "queries_per_second": 1000 * QUERIES / float(np.median(scored))}
    return measured(row, scored, (), **shape, codec=CODEC, **more, lookup_ms=float(np.median(looked_up)))


def batch_scores(queries: Sequence[npt.NDArray[np.float32]], docs: DeviceRanges, k: int) -> npt.NDArray[np.float64]:
    """Scores [queries * k] of each query [Lq, d] with ``k`` documents of its own, a few queries in one launch."""
    found = []
    for first in range(0, len(queries), at_once := max(1, PAIRS // k)):
        some, pairs = queries[first : first + at_once], slice(first * k, (first + at_once) * k)
        part = docs._replace(found=docs.found[pairs], starts=docs.starts[pairs], counts=docs.counts[pairs])
        found.append(gpu.scores(some, part, np.repeat(np.arange(len(some)), k)))
    return np.concatenate(found)


def _settled_ms(work: Callable[[], object], device: str) -> float:
    """Wall time of ``work``: the device has nothing left to do when it begins, and nothing of it when it ends."""
    import torch

    def settle() -> None:
        if device != "cpu":
            torch.cuda.synchronize(device)

    def whole() -> None:
        work()
        settle()

    settle()
    return wall_ms(whole)
