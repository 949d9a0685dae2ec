"""The embedded index: the same hits however it came to be, and no query that it cannot take."""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colbert_rerank.candidates import bm25
from colbert_rerank.candidates.bm25 import Bm25Index, origin_of
from colbert_rerank.errors import StoreWriteError
from colbert_rerank.types import Query, ScoredDoc
from tests.collection import documents, empty_manifest, queries, texts

MANIFEST = empty_manifest()
COPIES = 50
COPY = "The Hoover Dam is a concrete arch gravity dam in the Black Canyon of the Colorado River"

Posted = tuple[str, str, dict[str, object]]


def posted(doc_id: str, text: str) -> Posted:
    return doc_id, text, {"text": text}


def indexed(folder: Path, commits: Iterable[Sequence[Posted]]) -> Bm25Index:
    index = Bm25Index.create_or_open(folder, MANIFEST)
    for content, commit in enumerate(commits, 1):
        index.add(commit, content)
    return index


def hits(index: Bm25Index, text: str, k: int = 10) -> list[ScoredDoc]:
    [found] = index.search([Query("q", text)], k)
    return found


def ids(index: Bm25Index, text: str, k: int = 10) -> list[str]:
    return [d.doc_id for d in hits(index, text, k)]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Bm25Index:
    """400 paragraphs in one commit."""
    return indexed(tmp_path_factory.mktemp("real"), [_real()])


def _real() -> list[Posted]:
    return [posted(d.doc_id, text) for d, text in zip(documents(400), texts(400), strict=True)]


def test_best_first_and_ids_break_ties(real: Bm25Index) -> None:
    for query, found in zip(queries(20), real.search(queries(20), 30), strict=True):
        assert len(found) == 30
        assert found == sorted(found, key=lambda d: (-d.score, d.doc_id))
        assert {d.query_id for d in found} == {query.query_id}
        assert all(math.isfinite(d.score) and d.score > 0 for d in found)


def test_the_same_query_gives_the_same_hits(real: Bm25Index) -> None:
    whole = list(real.search(queries(20), 50))
    assert list(real.search(queries(20), 50)) == whole
    again = Bm25Index.open_for(real.folder.parent, empty_manifest(content=1))
    assert list(again.search(queries(20)[::-1], 50))[::-1] == whole


def test_a_smaller_k_gives_the_head_of_a_greater_one(real: Bm25Index) -> None:
    whole = hits(real, queries(1)[0].text, 300)
    assert len(whole) > 100
    for k in (1, 2, 10, 99):
        assert hits(real, queries(1)[0].text, k) == whole[:k]


def layouts() -> dict[str, list[list[Posted]]]:
    """One collection, brought in by many ways: paragraphs, and 50 copies of one more."""
    whole = [*_real(), *(posted(f"copy-{i:02}", COPY) for i in range(COPIES))]
    mixed = random.Random(3).sample(whole, len(whole))
    return {
        "in-order": [whole],
        "backwards": [whole[::-1]],
        "mixed": [mixed],
        "five-commits": [mixed[i::5] for i in range(5)],
        "twenty-commits": [mixed[i::20] for i in range(20)],  # more than tantivy leaves unmerged
        "one-by-one": [whole[:400], *([p] for p in whole[400:420]), whole[420:]],
        "posted-again": [mixed[:300], mixed, mixed[::2]],
        "two-of-an-id": [mixed, [], [posted("copy-07", COPY)]],
    }


@pytest.fixture(scope="module", params=list(layouts())[1:])
def laid_out(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bm25Index:
    return indexed(tmp_path_factory.mktemp("layout"), layouts()[request.param])


@pytest.fixture(scope="module")
def in_order(tmp_path_factory: pytest.TempPathFactory) -> Bm25Index:
    return indexed(tmp_path_factory.mktemp("layout"), layouts()["in-order"])


def test_hits_do_not_depend_on_how_documents_came_in(laid_out: Bm25Index, in_order: Bm25Index) -> None:
    """To the bit: floats added in another order would give another score, and copies would not tie."""
    asked = [*queries(60), *(Query("copy", text) for text in (COPY, "canyon gravity dam river", COPY + " " + COPY))]
    for k in (10, 100):
        assert list(laid_out.search(asked, k)) == list(in_order.search(asked, k))


def test_copies_across_the_cut_are_chosen_by_id(laid_out: Bm25Index) -> None:
    for k in (1, 7, 49, 50):
        found = hits(laid_out, COPY, k)
        assert [d.doc_id for d in found] == [f"copy-{i:02}" for i in range(k)]
        assert len({d.score for d in found}) == 1


def test_the_cut_within_more_copies_than_are_looked_at_first(tmp_path: Path) -> None:
    names = [f"{i:04}" for i in range(700)]
    shuffled = random.Random(1).sample(names, len(names))
    index = indexed(tmp_path, [[posted(i, "same words") for i in shuffled[n::3]] for n in range(3)])
    assert ids(index, "words", 5) == names[:5]
    assert ids(index, "same words", 699) == names[:699]


def test_a_replaced_document_is_found_by_its_new_words_only(tmp_path: Path) -> None:
    index = indexed(tmp_path, [[posted("a", "one fish"), posted("b", "two fish")], [posted("b", "blue whale")]])
    assert ids(index, "whale") == ["b"]
    assert ids(index, "two") == []
    assert ids(index, "fish") == ["a"]
    assert [d.fields for d in index.fetch(["b"])] == [{"text": "blue whale"}]


def test_a_document_given_twice_in_one_commit_is_there_once_and_the_last(tmp_path: Path) -> None:
    index = indexed(tmp_path, [[posted("a", "one fish"), posted("a", "blue whale")]])
    assert ids(index, "fish whale") == ["a"]
    assert [d.fields for d in index.fetch(["a"])] == [{"text": "blue whale"}]


def test_copies_tie_after_others_were_replaced(tmp_path: Path) -> None:
    whole = layouts()["in-order"][0]
    replaced = [posted(f"copy-{i:02}", "now something else entirely") for i in range(0, COPIES, 2)]
    restored = [posted(f"copy-{i:02}", COPY) for i in range(0, COPIES, 4)]
    index = indexed(tmp_path, [whole[::3], whole[1::3], whole[2::3], replaced, restored])
    left = [f"copy-{i:02}" for i in range(COPIES) if i % 2 or i % 4 == 0]
    found = hits(index, COPY, COPIES)[: len(left)]
    assert [d.doc_id for d in found] == left
    assert len({d.score for d in found}) == 1


ODD_QUERIES = {
    "operators": "fish AND NOT (whale OR whale) +fish -whale fish^3 whale~2 fi*h",
    "quotes": 'fish "blue whale',
    "fields": "contents:fish doc_id:a title:fish",
    "brackets": "[fish TO whale] {fish} fish]",
    "backslashes": "\\fish\\ \\",
    "regular-expression": "/f.sh/ fish",
    "json": '{"match": {"text": "fish"}}',
    "new-lines": "fish\n\r\twhale\x00",
    "emoji": "fish 😀",
}


@pytest.mark.parametrize("text", ODD_QUERIES.values(), ids=ODD_QUERIES)
def test_query_text_is_words_and_no_syntax(tmp_path: Path, text: str) -> None:
    index = indexed(tmp_path, [[posted("a", "one fish"), posted("b", "nothing here")]])
    assert ids(index, text) == ["a"]


@pytest.mark.parametrize(
    "text",
    ["", "   ", "?!... ,;", '"', "AND", "the of and", "😀", "x" * 300, "zyzzyva"],
    ids=["empty", "blank", "punctuation", "quote", "stop-word", "stop-words", "emoji", "long-word", "unknown"],
)
def test_a_query_that_holds_no_known_word_finds_nothing(real: Bm25Index, text: str) -> None:
    assert hits(real, text) == []


@settings(deadline=None, max_examples=100)
@given(text=st.text(max_size=200))
def test_any_text_is_a_query(real: Bm25Index, text: str) -> None:
    assert len(hits(real, text, 3)) <= 3


def test_a_very_long_query(real: Bm25Index) -> None:
    long = " ".join(texts(200))
    assert len(long) > 50_000
    found = hits(real, long, 400)
    assert len(found) == 400
    assert hits(real, long, 400) == found
    assert found == sorted(found, key=lambda d: (-d.score, d.doc_id))


def test_a_word_given_twice_counts_twice(real: Bm25Index) -> None:
    once = {d.doc_id: d.score for d in hits(real, "river", 400)}
    twice = {d.doc_id: d.score for d in hits(real, "river River", 400)}
    assert len(once) > 5
    assert twice == pytest.approx({i: 2 * s for i, s in once.items()})


@pytest.mark.parametrize("k", [3, 1000, 10**9, 2**62], ids=["as-many", "thousand", "billion", "past-all-memory"])
def test_k_greater_than_the_collection(tmp_path: Path, k: int) -> None:
    index = indexed(tmp_path, [[posted(i, "fish") for i in "cab"]])
    assert ids(index, "fish", k) == ["a", "b", "c"]


def test_an_empty_index_finds_nothing(tmp_path: Path) -> None:
    index = indexed(tmp_path, [])
    assert hits(index, "fish") == []
    assert list(index.fetch(["a"])) == []
    index.add([], 1)
    assert hits(index, "fish") == []
    assert index.content == 1


UNICODE_IDS = [
    "日本-1",
    "é",
    "e\u0301",
    "😀",
    "with space",
    "a/b?c=d&e",
    "Ünïcode",
    "UPPER",
    "upper",
    "0",
    "x" * 512,
    "AND",
]


def test_any_id_is_found_whole(tmp_path: Path) -> None:
    index = indexed(tmp_path, [[posted(i, f"fish number {n}") for n, i in enumerate(UNICODE_IDS)]])
    assert sorted(ids(index, "fish", 50)) == sorted(UNICODE_IDS)
    for n, doc_id in enumerate(UNICODE_IDS):
        assert [(d.doc_id, d.fields["text"]) for d in index.fetch([doc_id])] == [(doc_id, f"fish number {n}")]
    assert list(index.fetch(["upp", "with", "space", "x" * 511, ""])) == []
    index.add([posted(i, "whale") for i in UNICODE_IDS], 2)
    assert ids(index, "fish", 50) == []
    assert sorted(ids(index, "whale", 50)) == sorted(UNICODE_IDS)


def test_fetch_gives_back_every_field_as_it_came(tmp_path: Path) -> None:
    fields: dict[str, object] = {
        "text": "fish\n\x00 日本 😀",
        "n": 3,
        "x": -0.5,
        "yes": True,
        "none": None,
        "list": ["a", {"b": [1]}],
        "half": "\ud83d",
        "": {},
    }
    index = indexed(tmp_path, [[("a", "fish", fields), posted("b", "fish")]])
    [got] = index.fetch(["missing", "a"])
    assert (got.doc_id, got.fields) == ("a", fields)
    assert [d.doc_id for d in index.fetch(["b", "a"])] == ["b", "a"]


def test_text_is_stemmed_and_stripped_of_stop_words_as_in_opensearch(tmp_path: Path) -> None:
    index = indexed(tmp_path, [[posted("a", "The Running of the Bulls"), posted("b", "it was a bullring")]])
    assert ids(index, "runs") == ["a"]
    assert ids(index, "BULL") == ["a"]
    assert ids(index, "the") == []


def test_scores_are_bm25_with_the_documented_k1_and_b(tmp_path: Path) -> None:
    """Robertson's formula, with the factor k1 + 1 that Lucene left out: it changes no order. Lengths this small are
    stored exactly."""
    k1, b = _documented()
    assert (k1, b) == (1.2, 0.75)
    lengths = {"a": 3, "b": 10, "c": 30}
    some = {doc_id: " ".join(["fish"] * 2 + ["whale"] * (size - 2)) for doc_id, size in lengths.items()}
    some["d"] = "whale " * 7
    index = indexed(tmp_path, [[posted(*pair) for pair in some.items()]])
    average = sum(len(t.split()) for t in some.values()) / len(some)
    idf = math.log(1 + (4 - 3 + 0.5) / (3 + 0.5))
    expected = {
        doc_id: idf * 2 * (k1 + 1) / (2 + k1 * (1 - b + b * size / average)) for doc_id, size in lengths.items()
    }
    assert {d.doc_id: d.score for d in hits(index, "fish")} == pytest.approx(expected, rel=1e-5)


def _documented() -> tuple[float, float]:
    found = re.search(r"k1 ([\d.]+), b ([\d.]+)\)", bm25.__doc__ or "")
    assert found
    return float(found[1]), float(found[2])


def test_many_words_of_one_length_are_scored_as_the_sum_of_each(real: Bm25Index) -> None:
    words = ["river", "city", "war", "album", "born"]
    each: Counter[str] = Counter()
    for word in words:
        each.update({d.doc_id: d.score for d in hits(real, word, 400)})
    assert {d.doc_id: d.score for d in hits(real, " ".join(words), 400)} == pytest.approx(dict(each))


def test_the_index_is_named_by_its_store(real: Bm25Index) -> None:
    assert real.origin == origin_of(MANIFEST.store_id) == ("bm25", "bm25", MANIFEST.store_id)


def test_what_was_added_is_there_for_the_next_process(tmp_path: Path) -> None:
    indexed(tmp_path, [[posted("a", "fish")]])
    again = Bm25Index.create_or_open(tmp_path, MANIFEST)
    assert again.content == 1
    assert ids(again, "fish") == ["a"]
    again.add([posted("b", "fish")], 2)
    assert ids(again, "fish") == ["a", "b"]
    assert json.loads((tmp_path / "bm25" / "state.json").read_text(encoding="utf-8"))["content"] == 2


def test_a_second_writer_is_refused_and_loses_nothing(tmp_path: Path) -> None:
    index = indexed(tmp_path, [[posted("a", "fish")]])
    other = Bm25Index.create_or_open(tmp_path, MANIFEST)
    held = other._index.writer(heap_size=bm25.HEAP, num_threads=1)
    with pytest.raises(StoreWriteError, match=r"cannot write the BM25 index in .*The vectors are intact"):
        index.add([posted("b", "fish")], 2)
    assert index.content == 1
    held.rollback()
    del held, other
    assert ids(index, "fish") == ["a"]
