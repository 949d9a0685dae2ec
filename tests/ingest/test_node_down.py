"""An ingest whose OpenSearch node is killed under it: nothing is lost, left out, or encoded twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from colbert_rerank.candidates.opensearch import OpenSearchCandidates
from colbert_rerank.connection import Connection
from colbert_rerank.encoder import Encoder
from colbert_rerank.errors import OpenSearchUnreachableError
from colbert_rerank.opensearch import connect
from colbert_rerank.retry import WRITE, Retry
from colbert_rerank.store import Store
from colbert_rerank.types import Document
from ingest import pipeline
from ingest.bulk import BulkIndexer
from ingest.first_stage import OpenSearchFirstStage
from ingest.pipeline import IngestReport, ingest
from ingest.target import prepare_index
from ingest.validation import InputReport
from mappings import index_body
from tests.collection import RECIPE, assert_same_documents, documents, ingested
from tests.server.indices import count
from tests.server.node import OpenSearchNode

DOCUMENTS = 200
SOON = Retry(attempts=3, base=0.01, cap=0.02)


def fill(url: str, store: Path, some: Iterable[Document], encoder: Encoder, retry: Retry) -> IngestReport:
    report = IngestReport(InputReport())
    with closing(connect(Connection(url))) as client:
        target = prepare_index(client, "docs", index_body(RECIPE.fields))
        first_stage = OpenSearchFirstStage(target, BulkIndexer(client, "docs", chunk_docs=10, retry=retry))
        ingest(some, store, encoder, recipe=RECIPE, report=report, first_stage=lambda make: first_stage)
    return report


def interrupted(some: list[Document], at: int, action: Callable[[], object]) -> Iterator[Document]:
    yield from some[:at]
    action()
    yield from some[at:]


@pytest.mark.own_node
def test_a_killed_node_costs_nothing(tiny_encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "READ_AHEAD", 8)
    monkeypatch.setattr(pipeline, "UNIT_TOKENS", {"cpu": 2000})
    some, store = documents(DOCUMENTS), tmp_path / "store"

    with OpenSearchNode(data=tmp_path / "node") as node:
        with pytest.raises(OpenSearchUnreachableError, match="cannot reach OpenSearch"):
            fill(node.url, store, interrupted(some, DOCUMENTS // 3, node.kill), tiny_encoder, SOON)
        port = int(node.url.rpartition(":")[2])
    kept = len(Store.open(store))
    assert 0 < kept < DOCUMENTS

    # Started again, and killed again, but this time it is back before the retries end.
    with OpenSearchNode(data=tmp_path / "node", port=port) as node:

        def kill_and_restart() -> None:
            node.kill()
            node.stop()
            node.__enter__()

        report = fill(node.url, store, interrupted(some, DOCUMENTS * 2 // 3, kill_and_restart), tiny_encoder, WRITE)
        assert (report.unchanged, report.encoded, report.refused) == (kept, DOCUMENTS - kept, [])
        assert count(node.url, "docs") == DOCUMENTS
        with closing(connect(Connection(node.url))) as client:
            held = {d.doc_id: d.fields for d in OpenSearchCandidates(client, "docs").fetch([d.doc_id for d in some])}
    assert held == {d.doc_id: {n: v for n, v in d.fields.items() if n != "_id"} for d in some}

    ours, whole = Store.open(store), ingested(tmp_path / "whole", tiny_encoder, some)
    assert ours.manifest.complete
    assert all(segment.posted for segment in ours.manifest.segments)
    assert_same_documents(ours, whole)
