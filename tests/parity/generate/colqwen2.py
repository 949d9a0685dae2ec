"""Make a tiny checkpoint in the layout of vidore/colqwen2-v1.0-hf, and the pages that others record it with.

    python3.12 -m venv VENV && VENV/bin/pip install -r colqwen2.requirements.txt
    VENV/bin/python colqwen2.py

Documents are page images: three small ones are drawn here, one of which needs no resizing, one is rounded to the
patch grid and one is over the limit of pixels. ``colqwen2_v4.py`` and ``colqwen2_pil.py`` record it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tiny_colqwen2
import tiny_modern as tiny
from PIL import Image
from tokenizers import AddedToken

NAME = "colqwen2"
DIM = 24
PATCH, VISION, DEPTH = 14, 32, 2
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)


def main() -> None:
    draw_pages()
    folder = tiny.CHECKPOINTS / NAME
    ids = write_processor(folder)
    draw = tiny.Draw(25)
    tiny.write_json(folder / "config.json", config(ids))
    weights = {f"vlm.model.{name}": array for name, array in (language(draw, ids) | vision(draw)).items()}
    tiny.write_safetensors(
        folder / "model.safetensors", weights | draw.linear("embedding_proj_layer", DIM, tiny.HIDDEN)
    )


def draw_pages() -> None:
    """Stripes of grey for lines of text, a coloured box for a figure, a ramp for the background."""
    tiny_colqwen2.PAGES.mkdir(exist_ok=True)
    for name, width, height in (("a_exact", 56, 84), ("b_rounded", 100, 60), ("c_shrunk", 160, 210)):
        rng = np.random.default_rng(width)
        ramp = np.linspace(200, 255, width)[None, :, None] + np.zeros((height, 1, 3))
        page = ramp.astype(np.uint8)
        for top in range(4, height - 4, 8):
            page[top : top + 3, 4 : 4 + int(rng.integers(width // 3, width - 8))] = rng.integers(0, 90, 3)
        page[height // 2 : height - 6, width // 2 : width - 6] = rng.integers(60, 220, 3)
        Image.fromarray(page, "RGB").save(tiny_colqwen2.PAGES / f"{name}.png", optimize=False)


def write_processor(folder: Path) -> dict[str, int]:
    """The tokenizer's and the image processor's files; the ids of the special tokens and the size of the vocabulary."""
    special = [AddedToken(t, normalized=False, special=True) for t in SPECIAL]
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    tokenizer = tiny.byte_pairs(folder, special, names, template=None)
    ids = {token: tokenizer.token_to_id(token) for token in SPECIAL}
    tiny.write_json(
        folder / "tokenizer_config.json",
        {
            "add_prefix_space": False,
            "added_tokens_decoder": {str(i): {"content": token, **plain} for token, i in ids.items()},
            "additional_special_tokens": list(SPECIAL[1:]),
            "bos_token": None,
            "clean_up_tokenization_spaces": False,
            **names,
            "errors": "replace",
            "model_max_length": 32768,
            "padding_side": "left",
            "processor_class": "ColQwen2Processor",
            "split_special_tokens": False,
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        },
    )
    tiny.write_json(folder / "added_tokens.json", ids)
    tiny.write_json(
        folder / "preprocessor_config.json",
        {
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_processor_type": "Qwen2VLImageProcessor",
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "max_pixels": 28 * 28 * 20,
            "merge_size": 2,
            "min_pixels": 56 * 56,
            "patch_size": PATCH,
            "processor_class": "ColQwen2Processor",
            "resample": 3,
            "rescale_factor": 0.00392156862745098,
            "size": {"longest_edge": 28 * 28 * 20, "shortest_edge": 56 * 56},
            "temporal_patch_size": 2,
        },
    )
    return ids | {"vocabulary": tokenizer.get_vocab_size()}


def config(ids: dict[str, int]) -> dict[str, Any]:
    shared = {
        "attention_dropout": 0.0,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "hidden_act": "silu",
        "hidden_size": tiny.HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": tiny.INTERMEDIATE,
        "max_position_embeddings": 32768,
        "max_window_layers": 28,
        "num_attention_heads": tiny.HEADS,
        "num_hidden_layers": tiny.LAYERS,
        "num_key_value_heads": 1,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {"mrope_section": [2, 3, 3], "rope_type": "default", "type": "default"},
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": ids["vocabulary"],
    }
    vision_config = {
        "depth": DEPTH,
        "embed_dim": VISION,
        "hidden_act": "quick_gelu",
        "hidden_size": tiny.HIDDEN,
        "in_channels": 3,
        "in_chans": 3,
        "initializer_range": 0.02,
        "mlp_ratio": 2,
        "model_type": "qwen2_vl",
        "num_heads": tiny.HEADS,
        "patch_size": PATCH,
        "spatial_merge_size": 2,
        "spatial_patch_size": PATCH,
        "temporal_patch_size": 2,
    }
    return {
        "architectures": ["ColQwen2ForRetrieval"],
        "embedding_dim": DIM,
        "initializer_range": 0.02,
        "is_composition": False,
        "model_type": "colqwen2",
        "torch_dtype": "float32",
        "vlm_config": {
            **shared,
            "image_token_id": ids["<|image_pad|>"],
            "model_type": "qwen2_vl",
            "text_config": {**shared, "model_type": "qwen2_vl_text"},
            "video_token_id": ids["<|video_pad|>"],
            "vision_config": vision_config,
            "vision_end_token_id": ids["<|vision_end|>"],
            "vision_start_token_id": ids["<|vision_start|>"],
            "vision_token_id": ids["<|vision_pad|>"],
        },
    }


def language(draw: tiny.Draw, ids: dict[str, int]) -> tiny.Weights:
    weights = {"language_model.embed_tokens.weight": draw.normal(ids["vocabulary"], tiny.HIDDEN, scale=1.0)}
    half = tiny.HIDDEN // tiny.HEADS  # one head of keys and values for two of queries
    for i in range(tiny.LAYERS):
        layer = f"language_model.layers.{i}"
        weights |= draw.norm(f"{layer}.input_layernorm", tiny.HIDDEN, bias=False)
        weights |= draw.linear(f"{layer}.self_attn.q_proj", tiny.HIDDEN, tiny.HIDDEN)
        weights |= draw.linear(f"{layer}.self_attn.k_proj", half, tiny.HIDDEN)
        weights |= draw.linear(f"{layer}.self_attn.v_proj", half, tiny.HIDDEN)
        weights |= draw.linear(f"{layer}.self_attn.o_proj", tiny.HIDDEN, tiny.HIDDEN, bias=False)
        weights |= draw.norm(f"{layer}.post_attention_layernorm", tiny.HIDDEN, bias=False)
        weights |= draw.linear(f"{layer}.mlp.gate_proj", tiny.INTERMEDIATE, tiny.HIDDEN, bias=False)
        weights |= draw.linear(f"{layer}.mlp.up_proj", tiny.INTERMEDIATE, tiny.HIDDEN, bias=False)
        weights |= draw.linear(f"{layer}.mlp.down_proj", tiny.HIDDEN, tiny.INTERMEDIATE, bias=False)
    return weights | draw.norm("language_model.norm", tiny.HIDDEN, bias=False)


def vision(draw: tiny.Draw) -> tiny.Weights:
    weights = {"visual.patch_embed.proj.weight": draw.normal(VISION, 3, 2, PATCH, PATCH, scale=0.05)}
    for i in range(DEPTH):
        block = f"visual.blocks.{i}"
        weights |= draw.norm(f"{block}.norm1", VISION)
        weights |= draw.linear(f"{block}.attn.qkv", 3 * VISION, VISION)
        weights |= draw.linear(f"{block}.attn.proj", VISION, VISION, gain=0.7)
        weights |= draw.norm(f"{block}.norm2", VISION)
        weights |= draw.linear(f"{block}.mlp.fc1", 2 * VISION, VISION)
        weights |= draw.linear(f"{block}.mlp.fc2", VISION, 2 * VISION)
    merged = 4 * VISION
    weights |= draw.norm("visual.merger.ln_q", VISION)
    weights |= draw.linear("visual.merger.mlp.0", merged, merged)
    return weights | draw.linear("visual.merger.mlp.2", tiny.HIDDEN, merged)


if __name__ == "__main__":
    main()
