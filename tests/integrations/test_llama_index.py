"""The node postprocessor for LlamaIndex."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import ImageNode, MetadataMode, NodeWithScore, QueryBundle, TextNode
from pydantic import ValidationError

from colbert_rerank.errors import InputError, MissingVectorsError
from colbert_rerank.integrations.llama_index import ColbertStoreRerank
from colbert_rerank.rerank import Missing, Reranker
from tests.integrations.given import IDS, QUERY, SCORES, TEXTS, expected, source

Opened = Callable[..., Reranker]


def given() -> list[NodeWithScore]:
    return [
        NodeWithScore(node=TextNode(id_=i, text=text, metadata={"page": 7}), score=score)
        for i, text, score in zip(IDS, TEXTS, SCORES, strict=True)
    ]


def pairs(nodes: Sequence[NodeWithScore]) -> list[tuple[str, float | None]]:
    return [(n.node_id, n.score) for n in nodes]


@pytest.mark.parametrize("missing", ["first_stage", "encode", "drop"])
def test_nodes_are_ordered_and_scored_as_the_re_ranker_does(opened: Opened, missing: Missing) -> None:
    rerank = ColbertStoreRerank(reranker=opened(missing=missing))
    want = expected(opened(missing=missing), SCORES)
    for found in (
        rerank.postprocess_nodes(given(), query_str=QUERY),
        rerank.postprocess_nodes(given(), QueryBundle(QUERY)),
        asyncio.run(rerank.apostprocess_nodes(given(), query_str=QUERY)),
    ):
        assert pairs(found) == [(d.doc_id, d.score) for d in want]
        assert [n.metadata["relevance_source"] for n in found] == [*map(source, want)]


def test_ids_without_vectors_may_be_an_error(opened: Opened) -> None:
    with pytest.raises(MissingVectorsError):
        ColbertStoreRerank(reranker=opened(missing="error")).postprocess_nodes(given(), query_str=QUERY)


def test_the_nodes_given_are_left_as_they_are_and_no_model_reads_the_mark(opened: Opened) -> None:
    nodes = given()
    before = [n.model_dump() for n in nodes]
    rerank = ColbertStoreRerank(reranker=opened())
    found = rerank.postprocess_nodes(nodes, query_str=QUERY)
    assert [n.model_dump() for n in nodes] == before
    twice = rerank.postprocess_nodes(found, query_str=QUERY)
    for node in (*found, *twice):
        assert "relevance_source" in node.metadata
        for mode in (MetadataMode.LLM, MetadataMode.EMBED):
            assert node.node.get_metadata_str(mode) == "page: 7"
        assert node.node.excluded_llm_metadata_keys == ["relevance_source"]


def test_first_stage_scores_are_mixed_in(opened: Opened) -> None:
    rerank = ColbertStoreRerank(reranker=opened(interpolate=0.3))
    want = [(d.doc_id, d.score) for d in expected(opened(interpolate=0.3), SCORES)]
    assert pairs(rerank.postprocess_nodes(given(), query_str=QUERY)) == want
    some = given()
    some[1].score = None
    with pytest.raises(InputError, match=f"document '{IDS[1]}' has no first-stage score"):
        rerank.postprocess_nodes(some, query_str=QUERY)
    without = ColbertStoreRerank(reranker=opened()).postprocess_nodes(some, query_str=QUERY)
    assert pairs(without) == [(d.doc_id, d.score) for d in expected(opened())]


def test_the_id_may_stand_in_the_metadata(opened: Opened) -> None:
    nodes = [NodeWithScore(node=ImageNode(metadata={"source": i})) for i in IDS]
    found = ColbertStoreRerank(reranker=opened(), id_key="source", top_n=7).postprocess_nodes(nodes, query_str=QUERY)
    assert [n.metadata["source"] for n in found] == [d.doc_id for d in expected(opened())[:7]]


def test_it_is_a_component(opened: Opened) -> None:
    rerank = ColbertStoreRerank(reranker=opened(), top_n=3)
    assert isinstance(rerank, BaseNodePostprocessor)
    saved = rerank.to_dict()
    assert saved == {"top_n": 3, "id_key": None, "class_name": "ColbertStoreRerank"}
    assert rerank.postprocess_nodes([], query_str=QUERY) == []


def test_nodes_that_no_id_tells_apart_are_refused(opened: Opened) -> None:
    rerank = ColbertStoreRerank(reranker=opened())
    with pytest.raises(InputError, match="given twice"):
        rerank.postprocess_nodes([given()[0], given()[0]], query_str=QUERY)
    with pytest.raises(InputError, match="needs the query"):
        rerank.postprocess_nodes(given())
    with pytest.raises(InputError, match="query is empty"):
        rerank.postprocess_nodes(given(), query_str=" ")
    with pytest.raises(InputError, match="document 1 of 24: its id 7 is not a string"):
        ColbertStoreRerank(reranker=opened(), id_key="page").postprocess_nodes(given(), query_str=QUERY)
    with pytest.raises(InputError, match="document 1 of 24: it has no id"):
        ColbertStoreRerank(reranker=opened(), id_key="source").postprocess_nodes(given(), query_str=QUERY)
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        ColbertStoreRerank(reranker=opened(), top_n=0)
