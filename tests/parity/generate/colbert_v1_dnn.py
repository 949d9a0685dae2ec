"""ColBERT v1 weights as its training leaves them: one ``.dnn`` file deep in a tree, as in vjeronymo2/mColBERT.

    python3.10 -m venv VENV && VENV/bin/pip install -r colbert_v1_dnn.requirements.txt
    VENV/bin/python colbert_v1_dnn.py

Two checkpoints with a golden each. The one of similarity ``l2`` has lengths of its own and drops punctuation; that of
``cosine`` has v1's defaults. Neither has a tokeniser or a ``config.json``: both are those of the model it was trained
from, here ``colbert_v1_dnn_base``. Its vocabulary has no [unused0], as that of bert-base-multilingual-uncased has none:
the markers are [UNK] = 100 and [unused1] = 1.

A squared distance to a row of zeros is 1, so v1's padding wins wherever the nearest token is less than half alike (in
cosine): ``padded_scores`` are those that v1 gives to the documents of one batch, ``scores`` those without padding.

A real file holds Adam's state of every tensor; here there is that of a few, to keep it small.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from colbert_v1 import PACKAGES, Arguments, ColBERT, encode_documents, encode_queries, score, settings
from golden import CHECKPOINTS, texts, write
from transformers import BertTokenizerFast
from weights import Tensors, bert_colbert, bert_config
from wordpieces import MULTILINGUAL, write_tokenizer

BASE = "colbert_v1_dnn_base"
DIM = 16
STEPS = 100000
CONFIG = bert_config(len(MULTILINGUAL))
CHECKPOINT_ARGUMENTS = {
    "colbert_v1_dnn_l2": Arguments(query_maxlen=24, doc_maxlen=64, mask_punctuation=True, similarity="l2"),
    "colbert_v1_dnn_cosine": Arguments(),
}


def main() -> None:
    base = CHECKPOINTS / BASE
    write_tokenizer(base, MULTILINGUAL)
    text = json.dumps({"architectures": ["BertForMaskedLM"], **CONFIG}, indent=2, sort_keys=True)
    (base / "config.json").write_text(text + "\n", encoding="utf-8")
    tokenizer = BertTokenizerFast.from_pretrained(base)
    for seed, (name, arguments) in enumerate(CHECKPOINT_ARGUMENTS.items(), start=4):
        run = f"msmarco.psg.{arguments.similarity}"
        path = CHECKPOINTS / name / "experiments/MSMARCO-psg/train.py" / run / f"checkpoints/colbert-{STEPS}.dnn"
        state = bert_colbert(seed, len(MULTILINGUAL), DIM)
        save(path, state, run, arguments)
        model = ColBERT(CONFIG, state, tokenizer, arguments)
        if (model.query_marker_id, model.document_marker_id) != (100, 1):
            raise SystemExit("expected the markers' ids of a multilingual vocabulary")
        queries, documents = texts()
        Q = encode_queries(model, queries)
        D, padded = encode_documents(model, documents)
        scores = {"scores": score(model, Q[1], D[1])}
        if arguments.similarity == "l2":
            scores["padded_scores"] = score(model, Q[1], list(padded))
        write(
            name,
            folders=(name, BASE),
            packages=PACKAGES,
            settings=settings(model),
            encoded={"queries": Q, "documents": D},
            scores=scores,
        )


def save(path: Path, state: Tensors, run: str, arguments: Arguments) -> None:
    """colbert/utils/utils.py, ``save_checkpoint``; with the ``module.`` for which ``load_checkpoint`` allows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint = {
        "epoch": 0,
        "batch": STEPS,
        "model_state_dict": OrderedDict((f"module.{name}", tensor) for name, tensor in state.items()),
        "optimizer_state_dict": adam(state),
        # colbert/utils/parser.py: all that train.py can be told.
        "arguments": {
            "root": "experiments",
            "experiment": "MSMARCO-psg",
            "run": run,
            "rank": -1,
            **asdict(arguments),
            "dim": DIM,
            "resume": False,
            "resume_optimizer": False,
            "checkpoint": None,
            "lr": 3e-06,
            "maxsteps": 400000,
            "bsize": 32,
            "accumsteps": 2,
            "amp": True,
            "triples": "triples.train.small.tsv",
            "queries": None,
            "collection": None,
        },
    }
    torch.save(checkpoint, path)


def adam(state: Tensors) -> dict[str, Any]:
    """The ``state_dict`` of transformers' AdamW: moments of each parameter by its number."""
    parameters = [name for name in state if name != "bert.embeddings.position_ids"]
    moments = {
        i: {"step": STEPS, "exp_avg": 1e-3 * state[name], "exp_avg_sq": 1e-6 * state[name] ** 2}
        for i, name in enumerate(parameters)
        if name == "linear.weight" or ".layer.1.attention." in name
    }
    group = {"lr": 3e-06, "betas": (0.9, 0.999), "eps": 1e-08, "weight_decay": 0.0, "correct_bias": True}
    return {"state": moments, "param_groups": [{**group, "params": list(range(len(parameters)))}]}


if __name__ == "__main__":
    main()
