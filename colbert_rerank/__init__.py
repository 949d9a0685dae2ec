"""Late-interaction (ColBERT) re-ranking by document id, behind the OpenSearch you already run."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from colbert_rerank.encoder import Encoder as Encoder
    from colbert_rerank.errors import ColbertRerankError as ColbertRerankError
    from colbert_rerank.rerank import Reranker as Reranker
    from colbert_rerank.store import Store as Store
    from colbert_rerank.types import Document as Document
    from colbert_rerank.types import Query as Query
    from colbert_rerank.types import ScoredDoc as ScoredDoc

__version__ = "0.1.0"

# Loaded on first use: `import colbert_rerank` must not cost the seconds that torch takes. No name here may be that of a
# module of the package: importing the module would put it in the name's place.
_HOME = {
    "ColbertRerankError": "colbert_rerank.errors",
    "Document": "colbert_rerank.types",
    "Encoder": "colbert_rerank.encoder",
    "Query": "colbert_rerank.types",
    "Reranker": "colbert_rerank.rerank",
    "ScoredDoc": "colbert_rerank.types",
    "Store": "colbert_rerank.store",
}

__all__ = ["ColbertRerankError", "Document", "Encoder", "Query", "Reranker", "ScoredDoc", "Store"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
