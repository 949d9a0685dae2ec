"""How fast this machine scores, beside others that do the same work: `colbert-rerank bench`."""

from colbert_rerank.bench.cases import measure

__all__ = ["measure"]
