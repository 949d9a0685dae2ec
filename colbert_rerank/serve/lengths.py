"""Texts that the model would cut, for callers that would rather be refused."""

from __future__ import annotations

from colbert_rerank.encoder import Encoder
from colbert_rerank.serve.errors import TooLongError
from colbert_rerank.serve.jobs import Job


def check_uncut(asked: tuple[Encoder, Job]) -> None:
    """Raises TooLongError where the query, or a text that came for a document, is longer than the model reads."""
    encoder, job = asked
    tokens = encoder.tokenize_queries([job.query])
    if job.texts:  # there are none where documents are ids, whatever model they are of
        tokens += encoder.tokenize_documents(job.texts)
    for number, one in enumerate(tokens, start=-1):
        if one.truncated:
            raise TooLongError("the query" if number < 0 else f"document {number}", one.truncated)
