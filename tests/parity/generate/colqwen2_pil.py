"""Record the checkpoint of ``colqwen2.py`` as ``colqwen2_v4.py`` does, with the image processor that resizes with PIL.

    python3.12 -m venv VENV && VENV/bin/pip install -r colqwen2_pil.requirements.txt
    VENV/bin/python colqwen2_pil.py

Makes no checkpoint: run ``colqwen2.py`` first. The other two take the "fast" image processor, the one that transformers
chooses by itself: it resizes tensors with torchvision, and its pixels differ a little from PIL's. Pillow is older here
than there, and must be: since 13 it resizes some pages (``b_rounded`` is one) first in height and then in width, before
it was always the other way about, and their pixels differ by up to 12 of 255.
"""

from __future__ import annotations

import tiny_colqwen2
import tiny_modern as tiny
from transformers import AutoImageProcessor

PROCESSOR = "Qwen2VLImageProcessor"

if __name__ == "__main__":
    checkpoint = tiny.CHECKPOINTS / "colqwen2"
    images = AutoImageProcessor.from_pretrained(checkpoint, use_fast=False)
    if type(images).__name__ != PROCESSOR:
        raise SystemExit(f"expected {PROCESSOR}, found {type(images).__name__}")
    tiny_colqwen2.encode_and_record("colqwen2_pil", checkpoint, images)
