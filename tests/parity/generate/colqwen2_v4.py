"""Record the checkpoint of ``colqwen2.py`` with the last transformers 4: there the model does as trained.

    python3.12 -m venv VENV && VENV/bin/pip install -r colqwen2_v4.requirements.txt
    VENV/bin/python colqwen2_v4.py

Makes no checkpoint: run ``colqwen2.py`` first. transformers 5 departs from 4.57 in two things. Its
``ColQwen2ForRetrieval`` numbers all tokens in one row, where 4.57 gives the patches of an image positions on three
axes; and since 5.16 (5.14 not yet) its processor ends a query with a line break behind the augmentation tokens.
"""

from __future__ import annotations

import tiny_colqwen2
import tiny_modern as tiny

if __name__ == "__main__":
    tiny_colqwen2.encode_and_record("colqwen2_v4", tiny.CHECKPOINTS / "colqwen2")
