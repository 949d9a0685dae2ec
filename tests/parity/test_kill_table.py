"""The parity tests can fail: each way of getting a checkpoint wrong that others have shipped is seen by one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from colbert_rerank.checkpoints import Checkpoint
from colbert_rerank.checkpoints.spec import EncoderSpec, TextRules
from tests.parity import test_layouts as parity
from tests.parity.cases import CASES, Golden, load

pytestmark = pytest.mark.usefixtures("one_thread")

Change = Callable[[Checkpoint], Checkpoint]


def spec(change: Callable[[EncoderSpec], EncoderSpec]) -> Change:
    return lambda checkpoint: replace(checkpoint, spec=change(checkpoint.spec))


def _with_rules(found: EncoderSpec, change: Callable[[TextRules], TextRules]) -> EncoderSpec:
    spoilt = replace(found, query=change(found.query), document=change(found.document))
    assert spoilt.query != found.query, "nothing is spoilt"
    assert spoilt.document != found.document, "nothing is spoilt"
    return spoilt


def _marker_first(rules: TextRules) -> TextRules:
    return replace(rules, prefix_ids=rules.prefix_ids[::-1])


def _attended(found: EncoderSpec, attended: bool) -> EncoderSpec:
    assert found.expansion is not None
    assert found.expansion.attended is not attended, "nothing is spoilt"
    return replace(found, expansion=replace(found.expansion, attended=attended))


def _without_bias(checkpoint: Checkpoint) -> Checkpoint:
    for module in checkpoint.head.modules():
        if isinstance(module, torch.nn.Linear) and module.bias is not None:
            torch.nn.init.zeros_(module.bias)
            return checkpoint
    raise AssertionError("no bias to lose")


def _other_head(checkpoint: Checkpoint) -> Checkpoint:
    generator = torch.Generator().manual_seed(1)
    for parameter in checkpoint.head.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return checkpoint


# What is got wrong -> in which goldens' checkpoints.
KILLS: dict[str, tuple[Change, list[str]]] = {
    "marker at position 0": (
        spec(lambda s: _with_rules(s, _marker_first)),
        ["hf_colbert_bin", "colbert_v1_minilm_mask_punctuation", "jina_v1", "jina_v2", "pylate_bert"],
    ),
    "attention 1 on [MASK]": (
        spec(lambda s: _attended(s, attended=True)),
        ["colbert_v1_dnn_cosine", "jina_v1", "pylate_bert", "pylate_prompts", "answerai_small"],
    ),
    "attention 0 on [MASK]": (
        spec(lambda s: _attended(s, attended=False)),
        ["hf_colbert_bin", "hofstaetter", "jina_v2"],
    ),
    "no expansion": (spec(lambda s: replace(s, expansion=None)), ["hf_colbert_bin", "hofstaetter", "pylate_bert"]),
    "no skip list": (
        spec(lambda s: replace(s, skip_ids=())),
        ["hf_colbert_bin", "colbert_v1_minilm_mask_punctuation", "jina_v1", "jina_v2", "pylate_modernbert"],
    ),
    "skip list after the network": (spec(lambda s: replace(s, skip_before=False)), ["colbert_v1_minilm"]),
    "sum for mean": (spec(lambda s: replace(s, aggregation="sum")), ["bge_m3"]),
    "dot for distance": (spec(lambda s: replace(s, similarity="cosine")), ["colbert_v1_dnn_l2"]),
    "first row kept": (spec(lambda s: replace(s, first_row=0)), ["bge_m3"]),
    "missing bias": (_without_bias, ["hofstaetter", "bge_m3", "pylate_modernbert"]),
    "no normalisation": (
        spec(lambda s: replace(s, normalize=False)),
        ["hf_colbert_bin", "colbert_v1_dnn_cosine", "jina_v1", "jina_v2", "bge_m3", "pylate_bert"],
    ),
    "normalisation": (spec(lambda s: replace(s, normalize=True)), ["hofstaetter"]),
    "texts not lowercased": (spec(lambda s: replace(s, lowercase=False)), ["pylate_modernbert"]),
    "texts not stripped": (spec(lambda s: replace(s, strip=False)), ["pylate_modernbert"]),
    "no prompt": (spec(lambda s: _with_rules(s, lambda rules: replace(rules, prompt=""))), ["pylate_prompts"]),
    "prompt in place of the marker": (
        spec(lambda s: _with_rules(s, lambda rules: replace(rules, prefix_ids=rules.prefix_ids[:1]))),
        ["pylate_prompts"],
    ),
    "another projection": (_other_head, list(CASES)),
}


@pytest.mark.parametrize(
    ("change", "name"),
    [pytest.param(change, name, id=f"{kill}-{name}") for kill, (change, names) in KILLS.items() for name in names],
)
def test_what_is_wrong_is_seen(change: Change, name: str) -> None:
    golden = load(name, change)
    assert any(_fails(golden, check) for check in ("ids", "queries", "documents", "scores"))


def _fails(golden: Golden, check: str) -> bool:
    try:
        if check == "ids":
            parity.test_ids(golden)
            return False
        queries = golden.encoder.encode_queries(golden.texts("queries"))
        documents = [rows.astype(np.float32) for rows in golden.encoder.encode_documents(golden.texts("documents"))]
        if check == "scores":
            parity.test_scores(golden, queries, documents)
        else:
            parity.test_rows(golden, queries, documents, check)
    except AssertionError:
        return True
    return False
