"""The ranker of the rerankers library."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from rerankers import Document
from rerankers.results import RankedResults

from colbert_rerank.errors import InputError, MissingVectorsError, UsageError
from colbert_rerank.integrations.rerankers import ColbertStoreRanker
from colbert_rerank.rerank import Missing, Reranker
from tests.integrations.given import GIVEN, IDS, QUERY, TEXTS, UNKNOWN, expected, source

Opened = Callable[..., Reranker]


def pairs(results: RankedResults) -> list[tuple[str, float]]:
    return [(r.doc_id, r.score) for r in results]


def test_documents_known_by_their_ids_are_ranked_as_the_re_ranker_does(opened: Opened) -> None:
    ranked = ColbertStoreRanker(opened()).rank(QUERY, [Document(text="", doc_id=i) for i in IDS])
    want = expected(opened())
    assert [(r.doc_id, r.score, r.rank, r.relevance_source) for r in ranked] == [
        (d.doc_id, d.score, rank, source(d)) for rank, d in enumerate(want, start=1)
    ]
    assert ranked.query == QUERY
    assert ranked.has_scores
    assert [r.doc_id for r in ranked.top_k(3)] == [d.doc_id for d in want[:3]]
    assert [r.doc_id for r in ranked.results[-4:]] == UNKNOWN


@pytest.mark.parametrize("missing", ["first_stage", "encode", "drop"])
def test_ids_without_vectors_go_by_the_policy(opened: Opened, missing: Missing) -> None:
    ranked = ColbertStoreRanker(opened(missing=missing)).rank(QUERY, TEXTS, doc_ids=IDS)
    assert pairs(ranked) == [(d.doc_id, d.score) for d in expected(opened(missing=missing))]


def test_a_text_that_came_along_is_encoded_and_an_id_alone_is_not(opened: Opened) -> None:
    docs = [Document(text="" if i == UNKNOWN[0] else text, doc_id=i) for i, text in zip(IDS, TEXTS, strict=True)]
    ranked = ColbertStoreRanker(opened(missing="encode")).rank(QUERY, docs)
    assert [r.doc_id for r in ranked if r.relevance_source == "first_stage"] == [UNKNOWN[0]]


def test_ids_without_vectors_may_be_an_error(opened: Opened) -> None:
    with pytest.raises(MissingVectorsError, match="4 of 24 candidates"):
        ColbertStoreRanker(opened(missing="error")).rank(QUERY, TEXTS, doc_ids=IDS)


def test_the_documents_given_are_left_as_they_are(opened: Opened, capsys: pytest.CaptureFixture[str]) -> None:
    metadata = {"page": 7}
    docs = [Document(text=t, doc_id=f"old-{i}", metadata=metadata) for i, t in zip(IDS, TEXTS, strict=True)]
    ranked = ColbertStoreRanker(opened()).rank(QUERY, docs, doc_ids=IDS)
    assert {r.doc_id for r in ranked} == {*IDS}
    assert {r.metadata["page"] for r in ranked} == {7}
    assert [d.doc_id for d in docs] == [f"old-{i}" for i in IDS]
    assert metadata == {"page": 7}
    assert capsys.readouterr().out == ""


def test_one_document_and_none(opened: Opened) -> None:
    ranker = ColbertStoreRanker(opened())
    assert [r.doc_id for r in ranker.rank(QUERY, "", doc_ids=IDS[-1])] == [IDS[-1]]
    assert [r.doc_id for r in ranker.rank(QUERY, Document(text="", doc_id=IDS[-1]))] == [IDS[-1]]
    assert ranker.rank(QUERY, []).results == []


def test_many_at_once_are_ranked_each_as_alone(opened: Opened) -> None:
    ranker = ColbertStoreRanker(opened(missing="encode"))
    asked = [f"{QUERY} {n}" for n in range(8)]

    async def all_at_once() -> list[RankedResults]:
        return await asyncio.gather(*(ranker.rank_async(query, TEXTS, IDS) for query in asked))

    assert [*map(pairs, asyncio.run(all_at_once()))] == [pairs(ranker.rank(query, TEXTS, IDS)) for query in asked]


def test_a_text_has_the_score_it_would_have_in_the_store(opened: Opened) -> None:
    ranker = ColbertStoreRanker(opened())
    stored = {d.doc_id: d.score for d in expected(opened()) if d.scored}
    for document, text in zip(GIVEN[4:8], TEXTS[4:8], strict=True):
        assert ranker.score(QUERY, text) == stored[document.doc_id]
    with pytest.raises(InputError, match="the text is empty"):
        ranker.score(QUERY, " ")
    with pytest.raises(InputError, match="the text is empty"):
        ColbertStoreRanker(opened(missing="drop")).score(QUERY, " ")
    with pytest.raises(UsageError, match="interpolate"):
        ColbertStoreRanker(opened(interpolate=0.5)).score(QUERY, TEXTS[0])


def test_documents_that_no_id_tells_apart_are_refused(opened: Opened) -> None:
    ranker = ColbertStoreRanker(opened())
    with pytest.raises(InputError, match="document 1 of 24: it has no id"):
        ranker.rank(QUERY, TEXTS)
    with pytest.raises(InputError, match="document 2 of 2: it has no id"):
        ranker.rank(QUERY, [Document(text="", doc_id=IDS[0]), Document(text="", doc_id="")])
    with pytest.raises(InputError, match="document 1 of 2: its id 0 is not a string"):
        ranker.rank(QUERY, TEXTS[:2], doc_ids=[0, 1])  # type: ignore[list-item]
    with pytest.raises(InputError, match="given twice"):
        ranker.rank(QUERY, TEXTS[:2], doc_ids=[IDS[0], IDS[0]])
    with pytest.raises(InputError, match="1 doc_ids for 2 documents"):
        ranker.rank(QUERY, TEXTS[:2], doc_ids=IDS[:1])
    with pytest.raises(InputError, match="query is empty"):
        ranker.rank(" ", TEXTS, doc_ids=IDS)


def test_its_langchain_compressor_goes_by_ids(opened: Opened) -> None:
    from langchain_core.documents import Document as LangChainDocument

    compressor = ColbertStoreRanker(opened()).as_langchain_compressor(k=5)
    found = compressor.compress_documents([LangChainDocument(page_content="", id=i) for i in IDS], QUERY)
    assert [d.id for d in found] == [d.doc_id for d in expected(opened())[:5]]
