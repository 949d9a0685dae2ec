"""The forward passes that documents go through: of a shape that follows from a text's length, and which go together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from colbert_rerank.checkpoints.spec import BUCKET


def shape(length: int, batch_tokens: int) -> tuple[int, int]:
    """Of the forward pass of a text of so many tokens: how many texts, and the length they are padded to."""
    padded = -(-length // BUCKET) * BUCKET
    return max(1, batch_tokens // padded), padded


def batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[tuple[list[int], int, int]]:
    """Positions of the texts of one forward pass, with its fixed number of rows and padded length, longest first."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i], reverse=True)
    start = 0
    while start < len(order):
        size, length = shape(lengths[order[start]], batch_tokens)
        end = start
        while end < len(order) and end - start < size and lengths[order[end]] > length - BUCKET:
            end += 1
        yield order[start:end], size, length
        start = end


def together(sizes: Sequence[tuple[int, int]], batch_tokens: int) -> list[list[int]]:
    """Positions of the documents that one pass has room for, by pass: the first ones first.

    ``sizes`` are a document's length and how many windows of it there are, all as long.
    """
    found: list[list[int]] = []
    filling: dict[int, tuple[list[int], int]] = {}  # by length: the last pass, and how many windows are in it
    for position, (tokens, windows) in enumerate(sizes):
        size, length = shape(tokens, batch_tokens)
        batch, taken = filling.get(length, ([], size))
        if taken + windows > size:
            batch, taken = [], 0
            found.append(batch)
        batch.append(position)
        filling[length] = batch, taken + windows
    return found
