"""The main job against a real OpenSearch: documents in, candidates out, re-ranked, and nothing mixed up."""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, redirect_stdout
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import opensearchpy
import pytest

from colbert_rerank.binding import check_origin
from colbert_rerank.candidates.opensearch import OpenSearchCandidates
from colbert_rerank.connection import Connection
from colbert_rerank.encoder import Encoder
from colbert_rerank.errors import StoreMismatchError, UsageError
from colbert_rerank.opensearch import connect
from colbert_rerank.recipe import Recipe
from colbert_rerank.rerank import Reranker
from colbert_rerank.store import Store
from colbert_rerank.trec import read_topics, write_run
from colbert_rerank.types import Document, Query
from ingest.first_stage import opensearch
from ingest.pipeline import IngestReport, ingest
from ingest.sources import SourceOptions, open_source
from ingest.sources.opensearch import OpenSearchSource
from ingest.validation import InputReport
from mappings import index_body
from tests.server.gateway import Gateway
from tests.tiny import tiny_checkpoint

RECIPE = Recipe()
COLLECTION = Path(__file__).parents[2] / "colbert_rerank" / "data" / "musique_mini"
README = Path(__file__).parents[2] / "README.md"
DOCUMENTS = 60


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return Encoder.load(str(tiny_checkpoint(tmp_path_factory.mktemp("tiny"))), device="cpu")


@pytest.fixture
def client(opensearch_url: str) -> Iterator[opensearchpy.OpenSearch]:
    made = connect(Connection(opensearch_url))
    yield made
    made.close()


def documents(count: int = DOCUMENTS) -> list[Document]:
    return list(islice(open_source(str(COLLECTION), SourceOptions(), InputReport()), count))


def queries(count: int = 8) -> list[Query]:
    return list(islice(read_topics(str(COLLECTION / "queries.jsonl")), count))


def fill(
    client: opensearchpy.OpenSearch, index: str, store: Path, docs: Sequence[Document], encoder: Encoder
) -> IngestReport:
    report = IngestReport(InputReport())
    first_stage = opensearch(client, index, index_body(RECIPE.fields))
    ingest(docs, store, encoder, recipe=RECIPE, report=report, first_stage=first_stage)
    return report


def test_documents_come_back_re_ranked_and_runs_repeat_to_the_byte(
    client: opensearchpy.OpenSearch, index_name: str, tmp_path: Path, encoder: Encoder
) -> None:
    report = fill(client, index_name, tmp_path / "store", documents(), encoder)
    assert (report.encoded, report.posted) == (DOCUMENTS, DOCUMENTS)
    assert client.count(index=index_name)["count"] == DOCUMENTS, "searchable when ingest returns"
    runs = []
    for name in ("first", "second"):
        store = Store.open(tmp_path / "store")
        candidates = OpenSearchCandidates(client, index_name)
        check_origin(store, candidates)
        reranker = Reranker(store, encoder)
        rows = [row for ranking in reranker.run(queries(), candidates, 50) for row in ranking.ranked]
        write_run(rows, str(tmp_path / name), "test")
        runs.append((tmp_path / name).read_bytes())
        assert reranker.report.scored == reranker.report.candidates > 100
    assert runs[0] == runs[1]


def test_the_next_batch_is_asked_for_while_the_first_query_is_encoded(
    client: opensearchpy.OpenSearch, index_name: str, tmp_path: Path, encoder: Encoder, opensearch_url: str
) -> None:
    fill(client, index_name, tmp_path / "store", documents(), encoder)
    encode, asked = Encoder.encode_query_tokens, list[int]()
    with Gateway(opensearch_url) as gateway, closing(connect(Connection(gateway.url))) as watched:
        candidates = OpenSearchCandidates(watched, index_name, batch=3)

        def when_asked(self: Encoder, *args: Any) -> Any:
            until = time.monotonic() + 60
            while len(gateway.sent_to("_msearch")) < 2 and time.monotonic() < until:
                time.sleep(0.01)
            asked.append(len(gateway.sent_to("_msearch")))
            return encode(self, *args)

        reranker = Reranker(Store.open(tmp_path / "store"), encoder)
        with patch.object(Encoder, "encode_query_tokens", when_asked):
            overlapped = list(reranker.run(queries(), candidates, 50))
        assert asked[0] >= 2
        assert asked[-1] == 3, "of eight queries, three at a time"
        for (query, first_stage, ranked), alone in zip(overlapped, candidates.search(queries(), 50), strict=True):
            assert first_stage == alone
            one = reranker.rerank(query.text, [(d.doc_id, d.score) for d in alone])
            assert repr(ranked) == repr([d._replace(query_id=query.query_id) for d in one])


def test_all_fields_reach_opensearch(
    client: opensearchpy.OpenSearch, index_name: str, tmp_path: Path, encoder: Encoder
) -> None:
    fields = {
        "title": "Tides",
        "text": "The moon pulls.",
        "year": 1999,
        "tags": ["sea"],
        "deep": {"a": [1, {"b": None}]},
    }
    fill(client, index_name, tmp_path / "store", [Document("a/1 ü", fields)], encoder)
    (back,) = OpenSearchCandidates(client, index_name).fetch(["a/1 ü"])
    assert back.fields == fields


def test_two_collections_with_the_same_ids_are_not_mixed_up(
    client: opensearchpy.OpenSearch, index_name: str, tmp_path: Path, encoder: Encoder
) -> None:
    """Ids "1", "2" are everywhere: the wrong store would score everything, silently wrong."""
    texts = [d.fields for d in documents(20)]
    ours = [Document(str(i), f) for i, f in enumerate(texts[:10])]
    theirs = [Document(str(i), f) for i, f in enumerate(texts[10:])]
    fill(client, f"{index_name}-a", tmp_path / "a", ours, encoder)
    fill(client, f"{index_name}-b", tmp_path / "b", theirs, encoder)
    store, wrong = Store.open(tmp_path / "a"), OpenSearchCandidates(client, f"{index_name}-b")
    with pytest.raises(StoreMismatchError, match=f"{index_name}-b"):
        check_origin(store, wrong)
    with pytest.raises(StoreMismatchError, match="not a copy"):
        check_origin(store, wrong, allow_other_index=True)


def test_a_reindexed_copy_is_accepted_when_asked(
    client: opensearchpy.OpenSearch, index_name: str, tmp_path: Path, encoder: Encoder
) -> None:
    fill(client, index_name, tmp_path / "store", documents(30), encoder)
    client.indices.create(index=f"{index_name}-copy", body=index_body(RECIPE.fields))
    client.reindex(
        body={"source": {"index": index_name}, "dest": {"index": f"{index_name}-copy"}}, params={"refresh": "true"}
    )
    store, copy = Store.open(tmp_path / "store"), OpenSearchCandidates(client, f"{index_name}-copy")
    with pytest.raises(StoreMismatchError, match="--allow-other-index"):
        check_origin(store, copy)
    check_origin(store, copy, allow_other_index=True)


def test_an_index_made_again_under_its_name_is_another_index(
    client: opensearchpy.OpenSearch, index_name: str, tmp_path: Path, encoder: Encoder
) -> None:
    fill(client, index_name, tmp_path / "store", documents(10), encoder)
    client.indices.delete(index=index_name)
    with pytest.raises(StoreMismatchError, match="--allow-other-index"):
        fill(client, index_name, tmp_path / "store", documents(10), encoder)
    report = IngestReport(InputReport())
    first_stage = opensearch(client, index_name, index_body(RECIPE.fields))
    ingest(
        documents(10),
        tmp_path / "store",
        encoder,
        recipe=RECIPE,
        report=report,
        first_stage=first_stage,
        allow_other_index=True,
    )
    assert (report.encoded, report.unchanged, report.posted) == (0, 10, 10)
    assert client.count(index=index_name)["count"] == 10
    check_origin(Store.open(tmp_path / "store"), OpenSearchCandidates(client, index_name))


def test_an_existing_index_is_encoded_without_being_changed(
    client: opensearchpy.OpenSearch, index_name: str, tmp_path: Path, encoder: Encoder
) -> None:
    """Its own ``doc_id`` means something else; its mapping, its settings and its sequence numbers stay as they are."""
    client.indices.create(
        index=index_name,
        body={
            "settings": {"number_of_shards": 3},
            "mappings": {"properties": {"doc_id": {"type": "keyword"}, "body": {"type": "text"}}},
        },
    )
    for i, document in enumerate(documents(40)):
        body = {"doc_id": f"other-{i % 3}", "body": document.fields["text"]}
        client.index(index=index_name, id=document.doc_id, body=body)
    client.indices.refresh(index=index_name)
    before = snapshot(client, index_name)
    source = OpenSearchSource(client, index_name)
    recipe = Recipe(("body",))
    report = IngestReport(InputReport())
    ingest(source, tmp_path / "store", encoder, recipe=recipe, report=report, index=source)
    assert report.encoded == 40
    store = Store.open(tmp_path / "store")
    seq_nos = {hit["_id"]: (hit["_seq_no"], hit["_primary_term"]) for hit in hits(client, index_name)}
    stored = dict(zip(seq_nos, store.describe(list(seq_nos)), strict=True))
    assert {i: (s.seq_no, s.primary_term) for i, s in stored.items() if s} == seq_nos
    candidates = OpenSearchCandidates(client, index_name, fields=recipe.fields)
    check_origin(store, candidates)
    reranker = Reranker(store, encoder)
    rankings = list(reranker.run(queries(4), candidates, 20))
    assert reranker.report.scored == reranker.report.candidates > 0
    assert {d.doc_id for r in rankings for d in r.ranked} <= set(seq_nos)
    assert snapshot(client, index_name) == before

    client.index(index=index_name, id="d0", body={"doc_id": "x", "body": "Now about tides and the moon."}, refresh=True)
    again = IngestReport(InputReport())
    source = OpenSearchSource(client, index_name)
    ingest(source, tmp_path / "store", encoder, recipe=recipe, report=again, index=source)
    assert (again.encoded, again.unchanged) == (1, 39), "only what changed is encoded again"


def test_candidates_without_vectors_are_encoded_from_the_index(
    client: opensearchpy.OpenSearch, index_name: str, tmp_path: Path, encoder: Encoder
) -> None:
    docs = documents(30)
    fill(client, f"{index_name}-all", tmp_path / "all", docs, encoder)
    fill(client, f"{index_name}-half", tmp_path / "half", docs[:15], encoder)
    stored = Reranker(Store.open(tmp_path / "all"), encoder)
    half = Reranker(Store.open(tmp_path / "half"), encoder, missing="encode")
    candidates = OpenSearchCandidates(client, f"{index_name}-all")
    of_half = half.run(queries(4), candidates, 30, allow_other_index=True)
    for whole, partly in zip(stored.run(queries(4), candidates, 30), of_half, strict=True):
        assert whole.ranked == partly.ranked, "encoded now or stored before: the same score"
    assert half.report.missing["encoded"] > 0


def test_the_readme_example_runs_as_it_stands(
    client: opensearchpy.OpenSearch,
    index_name: str,
    opensearch_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fill(client, index_name, tmp_path / "my-store", documents(30), Encoder.load("starter", device="cpu"))
    section = README.read_text(encoding="utf-8").partition("\n## In Python\n")[2].partition("\n## ")[0]
    (example,) = re.findall(r"```python\n(.*?)```", section, flags=re.S)
    query = queries(1)[0].text
    for words, ours in (
        ("http://127.0.0.1:9200", opensearch_url),  # this test's node, index and question: all else is the README's
        ("my-index", index_name),
        ("how do tides work", query),
    ):
        assert words in example
        example = example.replace(words, ours)
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(compile(example, "README.md", "exec"), {})
    lines = [line.split() for line in printed.getvalue().splitlines()]
    assert len(lines) == 10
    scores = [float(score) for score, _ in lines]
    assert scores == sorted(scores, reverse=True)


def test_writing_into_a_foreign_index_needs_a_flag(client: opensearchpy.OpenSearch, index_name: str) -> None:
    client.indices.create(index=index_name)
    with pytest.raises(UsageError, match="did not make"):
        opensearch(client, index_name, index_body(RECIPE.fields))(True)


def hits(client: opensearchpy.OpenSearch, index: str) -> list[dict[str, Any]]:
    body = {"size": 1000, "_source": False, "seq_no_primary_term": True}
    found: list[dict[str, Any]] = client.search(index=index, body=body)["hits"]["hits"]
    return found


def snapshot(client: opensearchpy.OpenSearch, index: str) -> str:
    """All of an index that a writer could change."""
    settings, mapping = client.indices.get_settings(index=index), client.indices.get_mapping(index=index)
    rows = sorted((h["_id"], h["_seq_no"]) for h in hits(client, index))
    return json.dumps([settings, mapping, rows], sort_keys=True)


def test_matrices_are_the_same_through_either_first_stage(
    client: opensearchpy.OpenSearch, index_name: str, tmp_path: Path, encoder: Encoder
) -> None:
    docs = documents(20)
    fill(client, index_name, tmp_path / "server", docs, encoder)
    ingest(docs, tmp_path / "embedded", encoder, recipe=RECIPE, report=IngestReport(InputReport()))
    ids = [d.doc_id for d in docs]
    one, other = Store.open(tmp_path / "server").gather(ids), Store.open(tmp_path / "embedded").gather(ids)
    np.testing.assert_array_equal(one.values, other.values)
    np.testing.assert_array_equal(one.offsets, other.offsets)
