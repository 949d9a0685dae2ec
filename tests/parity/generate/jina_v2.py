"""Make a tiny checkpoint in the layout of jinaai/jina-colbert-v2 and record what colbert-ai makes of it.

    python3.10 -m venv VENV && VENV/bin/pip install -r jina_v2.requirements.txt
    VENV/bin/python jina_v2.py

Run ``bge_m3.py`` first: the vocabulary is its, with the two markers behind it. The authors' path is colbert-ai with
the encoder as remote code; there is no hub here, so the encoder is ``tiny_jina.py``, laid beside a copy of the
checkpoint. The rest (tokenizing, markers, masks, projection, norms, scores) is colbert-ai's own. Its skiplist does not
suit this vocabulary (it drops the bare word mark), so the rows of all tokens are recorded, too.

Two things differ from the real file. Its weights are half precision, these are float32. And the value of its
``rotary_emb_base`` is not known to us (the config class of its code has 10000 where the key is missing).
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_MODULES_CACHE"] = tempfile.mkdtemp()  # of this process: remote code is copied there
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import tiny_jina
import tiny_modern as tiny
import torch
from colbert.infra import ColBERTConfig
from colbert.modeling.checkpoint import Checkpoint
from colbert.modeling.colbert import colbert_score
from tokenizers import AddedToken, Tokenizer

NAME = "jina_v2"
SCRATCH = Path(os.environ["HF_MODULES_CACHE"])
DIM = 128  # not in the metadata: colbert-ai's default
MARKERS = ("[QueryMarker]", "[DocumentMarker]")
BATCH = 8
RECORDED_SETTINGS = (
    "query_token_id",
    "doc_token_id",
    "query_maxlen",
    "doc_maxlen",
    "dim",
    "similarity",
    "interaction",
    "mask_punctuation",
    "attend_to_mask_tokens",
)


def main() -> None:
    torch.set_num_threads(1)
    folder = tiny.CHECKPOINTS / NAME
    make(folder)
    checkpoint = load(folder)
    queries, documents = tiny.texts()
    query_records, query_rows = encode_queries(checkpoint, queries)
    document_records, document_rows, all_rows = encode_documents(checkpoint, documents)
    tiny.write_golden(
        NAME,
        checkpoint=folder,
        packages=("colbert-ai", "torch", "transformers", "tokenizers", "numpy"),
        settings={name: getattr(checkpoint.colbert_config, name) for name in RECORDED_SETTINGS}
        | {
            "skiplist": sorted(i for i in checkpoint.skiplist if isinstance(i, int)),
            "tokenizer": type(checkpoint.raw_tokenizer).__name__,
        },
        queries=query_records,
        documents=document_records,
        query_rows=query_rows,
        document_rows=document_rows,
        scores=[[score(q, d) for d in document_rows] for q in query_rows],
        more={f"documents_all:{i}": r for i, r in enumerate(all_rows) if not all(document_records[i]["kept"])},
    )


def load(folder: Path) -> Any:
    """colbert-ai's checkpoint of a copy of the folder, with our encoder for the hub's."""
    copy = SCRATCH / "checkpoint"
    shutil.copytree(folder, copy)
    shutil.copy(tiny_jina.__file__, copy)
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    ours = {"AutoConfig": "tiny_jina.RotaryRobertaConfig", "AutoModel": "tiny_jina.RotaryRobertaModel"}
    tiny.write_json(copy / "config.json", config | {"auto_map": ours})
    # colbert-ai takes the encoder's class from ``model_name``: in the metadata that is on the hub, and where the hub
    # cannot be reached, colbert-ai silently takes BERT's.
    checkpoint = Checkpoint(str(copy), colbert_config=ColBERTConfig(model_name=str(copy)), verbose=0)
    other = {p.dtype for p in checkpoint.parameters()} - {torch.float32}
    if other:
        raise SystemExit(f"expected float32 weights only, found {other}")
    return checkpoint


def encode_queries(checkpoint: Any, texts: dict[str, str]) -> tuple[list[dict[str, Any]], list[tiny.Rows]]:
    ids, mask = checkpoint.query_tokenizer.tensorize(list(texts.values()))
    rows = [q.numpy() for q in checkpoint.queryFromText(list(texts.values()), bsize=BATCH, to_cpu=True)]
    seen = zip(texts.items(), ids, mask, rows, strict=True)
    return [tiny.record(name, text, i.tolist(), int(m.sum()), r) for (name, text), i, m, r in seen], rows


def encode_documents(
    checkpoint: Any, texts: dict[str, str]
) -> tuple[list[dict[str, Any]], list[tiny.Rows], list[tiny.Rows]]:
    """Records, the rows colbert-ai keeps and the rows of all attended tokens: ``kept`` tells the first in the last."""
    ids, mask = checkpoint.doc_tokenizer.tensorize(list(texts.values()))
    kept, *_ = checkpoint.docFromText(list(texts.values()), bsize=BATCH, keep_dims=False)
    rows = [d.numpy() for d in kept]
    records, all_rows = [], []
    for (name, text), i, m, r in zip(texts.items(), ids, mask, rows, strict=True):
        alone = i[m.bool()].tolist()
        every = tiny.record(name, text, alone, int(m.sum()), r)
        records.append(every | {"kept": checkpoint.mask(i[m.bool()][None], skiplist=checkpoint.skiplist)[0]})
        with torch.no_grad():
            hidden = checkpoint.bert(i[m.bool()][None], attention_mask=m[m.bool()][None])[0]
            all_rows.append(torch.nn.functional.normalize(checkpoint.linear(hidden), p=2, dim=2)[0].numpy())
        if np.abs(all_rows[-1][np.array(records[-1]["kept"])] - r).max() > 1e-5:
            raise SystemExit(f"the rows of {name!r} are others alone than in a batch")
    return records, rows, all_rows


def score(query: tiny.Rows, document: tiny.Rows) -> float:
    Q, D = torch.from_numpy(query)[None], torch.from_numpy(document)[None]
    return float(colbert_score(Q, D, torch.ones(1, D.size(1), dtype=torch.bool), config=ColBERTConfig())[0])


def make(folder: Path) -> None:
    vocabulary = write_tokenizer(folder)
    draw = tiny.Draw(24)
    tiny.write_safetensors(folder / "model.safetensors", weights(draw, vocabulary))
    flash = "jinaai/xlm-roberta-flash-implementation--"
    tiny.write_json(
        folder / "config.json",
        {
            "architectures": ["HF_ColBERT"],
            "attention_probs_dropout_prob": 0.1,
            "auto_map": {
                "AutoConfig": f"{flash}configuration_xlm_roberta.XLMRobertaFlashConfig",
                "AutoModel": f"{flash}modeling_xlm_roberta.XLMRobertaModel",
            },
            "bos_token_id": 0,
            "classifier_dropout": None,
            "emb_pooler": None,
            "eos_token_id": 2,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1,
            "hidden_size": tiny.HIDDEN,
            "initializer_range": 0.02,
            "intermediate_size": tiny.INTERMEDIATE,
            "layer_norm_eps": 1e-05,
            "max_position_embeddings": 8194,
            "model_type": "xlm-roberta",
            "num_attention_heads": tiny.HEADS,
            "num_hidden_layers": tiny.LAYERS,
            "pad_token_id": 1,
            "position_embedding_type": "rotary",
            "rotary_emb_base": 20000.0,
            "torch_dtype": "float32",
            "type_vocab_size": 1,
            "use_cache": True,
            "use_flash_attn": True,
            "vocab_size": vocabulary,
        },
    )
    tiny.write_json(
        folder / "artifact.metadata",
        {
            "query_token_id": MARKERS[0],
            "doc_token_id": MARKERS[1],
            "query_token": MARKERS[0],
            "doc_token": MARKERS[1],
            "ncells": None,
            "index_path": None,
            "nbits": 2,
            "kmeans_niters": 20,
            "resume": False,
            "similarity": "cosine",
            "bsize": 32,
            "relu": False,
            "nway": 7,
            "ignore_scores": True,
            "model_name": "jinaai/jina-colbert-v2",
            "query_maxlen": 32,
            "attend_to_mask_tokens": True,
            "interaction": "colbert",
            "doc_maxlen": 300,
            "mask_punctuation": True,
            "checkpoint": None,
            "gpus": 2,
        },
    )


def write_tokenizer(folder: Path) -> int:
    """That of bge_m3 with the markers behind <mask>, as the real one has them at 250002 and 250003."""
    source = tiny.CHECKPOINTS / "bge_m3"
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken(marker, normalized=False, special=True) for marker in MARKERS])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    special = json.loads((source / "special_tokens_map.json").read_text(encoding="utf-8"))
    special["additional_special_tokens"] = [{"content": marker, **plain} for marker in MARKERS]
    tiny.write_json(folder / "special_tokens_map.json", special)
    configuration = json.loads((source / "tokenizer_config.json").read_text(encoding="utf-8"))
    added = {str(tokenizer.token_to_id(marker)): {"content": marker, **plain, "special": True} for marker in MARKERS}
    configuration["added_tokens_decoder"] |= added
    configuration["additional_special_tokens"] = list(MARKERS)
    tiny.write_json(folder / "tokenizer_config.json", configuration)
    return tokenizer.get_vocab_size()


def weights(draw: tiny.Draw, vocabulary: int) -> tiny.Weights:
    drawn = {
        "embeddings.word_embeddings.weight": draw.normal(vocabulary, tiny.HIDDEN, scale=1.0),
        "embeddings.token_type_embeddings.weight": draw.normal(1, tiny.HIDDEN, scale=0.3),
    }
    drawn |= draw.norm("emb_ln", tiny.HIDDEN)
    for i in range(tiny.LAYERS):
        layer = f"encoder.layers.{i}"
        drawn |= draw.linear(f"{layer}.mixer.Wqkv", 3 * tiny.HIDDEN, tiny.HIDDEN)
        drawn |= draw.linear(f"{layer}.mixer.out_proj", tiny.HIDDEN, tiny.HIDDEN, gain=0.7)
        drawn |= draw.norm(f"{layer}.norm1", tiny.HIDDEN)
        drawn |= draw.linear(f"{layer}.mlp.fc1", tiny.INTERMEDIATE, tiny.HIDDEN)
        drawn |= draw.linear(f"{layer}.mlp.fc2", tiny.HIDDEN, tiny.INTERMEDIATE)
        drawn |= draw.norm(f"{layer}.norm2", tiny.HIDDEN)
    drawn |= draw.linear("pooler.dense", tiny.HIDDEN, tiny.HIDDEN)
    named = {f"roberta.{name}": array for name, array in drawn.items()}
    return named | draw.linear("linear", DIM, tiny.HIDDEN, bias=False)


if __name__ == "__main__":
    try:
        main()
    finally:
        shutil.rmtree(SCRATCH)
