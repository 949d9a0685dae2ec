"""Make a tiny checkpoint in the layout of BAAI/bge-m3 and record what FlagEmbedding itself makes of it.

    python3.12 -m venv VENV && VENV/bin/pip install -r bge_m3.requirements.txt
    VENV/bin/python bge_m3.py

The peer is ``FlagEmbedding.BGEM3FlagModel`` on the CPU in float32: ``encode(..., return_colbert_vecs=True)`` and its
own ``colbert_score``, which is the mean over the query's tokens. The real folder also holds
``sentencepiece.bpe.model``, from which nothing is read where ``tokenizer.json`` is present; this one does without.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import sentencepiece
import tiny_modern as tiny
import torch
from FlagEmbedding import BGEM3FlagModel
from sentencepiece import sentencepiece_model_pb2

NAME = "bge_m3"
MAX_LENGTH = 64
# What the real normalisation (nmt_nfkc) does to these texts: white space, full width, ligatures, composition.
NORMALISED = {
    "\t": " ",
    "\n": " ",
    "\r": " ",
    "\u3000": " ",
    "\ufb01": "fi",
    "e\u0301": "é",
    "？": "?",
    "…": "...",
    "\u200d": " ",
    **{chr(0xFF10 + i): chr(0x30 + i) for i in range(10)},
    **{chr(0xFF21 + i): chr(0x41 + i) for i in range(26)},
}


def main() -> None:
    torch.set_num_threads(1)
    folder = make(tiny.CHECKPOINTS / NAME)
    model = BGEM3FlagModel(str(folder), use_fp16=False, devices="cpu", normalize_embeddings=True)
    other = {p.dtype for p in model.model.parameters()} - {torch.float32}
    if other:
        raise SystemExit(f"expected float32 weights only, found {other}")
    sides = []
    for texts in tiny.texts():
        ids = model.tokenizer(list(texts.values()), truncation=True, max_length=MAX_LENGTH)
        encoded = model.encode(
            list(texts.values()), batch_size=8, max_length=MAX_LENGTH, return_dense=False, return_colbert_vecs=True
        )
        rows = [np.ascontiguousarray(r) for r in encoded["colbert_vecs"]]
        seen = zip(texts.items(), ids["input_ids"], ids["attention_mask"], rows, strict=True)
        sides.append(([tiny.record(n, t, i, sum(m), r) for (n, t), i, m, r in seen], rows))
    (queries, query_rows), (documents, document_rows) = sides
    tiny.write_golden(
        NAME,
        checkpoint=folder,
        packages=("FlagEmbedding", "torch", "transformers", "tokenizers", "numpy"),
        settings={
            "max_length": MAX_LENGTH,
            "normalize_embeddings": True,
            "aggregate": "mean over the query's rows",
            "tokenizer": type(model.tokenizer).__name__,
        },
        queries=queries,
        documents=documents,
        query_rows=query_rows,
        document_rows=document_rows,
        scores=[[model.colbert_score(q, d).item() for d in document_rows] for q in query_rows],
    )


def make(folder: Path) -> Path:
    vocabulary = tiny.unigram(folder, charsmap())
    draw = tiny.Draw(20)
    positions = 130  # 2 + 128, as the real 8194 is 2 + 8192
    weights = draw.bert(vocabulary, positions, types=1)
    tiny.write_json(
        folder / "config.json",
        {
            "architectures": ["XLMRobertaModel"],
            "attention_probs_dropout_prob": 0.1,
            "bos_token_id": 0,
            "classifier_dropout": None,
            "eos_token_id": 2,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1,
            "hidden_size": tiny.HIDDEN,
            "initializer_range": 0.02,
            "intermediate_size": tiny.INTERMEDIATE,
            "layer_norm_eps": 1e-05,
            "max_position_embeddings": positions,
            "model_type": "xlm-roberta",
            "num_attention_heads": tiny.HEADS,
            "num_hidden_layers": tiny.LAYERS,
            "output_past": True,
            "pad_token_id": 1,
            "position_embedding_type": "absolute",
            "torch_dtype": "float32",
            "type_vocab_size": 1,
            "use_cache": True,
            "vocab_size": vocabulary,
        },
    )
    for file, drawn in (
        ("pytorch_model.bin", weights),
        ("colbert_linear.pt", renamed(draw.linear("colbert", tiny.HIDDEN, tiny.HIDDEN))),
        ("sparse_linear.pt", renamed(draw.linear("sparse", 1, tiny.HIDDEN))),
    ):
        torch.save({name: torch.from_numpy(array) for name, array in drawn.items()}, folder / file)
    # The folder is a sentence-transformers model for single vectors, too: no Dense, nothing of the token vectors.
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]
    tiny.write_json(folder / "modules.json", modules)
    tiny.write_json(folder / "sentence_bert_config.json", {"max_seq_length": 8192, "do_lower_case": False})
    tiny.write_json(
        folder / "config_sentence_transformers.json",
        {"__version__": {"sentence_transformers": "2.2.2", "transformers": "4.33.0", "pytorch": "2.1.2+cu121"}},
    )
    pooling = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False, "pooling_mode_max_tokens": False}
    tiny.write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": tiny.HIDDEN, **pooling})
    return folder


def renamed(weights: tiny.Weights) -> tiny.Weights:
    """The weights of one projection under the names of its state dict: weight, bias."""
    return {name.partition(".")[2]: array for name, array in weights.items()}


def charsmap() -> bytes:
    """The normalisation above as SentencePiece compiles it: what tokenizer.json calls ``precompiled_charsmap``."""
    with tempfile.TemporaryDirectory() as scratch:
        rules = Path(scratch) / "rules.tsv"
        lines = [f"{codes(old)}\t{codes(new)}\n" for old, new in sorted(NORMALISED.items())]
        rules.write_text("".join(lines), encoding="utf-8")
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["a b c"] * 8),
            model_prefix=str(Path(scratch) / "model"),
            model_type="char",
            vocab_size=7,
            normalization_rule_tsv=str(rules),
            minloglevel=2,
        )
        proto = sentencepiece_model_pb2.ModelProto()
        proto.ParseFromString((Path(scratch) / "model.model").read_bytes())
    return bytes(proto.normalizer_spec.precompiled_charsmap)


def codes(text: str) -> str:
    return " ".join(f"{ord(character):X}" for character in text)


if __name__ == "__main__":
    main()
