"""Make a tiny PyLate checkpoint with prompts beside its markers and record what PyLate makes of it with these prompts.

    python3.12 -m venv VENV && VENV/bin/pip install -r pylate_prompts.requirements.txt
    VENV/bin/python pylate_prompts.py

The layout is that of ``lightonai/ColBERT-Zero``: the encoder and the markers of ``pylate_modernbert``, queries filled
with [MASK] without attention, texts as they are, one Dense without bias, lengths with room for the prompts. Texts are
encoded with ``prompt_name="query"`` and ``prompt_name="document"``: the prompt stands behind the marker. PyLate keeps
the rows of its tokens; only those in the skip list fall away, as everywhere in a document.
"""

from __future__ import annotations

import string

import pylate_modernbert as modernbert
import tiny_modern as tiny
import tiny_pylate

NAME = "pylate_prompts"
DIM = 24


def main() -> None:
    folder = tiny.CHECKPOINTS / NAME
    tokenizer = modernbert.write_tokenizer(folder)
    vocabulary = tokenizer.get_vocab_size()
    draw = tiny.Draw(27)
    tiny.write_json(folder / "config.json", modernbert.config(tokenizer, vocabulary))
    tiny.write_safetensors(folder / "model.safetensors", modernbert.encoder(draw, vocabulary))
    identity = "torch.nn.modules.linear.Identity"
    configuration = {"in_features": tiny.HIDDEN, "out_features": DIM, "bias": False, "activation_function": identity}
    tiny_pylate.write_layout(
        folder,
        prefixes=("[Q] ", "[D] "),
        lengths=(39, 71),
        expansion=True,
        skiplist=string.punctuation,
        lowercase=False,
        dense=[({**configuration, "use_residual": False}, draw.linear("linear", DIM, tiny.HIDDEN, bias=False))],
        prompts={"query": "search_query: ", "document": "search_document: "},
    )
    tiny_pylate.encode_and_record(NAME, folder)


if __name__ == "__main__":
    main()
