"""The small size of what `scripts/soak` does at full size."""

from __future__ import annotations

from tests.server.in_search import EVENTS, rerank_in_search
from tests.server.node import OpenSearchNode


def test_searches_are_re_ranked_whatever_becomes_of_the_service(plugins_node: OpenSearchNode) -> None:
    report = rerank_in_search(8, 7, plugins_node.url, limit=300)
    assert report.compared == 8
    assert min(report.events[event] for event in EVENTS) > 0
