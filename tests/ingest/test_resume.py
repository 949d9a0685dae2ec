"""An ingest that is interrupted, again and again, ends as one that was left alone: the same ids, the same bits."""

from __future__ import annotations

import json
import signal

import pytest

from tests.collection import documents
from tests.ingest.killing import DOCUMENTS, kill_ingest
from tests.server.indices import make_index, put_documents
from tests.server.rest import call

pytestmark = pytest.mark.proof

HOW = pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])


@HOW
def test_with_the_index_beside_the_store(how: int) -> None:
    assert kill_ingest(3, 1, how).midway >= 1


@HOW
def test_into_opensearch(how: int, opensearch_url: str, index_name: str) -> None:
    assert kill_ingest(2, 2, how, url=opensearch_url, index=index_name).midway >= 1


def test_out_of_an_existing_index(opensearch_url: str, index_name: str) -> None:
    make_index(opensearch_url, index_name, settings={"number_of_shards": 3})
    put_documents(opensearch_url, index_name, {d.doc_id: {"text": d.fields["text"]} for d in documents(DOCUMENTS)})
    before = everything(opensearch_url, index_name)
    assert kill_ingest(2, 3, url=opensearch_url, source=f"opensearch:{index_name}").midway >= 1
    assert everything(opensearch_url, index_name) == before


def everything(url: str, index: str) -> str:
    """All of an index that a writer could change."""
    body = {"size": DOCUMENTS + 1, "seq_no_primary_term": True, "sort": [{"_id": "asc"}]}
    return json.dumps(
        [call(url, "GET", f"/{index}").json(), call(url, "POST", f"/{index}/_search", body).json()["hits"]]
    )
