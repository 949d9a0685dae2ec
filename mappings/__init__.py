"""What OpenSearch and Elasticsearch are told: JSON bodies as package data, and one loader."""

from __future__ import annotations

from mappings.body import document_body, document_fields
from mappings.elasticsearch import inference_endpoint, reranking_search
from mappings.index import CONTENTS, DOC_ID, index_body, made_by_us, mapping_of_fields, settings_of, text_fields_of
from mappings.rerank import (
    OVERSAMPLE,
    QUALIFIED_ID,
    RERANK,
    TRUNCATE,
    rerank_connector,
    rerank_model,
    rerank_pipeline,
    rerank_search,
)

__all__ = [
    "CONTENTS",
    "DOC_ID",
    "OVERSAMPLE",
    "QUALIFIED_ID",
    "RERANK",
    "TRUNCATE",
    "document_body",
    "document_fields",
    "index_body",
    "inference_endpoint",
    "made_by_us",
    "mapping_of_fields",
    "rerank_connector",
    "rerank_model",
    "rerank_pipeline",
    "rerank_search",
    "reranking_search",
    "settings_of",
    "text_fields_of",
]
