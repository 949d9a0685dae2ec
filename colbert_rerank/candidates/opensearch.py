"""The first stage in OpenSearch."""

from __future__ import annotations

from collections.abc import Sequence

import opensearchpy

from colbert_rerank.candidates.cluster import OpenSearchCluster
from colbert_rerank.candidates.hits import IdSource
from colbert_rerank.candidates.index import IndexCandidates
from colbert_rerank.candidates.template import QueryTemplate
from colbert_rerank.errors import UsageError
from colbert_rerank.indices import IndexInfo, origin_of, resolve_readable
from colbert_rerank.retry import READ, Retry
from mappings import DOC_ID, made_by_us


class OpenSearchCandidates(IndexCandidates):
    """`IndexCandidates` of OpenSearch. Several concrete indices behind ``index`` need ``qualified_ids``."""

    def __init__(
        self,
        client: opensearchpy.OpenSearch,
        index: str,
        *,
        fields: Sequence[str] = (),
        template: QueryTemplate | None = None,
        qualified_ids: bool = False,
        dfs: bool = False,
        batch: int = 16,
        retry: Retry = READ,
    ) -> None:
        indices = resolve_readable(client, index)
        if len(indices) > 1 and not qualified_ids:
            raise UsageError(
                f"{index!r} stands for {len(indices)} indices ({', '.join(info.name for info in indices)}), where one "
                "id may name several documents; name one of them. To search them all, ids must read INDEX/ID in the "
                f"store as well: make one with `ingest opensearch:{index} --qualified-ids`"
            )
        column = [IdSource.COLUMN] if all(map(has_id_column, indices)) else []
        super().__init__(
            OpenSearchCluster(client),
            index,
            indices,
            origin=origin_of(indices, qualified=qualified_ids),
            sources=[*column, IdSource.FIELDDATA, IdSource.HIT],
            fields=fields,
            template=template,
            qualified_ids=qualified_ids,
            dfs=dfs,
            batch=batch,
            retry=retry,
        )


def has_id_column(info: IndexInfo) -> bool:
    """Whether ``doc_id`` is known to repeat ``_id``: we made it, or it is an alias. Its name alone says nothing."""
    field = info.mapping.get("properties", {}).get(DOC_ID, {})
    if field.get("type") == "alias":
        return bool(field.get("path") == "_id")
    return made_by_us(info.mapping) is not None and field.get("type") == "keyword"
