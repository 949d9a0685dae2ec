"""What a checkpoint's authors meant, as data: everything the encoder needs beside the weights."""

from __future__ import annotations

from dataclasses import dataclass

BUCKET = 8  # texts are padded to a multiple of so many tokens before the network sees them


@dataclass(frozen=True)
class TextRules:
    """How a text becomes token ids: between a prefix and a suffix, cut to at most ``length`` ids in all."""

    prefix_ids: tuple[int, ...]  # [CLS], a marker
    suffix_ids: tuple[int, ...]  # [SEP]
    length: int
    prompt: str = ""  # put before the text itself, and tokenized with it

    @property
    def room(self) -> int:
        """How many tokens of a text, its prompt among them, there is room for."""
        return self.length - len(self.prefix_ids) - len(self.suffix_ids)


@dataclass(frozen=True)
class Expansion:
    """Ids that follow a query and are scored like its own: so many, or as many as fill it up to its length."""

    token_id: int  # [MASK]
    attended: bool
    count: int | None = None


@dataclass(frozen=True)
class EncoderSpec:
    """The rules by which texts become token vectors."""

    dim: int
    query: TextRules
    document: TextRules
    expansion: Expansion | None
    pad_id: int
    skip_ids: tuple[int, ...]  # document tokens that are encoded but not kept (punctuation), sorted
    normalize: bool
    similarity: str = "cosine"  # or "dot", "l2"
    aggregation: str = "sum"  # over the query's tokens; or "mean"
    skip_before: bool = False  # the document tokens of ``skip_ids`` are left out before the network, not after it
    first_row: int = 0  # rows before it are not kept, of queries and documents
    text_documents: bool = True  # or page images only
    strip: bool = False  # white space around a text
    lowercase: bool = False  # texts, before the tokenizer sees them
