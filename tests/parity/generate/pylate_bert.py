"""Make a tiny PyLate checkpoint with a BERT encoder and query expansion and record what PyLate itself makes of it.

    python3.12 -m venv VENV && VENV/bin/pip install -r pylate_bert.requirements.txt
    VENV/bin/python pylate_bert.py

The layout is that of ``lightonai/colbertv2.0``: markers [unused0] and [unused1], [MASK] expansion without attention,
one Dense without bias, whose older config does not know ``use_residual``, and settings without ``do_query_expansion``.
"""

from __future__ import annotations

import string

import tiny_modern as tiny
import tiny_pylate

NAME = "pylate_bert"


def main() -> None:
    folder = tiny.CHECKPOINTS / NAME
    vocabulary = tiny.wordpiece(folder)
    draw = tiny.Draw(21)
    tiny.write_json(folder / "config.json", tiny.bert_config(vocabulary, "BertModel"))
    tiny.write_safetensors(folder / "model.safetensors", draw.bert(vocabulary, positions=128, types=2))
    projection = draw.linear("linear", 24, tiny.HIDDEN, bias=False)
    identity = "torch.nn.modules.linear.Identity"
    configuration = {"in_features": tiny.HIDDEN, "out_features": 24, "bias": False, "activation_function": identity}
    tiny_pylate.write_layout(
        folder,
        prefixes=("[unused0]", "[unused1]"),
        lengths=(24, 64),
        expansion=None,
        skiplist=string.punctuation,
        lowercase=False,
        dense=[(configuration, projection)],
    )
    tiny_pylate.encode_and_record(NAME, folder)


if __name__ == "__main__":
    main()
