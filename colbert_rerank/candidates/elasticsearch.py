"""The first stage in Elasticsearch, 8 or 9."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from colbert_rerank.candidates.documents import PREFERENCE
from colbert_rerank.candidates.hits import IdSource
from colbert_rerank.candidates.index import IndexCandidates
from colbert_rerank.candidates.template import QueryTemplate
from colbert_rerank.elasticsearch import ElasticsearchCluster
from colbert_rerank.errors import UsageError
from colbert_rerank.indices import IndexInfo, origin_of, window_of
from colbert_rerank.retry import READ, Retry
from colbert_rerank.types import ELASTICSEARCH
from mappings import DOC_ID

if TYPE_CHECKING:
    from elasticsearch import Elasticsearch

DRAWN = 1000  # documents whose doc_id is compared with _id before it is believed

_log = logging.getLogger(__name__)


class ElasticsearchCandidates(IndexCandidates):
    """`IndexCandidates` of Elasticsearch, where one concrete index stands behind ``index``.

    Fielddata of ``_id`` is off there by default and is not asked for. Ids are read from a keyword column ``doc_id``,
    where the index has one that says for 1,000 documents, drawn over all of it, and for the first page of hits what
    ``_id`` says; else from the hits, which costs more.
    """

    def __init__(
        self,
        client: Elasticsearch,
        index: str,
        *,
        fields: Sequence[str] = (),
        template: QueryTemplate | None = None,
        dfs: bool = False,
        batch: int = 16,
        retry: Retry = READ,
    ) -> None:
        cluster = ElasticsearchCluster(client)
        indices = cluster.resolve(index)
        if len(indices) > 1:
            raise UsageError(
                f"{index!r} stands for {len(indices)} indices ({', '.join(info.name for info in indices)}), where one "
                "id may name several documents; name one of them"
            )
        (info,) = indices
        column = [IdSource.COLUMN] if _column_holds(cluster, index, info, retry) else []
        super().__init__(
            cluster,
            index,
            indices,
            origin=origin_of(indices, kind=ELASTICSEARCH),
            sources=[*column, IdSource.HIT],
            fields=fields,
            template=template,
            dfs=dfs,
            batch=batch,
            retry=retry,
        )


def _column_holds(cluster: ElasticsearchCluster, index: str, info: IndexInfo, retry: Retry) -> bool:
    """Whether ``doc_id`` is a column that repeats ``_id``, as far as a sample can tell."""
    field = info.mapping.get("properties", {}).get(DOC_ID, {})
    if field.get("type") != "keyword" or field.get("doc_values") is False or field.get("index") is False:
        return False
    body = {
        # The same documents each time, as long as they do not change.
        "query": {"function_score": {"random_score": {"seed": 1, "field": "_seq_no"}}},
        "size": min(DRAWN, window_of(info)),
        "_source": False,
        "docvalue_fields": [DOC_ID],
        "track_total_hits": False,
    }
    hits = cluster.search(index, body, PREFERENCE, retry)["hits"]["hits"]
    equal: int = sum(hit.get("fields", {}).get(DOC_ID) == [hit["_id"]] for hit in hits)
    if equal < len(hits):
        _log.info("%s: for %d of %d documents %s is not _id", index, len(hits) - equal, len(hits), DOC_ID)
    return equal == len(hits)
