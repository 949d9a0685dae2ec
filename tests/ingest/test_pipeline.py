"""The pipeline: vectors first, what is unchanged left alone, what is refused counted, nothing lost on the way."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from colbert_rerank.candidates.bm25 import Bm25Index, origin_of
from colbert_rerank.encoder import Encoder
from colbert_rerank.errors import (
    BulkError,
    BulkFailure,
    IndexBehindError,
    IndexNotFoundError,
    InputError,
    NonFiniteError,
    OpenSearchError,
    OpenSearchUnreachableError,
    StoreCorruptError,
    StoreMismatchError,
    StoreWriteError,
    UsageError,
)
from colbert_rerank.identity import LIBRARIES
from colbert_rerank.recipe import Recipe, content_hash
from colbert_rerank.store import Store, StoreWriter, writing
from colbert_rerank.store.unit import Unit
from colbert_rerank.types import Document, Origin, Query
from ingest import pipeline
from ingest.first_stage import Posting
from ingest.pipeline import IngestReport, ingest
from ingest.validation import InputReport
from tests.collection import RECIPE, FakeFirstStage, assert_same_documents, bm25_of
from tests.collection import documents as real
from tests.tiny import tiny_checkpoint, tiny_weights

pytestmark = pytest.mark.usefixtures("one_thread")

TEXT = Recipe(("text",))


@pytest.fixture
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units of a few documents, so that an ingest has many."""
    monkeypatch.setattr(pipeline, "UNIT_TOKENS", {"cpu": 300})
    monkeypatch.setattr(pipeline, "READ_AHEAD", 8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


def documents(*texts: str) -> list[Document]:
    return [Document(f"d{i}", {"text": text}, where=f"line {i}") for i, text in enumerate(texts)]


def run(docs: Iterable[Document], folder: Path, encoder: Encoder, **more: object) -> IngestReport:
    report = IngestReport(InputReport())
    arguments: dict[str, object] = {"recipe": TEXT, "report": report, **more}
    if isinstance(stage := more.get("first_stage"), FakeFirstStage):
        arguments["first_stage"] = stage.open
    ingest(docs, folder, encoder, **arguments)  # type: ignore[arg-type]
    return report


class Recording(FakeFirstStage):
    """One that looks, at every post, whether the vectors are there already; refuses what it is told to."""

    def __init__(self, folder: Path, refuse: Sequence[str] = (), uuid: str = "u1") -> None:
        super().__init__(Origin("opensearch", "fake", uuid))
        self.folder, self.refuse = folder, refuse
        self.posted: list[str] = []
        self.posts = 0
        self.finished = False

    def post(self, postings: Sequence[Posting], content: int) -> None:
        ids = [p.doc_id for p in postings]
        store = Store.open(self.folder)
        assert store.lookup(ids).found.all(), "vectors before postings"
        stored = [s.content_hash for s in store.describe(ids) if s]
        assert stored == [content_hash(p.text) for p in postings]
        assert store.manifest.content == content
        self.posts += 1
        super().post([p for p in postings if p.doc_id not in self.refuse], content)
        self.posted += [i for i in ids if i not in self.refuse]
        failures = [BulkFailure(i, 400, "no") for i in ids if i in self.refuse]
        if failures:
            raise BulkError(failures)

    def finish(self) -> None:
        self.finished = True


class Unreachable(Recording):
    """A first stage whose server goes away after so many posts."""

    def __init__(self, folder: Path, posts: int = 0) -> None:
        super().__init__(folder)
        self.left = posts

    def post(self, postings: Sequence[Posting], content: int) -> None:
        if not self.left:
            raise OpenSearchUnreachableError("gone")
        self.left -= 1
        super().post(postings, content)


def stored_ids(folder: Path) -> list[str]:
    return sorted(Store.open(folder).index.ids())


def test_what_is_stored_is_what_the_encoder_gives(folder: Path, tiny_encoder: Encoder, small_units: None) -> None:
    some = real(60)
    report = run(some, folder, tiny_encoder, recipe=RECIPE)
    store = Store.open(folder)
    assert (report.encoded, report.posted, len(store)) == (60, 60, 60)
    assert report.rows == store.manifest.rows
    assert store.manifest.complete
    wanted = tiny_encoder.encode_documents([RECIPE.text(d.fields) for d in some])
    for document, matrix in zip(some, wanted, strict=True):
        np.testing.assert_array_equal(store.gather([document.doc_id]).values, matrix.astype(np.float16))
    for document, known in zip(some, store.describe([d.doc_id for d in some]), strict=True):
        assert known is not None
        assert known.content_hash == content_hash(RECIPE.text(document.fields))
        assert known.posted
        assert (known.seq_no, known.primary_term) == (-1, -1)


def test_changed_documents_are_encoded_again_and_the_others_left_alone(folder: Path, tiny_encoder: Encoder) -> None:
    assert run(documents("one fish", "two fish", "red fish"), folder, tiny_encoder).encoded == 3
    report = run(documents("one fish", "blue whale", "red fish"), folder, tiny_encoder)
    assert (report.encoded, report.unchanged, report.posted) == (1, 2, 1)
    store = Store.open(folder)
    assert len(store) == 3
    (want,) = tiny_encoder.encode_tokens(tiny_encoder.tokenize_documents(["blue whale"]), "float16")
    assert store.gather(["d1"]).values.tobytes() == want.tobytes(), "the newest wins"
    index = bm25_of(store)
    hits = {q: [d.doc_id for d in next(index.search([Query("", q)], 10))] for q in ("whale", "two", "fish")}
    assert hits == {"whale": ["d1"], "two": [], "fish": ["d0", "d2"]}
    assert [d.fields["text"] for d in index.fetch(["d1"])] == ["blue whale"]


def test_nothing_is_written_where_nothing_has_changed(folder: Path, tiny_encoder: Encoder) -> None:
    run(documents("one fish", "two fish"), folder, tiny_encoder)
    before = Store.open(folder).manifest
    report = run(documents("one fish", "two fish"), folder, tiny_encoder)
    after = Store.open(folder).manifest
    assert (report.encoded, report.unchanged, report.posted) == (0, 2, 0)
    assert (after.segments, after.index, after.content) == (before.segments, before.index, before.content)
    assert after.complete


def test_a_lost_id_index_is_written_again_where_nothing_has_changed(
    folder: Path, tiny_encoder: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    run(documents("one fish", "two fish"), folder, tiny_encoder)
    before = Store.open(folder).manifest
    assert before.index
    (folder / "segments" / before.index.file).unlink()
    report = run(documents("one fish", "two fish"), folder, tiny_encoder)
    assert (report.encoded, report.unchanged, report.posted) == (0, 2, 0)
    (record,) = caplog.records
    assert f"{before.index.file}: this file of the store is missing" in record.message
    caplog.clear()
    store = Store.open(folder)
    assert store.lookup(["d0", "d1", "d2"]).found.tolist() == [True, True, False]
    assert not caplog.records
    assert (store.manifest.segments, store.manifest.content) == (before.segments, before.content)
    assert store.manifest.complete


def test_a_change_back_is_a_change(folder: Path, tiny_encoder: Encoder) -> None:
    for text in ("one fish", "blue whale", "one fish"):
        assert run(documents(text), folder, tiny_encoder).encoded == 1
    index = bm25_of(Store.open(folder))
    assert [len(hits) for hits in index.search([Query("", "fish"), Query("", "whale")], 9)] == [1, 0]


def test_more_documents_join_those_that_are_there(folder: Path, tiny_encoder: Encoder) -> None:
    run(real(10), folder, tiny_encoder, recipe=RECIPE)
    report = run(real(10, 10), folder, tiny_encoder, recipe=RECIPE)
    assert (report.encoded, report.unchanged) == (10, 0)
    assert stored_ids(folder) == sorted(d.doc_id for d in real(20))
    assert len(Store.open(folder).manifest.segments) == 1, "small segments are merged"


def test_small_units_end_in_one_segment(folder: Path, tiny_encoder: Encoder, small_units: None) -> None:
    first = Recording(folder)
    run(real(60), folder, tiny_encoder, recipe=RECIPE, first_stage=first)
    assert first.posts > 5
    assert first.finished
    assert first.posted == [d.doc_id for d in real(60)]
    manifest = Store.open(folder).manifest
    assert len(manifest.segments) == 1
    assert manifest.content == first.posts
    assert manifest.segments[0].posted
    listed = {s.file for s in manifest.segments} | {manifest.index.file if manifest.index else ""}
    assert {p.name for p in (folder / "segments").iterdir()} == listed


def test_skipped_documents_are_counted(folder: Path, tiny_encoder: Encoder) -> None:
    report = IngestReport(InputReport("skip"))
    docs = documents("one fish", "", "two fish", "  ")
    docs += [Document("d0", {"text": "again"}, where="line 4"), Document("null", {"text": "fish"}, where="line 5")]
    run([*docs, Document("last", {"text": "three fish"})], folder, tiny_encoder, report=report)
    assert report.input.skipped == {"empty text": 2, "duplicate id": 1, "reserved id": 1}
    assert report.input.accepted == report.encoded == 3
    assert stored_ids(folder) == ["d0", "d2", "last"]
    assert [refusal.where for refusal in report.input.refusals] == ["line 1", "line 3", "line 4", "line 5"]


def test_a_list_keeps_what_came_before_an_error() -> None:
    """The pipeline builds on this: what ``extend`` took before its iterator raised stays in the list."""

    def three() -> Iterator[int]:
        yield from (1, 2, 3)
        raise InputError("four")

    got: list[int] = []
    with pytest.raises(InputError):
        got.extend(islice(three(), 512))
    assert got == [1, 2, 3]


@pytest.mark.parametrize("good", [0, 1, 7, 8, 9, 30], ids="{}-before".format)
def test_an_input_error_keeps_everything_before_it(
    folder: Path, tiny_encoder: Encoder, small_units: None, good: int
) -> None:
    docs = [*real(good), Document("bad", {"title": " "}, where="corpus.jsonl:9"), *real(9, good)]
    with pytest.raises(InputError, match=r"corpus\.jsonl:9: document 'bad' has no text"):
        run(docs, folder, tiny_encoder, recipe=RECIPE)
    store = Store.open(folder)
    assert sorted(store.index.ids()) == sorted(d.doc_id for d in real(good))
    assert not store.manifest.complete
    assert len(list(bm25_of(store).fetch(store.index.ids()))) == good, "what is stored is searchable"
    report = run([*real(good), *real(9, good)], folder, tiny_encoder, recipe=RECIPE)
    assert (report.encoded, report.unchanged) == (9, good)
    assert Store.open(folder).manifest.complete


def test_an_input_error_of_the_source_keeps_everything_before_it(folder: Path, tiny_encoder: Encoder) -> None:
    def source() -> Iterator[Document]:
        yield from documents("one fish", "two fish")
        raise InputError("cut short", where="corpus.jsonl.gz:3")

    with pytest.raises(InputError, match=r"corpus\.jsonl\.gz:3: cut short"):
        run(source(), folder, tiny_encoder)
    assert stored_ids(folder) == ["d0", "d1"]


def test_a_source_that_breaks_off_keeps_what_was_committed(
    folder: Path, tiny_encoder: Encoder, small_units: None
) -> None:
    def source() -> Iterator[Document]:
        yield from real(40)
        raise OpenSearchUnreachableError("the node went down")

    first = Recording(folder)
    with pytest.raises(OpenSearchUnreachableError, match="the node went down"):
        run(source(), folder, tiny_encoder, recipe=RECIPE, first_stage=first)
    kept = stored_ids(folder)
    assert 20 < len(kept) < 40
    assert sorted(first.posted) == kept
    report = run(real(40), folder, tiny_encoder, recipe=RECIPE, first_stage=first)
    assert (report.unchanged, report.encoded) == (len(kept), 40 - len(kept))
    assert len(first.posted) == 40, "nothing is posted twice that was posted"


def test_that_nothing_can_be_stored_is_the_graver_error(
    folder: Path, tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "READ_AHEAD", 1)

    def full(self: StoreWriter, unit: Unit, *, posted: bool) -> str:
        raise StoreWriteError("the disk is full")

    monkeypatch.setattr(StoreWriter, "committing", full)
    with pytest.raises(StoreWriteError, match="the disk is full"):
        run(documents("one fish", ""), folder, tiny_encoder)


def test_refused_documents_are_named_and_all_others_posted(
    folder: Path, tiny_encoder: Encoder, small_units: None
) -> None:
    refused = [real(60)[i].doc_id for i in (0, 31)]
    first = Recording(folder, refuse=refused)
    report = IngestReport(InputReport())
    with pytest.raises(BulkError) as error:
        run(real(60), folder, tiny_encoder, recipe=RECIPE, report=report, first_stage=first)
    assert [f.doc_id for f in error.value.failures] == refused == [f.doc_id for f in report.refused]
    assert f"{refused[0]!r}: 400 no" in str(error.value)
    assert first.finished
    assert first.posted == [d.doc_id for d in real(60) if d.doc_id not in refused]
    assert (report.encoded, report.posted) == (60, 58)
    store = Store.open(folder)
    assert len(store) == 60
    assert 0 < sum(not s.posted for s in store.manifest.segments) < len(store.manifest.segments)

    again = Recording(folder)
    report = run(real(60), folder, tiny_encoder, recipe=RECIPE, first_stage=again)
    assert (report.encoded, report.unchanged) == (0, 60)
    assert set(refused) <= set(again.posted), "what was not known to be posted is posted again"
    assert len(again.posted) < 60, "and what was is not"
    once_more = Recording(folder)
    run(real(60), folder, tiny_encoder, recipe=RECIPE, first_stage=once_more)
    assert once_more.posted == []


def test_a_document_refused_twice_is_posted_a_third_time(folder: Path, tiny_encoder: Encoder) -> None:
    docs = documents("one fish", "two fish")
    for _ in range(2):
        with pytest.raises(BulkError, match="refused 1 document"):
            run(docs, folder, tiny_encoder, first_stage=Recording(folder, refuse=["d1"]))
    last = Recording(folder)
    run(docs, folder, tiny_encoder, first_stage=last)
    assert last.posted == ["d0", "d1"]


def test_a_target_that_goes_away_costs_no_vectors(folder: Path, tiny_encoder: Encoder, small_units: None) -> None:
    first = Unreachable(folder, posts=2)
    with pytest.raises(OpenSearchUnreachableError):
        run(real(60), folder, tiny_encoder, recipe=RECIPE, first_stage=first)
    assert first.posts == 2
    stored = stored_ids(folder)
    assert set(first.posted) < set(stored)
    again = Recording(folder)
    report = run(real(60), folder, tiny_encoder, recipe=RECIPE, first_stage=again)
    assert report.encoded == 60 - len(stored)
    assert sorted(again.posted) == sorted({d.doc_id for d in real(60)} - set(first.posted))


def test_another_source_in_between_does_not_count_what_was_not_posted(folder: Path, tiny_encoder: Encoder) -> None:
    """Interrupted before its postings, followed by an ingest of other documents, and then started again."""
    ours, others = documents("one fish", "two fish"), [Document("z", {"text": "blue whale"})]
    with pytest.raises(OpenSearchUnreachableError):
        run(ours, folder, tiny_encoder, first_stage=Unreachable(folder))
    assert stored_ids(folder) == ["d0", "d1"]
    between = Recording(folder)
    assert run(others, folder, tiny_encoder, first_stage=between).owed == 2
    assert between.posted == ["z"]
    again = Recording(folder)
    assert run([*ours, *others], folder, tiny_encoder, first_stage=again).owed == 0
    assert again.posted == ["d0", "d1"]
    once_more = Recording(folder)
    run([*ours, *others], folder, tiny_encoder, first_stage=once_more)
    assert once_more.posted == []


def test_a_document_that_changed_before_it_was_posted_is_posted_as_it_is_now(
    folder: Path, tiny_encoder: Encoder
) -> None:
    with pytest.raises(OpenSearchUnreachableError):
        run(documents("one fish", "two fish"), folder, tiny_encoder, first_stage=Unreachable(folder))
    again = Recording(folder)
    report = run(documents("one fish", "blue whale"), folder, tiny_encoder, first_stage=again)
    assert (report.encoded, report.unchanged, report.owed) == (1, 1, 0)
    assert sorted(again.posted) == ["d0", "d1"]
    once_more = Recording(folder)
    run(documents("one fish", "blue whale"), folder, tiny_encoder, first_stage=once_more)
    assert once_more.posted == []


@pytest.mark.parametrize("where", ["before-the-postings", "after-the-postings"])
def test_the_embedded_index_catches_up(
    folder: Path, tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    add = Bm25Index.add

    def stopped(self: Bm25Index, some: Iterable[Posting], content: int) -> None:
        if where == "after-the-postings":
            add(self, some, content)
        raise StoreWriteError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(Bm25Index, "add", stopped)
        with pytest.raises(StoreWriteError):
            run(real(20), folder, tiny_encoder, recipe=RECIPE)
    assert run(real(20), folder, tiny_encoder, recipe=RECIPE).encoded == 0
    run(real(20), folder.with_name("whole"), tiny_encoder, recipe=RECIPE)
    asked = [Query("", "river"), Query("", "who founded the city")]
    ours, whole = (bm25_of(Store.open(f)) for f in (folder, folder.with_name("whole")))
    assert list(ours.search(asked, 20)) == list(whole.search(asked, 20))


def test_an_index_that_is_only_read(folder: Path, tiny_encoder: Encoder) -> None:
    origin = Origin("opensearch", "articles", "u9")
    docs = [d._replace(seq_no=7 + i, primary_term=2) for i, d in enumerate(documents("one fish", "two fish"))]
    report = run(docs, folder, tiny_encoder, index=FakeFirstStage(origin))
    store = Store.open(folder)
    assert store.manifest.origin == origin
    assert [(s.seq_no, s.primary_term, s.posted) for s in store.describe(["d0", "d1"]) if s] == [
        (7, 2, True),
        (8, 2, True),
    ]
    assert (report.posted, report.unposted) == (0, 0)
    assert not (folder / "bm25").exists()


REFUSED: dict[str, tuple[dict[str, object], tuple[str, ...]]] = {
    "fields": ({"recipe": RECIPE}, ("--fields: the store has ['text'], this run ['title', 'text']",)),
    "separator": ({"recipe": Recipe(("text",), "\n")}, (r"separator: the store has ' ', this run '\n'",)),
    "codec": ({"codec": "float32"}, ("holds float16 vectors, float32 was asked for",)),
    "index": (
        {"index": FakeFirstStage(Origin("opensearch", "other", "u2"))},
        ("belongs to BM25 index 'bm25' (uuid ", "not to OpenSearch index 'other' (uuid u2)", "--allow-other-index"),
    ),
}


@pytest.mark.parametrize(("change", "named"), REFUSED.values(), ids=REFUSED)
def test_what_a_store_was_not_made_with_is_refused(
    change: dict[str, object], named: tuple[str, ...], folder: Path, tiny_encoder: Encoder
) -> None:
    run(documents("a b"), folder, tiny_encoder)
    before = (folder / "manifest.json").read_bytes()
    with pytest.raises(StoreMismatchError) as refusal:
        run(documents("a b", "c d"), folder, tiny_encoder, **change)
    for part in (*named, str(folder)):
        assert part in str(refusal.value)
    assert (folder / "manifest.json").read_bytes() == before


def test_another_model_is_refused_with_both_sides(folder: Path, tmp_path: Path, tiny_encoder: Encoder) -> None:
    run(documents("a b"), folder, tiny_encoder)
    other = Encoder.load(str(tiny_checkpoint(tmp_path / "other", tiny_weights(1))), device="cpu")
    ours, theirs = tiny_encoder.checkpoint.tensor_hash, other.checkpoint.tensor_hash
    with pytest.raises(StoreMismatchError) as refusal:
        run(documents("a b"), folder, other)
    assert f"made with another model (tensors: the store has '{ours}', this run '{theirs}')" in str(refusal.value)


def test_another_precision_of_the_computation_is_accepted(folder: Path, tiny_encoder: Encoder) -> None:
    run(documents("a b"), folder, tiny_encoder)
    rough = Encoder.load(tiny_encoder.checkpoint, device="cpu", dtype="bf16")
    assert run(documents("a b", "c d"), folder, rough).encoded == 1


def test_a_store_whose_index_was_made_again_fills_it_whole(
    folder: Path, tiny_encoder: Encoder, small_units: None
) -> None:
    run(real(30), folder, tiny_encoder, recipe=RECIPE, first_stage=Recording(folder))
    made_again = Recording(folder, uuid="u2")
    with pytest.raises(StoreMismatchError, match="pass --allow-other-index to fill it from this store"):
        run(real(30), folder, tiny_encoder, recipe=RECIPE, first_stage=made_again)
    assert made_again.posted == []
    report = run(real(30), folder, tiny_encoder, recipe=RECIPE, first_stage=made_again, allow_other_index=True)
    assert (report.encoded, report.unchanged, report.posted) == (0, 30, 30)
    assert made_again.posted == [d.doc_id for d in real(30)]
    store = Store.open(folder)
    assert store.manifest.origin == made_again.origin
    assert all(s.posted for s in store.manifest.segments)
    once_more = Recording(folder, uuid="u2")
    run(real(30), folder, tiny_encoder, recipe=RECIPE, first_stage=once_more)
    assert once_more.posted == []


def test_a_store_of_a_server_can_get_an_index_beside_it(folder: Path, tiny_encoder: Encoder) -> None:
    run(documents("one fish", "two fish"), folder, tiny_encoder, first_stage=Recording(folder))
    run(documents("one fish", "two fish"), folder, tiny_encoder, allow_other_index=True)
    store = Store.open(folder)
    assert store.manifest.origin == origin_of(store.manifest.store_id)
    assert len(next(bm25_of(store).search([Query("", "fish")], 5))) == 2


def test_many_stored_documents_are_posted_in_parts(
    folder: Path, tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch, small_units: None
) -> None:
    run(real(40), folder, tiny_encoder, recipe=RECIPE, first_stage=Recording(folder))
    monkeypatch.setattr(pipeline, "POST_AHEAD", 16)
    again = Recording(folder, uuid="u2")
    run(real(40), folder, tiny_encoder, recipe=RECIPE, first_stage=again, allow_other_index=True)
    assert again.posts == 3
    assert again.posted == [d.doc_id for d in real(40)]


def test_an_empty_source_makes_an_empty_store(folder: Path, tiny_encoder: Encoder) -> None:
    assert run([], folder, tiny_encoder).encoded == 0
    store = Store.open(folder)
    assert len(store) == 0
    assert store.manifest.complete
    assert list(bm25_of(store).search([Query("", "fish")], 5)) == [[]]
    assert not store.gather(["d0"]).found.any()
    assert run(documents("one fish"), folder, tiny_encoder).encoded == 1


def test_provenance_is_recorded(folder: Path, tiny_encoder: Encoder) -> None:
    run(documents("a b"), folder, tiny_encoder)
    provenance = Store.open(folder).manifest.provenance
    assert (provenance["device"], provenance["compute_dtype"]) == ("cpu", "fp32")
    assert provenance["model"] == tiny_encoder.checkpoint.name
    assert provenance.keys() > {*LIBRARIES, "colbert_rerank", "python", "machine"}


def test_progress_is_told_as_it_goes(folder: Path, tiny_encoder: Encoder, small_units: None) -> None:
    seen: list[int] = []
    report = run(real(40), folder, tiny_encoder, recipe=RECIPE, progress=lambda r: seen.append(r.encoded + r.unchanged))
    assert seen == sorted(seen)
    assert seen[-1] == 40
    assert len(set(seen)) > 5
    assert report.seconds.keys() == {"read", "tokenize", "encode", "write", "post"}


def test_long_documents_are_counted(folder: Path, tiny_encoder: Encoder) -> None:
    assert run(documents("fish " * 61, "fish " * 62, "fish " * 500), folder, tiny_encoder).truncated == 2


def test_a_document_longer_than_a_unit_is_a_unit(
    folder: Path, tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "UNIT_TOKENS", {"cpu": 10})
    first = Recording(folder)
    run(documents("fish " * 50, "whale", "fish " * 50), folder, tiny_encoder, first_stage=first)
    assert first.posts == 3
    assert len(Store.open(folder)) == 3


def test_vectors_that_are_not_finite_name_their_document(folder: Path, tmp_path: Path, tiny_encoder: Encoder) -> None:
    weights = tiny_weights()
    (word,) = tiny_encoder.tokenize_documents(["fish"])[0].ids[2:-1]
    weights["bert.embeddings.word_embeddings.weight"][word, 0] = np.nan  # of no word in what is tried when it is loaded
    broken = Encoder.load(str(tiny_checkpoint(tmp_path / "broken", weights)), device="cpu")
    with pytest.raises(NonFiniteError, match="document 'd0': its vectors hold NaN"):
        run(documents("one fish"), folder, broken)
    assert len(Store.open(folder)) == 0


def test_other_fields_are_posted_and_nothing_is_encoded_again(folder: Path, tiny_encoder: Encoder) -> None:
    first = Recording(folder)
    docs = [d._replace(fields={**d.fields, "url": "http://old"}) for d in documents("one fish", "two fish", "red fish")]
    run(docs, folder, tiny_encoder, first_stage=first)
    before = Store.open(folder).gather(["d0", "d1", "d2"]).values.tobytes()
    first.posted.clear()
    docs[1] = docs[1]._replace(fields={**docs[1].fields, "url": "http://new"})
    report = run(docs, folder, tiny_encoder, first_stage=first)
    assert (report.encoded, report.updated, report.unchanged, report.posted) == (0, 1, 2, 1)
    assert first.posted == ["d1"]
    assert first.documents["d1"].fields["url"] == "http://new"
    assert Store.open(folder).gather(["d0", "d1", "d2"]).values.tobytes() == before
    report = run(docs, folder, tiny_encoder, first_stage=first)
    assert (report.updated, report.unchanged, report.posted) == (0, 3, 0)


@pytest.mark.parametrize("reads", ["other fields", "merge"])
def test_damaged_vectors_stop_an_ingest_that_reads_them_and_cost_nothing_else(
    folder: Path, tiny_encoder: Encoder, reads: str
) -> None:
    """An ingest that reads no stored vector does not look at them; this one must not carry the damage on."""
    old, more = documents("one fish", "two fish", "red fish"), [Document("z", {"text": "blue whale"})]
    run(old, folder, tiny_encoder)
    before = Store.open(folder)
    (entry,) = before.manifest.segments
    path = folder / "segments" / entry.file
    good = path.read_bytes()
    at = entry.values_offset
    path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
    damaged = path.read_bytes()
    assert run(old, folder, tiny_encoder).unchanged == 3, "nothing is read"
    if reads == "other fields":
        more.append(old.pop(0)._replace(fields={"text": "one fish", "url": "http://new"}))
    with pytest.raises(StoreCorruptError, match=rf"{entry.file}: the vectors at byte {at} are damaged"):
        run(more, folder, tiny_encoder)
    assert path.read_bytes() == damaged, "left as it is for whoever wants to save it"
    left = Store.open(folder)
    assert left.manifest.segments[0] == entry
    assert left.lookup(["d0", "d1", "d2"]).found.all()
    assert bool(left.lookup(["z"]).found.all()) is (reads == "merge"), "what was committed stays"
    path.write_bytes(good)  # from a copy
    run([*old, *more], folder, tiny_encoder)
    run([*old, *more], folder.with_name("whole"), tiny_encoder)
    assert_same_documents(Store.open(folder), Store.open(folder.with_name("whole")))


def test_fields_and_texts_that_change_together(folder: Path, tiny_encoder: Encoder, small_units: None) -> None:
    some = real(60)
    run(some, folder, tiny_encoder, recipe=RECIPE)
    for i, document in enumerate(some):
        if i % 3:
            changed = {"year": i} if i % 3 == 1 else {"text": f"{document.fields['text']} {i}"}
            some[i] = document._replace(fields={**document.fields, **changed})
    report = run(some, folder, tiny_encoder, recipe=RECIPE)
    assert (report.encoded, report.updated, report.unchanged) == (20, 20, 20)
    run(some, folder.with_name("whole"), tiny_encoder, recipe=RECIPE)
    ours, whole = Store.open(folder), Store.open(folder.with_name("whole"))
    ids = [d.doc_id for d in some]
    assert ours.gather(ids).values.tobytes() == whole.gather(ids).values.tobytes()
    assert [s and s[:2] for s in ours.describe(ids)] == [s and s[:2] for s in whole.describe(ids)]
    assert {d.doc_id: d.fields for d in bm25_of(ours).fetch(ids)} == {d.doc_id: d.fields for d in some}


def test_a_new_store_does_not_replace_the_documents_of_another(
    folder: Path, tmp_path: Path, tiny_encoder: Encoder
) -> None:
    """Ids "d0", "d1" are everywhere: the older store would score the newer one's texts, silently wrong."""
    first = Recording(folder)
    run(documents("one fish", "two fish"), folder, tiny_encoder, first_stage=first)
    first.folder = tmp_path / "second"
    with pytest.raises(StoreMismatchError, match=r"second is a new store, but .* holds 2 documents already"):
        run(documents("blue whale"), tmp_path / "second", tiny_encoder, first_stage=first)
    assert first.documents["d0"].fields["text"] == "one fish"
    run(documents("one fish"), tmp_path / "second", tiny_encoder, first_stage=first, allow_other_index=True)
    run(documents("one fish", "blue whale"), tmp_path / "second", tiny_encoder, first_stage=first)


def test_an_interrupted_store_goes_on_with_its_index(folder: Path, tiny_encoder: Encoder, small_units: None) -> None:
    first = Unreachable(folder, posts=2)
    with pytest.raises(OpenSearchUnreachableError):
        run(real(60), folder, tiny_encoder, recipe=RECIPE, first_stage=first)
    assert first.count() > 0
    first.left = 1000
    run(real(60), folder, tiny_encoder, recipe=RECIPE, first_stage=first)
    assert first.count() == 60


@pytest.mark.parametrize("read", [True, False], ids=["an index that is read", "an index to fill"])
def test_another_index_is_taken_for_the_stores_own_only_if_it_is_a_copy(
    folder: Path, tiny_encoder: Encoder, caplog: pytest.LogCaptureFixture, read: bool
) -> None:
    run(documents(*(f"fish {i}" for i in range(30))), folder, tiny_encoder, first_stage=Recording(folder))
    before = (folder / "manifest.json").read_bytes()
    other = Recording(folder, uuid="u2")
    other.documents = {d.doc_id: d for d in documents("blue whale", "red whale")}

    def try_it() -> IngestReport:
        more: dict[str, object] = {"index": other} if read else {"first_stage": other}
        return run(list(other.documents.values()), folder, tiny_encoder, allow_other_index=True, **more)

    with pytest.raises(StoreMismatchError, match="of 20 sampled documents only 0 are in"):
        try_it()
    assert (folder / "manifest.json").read_bytes() == before
    other.documents = {d.doc_id: d for d in documents(*(f"fish {i}" for i in range(30)))}
    assert not caplog.records
    other.documents.pop(Store.open(folder).index.ids()[0])  # one of those sampled
    assert try_it().encoded == 0
    assert Store.open(folder).manifest.origin == other.origin
    assert "19 of 20 sampled documents have the text they were encoded from in" in caplog.text


def test_what_is_missing_in_the_index_is_not_called_complete(folder: Path, tiny_encoder: Encoder) -> None:
    """Two sources; the index is lost; one of them is ingested again: the other one's documents cannot be found."""
    fish, whales = documents("one fish", "two fish"), [Document("z", {"text": "blue whale"})]
    run(fish, folder, tiny_encoder)
    run(whales, folder, tiny_encoder)
    shutil.rmtree(folder / "bm25")
    assert run(whales, folder, tiny_encoder).owed == 2
    store = Store.open(folder)
    assert not store.manifest.complete
    with pytest.raises(IndexBehindError, match=r"left out of it\. Run the `ingest` of what they came from"):
        bm25_of(store)
    assert run(fish, folder, tiny_encoder).owed == 0
    store = Store.open(folder)
    assert store.manifest.complete
    assert [len(hits) for hits in bm25_of(store).search([Query("", "fish"), Query("", "whale")], 9)] == [2, 1]


def test_ctrl_c_keeps_what_is_encoded_of_a_unit(
    folder: Path, tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = Encoder.encode_batches

    def interrupted(*args: Any, **options: Any) -> Iterator[object]:
        yield from islice(encode(*args, **options), 3)
        raise KeyboardInterrupt

    first, report = Recording(folder), IngestReport(InputReport())
    monkeypatch.setattr(Encoder, "encode_batches", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(real(40), folder, tiny_encoder, recipe=RECIPE, report=report, first_stage=first)
    kept = len(Store.open(folder))
    assert 0 < kept < 40
    assert report.committed == report.encoded == kept
    assert report.unposted == kept - report.posted
    assert first.stopped.is_set()
    monkeypatch.undo()
    report = run(real(40), folder, tiny_encoder, recipe=RECIPE, first_stage=first)
    assert (report.encoded, report.unchanged, report.unposted) == (40 - kept, kept, 0)
    assert sorted(first.posted) == sorted(d.doc_id for d in real(40))
    assert Store.open(folder).manifest.complete


@pytest.mark.parametrize("units", [1, 5], ids=["the only unit", "the last of five"])
def test_ctrl_c_while_the_last_unit_is_written(
    folder: Path, tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch, units: int
) -> None:
    """The signal comes while the main thread has nothing to do but to wait for the other one."""
    monkeypatch.setattr(pipeline, "UNIT_TOKENS", {"cpu": 2500 // units})
    commit, waiting = StoreWriter.committing, threading.Event()
    wait = pipeline._wait

    def slow(self: StoreWriter, unit: Unit, *, posted: bool) -> Any:
        if report.encoded == 40:
            waiting.wait(30)
            time.sleep(0.1)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            time.sleep(0.1)
        return commit(self, unit, posted=posted)

    def telling(sealing: Any) -> None:
        if report.encoded == 40:
            waiting.set()
        wait(sealing)

    monkeypatch.setattr(StoreWriter, "committing", slow)
    monkeypatch.setattr(pipeline, "_wait", telling)
    first, report = Recording(folder), IngestReport(InputReport())
    with pytest.raises(KeyboardInterrupt):
        run(real(40), folder, tiny_encoder, recipe=RECIPE, report=report, first_stage=first)
    assert first.stopped.is_set()
    assert len(Store.open(folder)) == report.committed == 40
    assert not [t for t in threading.enumerate() if t.name.startswith("seal")]


def test_a_lost_server_costs_nothing_that_is_encoded(folder: Path, tiny_encoder: Encoder, small_units: None) -> None:
    report = IngestReport(InputReport())
    with pytest.raises(OpenSearchUnreachableError):
        run(real(40), folder, tiny_encoder, recipe=RECIPE, report=report, first_stage=Unreachable(folder))
    assert 0 < len(Store.open(folder)) == report.encoded == report.committed == report.unposted < 40


def test_what_was_stored_before_and_is_not_posted_counts_at_ctrl_c(
    folder: Path, tiny_encoder: Encoder, small_units: None
) -> None:
    with pytest.raises(OpenSearchUnreachableError):
        run(real(40), folder, tiny_encoder, recipe=RECIPE, first_stage=Unreachable(folder))
    kept = len(Store.open(folder))

    def source() -> Iterator[Document]:
        yield from real(kept)
        raise KeyboardInterrupt

    report = IngestReport(InputReport())
    with pytest.raises(KeyboardInterrupt):
        run(source(), folder, tiny_encoder, recipe=RECIPE, report=report, first_stage=Recording(folder))
    assert 0 < report.unchanged == report.unposted <= kept


def test_a_full_disk_is_graver_than_ctrl_c(
    folder: Path, tiny_encoder: Encoder, small_units: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: StoreWriter, unit: Unit, *, posted: bool) -> str:
        raise StoreWriteError("the disk is full")

    def source() -> Iterator[Document]:
        yield from real(30)
        raise KeyboardInterrupt

    monkeypatch.setattr(StoreWriter, "committing", full)
    monkeypatch.setattr(pipeline, "_wait", lambda sealing: None)  # it is not known yet when the signal comes
    with pytest.raises(StoreWriteError, match="the disk is full"):
        run(source(), folder, tiny_encoder, recipe=RECIPE, first_stage=Recording(folder))


def test_a_store_without_documents_becomes_what_is_asked_for(folder: Path, tiny_encoder: Encoder) -> None:
    first = Recording(folder)
    run([], folder, tiny_encoder, recipe=Recipe(("body",)), first_stage=first, codec="float32")
    run(documents("one fish"), folder, tiny_encoder)
    manifest = Store.open(folder).manifest
    assert (manifest.origin, manifest.codec) == (origin_of(manifest.store_id), "float16")
    assert len(next(bm25_of(Store.open(folder)).search([Query("", "fish")], 5))) == 1


def test_an_empty_store_of_bm25_can_get_a_server(folder: Path, tiny_encoder: Encoder) -> None:
    run([], folder, tiny_encoder)
    run(documents("one fish"), folder, tiny_encoder, first_stage=Recording(folder))
    with pytest.raises(StoreMismatchError, match="Say where its index is: --opensearch URL"):
        bm25_of(Store.open(folder))


def test_no_index_is_made_for_an_ingest_that_is_refused(folder: Path, tmp_path: Path, tiny_encoder: Encoder) -> None:
    run(documents("one fish"), folder, tiny_encoder)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    made = []

    def opener(make: bool) -> FakeFirstStage:
        if not make:
            raise IndexNotFoundError("there is no such index")
        made.append("index")
        return Recording(folder)

    for where, more, error, message in (
        (folder, {}, StoreMismatchError, "the index to fill is not there"),
        (folder, {"codec": "float32"}, StoreMismatchError, "holds float16 vectors"),
        (tmp_path / "other", {}, UsageError, "not a store, and not empty"),
    ):
        with pytest.raises(error, match=message):
            run(documents("one fish"), where, tiny_encoder, first_stage=opener, **more)
    with writing(folder, Store.open(folder).manifest) as other:
        other.share()
        with pytest.raises(StoreMismatchError, match="the index to fill is not there"):
            run(documents("one fish"), folder, tiny_encoder, first_stage=opener, allow_other_index=True)
    assert made == []
    run(documents("one fish"), folder, tiny_encoder, first_stage=opener, allow_other_index=True)
    assert made == ["index"]


@pytest.mark.parametrize("before", ["nothing", "an empty folder", "a folder of others"])
def test_a_refused_ingest_into_a_new_store_leaves_nothing_behind(
    tmp_path: Path, tiny_encoder: Encoder, before: str
) -> None:
    folder = tmp_path / "stores" / "new"
    if before != "nothing":
        folder.mkdir(parents=True)
    if before == "a folder of others":
        (folder / ".notes").touch()
    there = sorted(tmp_path.rglob("*"))

    def opener(make: bool) -> FakeFirstStage:
        assert (folder / "manifest.json").exists()
        raise UsageError("OpenSearch refuses to make the index")

    with pytest.raises(UsageError, match="refuses to make the index"):
        run(documents("one fish"), folder, tiny_encoder, first_stage=opener)
    assert sorted(tmp_path.rglob("*")) == there
    run(documents("one fish"), folder, tiny_encoder)
    with pytest.raises(UsageError, match="refuses to make the index"):
        run(documents("one fish"), folder, tiny_encoder, first_stage=opener, allow_other_index=True)
    assert stored_ids(folder) == ["d0"]


def test_a_store_without_documents_that_was_there_before_a_refused_ingest_stays(
    folder: Path, tiny_encoder: Encoder
) -> None:
    run([], folder, tiny_encoder)
    before = Store.open(folder).manifest

    def opener(make: bool) -> FakeFirstStage:
        raise UsageError("OpenSearch refuses to make the index")

    with pytest.raises(UsageError):
        run(documents("one fish"), folder, tiny_encoder, first_stage=opener)
    assert Store.open(folder).manifest == before


def test_ctrl_c_does_not_wait_for_a_server_that_hangs(
    folder: Path, tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "READ_AHEAD", 1)
    monkeypatch.setattr(pipeline, "UNIT_TOKENS", {"cpu": 1})

    class Hanging(Recording):
        def post(self, postings: Sequence[Posting], content: int) -> None:
            assert self.stopped.wait(60), "nobody said stop"
            raise OpenSearchUnreachableError("stopped")

    def source() -> Iterator[Document]:
        yield from real(2)  # the first of them is being posted when the user loses patience
        raise KeyboardInterrupt

    first = Hanging(folder)
    with pytest.raises(KeyboardInterrupt):
        run(source(), folder, tiny_encoder, recipe=RECIPE, first_stage=first)
    assert first.stopped.is_set()
    assert len(Store.open(folder)) > 0, "what was committed is kept"


def test_an_index_that_refuses_everything_ends_the_ingest(
    folder: Path, tiny_encoder: Encoder, small_units: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingest.failures.MOST_FAILURES", 20)
    first = Recording(folder, refuse=[d.doc_id for d in real(200)])
    report = IngestReport(InputReport())
    with pytest.raises(OpenSearchError, match="refused more than 20 documents, so ingest stopped; the first was"):
        run(real(200), folder, tiny_encoder, recipe=RECIPE, report=report, first_stage=first)
    assert report.encoded < 100


def test_a_long_ingest_merges_on_the_way(folder: Path, tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "UNIT_TOKENS", {"cpu": 1})
    most = 0

    def progress(report: IngestReport) -> None:
        nonlocal most
        most = max(most, len(list((folder / "segments").glob("*.h5"))))

    run(real(100), folder, tiny_encoder, recipe=RECIPE, progress=progress)
    assert 8 < most < 40
    assert len(Store.open(folder)) == 100
