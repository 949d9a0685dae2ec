"""The paper's claim: a cross-encoder on BERT-base beside ColBERT on BERT-base.

Their weights are random: neither the operations nor the time depend on them. Operations are counted by torch, two for
a product that is added, once as the paper counts them (https://arxiv.org/abs/2004.12832, table 1: pairs padded to 512
tokens, documents of 180) and once of pairs and documents as long as passages are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from colbert_rerank.bench.documents import DIM, QUERY_TOKENS, Documents, ids_of, passage_lengths
from colbert_rerank.bench.rows import CROSS_ENCODER, Progress, Row, counted, measured, missing
from colbert_rerank.bench.turns import wall_ms

if TYPE_CHECKING:
    import torch

PAPER_PAIR, PAPER_DOCUMENT = 512, 180  # tokens
# A cross-encoder reads a query as long as it is, eight words or so, between [CLS] and two [SEP].
OWN_QUERY, AROUND = 10, 3
REPEATS = 3  # of the cross-encoder, which takes minutes on a CPU
# Tokens of one forward pass, of which the fastest is found, and by how many pairs.
BATCH_TOKENS = {"cpu": (512, 1024, 4096), "cuda": (8192, 32768, 131072)}
TRIED = {"cpu": 64, "cuda": 1000}
BERT_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
ASKED = "not asked for: --cross-encoder"


class Networks(NamedTuple):
    """Both networks in evaluation mode, on one device."""

    cross_encoder: torch.nn.Module
    colbert: torch.nn.Module


def measure(documents: Documents, wanted: bool, shape: dict[str, int], progress: Progress) -> list[dict[str, Any]]:
    """The rows of a CPU; counting takes half a minute, and the time of a thousand pairs minutes."""
    if not wanted:
        return [missing(row, ASKED) for row in CROSS_ENCODER]
    paper, own, timed = CROSS_ENCODER
    progress("counting the operations of a cross-encoder")
    k = shape["k"]
    lengths = passage_lengths(k)
    found = [
        counted(paper, colbert_flops([PAPER_DOCUMENT] * k), cross_encoder_flops([PAPER_PAIR] * k), k=k),
        counted(own, colbert_flops(lengths), cross_encoder_flops([pair_length(n) for n in lengths]), k=k),
    ]
    found[1]["mean_passage_tokens"] = float(np.mean(lengths))
    progress("timing a cross-encoder: minutes")
    return [*found, time_row(timed, documents, "cpu", shape)]


def pair_length(passage: int) -> int:
    return OWN_QUERY + passage + AROUND


def cross_encoder_flops(lengths: list[int]) -> int:
    """Of pairs of so many tokens, none padded. On torch's meta device, which knows shapes and computes nothing."""
    import torch

    with torch.device("meta"):
        network = networks("eager").cross_encoder

    def work() -> None:
        for length, count in zip(*np.unique(lengths, return_counts=True), strict=True):
            network(input_ids=torch.zeros((int(count), int(length)), dtype=torch.long, device="meta"))

    return _flops(work)


def colbert_flops(lengths: list[int]) -> int:
    """Of encoding one query, and of its products with all rows of documents of so many tokens."""
    import torch

    network, rows = networks("eager").colbert, torch.zeros((sum(lengths), DIM))
    ids, mask = (torch.ones((1, QUERY_TOKENS), dtype=torch.long) for _ in range(2))
    return _flops(lambda: torch.mm(rows, network(ids, mask)[0].T))


def networks(attention: str = "sdpa") -> Networks:
    """``attention`` as transformers names it; of "eager" torch counts all operations."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertModel

    from colbert_rerank.network import Network

    config = BertConfig(num_labels=1, attn_implementation=attention, **BERT_BASE)
    backbone, head = BertModel(config, add_pooling_layer=False), torch.nn.Linear(config.hidden_size, DIM, bias=False)
    return Networks(BertForSequenceClassification(config).eval(), Network(backbone, head, normalized=True).eval())


def time_row(row: Row, documents: Documents, device: str, shape: dict[str, int]) -> dict[str, Any]:
    """Query to scores on both sides: all pairs through the cross-encoder, in batches sorted by length, beside encoding
    the query, reading the documents from the store and scoring them. In float32 on a CPU, in float16 on a GPU.
    """
    import torch

    kind = torch.float32 if device == "cpu" else torch.float16
    both = Networks(*(network.to(device, kind) for network in networks()))
    rng, k = np.random.default_rng(2), shape["k"]
    lengths = sorted((pair_length(n) for n in passage_lengths(k)), reverse=True)
    batch_tokens = _fastest(both.cross_encoder, lengths, device)

    def colbert() -> float:
        ids = ids_of(rng.choice(documents.count, k, replace=False).tolist())
        return wall_ms(lambda: documents.score("float16", ids, _encoded(both.colbert, device), device))

    colbert()  # warms up; the cross-encoder did as its batches were tried
    ours: list[float] = []
    peer: list[float] = []
    for _ in range(REPEATS):
        peer.append(_pairs_ms(both.cross_encoder, lengths, batch_tokens, device))
        ours += [colbert() for _ in range(-(-shape["repeats"] // REPEATS))]
    more = {"peer_repeats": REPEATS, "batch_tokens": batch_tokens, "dtype": str(kind).removeprefix("torch.")}
    return measured(row, ours, peer, **shape | {"repeats": len(ours)}, device=device, **more)


def _encoded(colbert: torch.nn.Module, device: str) -> npt.NDArray[np.float32]:
    import torch

    ids, mask = (torch.ones((1, QUERY_TOKENS), dtype=torch.long, device=device) for _ in range(2))
    with torch.inference_mode():
        vectors: npt.NDArray[np.float32] = colbert(ids, mask)[0].float().cpu().numpy()
        return vectors


def _fastest(network: torch.nn.Module, lengths: list[int], device: str) -> int:
    """The tokens of a batch with which pairs evenly drawn from all take the shortest time."""
    some = lengths[:: max(1, len(lengths) // TRIED[device])]
    _pairs_ms(network, some[:1], 1, device)  # warms up
    return min(BATCH_TOKENS[device], key=lambda tokens: _pairs_ms(network, some, tokens, device))


def _pairs_ms(network: torch.nn.Module, lengths: list[int], batch_tokens: int, device: str) -> float:
    """Milliseconds for pairs of so many tokens, longest first, to their scores."""
    import torch

    batches = list(_batches(lengths, batch_tokens))

    def work() -> None:
        with torch.inference_mode():
            for batch in batches:
                ids = torch.ones((len(batch), batch[0]), dtype=torch.long, device=device)
                mask = (torch.arange(batch[0])[None] < torch.tensor(batch)[:, None]).to(device)
                network(input_ids=ids, attention_mask=mask).logits.cpu()

    return wall_ms(work)


def _batches(lengths: list[int], batch_tokens: int) -> Iterator[list[int]]:
    start = 0
    while start < len(lengths):
        size = max(1, batch_tokens // lengths[start])
        yield lengths[start : start + size]
        start += size


def _flops(work: Callable[[], object]) -> int:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())
