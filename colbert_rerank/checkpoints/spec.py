"""What a checkpoint's authors meant, as data: everything the encoder needs beside the weights."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EncoderSpec:
    """The rules by which texts become token vectors. Lengths are in tokens, special tokens and marker included."""

    dim: int
    prefix_ids: tuple[int, ...]  # what the tokenizer puts before a text: [CLS]
    suffix_ids: tuple[int, ...]  # and after it: [SEP]
    query_marker_id: int  # stands after the prefix
    document_marker_id: int
    query_length: int  # every query is brought to exactly this length
    document_length: int  # documents are cut to at most this length
    expansion_id: int  # [MASK]: fills a query up to its length, and is scored like any token
    attend_to_expansion: bool
    pad_id: int
    skip_ids: tuple[int, ...]  # document tokens that are encoded but not kept (punctuation), sorted
    normalize: bool
    similarity: str  # "cosine"
    aggregation: str  # "sum" over the query's tokens
