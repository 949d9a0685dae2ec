"""Topics, qrels and runs as TREC, BEIR and MS MARCO hand them out, and how each goes wrong."""

from __future__ import annotations

import gzip
import io
import math
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from colbert_rerank.candidates.runfile import RunCandidates
from colbert_rerank.errors import InputError, NonFiniteError, StoreWriteError, UsageError
from colbert_rerank.trec import as_trec_eval_ranks, read_qrels, read_run, read_topics, write_run
from colbert_rerank.types import Qrel, Query, ScoredDoc

CLASSIC = """
<top>

<num> Number: 301
<title> International Organized Crime

<desc> Description:
Identify organizations that participate in international criminal
activity, the activity, and, if possible, collaborating organizations
and the countries involved.

<narr> Narrative:
A relevant document must as a minimum identify the organization.

</top>

<top>
<head> Tipster Topic Description
<num> Number:  051
<dom> Domain:  International Economics
<title> Topic:  Airbus
Subsidies &amp; Loans
<desc> Description:
Document mentions Airbus.
</top>
"""
CLOSED = """<top>
<num>MB001</num>
<title>BBC World Service staff cuts</title>
<querytime> Tue Feb 08 12:30:27 +0000 2011 </querytime>
</top>
<TOP><NUM> MB002 </NUM><TITLE> 2022 FIFA soccer </TITLE></TOP>
"""
BEIR = (
    '{"_id": "2hop__150763_14904", "text": "Who was the first president of the association?", "metadata": {}}\n'
    "\n"
    '{"_id": "PLAIN-2", "text": " Do Cholesterol Statin Drugs Cause Breast Cancer? "}\r\n'
)
MSMARCO = "1037798\twho is robert gray\n915593\twhat types of food can you cook sous vide\n"

TOPICS = {
    "classic-sgml": (CLASSIC, [("301", "International Organized Crime"), ("051", "Airbus Subsidies & Loans")]),
    "closed-sgml": (CLOSED, [("MB001", "BBC World Service staff cuts"), ("MB002", "2022 FIFA soccer")]),
    "beir-jsonl": (
        BEIR,
        [
            ("2hop__150763_14904", "Who was the first president of the association?"),
            ("PLAIN-2", "Do Cholesterol Statin Drugs Cause Breast Cancer?"),
        ],
    ),
    "tsv-under-a-header": (
        "qid\tQuery\nqid\tquery\n915593\twhat types of food can you cook sous vide\n",
        [("qid", "query"), ("915593", "what types of food can you cook sous vide")],
    ),
    "msmarco-tsv": (
        MSMARCO,
        [("1037798", "who is robert gray"), ("915593", "what types of food can you cook sous vide")],
    ),
}


def written(folder: Path, content: str | bytes, name: str = "input.txt") -> str:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


@pytest.mark.parametrize(("content", "expected"), TOPICS.values(), ids=TOPICS)
@pytest.mark.parametrize("way", ["plain", "gzipped-under-any-name", "byte-order-mark", "stdin", "gzipped-stdin"])
def test_topics_are_read_by_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, expected: list[tuple[str, str]], way: str
) -> None:
    data = content.encode()
    data = gzip.compress(data) if "gzipped" in way else data
    data = b"\xef\xbb\xbf" + data if way == "byte-order-mark" else data
    path = written(tmp_path, data)
    if "stdin" in way:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
        path = "-"
    assert list(read_topics(path)) == [Query(*pair) for pair in expected]


BAD_TOPICS = {
    "nothing-there": ("\n \n", "input.txt: no topics"),
    "same-id-twice-in-tsv": ("7\twho\n8\twhat\n7\twhere\n", "input.txt:3: topic id '7' stands twice"),
    "same-id-twice-in-sgml": (CLOSED + CLOSED, "input.txt:7: topic id 'MB001' stands twice"),
    "same-id-twice-in-jsonl": (BEIR + BEIR, "input.txt:4: topic id '2hop__150763_14904' stands twice"),
    "empty-query-in-tsv": ("7\t \n", "input.txt:1: topic '7' has an empty query"),
    "empty-query-in-jsonl": ('{"_id": "7", "text": ""}', "input.txt:1: topic '7' has an empty query"),
    "empty-title": ("<top><num>7</num><title></title></top>", "input.txt:1: topic '7' has an empty query"),
    "empty-id": ("\twho\n", "input.txt:1: a topic id is empty"),
    "id-with-a-blank": ("7 b\twho\n", "input.txt:1: the topic '7 b' cannot stand in a TREC run"),
    "no-tab": ("who is robert gray\n", "input.txt:1: 1 column(s), expected 2"),
    "too-many-tabs": ("7\twho\tis\n", "input.txt:1: 3 column(s), expected 2"),
    "number-as-id": ('{"_id": 7, "text": "who"}', "input.txt:1: expected a string under _id"),
    "no-text": ('{"_id": "7", "title": "who"}', "input.txt:1: expected a string under text or query"),
    "cut-json": ('{"_id": "7", "text": "wh', "input.txt:1: not one JSON value"),
    "array-among-objects": ('{"_id": "7", "text": "who"}\n[1]', "input.txt:2: expected a JSON object"),
    "no-num": ("<top>\n<title> Airbus\n</top>", "input.txt:1: no <num> in this <top>"),
    "no-title": ("\n<top>\n<num> Number: 7\n</top>", "input.txt:2: no <title> in this <top>"),
    "two-nums": ("<top><num>7<num>8<title>who</top>", "input.txt:1: two <num> in one <top>"),
    "top-not-closed": ("<top>\n<num> 7\n<title> who\n<top>\n", "input.txt:1: this <top> is not closed before the next"),
    "last-top-not-closed": ("<top><num> 7 <title> who\n", "input.txt:1: this <top> is not closed before the end"),
    "top-not-opened": ("<num> 7 <title> who\n</top>", "input.txt:2: </top> without a <top>"),
    "another-markup": ("<topics>\n</topics>\n", "input.txt: no topics in this file"),
    "latin-1": ("7\tcafé\n".encode("latin-1"), "input.txt:1: not UTF-8: byte 0xe9 at column 6"),
    "json-array": ('[{"_id": "1", "text": "a"}]', "input.txt:1: a JSON array; make it lines with jq -c '.[]'"),
    "header-alone": ("qid\tquery\n", "no topics in this file"),
    "utf-32": ("7\twho\n".encode("utf-32"), "input.txt: is UTF-32, not UTF-8. Convert it: iconv -f UTF-32 -t UTF-8 < "),
    "utf-16": ("7\twho\n".encode("utf-16"), "input.txt: is UTF-16, not UTF-8. Convert it: iconv -f UTF-16 -t UTF-8 < "),
    "cut-gzip": (gzip.compress(MSMARCO.encode())[:-20], "the gzip data is cut off or damaged"),
}


@pytest.mark.parametrize(("content", "message"), BAD_TOPICS.values(), ids=BAD_TOPICS)
def test_bad_topics_are_refused_with_their_place(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(InputError) as refusal:
        list(read_topics(written(tmp_path, content)))
    assert message in str(refusal.value)


def test_a_missing_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.tsv: cannot be read: No such file"):
        list(read_topics(str(tmp_path / "none.tsv")))


QRELS = {
    "trec": ("301 0 FBIS3-10082 1\n301 0 FBIS3-10169 0\n\n302 0 LA-1 -2\n", [1, 0, -2]),
    "trec-with-tabs": ("301\t0\tFBIS3-10082\t1\r\n301 Q0  FBIS3-10169 +2 \n", [1, 2]),
    "beir": ("query-id\tcorpus-id\tscore\n301\tFBIS3-10082\t1\n301\tmy doc\t2\n", [1, 2]),
}


@pytest.mark.parametrize(("content", "grades"), QRELS.values(), ids=QRELS)
def test_qrels_are_read_by_content(tmp_path: Path, content: str, grades: list[int]) -> None:
    rows = list(read_qrels(written(tmp_path, content)))
    assert rows[0] == Qrel("301", "FBIS3-10082", 1)
    assert [row.relevance for row in rows] == grades


BAD_QRELS = {
    "three-columns-without-header": ("301 FBIS3-10082 1\n", "input.txt:1: 3 column(s), expected 4"),
    "a-run-given-as-qrels": ("301 Q0 FBIS3-10082 1 12.5 bm25\n", "input.txt:1: 6 column(s), expected 4"),
    "four-columns-under-a-beir-header": ("query-id\tcorpus-id\tscore\n3\t0\td1\t1\n", "input.txt:2: 4 column(s)"),
    "relevance-in-words": ("301 0 FBIS3-10082 yes\n", "the relevance 'yes' is not a whole number"),
    "relevance-with-a-point": ("301 0 FBIS3-10082 1.0\n", "the relevance '1.0' is not a whole number"),
    "judged-twice": ("301 0 d1 1\n302 0 d1 1\n301 0 d1 0\n", "input.txt:3: document 'd1' is judged twice"),
}


@pytest.mark.parametrize(("content", "message"), BAD_QRELS.values(), ids=BAD_QRELS)
def test_bad_qrels_are_refused_with_their_place(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(InputError) as refusal:
        list(read_qrels(written(tmp_path, content)))
    assert message in str(refusal.value)


BAD_RUNS = {
    "qrels-given-as-a-run": ("301 0 FBIS3-10082 1\n", "input.txt:1: 4 column(s), expected 6"),
    "id-with-a-blank": ("301 Q0 my doc 1 12.5 bm25\n", "input.txt:1: 7 column(s), expected 6"),
    "score-in-words": ("301 Q0 d1 1 best bm25\n", "the score 'best' is not a finite number"),
    "score-nan": ("301 Q0 d1 1 2 t\n301 Q0 d2 2 NaN t\n", "input.txt:2: the score 'NaN' is not a finite number"),
    "score-infinite": ("301 Q0 d1 1 inf t\n", "the score 'inf' is not a finite number"),
    "score-past-the-range": ("301 Q0 d1 1 1e999 t\n", "the score '1e999' is not a finite number"),
    "score-with-underscore": ("301 Q0 d1 1 1_0 t\n", "the score '1_0' is not a finite number"),
    "no-rows": ("\n", "input.txt: no rows in this run"),
    "same-document-twice": ("1 Q0 d1 1 9 t\n2 Q0 d1 1 9 t\n1 Q0 d1 2 8 t\n", "input.txt:3: document 'd1' stands twice"),
}


@pytest.mark.parametrize(("content", "message"), BAD_RUNS.values(), ids=BAD_RUNS)
def test_bad_runs_are_refused_with_their_place(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(InputError) as refusal:
        list(read_run(written(tmp_path, content)))
    assert message in str(refusal.value)


def test_a_run_as_anserini_writes_it_is_read(tmp_path: Path) -> None:
    run = "264014 Q0 4834547 1 15.780300 Anserini\n264014\tQ0\t6641238  2 1.5781e+01 Anserini\r\n"
    assert list(read_run(written(tmp_path, run))) == [
        ScoredDoc("264014", "4834547", 15.7803),
        ScoredDoc("264014", "6641238", 15.781),
    ]


ROWS = [ScoredDoc("q1", "d407", 10.42797), ScoredDoc("q1", "d400", -1e-9), ScoredDoc("q2", "https://é.org/日本", 1e-7)]


def test_a_run_is_written_in_the_six_columns_of_trec(tmp_path: Path) -> None:
    path = tmp_path / "run.txt"
    assert write_run(iter(ROWS), str(path), "colbert") == 3
    assert path.read_bytes().decode() == (
        "q1 Q0 d407 1 10.427970 colbert\nq1 Q0 d400 2 0.000000 colbert\nq2 Q0 https://é.org/日本 1 0.000000 colbert\n"
    )
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.txt"]


def test_a_run_goes_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    write_run(ROWS[:1], "-", "colbert")
    assert capsys.readouterr().out == "q1 Q0 d407 1 10.427970 colbert\n"


UNWRITABLE = {
    "document-with-a-blank": ([ScoredDoc("q1", "Albert Einstein", 1.0)], UsageError, "document 'Albert Einstein'"),
    "document-with-a-no-break-space": ([ScoredDoc("q1", "a\xa0b", 1.0)], UsageError, "it holds U+00A0"),
    "document-with-half-a-surrogate": ([ScoredDoc("q1", "\ud83d", 1.0)], UsageError, "it holds U+D83D"),
    "query-with-a-tab": ([ScoredDoc("q\t1", "d", 1.0)], UsageError, "it holds U+0009"),
    "empty-document-id": ([ScoredDoc("q1", "", 1.0)], UsageError, "a document id is empty"),
    "same-document-twice": ([ScoredDoc("q1", "d", 1.0), ScoredDoc("q1", "d", 1.0)], UsageError, "'d' stands twice"),
    "query-in-two-places": (
        [ScoredDoc("q1", "d", 1.0), ScoredDoc("q2", "d", 1.0), ScoredDoc("q1", "e", 0.5)],
        UsageError,
        "query 'q1' comes in two places",
    ),
    "not-best-first": ([ScoredDoc("q1", "d", 1.0), ScoredDoc("q1", "e", 2.0)], UsageError, "'e' of query 'q1' has a"),
    "nan": ([ScoredDoc("q1", "d", math.nan)], NonFiniteError, "document 'd' for query 'q1' is nan"),
    "infinite": ([ScoredDoc("q1", "d", -math.inf)], NonFiniteError, "document 'd' for query 'q1' is -inf"),
}


@pytest.mark.parametrize(("rows", "error", "message"), UNWRITABLE.values(), ids=UNWRITABLE)
def test_a_run_that_fails_leaves_the_file_of_before(
    tmp_path: Path, rows: list[ScoredDoc], error: type[Exception], message: str
) -> None:
    path = tmp_path / "run.txt"
    path.write_text("the run of yesterday\n")
    with pytest.raises(error) as refusal:
        write_run([ScoredDoc("q0", "d", 3.0), *rows], str(path), "colbert")
    assert message in str(refusal.value)
    assert path.read_text() == "the run of yesterday\n"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupt_in_the_middle_leaves_no_file(tmp_path: Path) -> None:
    def rows() -> Iterator[ScoredDoc]:
        yield ROWS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_run(rows(), str(tmp_path / "run.txt"), "colbert")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tag", ["", "my run", "a\tb"])
def test_a_tag_that_breaks_the_columns_is_refused(tmp_path: Path, tag: str) -> None:
    with pytest.raises(UsageError, match="run tag"):
        write_run(ROWS, str(tmp_path / "run.txt"), tag)


@pytest.mark.parametrize(
    ("name", "message"),
    [("", "it is a folder"), ("none/run.txt", "No such file or directory")],
    ids=["folder", "no-folder"],
)
def test_an_impossible_path_is_refused_before_any_row_is_asked_for(tmp_path: Path, name: str, message: str) -> None:
    asked = []

    def rows() -> Iterator[ScoredDoc]:
        asked.append("for a row")
        yield ROWS[0]

    with pytest.raises(UsageError, match=message):
        write_run(rows(), str(tmp_path / name), "colbert")
    assert not asked


def test_a_full_disk_is_one_clear_error_and_leaves_nothing(tmp_path: Path) -> None:
    rows = (ScoredDoc("q1", f"d{i}", 0.0) for i in range(20_000))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(StoreWriteError, match=r"run\.txt could not be written: File too large"):
            write_run(rows, str(tmp_path / "run.txt"), "colbert")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8),
        st.dictionaries(st.text(min_size=1, max_size=8), st.floats(-1e6, 1e6), min_size=1, max_size=5),
        min_size=1,
        max_size=4,
    )
)
def test_a_run_that_can_be_written_is_read_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, scores: dict[str, dict[str, float]]
) -> None:
    path = str(tmp_path_factory.mktemp("run") / "run.txt")
    rows = [
        ScoredDoc(query_id, doc_id, round(score, 6) + 0.0)
        for query_id, docs in scores.items()
        for doc_id, score in sorted(docs.items(), key=lambda item: -item[1])
    ]
    try:
        write_run(rows, path, "colbert")
    except UsageError:
        ids = [*scores, *(doc_id for docs in scores.values() for doc_id in docs)]
        breaking = [one for one in ids if one.split() != [one] or "\ufeff" in one or min(one) < " " or "\x7f" in one]
        assert breaking, "ids that a run can hold were refused"
    else:
        assert list(read_run(path)) == rows


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({"d1": 1.0, "d2": 3.0, "d3": 2.0}, ["d2", "d3", "d1"]),
        ({"9": 1.0, "10": 1.0, "100": 1.0}, ["9", "100", "10"]),
        ({"a": 16.0000002, "b": 16.0000001}, ["b", "a"]),
        ({"z": 1.0, "é": 1.0, "日": 1.0, "𝒜": 1.0, "\uffe5": 1.0}, ["𝒜", "\uffe5", "日", "é", "z"]),
        ({"a": 1e300, "b": 1e299, "c": -1e300}, ["b", "a", "c"]),
    ],
    ids=["by-score", "ties-as-strings", "tie-in-single-precision", "ties-by-utf-8-bytes", "past-single-precision"],
)
def test_rows_are_ordered_as_trec_eval_orders_them(scores: dict[str, float], expected: list[str]) -> None:
    rows = [ScoredDoc("q", doc_id, score) for doc_id, score in scores.items()]
    assert [row.doc_id for row in as_trec_eval_ranks(rows)] == expected
    # trec_eval's own order, asked through the rank at which it finds each document.
    import pytrec_eval

    ranks = {}
    for doc_id in scores:
        found = pytrec_eval.RelevanceEvaluator({"q": {doc_id: 1}}, {"recip_rank"}).evaluate({"q": scores})
        ranks[doc_id] = found["q"]["recip_rank"]
    assert sorted(scores, key=lambda doc_id: -ranks[doc_id]) == expected


def test_candidates_from_a_run_are_cut_at_k_in_trec_eval_order(tmp_path: Path) -> None:
    run = "2 Q0 d1 1 5 t\n1 Q0 d1 1 2.5 t\n1 Q0 d10 2 3.5 t\n2 Q0 d2 2 4 t\n1 Q0 d9 3 3.5 t\n"
    candidates = RunCandidates(written(tmp_path, run))
    queries = [Query("1", "who"), Query("3", "not in the run"), Query("2", "what")]
    assert list(candidates.search(queries, 2)) == [
        [ScoredDoc("1", "d9", 3.5), ScoredDoc("1", "d10", 3.5)],
        [],
        [ScoredDoc("2", "d1", 5.0), ScoredDoc("2", "d2", 4.0)],
    ]
    assert candidates.origin is None
    with pytest.raises(UsageError, match="holds ids and no texts"):
        candidates.fetch(["d1"])


def test_a_run_goes_through_a_pipe_which_stays_one(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    assert write_run([ScoredDoc("1", "d", 1.0)], str(pipe), "x") == 1
    reader.join(30)
    assert read == [b"1 Q0 d 1 1.000000 x\n"]
    assert pipe.is_fifo()


@pytest.mark.parametrize("dangling", [False, True])
def test_a_run_goes_where_a_link_points(tmp_path: Path, dangling: bool) -> None:
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "run", tmp_path / "link"
    if not dangling:
        target.write_text("old")
    link.symlink_to(target)
    write_run([ScoredDoc("1", "d", 1.0)], str(link), "x")
    assert link.is_symlink()
    assert target.read_text() == "1 Q0 d 1 1.000000 x\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_run_on_stdout_is_utf_8_in_every_locale(encoding: str) -> None:
    code = "from colbert_rerank.trec import write_run; from colbert_rerank.types import ScoredDoc;"
    code += "print('before'); write_run([ScoredDoc('1', 'd\\xe9', 1.0)], '-', 'x')"
    environ = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=environ)
    assert done.stdout == "before\n1 Q0 d\xe9 1 1.000000 x\n".encode()


@pytest.mark.parametrize(
    "title",
    ["use of <stdio.h> in C", "if x <b and y> c", "mail of <jo@example.org>", "a < b", "what is <br/> for"],
)
def test_angle_brackets_in_a_title_are_text(tmp_path: Path, title: str) -> None:
    text = f"<top>\n<num> Number: 7\n<title> {title}\n\n<desc> Description:\nno\n<EN-narr> no </EN-narr>\n</top>\n"
    text += f"<top><num>8</num><title>{title}</title><desc>no</desc></top>\n"
    (tmp_path / "topics").write_text(text)
    assert list(read_topics(str(tmp_path / "topics"))) == [Query("7", title), Query("8", title)]


@pytest.mark.parametrize("row", ["\td1\t1", "1\t\t1", "1\t \t1"])
def test_beir_judgements_without_an_id(tmp_path: Path, row: str) -> None:
    (tmp_path / "qrels").write_text(f"query-id\tcorpus-id\tscore\n1\td\t1 \n{row}\n")
    with pytest.raises(InputError, match=r"qrels:3: an empty (query|document) id"):
        list(read_qrels(str(tmp_path / "qrels")))
