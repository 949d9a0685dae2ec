"""A ``doc_id`` for an index that we found: a mapping-only alias of ``_id``, added on request and never unasked."""

from __future__ import annotations

import opensearchpy

from colbert_rerank.errors import UsageError
from colbert_rerank.indices import IndexInfo, resolve_index
from colbert_rerank.opensearch import translated
from colbert_rerank.retry import READ, with_retry
from mappings import DOC_ID, made_by_us

SAMPLED_IDS = 1000
# Measured on OpenSearch 3.6 with 300 to 50,000 ids of six kinds: 3 to 4 bytes beyond the id, for ordinals and lengths;
# ids that are numbers or base64 take less than their text, so this is nearly always too much rather than too little.
OVERHEAD_BYTES = 5
DOC_ID_ALIAS = {"properties": {DOC_ID: {"type": "alias", "path": "_id"}}}


def estimate_fielddata_bytes(client: opensearchpy.OpenSearch, index: str) -> int:
    """About how much heap the fielddata of ``_id`` takes once ids are read through it, replicas not counted.

    This is what reading ids by ``_id`` costs, with the alias or without it. Changes nothing.
    """
    body = {"size": SAMPLED_IDS, "_source": False, "track_total_hits": True}
    with translated(client, index=index):
        answer = with_retry(lambda: client.search(index=index, body=body, params={"search_pipeline": "_none"}), READ)
    hits = answer["hits"]["hits"]
    if not hits:
        return 0
    mean = sum(len(hit["_id"].encode()) for hit in hits) / len(hits)
    return round(int(answer["hits"]["total"]["value"]) * (mean + OVERHEAD_BYTES))


def add_doc_id_alias(client: opensearchpy.OpenSearch, index: str) -> list[str]:
    """Add the field ``doc_id`` as an alias of ``_id``; returns the concrete indices whose mapping was changed.

    An index of ours has its column and is left as it is. Documents are not touched; a field cannot be taken out of a
    mapping again. Raises ``UsageError`` where a field ``doc_id`` of another kind exists, before anything is changed.
    """
    changed = without_doc_id(client, index)
    for name in changed:
        with translated(client, index=name):
            client.indices.put_mapping(index=name, body=DOC_ID_ALIAS)
    return changed


def without_doc_id(client: opensearchpy.OpenSearch, index: str) -> list[str]:
    """The concrete indices that `add_doc_id_alias` would change. Raises as it does."""
    return [info.name for info in resolve_index(client, index) if not _has_doc_id(info)]


def _has_doc_id(info: IndexInfo) -> bool:
    field = info.mapping.get("properties", {}).get(DOC_ID)
    if field is None:
        return False
    if (field.get("type") == "alias" and field.get("path") == "_id") or made_by_us(info.mapping):
        return True
    raise UsageError(
        f"the index {info.name!r} has a field {DOC_ID!r} of its own ({field.get('type', 'object')}), so no alias of "
        "that name can be added; candidates are read by _id without it"
    )
