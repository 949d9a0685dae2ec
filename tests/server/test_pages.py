"""Page images through a real OpenSearch: found by their words, ranked by their patches."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from colbert_rerank.encoder import Encoder
from colbert_rerank.maxsim import reference
from colbert_rerank.recipe import PAGE_DIGEST
from colbert_rerank.store import Store
from tests.cli.terminal import invoke
from tests.pages import IDS, MODEL, make_pages
from tests.server.rest import call

pytestmark = pytest.mark.usefixtures("one_thread")


def test_pages_are_found_by_words_and_ranked_by_patches(opensearch_url: str, index_name: str, tmp_path: Path) -> None:
    folder, store = make_pages(tmp_path / "pages"), tmp_path / "store"
    server = ("--opensearch", opensearch_url)
    ingest = (
        "ingest",
        folder,
        "--store",
        store,
        "--model",
        MODEL,
        "--codec",
        "float32",
        *server,
        "--index",
        index_name,
    )
    invoke(*ingest).check()
    stored = call(opensearch_url, "GET", f"/{index_name}/_doc/report.pdf%232").json()["_source"]
    assert {name: stored[name] for name in ("title", "file", "page")} == {
        "title": "report",
        "file": "report.pdf",
        "page": 2,
    }
    assert stored[PAGE_DIGEST]
    done = invoke("rerank", "the report", "--store", store, *server, "--json").check()
    ranked = [json.loads(line) for line in done.out.splitlines()]
    assert {d["doc_id"] for d in ranked} == set(IDS[:3])
    (query,) = Encoder.load(str(MODEL), device="cpu").encode_queries(["the report"])
    opened = Store.open(store)
    for document in ranked:
        want = reference.maxsim(query, opened.gather([document["doc_id"]]).values)
        assert document["score"] == pytest.approx(want, abs=1e-4)
    assert np.ptp([d["score"] for d in ranked]) > 0.01
    assert "0 encoded" in invoke(*ingest).check().err
