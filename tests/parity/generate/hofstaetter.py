"""DistilBERT with a biased projection, as in sebastian-hofstaetter/colbert-distilbert-margin_mse-T2-msmarco.

    python3.10 -m venv VENV && VENV/bin/pip install -r hofstaetter.requirements.txt
    VENV/bin/python hofstaetter.py

The peer is the authors' minimal usage example, put together again on transformers' DistilBertModel
(sebastian-hofstaetter/neural-ranking-kd, minimal_colbert_usage_example.ipynb at 3d4dbe0): no markers, 8 [MASK] after
[SEP] that are attended to, no normalisation, the dot product. It does not truncate; 30 tokens of a query and 200 of a
document are what the same authors' training code gives this checkpoint (sebastian-hofstaetter/matchmaker at cb1d35d,
config/huggingface_modelhub/). That code puts the 8 [MASK] before [SEP], not after it; we follow the example.

``config.json`` names the backbone and says nothing else of it, so the number of heads is DistilBERT's own: 12. Hidden
size is 36 for that reason. ``vocab.txt`` ends its lines as Windows does, to which the size of the real one points.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from golden import CHECKPOINTS, Encoded, Texts, record, texts, write
from torch.nn.functional import linear
from transformers import BertTokenizerFast, DistilBertConfig, DistilBertModel
from weights import INTERMEDIATE, LAYERS, Draw, Tensors
from wordpieces import ENGLISH, write_vocabulary

NAME = "hofstaetter"
HIDDEN = 36
HEADS = 12
POSITIONS = 256
DIM = 24
QUERY_LENGTH = 30
DOCUMENT_LENGTH = 200
MASKS = 8


def main() -> None:
    torch.set_num_threads(1)
    folder = CHECKPOINTS / NAME
    state = distilbert_colbert(6)
    write_checkpoint(folder, state)
    tokenizer = BertTokenizerFast.from_pretrained(folder)
    bert = backbone(state)
    queries, documents = texts()
    Q = encode(bert, state, tokenizer, queries, max_length=QUERY_LENGTH, masks=MASKS)
    D = encode(bert, state, tokenizer, documents, max_length=DOCUMENT_LENGTH, masks=0)
    write(
        NAME,
        folders=(NAME,),
        packages=("torch", "transformers", "tokenizers", "numpy"),
        settings={
            "query_maxlen": QUERY_LENGTH,
            "doc_maxlen": DOCUMENT_LENGTH,
            "masks_after_query": MASKS,
            "heads": HEADS,
            "dim": DIM,
            "similarity": "dot",
        },
        encoded={"queries": Q, "documents": D},
        scores={"scores": [aggregate(q, D[1]) for q in Q[1]]},
    )


def distilbert_colbert(seed: int) -> Tensors:
    draw = Draw(seed)
    draw.table("bert_model.embeddings.word_embeddings", len(ENGLISH), HIDDEN)
    draw.table("bert_model.embeddings.position_embeddings", POSITIONS, HIDDEN, 0.5)
    draw.norm("bert_model.embeddings.LayerNorm", HIDDEN)
    for i in range(LAYERS):
        layer = f"bert_model.transformer.layer.{i}"
        for part in ("q_lin", "k_lin", "v_lin", "out_lin"):
            draw.linear(f"{layer}.attention.{part}", HIDDEN, HIDDEN)
        draw.norm(f"{layer}.sa_layer_norm", HIDDEN)
        draw.linear(f"{layer}.ffn.lin1", INTERMEDIATE, HIDDEN)
        draw.linear(f"{layer}.ffn.lin2", HIDDEN, INTERMEDIATE)
        draw.norm(f"{layer}.output_layer_norm", HIDDEN)
    draw.linear("compressor", DIM, HIDDEN)
    return draw.tensors


def write_checkpoint(folder: Path, state: Tensors) -> None:
    write_vocabulary(folder, ENGLISH, newline="\r\n")
    config = {
        "architectures": ["ColBERT"],
        "bert_model": "distilbert-base-uncased",
        "compression_dim": DIM,
        "model_type": "ColBERT",
        "return_vecs": True,
        "trainable": True,
    }
    special = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
    files = {
        "config.json": config,
        "tokenizer_config.json": {"do_lower_case": True, "model_max_length": 512},
        "special_tokens_map.json": {f"{name}_token": token for name, token in special.items()},
    }
    for name, data in files.items():
        (folder / name).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    torch.save(OrderedDict(state), folder / "pytorch_model.bin")


def backbone(state: Tensors) -> DistilBertModel:
    """The notebook, ``ColBERT.__init__``: ``bert_model`` is an AutoModel of the configured name."""
    config = DistilBertConfig(
        vocab_size=len(ENGLISH),
        dim=HIDDEN,
        hidden_dim=INTERMEDIATE,
        n_layers=LAYERS,
        n_heads=HEADS,
        max_position_embeddings=POSITIONS,
        attn_implementation="eager",
    )
    model = DistilBertModel(config).eval()
    prefix = "bert_model."
    model.load_state_dict({n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}, strict=True)
    return model


@torch.no_grad()
def encode(bert: Any, state: Tensors, tokenizer: Any, named: Texts, *, max_length: int, masks: int) -> Encoded:
    """The notebook, last cell and ``forward_representation``: one text at a time, each of its rows kept."""
    records, rows = [], []
    for name, text in named.items():
        ids = tokenizer(text, truncation=True, max_length=max_length)["input_ids"] + [tokenizer.mask_token_id] * masks
        batch = torch.tensor([ids])
        hidden = bert(input_ids=batch, attention_mask=torch.ones_like(batch))[0]
        [vectors] = linear(hidden, state["compressor.weight"], state["compressor.bias"])
        records.append(record(name, text, ids, len(ids), vectors))
        rows.append(vectors)
    return records, rows


def aggregate(q: torch.Tensor, documents: list[torch.Tensor]) -> list[float]:
    """The notebook, ``forward_aggregation``: documents padded to one length, their padding at -10000."""
    padded = torch.nn.utils.rnn.pad_sequence(documents, batch_first=True)  # [n, T, dim]
    lengths = torch.tensor([len(d) for d in documents])
    padding = torch.arange(padded.size(1)) >= lengths.unsqueeze(1)  # [n, T]
    similarities = q @ padded.transpose(1, 2)  # [n, Lq, T]
    similarities = similarities.masked_fill(padding.unsqueeze(1), -10000)
    return [float(s) for s in similarities.max(-1).values.sum(-1)]


if __name__ == "__main__":
    main()
