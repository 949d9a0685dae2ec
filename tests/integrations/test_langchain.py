"""The document compressor for LangChain. langchain-tests has no standard tests for compressors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from copy import deepcopy

import pytest
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.runnables import RunnableLambda
from pydantic import ValidationError

from colbert_rerank.errors import InputError, MissingVectorsError
from colbert_rerank.integrations.langchain import ColbertStoreRerank
from colbert_rerank.rerank import Missing, Reranker
from tests.integrations.given import IDS, QUERY, TEXTS, UNKNOWN, expected, source

Opened = Callable[..., Reranker]


def given() -> list[Document]:
    return [Document(page_content=text, id=i, metadata={"n": [1]}) for i, text in zip(IDS, TEXTS, strict=True)]


def pairs(documents: Sequence[Document]) -> list[tuple[str | None, float]]:
    return [(d.id, d.metadata["relevance_score"]) for d in documents]


@pytest.mark.parametrize("missing", ["first_stage", "encode", "drop"])
def test_documents_are_ordered_and_scored_as_the_re_ranker_does(opened: Opened, missing: Missing) -> None:
    found = ColbertStoreRerank(reranker=opened(missing=missing)).compress_documents(given(), QUERY)
    want = expected(opened(missing=missing))
    assert pairs(found) == [(d.doc_id, d.score) for d in want]
    assert [d.metadata["relevance_source"] for d in found] == [*map(source, want)]
    texts = dict(zip(IDS, TEXTS, strict=True))
    assert all(d.id and d.page_content == texts[d.id] and d.metadata["n"] == [1] for d in found)


def test_ids_without_vectors_may_be_an_error(opened: Opened) -> None:
    with pytest.raises(MissingVectorsError):
        ColbertStoreRerank(reranker=opened(missing="error")).compress_documents(given(), QUERY)


def test_the_documents_given_are_left_as_they_are(opened: Opened) -> None:
    documents = given()
    before = deepcopy(documents)
    found = ColbertStoreRerank(reranker=opened()).compress_documents(documents, QUERY)
    assert documents == before
    assert all(one is not other and one.metadata is not other.metadata for one in found for other in documents)


def test_the_id_may_stand_in_the_metadata(opened: Opened) -> None:
    documents = [Document(page_content="", id=f"chunk-{n}", metadata={"source": i}) for n, i in enumerate(IDS)]
    compressor = ColbertStoreRerank(reranker=opened(), id_key="source", top_n=7)
    found = compressor.compress_documents(documents, QUERY)
    assert [d.metadata["source"] for d in found] == [d.doc_id for d in expected(opened())[:7]]


def test_places_stand_for_first_stage_scores(opened: Opened) -> None:
    found = ColbertStoreRerank(reranker=opened(interpolate=0.5)).compress_documents(given(), QUERY)
    assert pairs(found) == [(d.doc_id, d.score) for d in expected(opened(interpolate=0.5))]


def test_many_at_once_are_ranked_each_as_alone(opened: Opened) -> None:
    compressor = ColbertStoreRerank(reranker=opened(missing="encode"))
    asked = [f"{QUERY} {n}" for n in range(8)]

    async def all_at_once() -> list[Sequence[Document]]:
        return await asyncio.gather(*(compressor.acompress_documents(given(), query) for query in asked))

    alone = [pairs(compressor.compress_documents(given(), query)) for query in asked]
    assert [*map(pairs, asyncio.run(all_at_once()))] == alone


def test_it_is_a_compressor_and_part_of_a_chain(opened: Opened) -> None:
    compressor = ColbertStoreRerank(reranker=opened(), top_n=3)
    assert isinstance(compressor, BaseDocumentCompressor)
    first: RunnableLambda[str, list[Document]] = RunnableLambda(lambda _: given())
    chain = first | RunnableLambda(lambda found: compressor.compress_documents(found, QUERY))
    assert pairs(chain.invoke(QUERY)) == [(d.doc_id, d.score) for d in expected(opened())[:3]]
    assert compressor.model_dump() == {"top_n": 3, "id_key": None}
    assert compressor.compress_documents([], QUERY) == []


def test_documents_that_no_id_tells_apart_are_refused(opened: Opened) -> None:
    compressor = ColbertStoreRerank(reranker=opened())
    known, unknown = Document(page_content="a", id=IDS[0]), Document(page_content="b")
    with pytest.raises(InputError, match="document 2 of 2: it has no id"):
        compressor.compress_documents([known, unknown], QUERY)
    with pytest.raises(InputError, match="given twice"):
        compressor.compress_documents([known, known], QUERY)
    by_key = ColbertStoreRerank(reranker=opened(), id_key="n")
    with pytest.raises(InputError, match="document 1 of 1: it has no id"):
        by_key.compress_documents([known], QUERY)
    with pytest.raises(InputError, match="document 1 of 1: its id 7 is not a string"):
        by_key.compress_documents([Document(page_content="a", id="7", metadata={"n": 7})], QUERY)
    with pytest.raises(InputError, match="query is empty"):
        compressor.compress_documents(given(), "")


def test_options_that_make_no_sense_are_refused(opened: Opened) -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        ColbertStoreRerank(reranker=opened(), top_n=0)
    with pytest.raises(ValidationError, match="Extra inputs"):
        ColbertStoreRerank(reranker=opened(), top_k=3)  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="instance of Reranker"):
        ColbertStoreRerank(reranker="my-store")  # type: ignore[arg-type]


def test_unknown_ids_follow_all_others(opened: Opened) -> None:
    found = ColbertStoreRerank(reranker=opened()).compress_documents(given(), QUERY)
    assert [d.id for d in found[-4:]] == UNKNOWN
