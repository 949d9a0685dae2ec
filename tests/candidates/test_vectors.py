"""Candidates by their vectors: of all of them the ranking is brute force, and each query is encoded once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from colbert_rerank.candidates.opensearch import OpenSearchCandidates
from colbert_rerank.candidates.vectors import VectorCandidates
from colbert_rerank.connection import Connection
from colbert_rerank.encoder import Encoder, QueryVectors
from colbert_rerank.errors import UsageError
from colbert_rerank.maxsim import reference
from colbert_rerank.opensearch import connect
from colbert_rerank.rerank import Ranking, Reranker
from colbert_rerank.retrieval import faiss_files
from colbert_rerank.retrieval.centroids import CentroidIndex, build
from colbert_rerank.retrieval.faiss_files import KINDS
from colbert_rerank.retrieval.faiss_index import FaissIndex
from colbert_rerank.store import Store
from tests.cli.terminal import invoke
from tests.collection import FakeIndex, documents, ingested, queries
from tests.server.rest import call

pytestmark = pytest.mark.usefixtures("one_thread")

STORED, ASKED = 120, 6


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Encoder) -> Store:
    found = ingested(tmp_path_factory.mktemp("vectors") / "store", tiny_encoder, documents(STORED))
    build(found, partitions=64)
    return found


@pytest.fixture(scope="module")
def reranker(store: Store, tiny_encoder: Encoder) -> Reranker:
    return Reranker(store, tiny_encoder)


@pytest.fixture(scope="module", params=KINDS)
def by_faiss(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, store: Store) -> Store:
    folder = tmp_path_factory.mktemp("faiss") / "store"
    shutil.copytree(store.folder, folder)
    faiss_files.build(found := Store.open(folder), request.param)
    return found


def candidates(reranker: Reranker, allowed: Sequence[str] | None = None) -> VectorCandidates:
    index = FakeIndex(documents(STORED), reranker.store.manifest.origin)
    return VectorCandidates(CentroidIndex(reranker.store), reranker.encoder, index, allowed=allowed)


def exact(reranker: Reranker, text: str) -> dict[str, float]:
    Q = reranker.encoder.encode_query(text).vectors
    ids = reranker.store.index.ids()
    gathered = reranker.store.gather(ids)
    return dict(zip(ids, reference.scores(Q, gathered.values, gathered.offsets), strict=True))


def test_of_all_documents_the_ranking_is_brute_force(reranker: Reranker) -> None:
    for ranking in reranker.run(queries(ASKED), candidates(reranker), STORED):
        scores = exact(reranker, ranking.query.text)
        assert [d.score for d in ranking.ranked] == pytest.approx(sorted(scores.values(), reverse=True), abs=1e-4)
        assert all(abs(scores[d.doc_id] - d.score) < 1e-4 for d in ranking.ranked)
        assert len(ranking.ranked) == STORED


def test_where_faiss_finds_all_vectors_the_ranking_is_brute_force(by_faiss: Store, tiny_encoder: Encoder) -> None:
    """Of all kinds of index, and in its first hundred the same documents, as far as their scores are not equal."""
    reranker, everywhere = Reranker(by_faiss, tiny_encoder), FaissIndex(by_faiss, nprobe=1 << 20, depth=1 << 20)
    index = FakeIndex(documents(STORED), by_faiss.manifest.origin)
    found = VectorCandidates(everywhere, tiny_encoder, index)
    for ranking in reranker.run(queries(ASKED), found, STORED):
        scores = exact(reranker, ranking.query.text)
        assert len(ranking.first_stage) == STORED
        assert [d.score for d in ranking.ranked] == pytest.approx(sorted(scores.values(), reverse=True), abs=1e-4)
        assert all(abs(scores[d.doc_id] - d.score) < 1e-4 for d in ranking.ranked[:100])


def test_most_of_the_best_are_found_by_faiss(by_faiss: Store, tiny_encoder: Encoder) -> None:
    reranker = Reranker(by_faiss, tiny_encoder)
    index = FakeIndex(documents(STORED), by_faiss.manifest.origin)
    found = VectorCandidates(FaissIndex(by_faiss), tiny_encoder, index, allowed=[d.doc_id for d in documents(90)])
    hits = 0
    for ranking in reranker.run(queries(ASKED), found, 50):
        scores = exact(reranker, ranking.query.text)
        best = sorted((d.doc_id for d in documents(90)), key=lambda doc_id: -scores[doc_id])[:5]
        hits += len(set(best) & {d.doc_id for d in ranking.ranked[:5]})
    assert hits >= 5 * ASKED * 0.8


def test_first_stages_are_in_order_and_of_fewer_the_first(reranker: Reranker) -> None:
    whole = list(candidates(reranker).search(queries(ASKED), STORED))
    for found, few in zip(whole, candidates(reranker).search(queries(ASKED), 10), strict=True):
        assert [(-d.score, d.doc_id) for d in found] == sorted((-d.score, d.doc_id) for d in found)
        assert {d.score for d in few} == {d.score for d in found[:10]}
        assert len(few) == 10
    with pytest.raises(UsageError, match="k must be 1 or more"):
        next(candidates(reranker).search(queries(1), 0))


def test_it_stands_in_for_maxsim(reranker: Reranker) -> None:
    """That the exact best ones are among its first is measured elsewhere; here, that it tells good from bad at all."""
    for query, found in zip(queries(ASKED), candidates(reranker).search(queries(ASKED), STORED), strict=True):
        scores = exact(reranker, query.text)
        assert np.corrcoef([d.score for d in found], [scores[d.doc_id] for d in found])[0, 1] > 0.5


def test_a_batch_is_one_after_the_other_and_each_is_encoded_once(
    reranker: Reranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def alone() -> Iterator[Ranking]:
        for query in queries(ASKED):
            yield from reranker.run([query], candidates(reranker), 30)

    expected = list(alone())
    asked: list[str] = []
    encode = Encoder.encode_query

    def told(self: Encoder, text: str) -> QueryVectors:
        asked.append(text)
        return encode(self, text)

    monkeypatch.setattr(Encoder, "encode_query", told)
    assert list(reranker.run(queries(ASKED), candidates(reranker), 30)) == expected
    assert asked == [query.text for query in queries(ASKED)]


def test_only_what_is_allowed(reranker: Reranker) -> None:
    allowed = [d.doc_id for d in documents(STORED)[::7]]
    for found in candidates(reranker, [*allowed, "nobody"]).search(queries(ASKED), STORED):
        assert sorted(d.doc_id for d in found) == sorted(allowed)


def test_what_opensearch_does_not_show_is_no_candidate(
    tmp_path: Path, tiny: Path, tiny_encoder: Encoder, opensearch_url: str, index_name: str
) -> None:
    """Deleted there, or kept from the caller by the alias that it searches by; under qualified ids as well."""
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(f'{{"_id": "{d.doc_id}", "text": "tide {n}"}}\n' for n, d in enumerate(documents(30))))
    at = ("--opensearch", opensearch_url, "--index", index_name)
    invoke("ingest", corpus, "--store", tmp_path / "store", "--model", tiny, *at).check()
    store = Store.open(tmp_path / "store")
    build(store)
    ids = [d.doc_id for d in documents(30)]
    call(opensearch_url, "DELETE", f"/{index_name}/_doc/{ids[0]}?refresh=true")
    alias = {
        "actions": [
            {"add": {"index": index_name, "alias": f"{index_name}-few", "filter": {"ids": {"values": ids[:9]}}}}
        ]
    }
    call(opensearch_url, "POST", "/_aliases", alias)
    client = connect(Connection(opensearch_url))
    for name, expected in ((index_name, ids[1:]), (f"{index_name}-few", ids[1:9])):
        found = VectorCandidates(CentroidIndex(store), tiny_encoder, OpenSearchCandidates(client, name))
        (shown,) = found.search(queries(1), 30)
        assert sorted(d.doc_id for d in shown) == sorted(expected)
    client.close()
    done = invoke("rerank", "tide 3", "--store", tmp_path / "store", "--retriever", "centroids", *at).check()
    assert ids[0] not in done.out
