"""Late-interaction (ColBERT) re-ranking by document id, behind the OpenSearch you already run."""

__version__ = "0.1.0"
