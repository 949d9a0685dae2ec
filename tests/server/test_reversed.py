"""An index whose default search pipeline turns the order round: candidates come in their own order all the same."""

from __future__ import annotations

from contextlib import closing

import pytest

from colbert_rerank.candidates.opensearch import OpenSearchCandidates
from colbert_rerank.connection import Connection
from colbert_rerank.opensearch import connect
from colbert_rerank.types import Query
from ingest.sources.opensearch import OpenSearchSource
from tests.server.indices import make_index, put_settings
from tests.server.node import OpenSearchNode
from tests.server.rest import call

PLUGINS = ("opensearch-knn", "opensearch-job-scheduler", "opensearch-ml", "opensearch-neural-search")


@pytest.mark.own_node
def test_a_default_pipeline_that_reverses_the_order() -> None:
    docs = {f"d{number}": {"text": "sea " * number, "worst_first": -number} for number in range(1, 6)}
    reverse = {"response_processors": [{"rerank": {"by_field": {"target_field": "worst_first"}}}]}
    with OpenSearchNode(plugins=PLUGINS) as node:
        make_index(node.url, "articles", docs)
        put_settings(node.url, "/_search/pipeline/reverse", reverse)
        put_settings(node.url, "/articles/_settings", {"index.search.default_pipeline": "reverse"})
        search = {"query": {"match": {"text": "sea"}}}
        hits = call(node.url, "POST", "/articles/_search", search).json()["hits"]["hits"]
        assert [hit["_id"] for hit in hits] == ["d1", "d2", "d3", "d4", "d5"], "it does"
        with closing(connect(Connection(node.url))) as client:
            candidates = OpenSearchCandidates(client, "articles", fields=["text"])
            (found,) = candidates.search([Query("q", "sea")], k=5)
            assert [hit.doc_id for hit in found] == ["d5", "d4", "d3", "d2", "d1"]
            assert {d.doc_id for d in candidates.fetch(list(docs))} == set(docs)
            assert {d.doc_id for d in OpenSearchSource(client, "articles")} == set(docs)
