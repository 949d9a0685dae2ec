"""A batch run, whose stages overlap, is what re-ranking one query after the other is."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest.mock import patch

import pytest

from colbert_rerank import pipeline, rerank
from colbert_rerank.candidates.runfile import RunCandidates
from colbert_rerank.encoder import Encoder
from colbert_rerank.errors import InputError, MissingVectorsError, OpenSearchError, StoreCorruptError
from colbert_rerank.report import Report
from colbert_rerank.rerank import Ranking, Reranker
from colbert_rerank.store import RowRanges, Store
from colbert_rerank.trec import write_run
from colbert_rerank.types import Candidates, Document, Query, ScoredDoc
from ingest.upkeep import compact
from tests.collection import FakeIndex, bm25_of, documents, ingested, queries

pytestmark = pytest.mark.usefixtures("one_thread")

STORED, ASKED, K = 40, 12, 25
WAIT = 60.0  # seconds after which a test that waits in vain fails


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that is told to end does, however busy the machine is."""
    monkeypatch.setattr(pipeline, "PATIENCE", WAIT)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Encoder) -> Store:
    folder = tmp_path_factory.mktemp("run") / "store"
    ingested(folder, tiny_encoder, documents(STORED))
    compact(folder, sketches="binary")
    return Store.open(folder)


class Batches(FakeIndex):
    """A first stage that answers two queries at a time, as a server does a batch; some documents are not stored."""

    def __init__(self) -> None:
        super().__init__(documents(2 * STORED), origin=None)
        self.begun = [threading.Event() for _ in range(ASKED // 2 + 1)]  # of each batch, and of none beyond the last
        self.threads: set[str] = set()
        self.closed = False

    def search(self, queries: Sequence[Query], k: int) -> Iterator[list[ScoredDoc]]:
        ids = list(self.documents)
        try:
            for number, query in enumerate(queries):
                if number % 2 == 0:
                    self.begun[number // 2].set()
                    self.ask(number)
                self.threads.add(threading.current_thread().name)
                found = [ids[(number * 7 + i * 3) % len(ids)] for i in range(k)]
                yield [ScoredDoc(query.query_id, doc_id, float(-rank)) for rank, doc_id in enumerate(found)]
        finally:
            self.closed = True

    def ask(self, number: int) -> None:
        """The request of a batch."""


def run_file(store: Store, folder: Path) -> Candidates:
    rows = [row for found in bm25_of(store).search(queries(ASKED), 30) for row in found]
    write_run(rows, str(folder / "bm25.txt"), "bm25")
    return RunCandidates(str(folder / "bm25.txt"))


def one_by_one(reranker: Reranker, candidates: Candidates, k: int) -> Iterator[Ranking]:
    """The obvious way."""
    for query, first_stage in zip(queries(ASKED), list(candidates.search(queries(ASKED), k)), strict=True):
        ranked = reranker.rerank(query.text, [(d.doc_id, d.score) for d in first_stage], fetch=candidates.fetch)
        yield Ranking(query, first_stage, [d._replace(query_id=query.query_id) for d in ranked])


@pytest.mark.parametrize(
    "options", [{}, {"missing": "encode"}, {"missing": "drop", "interpolate": 0.3}, {"rescore": 5}], ids=str
)
@pytest.mark.parametrize("kind", ["bm25", "run-file", "batches"])
def test_it_is_the_same_to_the_byte(
    kind: str, options: dict[str, object], store: Store, tiny_encoder: Encoder, tmp_path: Path
) -> None:
    if kind == "run-file" and "encode" in options.values():
        options = {}  # a run has no texts
    candidates: Candidates = Batches()
    if kind != "batches":
        candidates = bm25_of(store) if kind == "bm25" else run_file(store, tmp_path)
    overlapped = Reranker(store, tiny_encoder, **options)  # type: ignore[arg-type]
    plain = Reranker(store, tiny_encoder, **options)  # type: ignore[arg-type]
    found = list(overlapped.run(queries(ASKED), candidates, K))
    assert repr(found) == repr(list(one_by_one(plain, candidates, K)))
    assert sum(len(r.ranked) for r in found) > 100
    counts = ("queries", "empty", "candidates", "scored", "truncated_queries", "missing")
    assert [getattr(overlapped.report, name) for name in counts] == [getattr(plain.report, name) for name in counts]
    assert_no_thread_is_left()


def assert_no_thread_is_left() -> None:
    assert not [thread for thread in threading.enumerate() if thread.name in ("candidates", "gather")]


def test_the_next_batch_is_asked_for_before_the_first_query_is_ordered(store: Store, tiny_encoder: Encoder) -> None:
    candidates, order = Batches(), Reranker._order
    ordered: list[bool] = []

    def when_asked(self: Reranker, *args: object) -> object:
        ordered.append(candidates.begun[1].wait(WAIT))
        return order(self, *args)  # type: ignore[arg-type]

    with patch.object(Reranker, "_order", when_asked):
        (ranking, *_) = Reranker(store, tiny_encoder).run(queries(ASKED), candidates, K)
    assert ordered[0], "the search of the second batch began before"
    assert ranking.ranked
    assert candidates.threads == {"candidates"}


def test_vectors_are_read_while_the_query_before_is_encoded(
    store: Store, tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, encode = Store.ranges, Encoder.encode_query_tokens
    second, reads, encoded = threading.Event(), [], []

    def counted(self: Store, doc_ids: Sequence[str], *, sketches: bool = False) -> RowRanges:
        reads.append(threading.current_thread().name)
        if len(reads) == 2:
            second.set()
        return read(self, doc_ids, sketches=sketches)

    def when_read(self: Encoder, *args: object) -> object:
        encoded.append(second.wait(WAIT))
        return encode(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "ranges", counted)
    monkeypatch.setattr(Encoder, "encode_query_tokens", when_read)
    assert len(list(Reranker(store, tiny_encoder).run(queries(ASKED), Batches(), K))) == ASKED
    assert encoded[0], "the second query's were read before"
    assert reads == ["gather"] * ASKED, "and none is read twice"


def test_what_waits_is_bounded(store: Store, tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rerank, "SEARCHED_AHEAD", 3)
    monkeypatch.setattr(rerank, "GATHERED_AHEAD", 1)
    candidates = Batches()
    running = Reranker(store, tiny_encoder).run(queries(ASKED), candidates, K)
    next(running)
    # The first is re-ranked, one is read and one in hand, three are searched and one in hand: seven.
    assert candidates.begun[3].wait(WAIT)
    running.close()
    assert not candidates.begun[4].is_set()
    assert candidates.closed
    assert_no_thread_is_left()


def test_texts_are_fetched_by_the_thread_that_re_ranks(store: Store, tiny_encoder: Encoder) -> None:
    class Recording(Batches):
        def fetch(self, doc_ids: Sequence[str]) -> list[Document]:
            self.threads.add(threading.current_thread().name)
            return super().fetch(doc_ids)

    candidates = Recording()
    reranker = Reranker(store, tiny_encoder, missing="encode")
    assert len(list(reranker.run(queries(ASKED), candidates, K))) == ASKED
    assert reranker.report.missing["encoded"] > 0
    assert candidates.threads == {"candidates", threading.current_thread().name}


def test_an_error_of_the_first_stage_comes_at_its_query(store: Store, tiny_encoder: Encoder) -> None:
    class Broken(Batches):
        def ask(self, number: int) -> None:
            if number == 4:
                raise OpenSearchError("the fifth query")

    done: list[Ranking] = []
    with pytest.raises(OpenSearchError, match=r"^the fifth query$"):
        done.extend(Reranker(store, tiny_encoder).run(queries(ASKED), Broken(), K))
    assert [r.query for r in done] == queries(4)
    assert repr(done) == repr(list(one_by_one(Reranker(store, tiny_encoder), Batches(), K))[:4])
    assert_no_thread_is_left()


def test_a_first_stage_that_cannot_begin(store: Store, tiny_encoder: Encoder) -> None:
    class Closed(FakeIndex):
        def search(self, queries: Sequence[Query], k: int) -> Iterator[list[ScoredDoc]]:
            raise OpenSearchError("closed")

    with pytest.raises(OpenSearchError, match=r"^closed$"):
        next(Reranker(store, tiny_encoder).run(queries(ASKED), Closed([], origin=None), K))
    assert_no_thread_is_left()


def test_damage_of_the_store_comes_at_its_query(
    store: Store, tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, reads, done = Store.ranges, [0], list[Ranking]()

    def damaged(self: Store, doc_ids: Sequence[str], *, sketches: bool = False) -> RowRanges:
        reads[0] += 1
        if reads[0] == 3:
            raise StoreCorruptError("a block of the third")
        return read(self, doc_ids, sketches=sketches)

    monkeypatch.setattr(Store, "ranges", damaged)
    with pytest.raises(StoreCorruptError, match=r"^a block of the third$"):
        done.extend(Reranker(store, tiny_encoder).run(queries(ASKED), Batches(), K))
    assert [r.query for r in done] == queries(2)
    assert_no_thread_is_left()


@pytest.mark.parametrize("what", ["missing", "twice"])
def test_an_error_of_the_re_ranking_comes_at_its_query(what: str, store: Store, tiny_encoder: Encoder) -> None:
    third = queries(3)[2]

    class Odd(Batches):
        def search(self, queries: Sequence[Query], k: int) -> Iterator[list[ScoredDoc]]:
            stored = [d.doc_id for d in documents(5)]
            for query in queries:
                more = {"missing": "unknown", "twice": stored[0]}[what]
                ids = [*stored, more] if query == third else stored
                yield [ScoredDoc(query.query_id, i, 0.0) for i in ids]

    reranker = Reranker(store, tiny_encoder, missing="error")
    done: list[Ranking] = []
    message = {
        "missing": f"query '{third.query_id}': 1 of 6 candidates have no vectors",
        "twice": f"query '{third.query_id}': candidate '{documents(1)[0].doc_id}' is given twice",
    }[what]
    with pytest.raises((MissingVectorsError, InputError), match=re.escape(message)):
        done.extend(reranker.run(queries(ASKED), Odd(), K))
    assert [r.query for r in done] == queries(2)
    assert_no_thread_is_left()


def test_ctrl_c_while_a_query_is_scored_leaves_no_thread(store: Store, tiny_encoder: Encoder) -> None:
    candidates = Batches()
    with patch.object(Reranker, "_order", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        next(Reranker(store, tiny_encoder).run(queries(ASKED), candidates, K))
    assert candidates.closed
    assert_no_thread_is_left()


def test_the_time_of_a_stage_is_the_time_that_it_works(store: Store, tiny_encoder: Encoder) -> None:
    reranker = Reranker(store, tiny_encoder)
    for _ in reranker.run(queries(ASKED), Batches(), K):
        pass
    report = reranker.report
    assert {stage: len(times) for stage, times in report.seconds.items()} == dict.fromkeys(
        ("candidates", "encode", "gather", "score", "order"), ASKED
    )
    assert report.busy == pytest.approx({stage: sum(times) for stage, times in report.seconds.items()})
    in_turn = sum(seconds for stage, seconds in report.busy.items() if stage not in ("candidates", "gather"))
    assert 0 < in_turn < report.wall


def test_the_slowest_stage_is_the_thread_that_is_busiest() -> None:
    """Encoding and scoring take turns in one: the first stage takes longer than either of them, but less than both."""
    report = Report(busy={"candidates": 6.0, "encode": 4.0, "score": 5.0, "write": 1.0}, wall=10.0)
    assert report.busy_shares() == pytest.approx({"re-ranking": 0.9, "candidates": 0.6, "write": 0.1})
    assert list(report.busy_shares()) == ["re-ranking", "candidates", "write"]
    assert report.longest_in_turn() == "score"
    assert Report().busy_shares() == {}, "before there is any"
    report.busy["candidates"] = 9.5
    assert next(iter(report.busy_shares())) == "candidates"


def test_single_queries_are_on_the_clock_too(store: Store, tiny_encoder: Encoder) -> None:
    reranker = Reranker(store, tiny_encoder)
    reranker.rerank("tides", [(d.doc_id, 0.0) for d in documents(5)])
    shares = reranker.report.busy_shares()
    assert shares.keys() == {"re-ranking", "gather"}
    assert 0 < sum(shares.values()) <= 1, "here they take turns"


@pytest.mark.parametrize(("given", "message"), [(3, "the first stage ended before it"), (5, "gave more answers than")])
def test_an_answer_for_each_query_and_no_more(store: Store, tiny_encoder: Encoder, given: int, message: str) -> None:
    class Other(Batches):
        def search(self, asked: Sequence[Query], k: int) -> Iterator[list[ScoredDoc]]:
            yield from super().search(queries(given), k)

    with pytest.raises(InputError, match=message):
        list(Reranker(store, tiny_encoder).run(queries(4), Other(), K))
