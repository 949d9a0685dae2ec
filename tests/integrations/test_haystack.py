"""The ranker component for Haystack, alone and in a pipeline that is saved and loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from haystack import Document, Pipeline
from haystack.components.joiners import DocumentJoiner
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.telemetry import _telemetry

from colbert_rerank.errors import InputError, MissingVectorsError, StoreNotFoundError, UsageError
from colbert_rerank.integrations.haystack import ColbertStoreRanker
from colbert_rerank.rerank import Missing, Reranker
from colbert_rerank.store import Store
from tests.integrations.given import IDS, QUERY, SCORES, TEXTS, expected, source

Opened = Callable[..., Reranker]
Made = Callable[..., ColbertStoreRanker]


def given() -> list[Document]:
    return [
        Document(id=i, content=text, score=score, meta={"page": 7})
        for i, text, score in zip(IDS, TEXTS, SCORES, strict=True)
    ]


def pairs(documents: Sequence[Document]) -> list[tuple[str, float | None]]:
    return [(d.id, d.score) for d in documents]


@pytest.fixture
def ranker(store: Store, tiny: Path, one_thread: None) -> Callable[..., ColbertStoreRanker]:
    def made(**options: Any) -> ColbertStoreRanker:
        return ColbertStoreRanker(str(store.folder), model=str(tiny), device="cpu", **options)

    return made


def is_open(component: ColbertStoreRanker) -> bool:
    return component.reranker is not None


def test_nothing_is_told_to_anyone() -> None:
    assert _telemetry.telemetry is None


@pytest.mark.parametrize("missing", ["first_stage", "encode", "drop"])
def test_documents_are_ordered_and_scored_as_the_re_ranker_does(ranker: Made, opened: Opened, missing: Missing) -> None:
    found = ranker(missing=missing).run(QUERY, given())["documents"]
    want = expected(opened(missing=missing), SCORES)
    assert pairs(found) == [(d.doc_id, d.score) for d in want]
    assert [d.meta for d in found] == [{"page": 7, "relevance_source": source(d)} for d in want]


def test_ids_without_vectors_may_be_an_error(ranker: Made) -> None:
    with pytest.raises(MissingVectorsError):
        ranker(missing="error").run(QUERY, given())


def test_the_documents_given_are_left_as_they_are(ranker: Made) -> None:
    documents = given()
    ranker().run(QUERY, documents)
    assert documents == given()


def test_it_is_opened_once_by_warm_up_or_by_the_first_run(ranker: Made) -> None:
    component = ranker(top_k=3)
    assert not is_open(component)
    component.warm_up()
    opened = component.reranker
    assert is_open(component)
    assert len(component.run(QUERY, given())["documents"]) == 3
    assert len(component.run(QUERY, given(), top_k=5)["documents"]) == 5
    component.warm_up()
    assert component.reranker is opened
    with pytest.raises(StoreNotFoundError):
        ColbertStoreRanker("no-such-store").warm_up()


def test_first_stage_scores_are_mixed_in(ranker: Made, opened: Opened) -> None:
    want = expected(opened(interpolate=0.3), SCORES)
    assert pairs(ranker(interpolate=0.3).run(QUERY, given())["documents"]) == [(d.doc_id, d.score) for d in want]


def test_the_id_may_stand_in_the_meta(ranker: Made, opened: Opened) -> None:
    documents = [Document(content=f"chunk {n}", meta={"source_id": i}) for n, i in enumerate(IDS)]
    found = ranker(id_key="source_id", top_k=7).run(QUERY, documents)["documents"]
    assert [d.meta["source_id"] for d in found] == [d.doc_id for d in expected(opened())[:7]]


def test_it_goes_on_in_a_pipeline_that_was_saved(ranker: Made, store: Store, tiny: Path) -> None:
    documents = InMemoryDocumentStore()
    documents.write_documents([Document(id=i, content=text) for i, text in zip(IDS, TEXTS, strict=True)])
    pipeline = Pipeline()
    pipeline.add_component("retriever", InMemoryBM25Retriever(documents, top_k=12))
    pipeline.add_component("joiner", DocumentJoiner())
    pipeline.add_component("ranker", ranker(top_k=5, id_key=None, missing="drop"))
    pipeline.connect("retriever.documents", "joiner.documents")
    pipeline.connect("joiner.documents", "ranker.documents")
    asked = {"retriever": {"query": QUERY}, "ranker": {"query": QUERY}}
    found = pipeline.run(asked)["ranker"]["documents"]
    assert len(found) == 5

    loaded = Pipeline.loads(pipeline.dumps(), allowed_modules=["colbert_rerank.*"])
    assert loaded.to_dict()["components"] == pipeline.to_dict()["components"]
    component = loaded.get_component("ranker")
    assert isinstance(component, ColbertStoreRanker)
    assert not is_open(component), "saved is where the store is, not what is in it"
    options = {"model": str(tiny), "device": "cpu", "missing": "drop"}
    assert component.options == options
    saved = {"store": str(store.folder), "top_k": 5, "id_key": None, **options}
    assert component.to_dict()["init_parameters"] == saved
    component.warm_up()
    assert component.reranker is not None
    retrieved = documents.bm25_retrieval(QUERY, top_k=12)
    want = component.reranker.rerank(QUERY, [(d.id, d.score or 0.0) for d in retrieved])[:5]
    assert pairs(found) == [(d.doc_id, d.score) for d in want]


def test_documents_that_no_id_tells_apart_are_refused(ranker: Made) -> None:
    component = ranker()
    assert component.run(QUERY, []) == {"documents": []}
    with pytest.raises(InputError, match="given twice"):
        component.run(QUERY, [given()[0], given()[0]])
    with pytest.raises(InputError, match="query is empty"):
        component.run("", given())
    with pytest.raises(InputError, match="document 1 of 24: its id 7 is not a string"):
        ranker(id_key="page").run(QUERY, given())
    with pytest.raises(InputError, match="document 1 of 24: it has no id"):
        ranker(id_key="source_id").run(QUERY, given())
    for top_k in (0, -1):
        with pytest.raises(UsageError, match=f"top_k={top_k}: expected 1 or more"):
            component.run(QUERY, given(), top_k=top_k)
        with pytest.raises(UsageError, match=f"top_k={top_k}: expected 1 or more"):
            ranker(top_k=top_k)
