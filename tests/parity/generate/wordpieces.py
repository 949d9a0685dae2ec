"""A small BERT vocabulary: the special tokens at their true ids, then every kind of word piece that a text can meet.

Its tokeniser is that of BERT uncased: lower case, accents stripped, each CJK character a word. What the pieces do not
cover becomes [UNK]: emoji, full-width punctuation, kana, some of the CJK characters.
"""

from __future__ import annotations

import string
from pathlib import Path

from transformers import BertTokenizerFast

MARKED = ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]  # 100 to 103
ENGLISH_HEAD = ["[PAD]", *(f"[unused{i}]" for i in range(99)), *MARKED]  # [unused0] = 1, as in bert-base-uncased
# As in bert-base-multilingual-uncased there is no [unused0], so it is [UNK] = 100, and [unused1] = 1.
MULTILINGUAL_HEAD = ["[PAD]", *(f"[unused{i}]" for i in range(1, 100)), *MARKED]

ENGLISH_WORDS = """the of and to in a is was for on that it with as by at from his he be this are or an which not but
were their one has have had they its who what where when how why does do did will would can first second new two
most over under between after before city river bridge water bees honey hive winter flower
people world year years time wrote built book question answer token line mean name york paris france"""
CJK = list("北京大学在日本語中国")
CYRILLIC = list("абвгдежзиклмнопрстуфхцчшщъыьэюя")
ARABIC = list("ابتثجحخدذرزسشصضطظعغفقكلمنهوىية")
LETTERS = [*string.ascii_lowercase, *string.digits, *CYRILLIC, *ARABIC]
ENDINGS = ["ing", "ed", "es", "er", "ly", "tion", "al", "ment"]
PIECES = [
    *string.punctuation,
    *LETTERS,
    *CJK,
    *(word for word in ENGLISH_WORDS.split() if word not in LETTERS),
    *(f"##{ending}" for ending in (*LETTERS, *ENDINGS)),
]
ENGLISH = ENGLISH_HEAD + PIECES
MULTILINGUAL = MULTILINGUAL_HEAD + PIECES


def write_vocabulary(folder: Path, vocabulary: list[str], newline: str = "\n") -> Path:
    """Write ``vocab.txt`` into ``folder``, made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "vocab.txt"
    path.write_bytes("".join(token + newline for token in vocabulary).encode())
    return path


def write_tokenizer(folder: Path, vocabulary: list[str]) -> None:
    """Write the tokeniser's four files as transformers saves them, ``tokenizer.json`` among them."""
    path = write_vocabulary(folder, vocabulary)
    BertTokenizerFast(vocab_file=str(path), do_lower_case=True, model_max_length=512).save_pretrained(folder)
