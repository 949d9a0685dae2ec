"""The embedded index: the same hits however it came to be, and no query that it cannot take."""

from __future__ import annotations

import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colbert_rerank.candidates import bm25, bm25_files
from colbert_rerank.candidates.bm25 import Bm25Index, origin_of
from colbert_rerank.errors import IndexBehindError, StoreCorruptError, StoreError, StoreMismatchError, StoreWriteError
from colbert_rerank.store import Manifest
from colbert_rerank.store import manifest as manifests
from colbert_rerank.types import Origin, Query, ScoredDoc
from tests.collection import documents, empty_manifest, queries, texts

ROOT = Path(__file__).parents[2]
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


def test_it_counts_its_documents(tmp_path: Path) -> None:
    index = indexed(tmp_path, [[posted("a", "fish"), posted("b", "fish")], [posted("b", "whale")]])
    assert len(index) == len(Bm25Index.open_for(tmp_path, empty_manifest(content=2))) == 2


# Searching where nothing may be written


@pytest.fixture
def others_folder() -> Iterator[Path]:
    """A folder that other users can reach, unlike `tmp_path`."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    for path in (folder, *folder.rglob("*/")):
        path.chmod(0o755)
    shutil.rmtree(folder)


# Drops root's rights, which no file mode restricts, and calls the code given.
UNPRIVILEGED = """
import os, sys, tempfile
from pathlib import Path
from colbert_rerank.candidates.bm25 import Bm25Index
from colbert_rerank.errors import ColbertRerankError
from colbert_rerank.types import Query
from tests.collection import empty_manifest

folder = Path(sys.argv[1])
if os.geteuid() == 0:
    os.setegid(65534)
    os.seteuid(65534)
try:
    (folder / "bm25" / "probe").touch()
except PermissionError:
    pass
else:
    raise AssertionError("the folder can be written to")
try:
    exec(sys.argv[2])
except ColbertRerankError as error:
    print(type(error).__name__, error)
"""
SEARCH = """
index = Bm25Index.open_for(folder, empty_manifest(content=2))
[found] = index.search([Query("q", "fish")], 10)
print([d.doc_id for d in found], [d.fields for d in index.fetch(["b"])])
"""


def unprivileged(folder: Path, code: str, **environment: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", UNPRIVILEGED, str(folder), code],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


@pytest.fixture
def read_only(others_folder: Path) -> Path:
    """A store's folder with an index of two commits, in which nothing may be written."""
    store = others_folder / "store"
    indexed(store, [[posted("a", "one fish")], [posted("b", "two fish")]])
    temporary = others_folder / "tmp"
    temporary.mkdir()
    temporary.chmod(0o777)
    for path in (*(store / "bm25").iterdir(), store / "bm25", store):
        path.chmod(path.stat().st_mode & ~0o222)
    return store


def test_a_user_who_may_only_read_can_search(read_only: Path) -> None:
    before = sorted((p.name, p.stat().st_mtime_ns) for p in (read_only / "bm25").iterdir())
    temporary = read_only.parent / "tmp"
    assert unprivileged(read_only, SEARCH, TMPDIR=str(temporary)) == "['a', 'b'] [{'text': 'two fish'}]"
    assert sorted((p.name, p.stat().st_mtime_ns) for p in (read_only / "bm25").iterdir()) == before
    assert list(temporary.iterdir()) == []


def test_a_user_who_may_only_read_cannot_ingest_and_is_told_why(read_only: Path) -> None:
    answer = unprivileged(read_only, "Bm25Index.create_or_open(folder, empty_manifest(content=2))")
    assert answer.startswith("StoreWriteError cannot write ")
    assert "permission denied. Give a folder this user can write to" in answer


def test_a_user_who_may_not_read_is_told_so(read_only: Path) -> None:
    path = next((read_only / "bm25").glob("*.idx"))
    path.chmod(0)
    assert unprivileged(read_only, SEARCH).startswith(
        f"StoreReadError {path}: Permission denied. It may be sound: see that"
    )


def test_searching_without_a_temporary_folder_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    indexed(tmp_path, [[posted("a", "fish")]])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(StoreWriteError, match=r"bm25: searching it needs a temporary folder: .*none.* Set TMPDIR"):
        Bm25Index.open_for(tmp_path, empty_manifest(content=1))


# Damage


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store's folder with an index of three segments, in one of which a document is deleted."""
    folder = tmp_path_factory.mktemp("sound")
    whole = _real()
    indexed(folder, [whole[:200], whole[200:390], [*whole[390:], posted(whole[3][0], "other words now")]])
    return folder


KINDS = ("*.idx", "*.term", "*.pos", "*.store", "*.fast", "*.fieldnorm", "*.del", "meta.json", "state.json")


def answers(index: Bm25Index) -> list[object]:
    found = list(index.search(queries(10), 20))
    return [found, [sorted(d.fields.items()) for d in index.fetch([d.doc_id for d in found[0]])]]


def outcome(opened: Callable[[Path, Manifest], Bm25Index], folder: Path, manifest: Manifest) -> object:
    try:
        return answers(opened(folder, manifest))
    except StoreError as error:
        return error


def put(path: Path, data: bytes) -> None:
    """As another file: one that is mapped must not be cut short."""
    path.with_name("put").write_bytes(data)
    path.with_name("put").replace(path)


@pytest.mark.parametrize("kind", [*KINDS, ".managed.json"])
def test_a_flipped_bit_is_found_or_does_not_matter(sound: Path, tmp_path: Path, kind: str) -> None:
    manifest = empty_manifest(content=3)
    want = answers(Bm25Index.open_for(sound, manifest))
    folder = Path(shutil.copytree(sound, tmp_path / "store"))
    rng = random.Random(kind)
    found = 0
    for path in sorted((folder / "bm25").glob(kind)):
        good = path.read_bytes()
        for place in sorted(rng.sample(range(len(good)), min(25, len(good)))):
            put(path, good[:place] + bytes([good[place] ^ 1 << rng.randrange(8)]) + good[place + 1 :])
            for opened in (Bm25Index.open_for, Bm25Index.create_or_open):
                got = outcome(opened, folder, manifest)
                if isinstance(got, StoreCorruptError):
                    found += 1
                    assert str(folder / "bm25") in str(got)
                    assert "Remove it and ingest again" in str(got)
                elif isinstance(got, IndexBehindError):  # the content count
                    assert kind == "state.json"
                    assert re.search(r"content \d+, the store has 3.*; one of the two is a copy from another", str(got))
                else:
                    assert got == want
        put(path, good)
    assert answers(Bm25Index.open_for(folder, manifest)) == want
    assert found or kind == ".managed.json"


@pytest.mark.parametrize("kind", KINDS[:2] + KINDS[3:4])
@pytest.mark.parametrize("filling", [b"\0", b"\xff", b"x"], ids=repr)
def test_damage_under_an_open_index_is_called_so(sound: Path, tmp_path: Path, kind: str, filling: bytes) -> None:
    folder = Path(shutil.copytree(sound, tmp_path / "store"))
    index = Bm25Index.open_for(folder, empty_manifest(content=3))
    for path in (folder / "bm25").glob(kind):
        with path.open("r+b") as file:
            file.write(filling * path.stat().st_size)
    for read in (lambda: list(index.search(queries(10), 20)), lambda: list(index.fetch([d for d, _, _ in _real()]))):
        with pytest.raises(StoreCorruptError, match=r"the BM25 index cannot be (searched|read): .*Remove it and ing"):
            read()


def test_an_index_damaged_before_it_had_a_state_is_called_so(tmp_path: Path) -> None:
    indexed(tmp_path, [])
    (tmp_path / "bm25" / "state.json").unlink()
    (tmp_path / "bm25" / "meta.json").write_text("{")
    with pytest.raises(StoreCorruptError, match="the BM25 index cannot be opened"):
        Bm25Index.create_or_open(tmp_path, MANIFEST)


# Interrupted commits


# Adds the last of twenty commits and dies in it.
DIE = """
import os, sys
from pathlib import Path
from colbert_rerank.candidates import bm25, bm25_files
from tests.candidates.test_bm25 import MANIFEST, twenty

save = bm25_files.save
index = bm25.Bm25Index.create_or_open(Path(sys.argv[1]), MANIFEST)
if sys.argv[2] == "before":
    bm25_files.save = lambda *state: (save(*state), os._exit(9))
else:
    index._finish = lambda content: os._exit(9)
index.add(twenty()[19], 20)
"""


def twenty() -> list[list[Posted]]:
    """So many commits that tantivy merges segments, and removes files of the commits before."""
    return [_real()[i::20] for i in range(20)]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_interrupted_commit_is_refused_until_the_next_ingest_mends_it(tmp_path: Path, moment: str) -> None:
    indexed(tmp_path, twenty()[:19])
    before = answers(Bm25Index.open_for(tmp_path, empty_manifest(content=19)))
    after = answers(indexed(tmp_path / "whole", twenty()))
    died = subprocess.run([sys.executable, "-c", DIE, str(tmp_path), moment], cwd=ROOT, check=False)
    assert died.returncode == 9
    for content in (19, 20):
        with pytest.raises(
            IndexBehindError, match=r"behind the store \(content 19, unfinished, .*if not, run it again"
        ):
            Bm25Index.open_for(tmp_path, empty_manifest(content=content))
    again = Bm25Index.create_or_open(tmp_path, MANIFEST)
    assert again.content == 19
    assert answers(Bm25Index.open_for(tmp_path, empty_manifest(content=19))) == (
        before if moment == "before" else after
    )
    again.add(twenty()[19], 20)
    assert answers(Bm25Index.open_for(tmp_path, empty_manifest(content=20))) == after


def test_documents_that_cannot_be_read_leave_the_index_as_it_was(tmp_path: Path) -> None:
    index = indexed(tmp_path, [[posted("a", "fish")]])

    def broken() -> Iterator[Posted]:
        yield posted("b", "fish")
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        index.add(broken(), 2)
    assert ids(Bm25Index.open_for(tmp_path, empty_manifest(content=1)), "fish") == ["a"]


def test_an_index_of_a_version_that_kept_no_checksums_is_mended_by_the_next_ingest(tmp_path: Path) -> None:
    indexed(tmp_path, [[posted("a", "fish")]])
    state = tmp_path / "bm25" / "state.json"
    state.write_text(json.dumps({"store_id": MANIFEST.store_id, "content": 1}))
    with pytest.raises(IndexBehindError, match="interrupted: `store delete` or `store compact`"):
        Bm25Index.open_for(tmp_path, empty_manifest(content=1))
    Bm25Index.create_or_open(tmp_path, MANIFEST)
    assert ids(Bm25Index.open_for(tmp_path, empty_manifest(content=1)), "fish") == ["a"]


def test_a_reader_overtaken_by_a_writer_opens_what_that_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It removes files that its last state listed, after the reader has read that."""
    index = indexed(tmp_path, [[posted("a", "one fish"), posted("b", "two fish")]])
    compare = bm25_files.compare

    def late(*args: object) -> None:
        monkeypatch.setattr(bm25_files, "compare", compare)
        index.add([posted("a", "one whale"), posted("b", "two whales")], 1)
        compare(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(bm25_files, "compare", late)
    assert ids(Bm25Index.open_for(tmp_path, empty_manifest(content=1)), "whale") == ["a", "b"]


@pytest.mark.parametrize(
    ("read", "content"), [(Bm25Index.open_for, 1), (Bm25Index.verify, 2)], ids=["opened", "verified"]
)
def test_a_reader_whom_writers_overtake_again_and_again_gives_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path, Manifest], object], content: int
) -> None:
    """An index that is behind is read by `verify` only."""
    manifests.save(tmp_path, empty_manifest(content=content))
    index = indexed(tmp_path, [[posted("a", "one fish"), posted("b", "two fish")]])
    compare, turns = bm25_files.compare, count()

    def late(*args: Any) -> None:
        index.add([posted(doc_id, f"whale {next(turns)}") for doc_id in "ab"], 1)
        compare(*args)

    monkeypatch.setattr(bm25_files, "compare", late)
    monkeypatch.setattr(bm25_files, "PATIENCE", 0.2)
    with pytest.raises(IndexBehindError, match="other processes write to it all the time"):
        read(tmp_path, manifests.load(tmp_path))


# No index


ORIGINS = {
    "its-own": (
        origin_of(MANIFEST.store_id),
        "has no embedded BM25 index any more. Run the same `ingest` again to make",
    ),
    "a-server's": (
        Origin("opensearch", "i", "u"),
        "it was made with --opensearch. Say where its index is: --opensearch URL",
    ),
}


@pytest.mark.parametrize(("origin", "message"), ORIGINS.values(), ids=ORIGINS)
def test_a_store_without_an_index_says_how_to_get_one(tmp_path: Path, origin: Origin, message: str) -> None:
    with pytest.raises(StoreMismatchError, match=re.escape(message)):
        Bm25Index.open_for(tmp_path, replace(MANIFEST, origin=origin))
