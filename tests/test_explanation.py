"""An explanation adds up to the score, names the tokens of the stored vectors, and claims nothing it cannot know."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from colbert_rerank.encoder import Encoder
from colbert_rerank.errors import InputError
from colbert_rerank.explanation import CHANGED, NO_TEXT, NOT_ITS, POOLED, explain, similarity
from colbert_rerank.maxsim import reference
from colbert_rerank.recipe import Recipe
from colbert_rerank.rerank import Reranker
from colbert_rerank.store import Store
from tests.cli.terminal import invoke
from tests.collection import RECIPE, documents, ingested, queries

DOC = documents(1)[0]
TEXT = RECIPE.text(DOC.fields)
QUERY = queries(1)[0].text


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Encoder) -> Store:
    return ingested(tmp_path_factory.mktemp("explained") / "store", tiny_encoder, documents(6))


@pytest.fixture(scope="module")
def reranker(store: Store, tiny_encoder: Encoder) -> Reranker:
    return Reranker(store, tiny_encoder)


def test_it_adds_up_to_the_score(reranker: Reranker) -> None:
    for doc in documents(6):
        for query in queries(3):
            found = explain(reranker, query.text, doc.doc_id, RECIPE.text(doc.fields))
            (ranked,) = reranker.rerank(query.text, [(doc.doc_id, 0.0)])
            assert found.score == ranked.score
            assert sum(match.similarity for match in found.matches) == pytest.approx(found.score, abs=1e-4)


def test_tokens_are_those_whose_vectors_are_stored(reranker: Reranker, tiny_encoder: Encoder) -> None:
    found = explain(reranker, QUERY, DOC.doc_id, TEXT)
    assert found.tokens is not None
    assert found.tokens[0] == "[CLS]"
    words = [token for token in found.tokens if not token.startswith("[")]
    assert "." not in words, "punctuation is encoded, and its vectors are not kept"
    assert "".join(words).replace("##", "").startswith("".join(c for c in TEXT.lower() if c.isalnum())[:30])
    matrix = reranker.store.gather([DOC.doc_id]).matrices()[0]
    (Q,) = tiny_encoder.encode_queries([QUERY])
    assert len(found.matches) == len(Q)
    for q, match in zip(Q, found.matches, strict=True):
        assert match.similarity == pytest.approx(reference.maxsim([q], matrix))
        assert match.similarity == pytest.approx(reference.maxsim([q], matrix[match.row : match.row + 1]))
    assert [match.query_token for match in found.matches][:1] == ["[CLS]"]


def test_windows_are_one_after_the_other(tmp_path: Path, tiny_encoder: Encoder) -> None:
    recipe = Recipe(RECIPE.fields, stride=tiny_encoder.checkpoint.spec.document.room // 2)
    long = DOC._replace(fields={"text": " ".join(RECIPE.text(d.fields) for d in documents(8))})
    store = ingested(tmp_path / "store", tiny_encoder, [long], recipe=recipe)
    found = explain(Reranker(store, tiny_encoder), QUERY, long.doc_id, recipe.text(long.fields))
    assert found.tokens is not None
    assert found.tokens.count("[CLS]") > 1
    assert len(found.tokens) == len(store.gather([long.doc_id]).values)


def test_what_cannot_be_known_is_not_claimed(reranker: Reranker, tmp_path: Path, tiny_encoder: Encoder) -> None:
    for text, why in ((None, NO_TEXT), (TEXT + " and more", CHANGED), ("", CHANGED)):
        found = explain(reranker, QUERY, DOC.doc_id, text)
        assert (found.tokens, found.why_not) == (None, why)
        assert len(found.matches) > 10, "which vectors were chosen is known all the same"
    pooled = ingested(tmp_path / "store", tiny_encoder, documents(2), recipe=Recipe(RECIPE.fields, pool_factor=2))
    assert explain(Reranker(pooled, tiny_encoder), QUERY, DOC.doc_id, TEXT).why_not == POOLED


def test_a_text_that_gives_another_number_of_vectors(reranker: Reranker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("colbert_rerank.explanation.kept_ids", lambda encoder, tokens: tokens.ids)
    assert explain(reranker, QUERY, DOC.doc_id, TEXT).why_not == NOT_ITS


def test_a_document_that_is_not_there(reranker: Reranker) -> None:
    with pytest.raises(InputError, match="'gone' has no vectors"):
        explain(reranker, QUERY, "gone", None)
    with pytest.raises(InputError, match="query is empty"):
        explain(reranker, " ", DOC.doc_id, None)


@pytest.mark.parametrize("kind", ["dot", "l2"])
def test_similarities_are_those_of_the_reference(kind: str) -> None:
    rng = np.random.default_rng(0)
    Q, D = rng.standard_normal((3, 7)).astype(np.float32), rng.standard_normal((5, 7)).astype(np.float32)
    expected = [[reference.maxsim([q], [d], kind) for d in D] for q in Q]
    np.testing.assert_allclose(similarity(Q, D, kind), expected)


def test_in_a_terminal(store: Store, tiny: Path) -> None:
    arguments = ("explain", QUERY, DOC.doc_id, "--store", store.folder, "--model", tiny)
    shown = invoke(*arguments)
    found = json.loads(invoke(*arguments, "--json").out)
    first, head, *rows = shown.out.splitlines()
    assert first == f"{DOC.doc_id}: {found['score']:.6f}"
    assert head.split() == ["query", "document", "row", "similarity", "share"]
    assert len(rows) == len(found["matches"])
    assert sum(match["share"] for match in found["matches"]) == pytest.approx(1)
    assert found["tokens"][found["matches"][0]["row"]] == found["matches"][0]["document_token"]
    assert found["why_not"] is None
    refused = invoke("explain", QUERY, "gone", "--store", store.folder, "--model", tiny)
    assert (refused.status, "has no vectors" in refused.error) == (1, True)
