"""Windows over long texts, and pooled vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from scipy.cluster.hierarchy import fcluster, ward
from scipy.spatial.distance import pdist

from colbert_rerank.encoder import Encoder
from colbert_rerank.errors import StoreMismatchError, UsageError
from colbert_rerank.maxsim import reference
from colbert_rerank.pooling import pooled
from colbert_rerank.recipe import Recipe
from colbert_rerank.rerank import Reranker
from colbert_rerank.types import Document
from tests.collection import ingested

pytestmark = pytest.mark.usefixtures("one_thread")

WORDS = [f"word{i}" for i in range(400)]
LONG, SHORT = " ".join(WORDS), "a short one"
DOCUMENTS = [Document("long", {"text": LONG}), Document("short", {"text": SHORT})]


def test_windows_cover_the_text(tiny_encoder: Encoder) -> None:
    rules = tiny_encoder.checkpoint.spec.document
    before, after = len(rules.prefix_ids), len(rules.suffix_ids)
    ids = tiny_encoder.checkpoint.tokenizer.backend_tokenizer.encode(LONG, add_special_tokens=False).ids
    for stride in (1, 7, rules.room - 1, rules.room):
        (found,) = tiny_encoder.tokenize_documents([LONG], stride=stride)
        texts = [window.ids[before : len(window.ids) - after] for window in found.windows]
        for number, text in enumerate(texts):
            assert text == ids[number * stride :][: rules.room]
        assert (len(texts) - 1) * stride + rules.room >= len(ids), "the last one reaches the end"
        assert (len(texts) - 2) * stride + rules.room < len(ids), "and it is needed"
        assert all(len(window.ids) <= rules.length for window in found.windows)
        assert found.truncated == 0
    assert tiny_encoder.tokenize_documents([LONG])[0].truncated > 0


def test_a_text_that_fits_is_one_window(tiny_encoder: Encoder) -> None:
    room = tiny_encoder.checkpoint.spec.document.room
    ids = tiny_encoder.checkpoint.tokenizer.backend_tokenizer.encode(LONG, add_special_tokens=False)
    fitting = LONG[: ids.offsets[room - 1][1]]
    for text in (fitting, SHORT, ""):
        assert tiny_encoder.tokenize_documents([text], stride=5) == tiny_encoder.tokenize_documents([text])


def test_the_vectors_of_windows_are_those_of_each_by_itself(tiny_encoder: Encoder) -> None:
    texts = [SHORT, LONG, SHORT + " again", LONG[: len(LONG) // 2]]
    tokens = tiny_encoder.tokenize_documents(texts, stride=50)
    for one, matrix in zip(tokens, tiny_encoder.encode_tokens(tokens), strict=True):
        alone = tiny_encoder.encode_tokens([window._replace(more=()) for window in one.windows])
        assert np.array_equal(matrix, np.concatenate(alone))


def test_the_score_is_maxsim_over_all_windows(tmp_path: Path, tiny_encoder: Encoder) -> None:
    recipe = Recipe(("text",), stride=40)
    store = ingested(tmp_path / "store", tiny_encoder, DOCUMENTS, recipe=recipe)
    assert store.manifest.recipe == recipe
    query = WORDS[-1]  # which a cut text does not hold
    (Q,) = tiny_encoder.encode_queries([query])
    (tokens,) = tiny_encoder.tokenize_documents([LONG], stride=40)
    rows = tiny_encoder.encode_tokens([t._replace(more=()) for t in tokens.windows], np.float16)
    assert len(rows) > 5
    per_window = np.array([(Q @ matrix.astype(np.float32).T).max(axis=1) for matrix in rows])
    ranked = {d.doc_id: d.score for d in Reranker(store, tiny_encoder).rerank(query, [("long", 2.0), ("short", 1.0)])}
    assert ranked["long"] == pytest.approx(per_window.max(axis=0).sum(), abs=1e-4)
    cut = ingested(tmp_path / "cut", tiny_encoder, DOCUMENTS, recipe=Recipe(("text",)))
    ranked_cut = {d.doc_id: d.score for d in Reranker(cut, tiny_encoder).rerank(query, [("long", 2.0), ("short", 1.0)])}
    assert ranked["long"] > ranked_cut["long"] + 1e-3
    assert ranked["short"] == ranked_cut["short"]


@pytest.mark.parametrize(
    "recipe", [Recipe(("text",), stride=40), Recipe(("text",), pool_factor=2)], ids=["stride", "pool"]
)
def test_both_are_document_identity(tmp_path: Path, tiny_encoder: Encoder, recipe: Recipe) -> None:
    store = ingested(tmp_path / "store", tiny_encoder, DOCUMENTS, recipe=recipe)
    for other in (Recipe(("text",)), recipe._replace(stride=20), recipe._replace(pool_factor=3)):
        with pytest.raises(StoreMismatchError, match="made with another way of making texts"):
            ingested(store.folder, tiny_encoder, DOCUMENTS, recipe=other)
    again = ingested(store.folder, tiny_encoder, DOCUMENTS, recipe=recipe)
    assert again.manifest.segments == store.manifest.segments


@pytest.mark.parametrize(
    "recipe", [Recipe(("text",), stride=40), Recipe(("text",), pool_factor=2)], ids=["stride", "pool"]
)
def test_what_is_encoded_at_search_is_encoded_in_the_same_way(
    tmp_path: Path, tiny_encoder: Encoder, recipe: Recipe
) -> None:
    whole = ingested(tmp_path / "whole", tiny_encoder, DOCUMENTS, recipe=recipe, codec="float32")
    part = ingested(tmp_path / "part", tiny_encoder, DOCUMENTS[1:], recipe=recipe, codec="float32")
    candidates = [("long", 2.0), ("short", 1.0)]
    stored = Reranker(whole, tiny_encoder).rerank(WORDS[300], candidates)
    now = Reranker(part, tiny_encoder, missing="encode").rerank(WORDS[300], candidates, fetch=lambda ids: DOCUMENTS[:1])
    assert stored == now


def test_strides_that_leave_tokens_out(tiny_encoder: Encoder) -> None:
    room = tiny_encoder.checkpoint.spec.document.room
    for stride in (-1, room + 1):
        with pytest.raises(UsageError, match=f"a stride of {stride} tokens: windows of this model hold 1 to {room}"):
            tiny_encoder.tokenize_documents([LONG], stride=stride)


def unit_vectors(count: int, seed: int = 1) -> npt.NDArray[np.float32]:
    found = np.random.default_rng(seed).standard_normal((count, 16)).astype(np.float32)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7, 40])
def test_so_many_are_left(factor: int, count: int) -> None:
    found = pooled(unit_vectors(count), factor)
    assert found.shape == (min(count, 1 + max(1, (count - 1) // factor)), 16)
    assert np.array_equal(found[:1], unit_vectors(count)[:1]), "[CLS] is left alone"


def test_clusters_are_those_of_ward_over_the_matrix_of_distances() -> None:
    """As published; written again, from distances between its rows."""
    vectors = unit_vectors(31)
    rest = vectors[1:]
    labels = fcluster(ward(pdist(1 - rest @ rest.T)), t=15, criterion="maxclust")
    expected = {tuple(np.round(rest[labels == label].mean(axis=0), 5)) for label in set(labels.tolist())}
    assert {tuple(np.round(row, 5)) for row in pooled(vectors, 2)[1:]} == expected


def test_what_is_alike_becomes_one() -> None:
    three = unit_vectors(3, seed=2)
    vectors = np.concatenate([unit_vectors(1), three, three, three])
    found = pooled(vectors, 3)
    assert sorted(map(tuple, np.round(found[1:], 5))) == sorted(map(tuple, np.round(three, 5)))
    query = unit_vectors(4, seed=3)
    assert reference.maxsim(query, found) == pytest.approx(reference.maxsim(query, vectors), abs=1e-5)


def test_pooled_documents_are_smaller(tmp_path: Path, tiny_encoder: Encoder) -> None:
    plain = ingested(tmp_path / "plain", tiny_encoder, DOCUMENTS, recipe=Recipe(("text",)))
    half = ingested(tmp_path / "half", tiny_encoder, DOCUMENTS, recipe=Recipe(("text",), pool_factor=2))
    assert half.manifest.rows < 0.6 * plain.manifest.rows
    assert np.array_equal(half.gather(["long"]).matrices()[0][0], plain.gather(["long"]).matrices()[0][0])
