"""What is printed where: text, JSON, quiet, on a terminal and off it; and that no secret is among it."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import pytest

from colbert_rerank.cli import output
from colbert_rerank.cli.first_stage import FirstStageOptions
from colbert_rerank.cli.progress import FIRST_LINE, LONGEST_WAIT, WINDOW, Pace, progress
from colbert_rerank.store import manifest as manifests
from tests.cli.conftest import DOCUMENTS, QUERIES, Files
from tests.cli.terminal import invoke, logging_as_it_was
from tests.collection import FakeIndex, documents, queries

ESCAPE = "\x1b["
COMMAND = Path(sys.executable).parent / "colbert-rerank"


def ingest_again(files: Files, folder: Path, *options: object) -> tuple[object, ...]:
    return ("ingest", files.corpus, "--store", folder / "store", "--model", files.model, *options)


def logged(text: str) -> list[dict[str, object]]:
    """Every line of what must be nothing but JSON."""
    lines: list[dict[str, object]] = [json.loads(line) for line in text.splitlines()]
    assert all({"time", "level", "message"} <= set(line) for line in lines)
    return lines


def test_json_lines_hold_the_counts(files: Files, tmp_path: Path) -> None:
    done = invoke(*ingest_again(files, tmp_path, "--log-format", "json")).check()
    counts: dict[str, object] = {}
    for line in logged(done.err):
        counts |= line
    assert (counts["documents"], counts["encoded"], counts["unchanged"]) == (DOCUMENTS, DOCUMENTS, 0)
    assert counts["posted"] == DOCUMENTS
    assert counts["truncated"]
    assert {"read", "tokenize", "encode", "write", "post"} == set(counts["seconds"])  # type: ignore[call-overload]

    usual = ("run", "--topics", files.topics, "--store", files.store, "--model", files.model, "--output", "-")
    done = invoke(*usual, "--log-format", "json").check()
    counts = {}
    for line in logged(done.err):
        counts |= line
    assert counts["queries"] == QUERIES
    assert counts["lines"] == counts["scored"] == len(done.out.splitlines())


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["ingest", "nowhere.jsonl", "--store", "{store}"], 1, "nowhere.jsonl: no such file"),
        (["ingest", "nowhere.jsonl"], 2, "Missing option '--store'"),
        (["rerank", "", "--store", "{store}"], 2, "the query is empty"),
    ],
    ids=["input", "usage-by-click", "usage-by-us"],
)
def test_errors_are_json_too(tmp_path: Path, arguments: list[str], status: int, message: str) -> None:
    failed = invoke(*(a.format(store=tmp_path / "store") for a in arguments), "--log-format", "json")
    assert (failed.status, failed.out) == (status, "")
    (line,) = logged(failed.err)
    assert line["level"] == "error"
    assert message in str(line["message"])


def test_times_are_of_rfc_3339(tmp_path: Path) -> None:
    (line,) = logged(invoke("eval", tmp_path / "nothing", "--qrels", "x", "--log-format", "json").err)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d", str(line["time"]))


def test_quiet_prints_results_and_nothing_else(files: Files, tmp_path: Path) -> None:
    assert invoke(*ingest_again(files, tmp_path, "-q")).check()[1:] == ("", "")
    usual = ("run", "--topics", files.topics, "--store", files.store, "--model", files.model, "-q")
    assert invoke(*usual, "--output", tmp_path / "run").check()[1:] == ("", "")
    measured = invoke(*usual, "--output", tmp_path / "run", "--qrels", files.qrels).check()
    assert "re-ranked" in measured.out
    assert measured.err == ""
    failed = invoke("ingest", "nowhere.jsonl", "--store", tmp_path / "store", "-q")
    assert failed.error.startswith("nowhere.jsonl: no such file or folder")


def test_how_many_sampled_texts_were_equal_is_said(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = FakeIndex(documents(DOCUMENTS))
    monkeypatch.setattr(FirstStageOptions, "_open_index", lambda *given: copy)
    usual = ("rerank", "who founded Publix", "--store", files.store, "--model", files.model)
    other = ("--opensearch", "http://nowhere", "--index", "copy", "--allow-other-index")
    said = "of 20 sampled documents have the text they were encoded from in OpenSearch index 'copy' (uuid uuid-2)"
    assert invoke(*usual, *other).check().err.startswith(f"{files.store}: 20 {said}\n")
    assert invoke(*usual, *other, "-q").check().err == "the first stage found nothing for this query\n"
    for doc_id in copy.asked[:2]:
        del copy.documents[doc_id]
    assert invoke(*usual, *other).check().err.startswith(f"Warning: {files.store}: 18 {said}; the others")


def test_what_changes_the_results_is_said_under_quiet_too(files: Files, tmp_path: Path) -> None:
    candidates = tmp_path / "bm25.txt"
    ids = [documents(1)[0].doc_id, "not-stored"]
    candidates.write_text("".join(f"{queries(1)[0].query_id} Q0 {i} 1 {n} x\n" for n, i in enumerate(ids)))
    arguments = ("run", "--topics", files.topics, "--store", files.store, "--output", tmp_path / "run", "-q")
    done = invoke(*arguments, "--candidates", candidates, "--missing", "drop").check()
    assert done.err.splitlines() == [
        "1 candidate without vectors: left out",
        f"{QUERIES - 1} queries found no candidate",
    ]


def test_a_store_that_is_not_whole_and_a_query_without_hits_are_said_under_quiet_too(
    files: Files, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(files.store, store)
    manifest = manifests.load(store)
    manifests.save(store, manifest.next(unfinished=("corpus.jsonl",)))
    done = invoke("rerank", "zxqv", "--store", store, "-q").check()
    assert done.err.splitlines() == [
        f"{store}: the last ingest was interrupted, is under way, or left documents out of the index; the store holds "
        f"{DOCUMENTS} documents",
        "the first stage found nothing for this query",
    ]
    done = invoke("rerank", "word " * 50, "--store", files.store, "-q").check()
    assert "1 query longer than the 32 tokens the model reads, cut" in done.err


def test_a_document_cannot_speak_to_the_terminal(files: Files, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    text = "tide \x1b[31mRED\x1b]0;pwned\x07 \x00 nul \u202e rtl \x9b31m"
    corpus.write_text(json.dumps({"_id": "e\u202e1", "text": text}) + "\n")
    invoke("ingest", corpus, "--store", tmp_path / "store", "--model", files.model).check()
    for terminal in (True, False):
        shown = invoke("rerank", "tide", "--store", tmp_path / "store", terminal=terminal).check().out.splitlines()[1]
        assert "e\ufffd1" in shown
        assert "RED" in shown
        assert not set("\x00\x07\x1b\x9b\u202e") & set(shown)


def test_each_command_begins_with_the_usual_settings(files: Files, tmp_path: Path) -> None:
    assert invoke(*ingest_again(files, tmp_path, "-q", "--log-format", "json")).check().err == ""
    again = invoke(*ingest_again(files, tmp_path)).check()
    assert again.err.startswith(f"{tmp_path / 'store'}: {DOCUMENTS} documents, ")


@pytest.mark.parametrize(
    ("environ", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)], ids=["a-terminal", "NO_COLOR"]
)
def test_a_terminal_gets_styles_unless_it_says_no(files: Files, environ: Mapping[str, str], coloured: bool) -> None:
    usual = ("rerank", "who founded Publix", "--store", files.store, "--model", files.model)
    done = invoke(*usual, environ={"COLUMNS": "60", "TERM": "xterm-256color", **environ}, terminal=True).check()
    assert (ESCAPE in done.out) is coloured
    lines = re.sub(r"\x1b\[\d*m", "", done.out).splitlines()
    assert max(map(len, lines)) == 60, "the text is cut where the terminal ends"
    assert "loading the model" in done.err


def test_a_long_id_leaves_room_for_the_text_on_a_terminal_only(files: Files, tmp_path: Path) -> None:
    uuid = "0198c2f4-7d1e-7bb3-9c55-3a1f0e6d2b77"
    ids = [f"https://example.org/{'deep/' * 95}{n}" for n in (1, 2)] + [uuid, "d"]
    corpus, store = tmp_path / "corpus.jsonl", tmp_path / "store"
    corpus.write_text("".join(json.dumps({"_id": i, "text": "the river Publix"}) + "\n" for i in ids))
    invoke("ingest", corpus, "--store", store, "--model", files.model).check()
    usual = ("rerank", "Publix", "--store", store, "--model", files.model)
    seen = invoke(*usual, environ={"COLUMNS": "100", "NO_COLOR": "1"}, terminal=True).check().out
    short = ["https://example.or…/deep/deep/deep/1", "https://example.or…/deep/deep/deep/2"]
    assert all(len(i) == len(uuid) for i in short)
    assert sorted(line.split()[1] for line in seen.splitlines()[1:]) == sorted([*short, uuid, "d"])
    assert all(line.endswith("the river Publix") for line in seen.splitlines()[1:])
    piped = invoke(*usual).check().out
    assert sorted(line.split()[1] for line in piped.splitlines()[1:]) == sorted(ids)


def test_off_a_terminal_there_are_no_escapes(files: Files, tmp_path: Path) -> None:
    usual = ("rerank", "who founded Publix", "--store", files.store, "--model", files.model)
    for done in (invoke(*usual), invoke(*ingest_again(files, tmp_path))):
        assert ESCAPE not in done.check().out + done.err
    assert "loading" not in done.err


def test_a_terminal_sees_a_bar_with_rate_and_size(files: Files, tmp_path: Path) -> None:
    done = invoke(*ingest_again(files, tmp_path), environ={"COLUMNS": "100", "TERM": "xterm"}, terminal=True).check()
    bar = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", done.err)
    assert re.search(rf"documents ━+ {DOCUMENTS}/{DOCUMENTS} [\d,.]+/s, 0\.\d MB", bar)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_pace_is_that_of_the_last_half_minute() -> None:
    clock = Clock()
    pace = Pace(1_000_000, clock)
    assert pace.describe(0) == ""
    for _ in range(100):
        clock.now += 1
        pace.add(500_000 + int(clock.now - 1000) * 40)
    assert pace.rate == pytest.approx(40)
    assert pace.seconds_left == pytest.approx((1_000_000 - 504_000) / 40)
    assert pace.describe(12_300_000) == "40/s, 12.3 MB, 3:26:40 left"
    clock.now += 2 * WINDOW
    pace.add(504_060)
    assert pace.describe(0) == "1.0/s, 137:45:40 left"


def test_pace_is_that_of_work() -> None:
    clock = Clock()
    pace = Pace(1_000_000, clock)
    for _ in range(10):  # a resumed ingest: found in the store
        clock.now += 1
        pace.add(int(clock.now - 1000) * 50_000, free=int(clock.now - 1000) * 50_000)
        assert pace.describe(0) == ""
    clock.now += 2
    pace.add(500_080, free=500_000)
    assert pace.describe(0) == "40/s, 3:28:18 left"
    pace = Pace(1_000_000, clock)
    for step in range(100):  # every hundredth document has changed
        clock.now += 1
        pace.add(4_000 * step, free=3_960 * step)
    assert pace.describe(0) == "40/s, 2:31 left"


def test_pace_without_a_total_has_no_end() -> None:
    clock = Clock()
    pace = Pace(None, clock)
    clock.now += 1
    pace.add(7)
    assert pace.describe(0) == "7.0/s"


def test_progress_lines_do_not_flood(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    file = io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)
    times: list[float] = []
    with logging_as_it_was(), progress("documents", 360_000, clock) as update:
        output.configure()
        for second in range(36_000):
            clock.now = 1000.0 + second
            update(10 * second, size=1000 * second)
            if file.getvalue().count("\n") > len(times):
                times.append(second)
    assert times[0] == FIRST_LINE
    waits = [b - a for a, b in pairwise(times)]
    assert min(waits) >= FIRST_LINE
    assert max(waits) == LONGEST_WAIT
    assert waits == sorted(waits)
    assert len(times) < 70, "of ten hours"
    assert file.getvalue().splitlines()[0] == "documents: 100 of 360,000, 10/s, 0.0 MB, 9:59:50 left"


# Real processes from here on: what the interpreter itself does at its end is part of what users see.


def process(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, *map(str, arguments)], text=True, check=False, **options)  # type: ignore[call-overload, no-any-return]


def test_a_reader_that_goes_away_ends_a_command_without_a_word(files: Files, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.write_text("".join(f"q{i} Q0 d{i} 1 1 x\n" for i in range(5000)))
    qrels = tmp_path / "qrels"
    qrels.write_text("".join(f"q{i} 0 d{i} 1\n" for i in range(5000)))
    reader, writer = os.pipe()
    os.close(reader)
    done = process("eval", run, "--qrels", qrels, "--by-query", stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert done.returncode == 1
    assert done.stderr == ""


def test_a_full_disk_behind_stdout(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("1 Q0 d1 1 1 x\n")
    (tmp_path / "qrels").write_text("1 0 d1 1\n")
    with Path("/dev/full").open("w") as full:
        done = process("eval", tmp_path / "run", "--qrels", tmp_path / "qrels", stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr == "Error: cannot write the output: No space left on device\n"


@pytest.mark.parametrize(("how", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"])
def test_ctrl_c_while_it_waits_for_its_input(files: Files, tmp_path: Path, how: signal.Signals, status: int) -> None:
    os.mkfifo(tmp_path / "corpus.jsonl")  # which waits for someone to write to it
    arguments = ingest_again(files._replace(corpus=tmp_path / "corpus.jsonl"), tmp_path, "--format", "jsonl")
    command = [str(COMMAND), *map(str, arguments)]
    waiting = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with (tmp_path / "corpus.jsonl").open("w"):  # returns when it is being read
        waiting.send_signal(how)
        out, err = waiting.communicate(timeout=60)
    assert waiting.returncode == status
    assert out == ""
    assert err == "Error: interrupted; stored so far: 0 documents. The same command goes on from there\n"


def test_libraries_are_silent(files: Files, tmp_path: Path) -> None:
    """Under -v too: their loggers, bars and warnings are for programmers."""
    shutil.copy(files.corpus, tmp_path / "corpus.jsonl")
    done = process(*ingest_again(files, tmp_path, "-v"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert done.returncode == 0
    assert done.stdout == ""
    ours = ("loading the model", "documents: ", "Warning: ", "seconds: ", "Search it:", str(tmp_path))
    assert [line for line in done.stderr.splitlines() if not line.startswith(ours)] == []


SECRET = "hunter2-hunter2"
PREFIX = "COLBERT_RERANK_OPENSEARCH_"
CLOSED = "127.0.0.1:1"
LOGINS: dict[str, tuple[str, list[str], dict[str, str]]] = {
    "in-the-url": (f"http://admin:{SECRET}@{CLOSED}", [], {}),
    "in-a-bad-url": (f"http://admin:{SECRET}@{CLOSED}:x", [], {}),
    "in-a-url-of-another-scheme": (f"ftp://admin:{SECRET}@{CLOSED}", [], {}),
    "in-a-url-and-another-user": (f"http://admin:{SECRET}@{CLOSED}", ["--os-user", "else"], {}),
    "password": (f"http://{CLOSED}", ["--os-user", "admin"], {PREFIX + "PASSWORD": SECRET}),
    "password-without-user": (f"http://{CLOSED}", ["--os-password-file", "{file}"], {}),
    "api-key": (f"http://{CLOSED}", [], {PREFIX + "API_KEY": SECRET}),
    "token-file": (f"http://{CLOSED}", ["--os-token-file", "{file}"], {}),
    "two-ways": (f"http://{CLOSED}", [], {PREFIX + "API_KEY": SECRET, PREFIX + "TOKEN": SECRET}),
}


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize(("url", "options", "environ"), LOGINS.values(), ids=LOGINS)
def test_no_secret_is_printed(
    files: Files, tmp_path: Path, url: str, options: list[str], environ: dict[str, str], log_format: str
) -> None:
    secret_file = tmp_path / "secret"
    secret_file.write_text(SECRET + "\n")
    given = [o.format(file=secret_file) for o in options]
    for command in (("rerank", "tides", "--store", files.store), ingest_again(files, tmp_path)):
        failed = invoke(
            *command, "--opensearch", url, "--index", "x", *given, "-v", "--log-format", log_format, environ=environ
        )
        assert failed.status in (1, 2)
        assert "OpenSearch" in failed.err or CLOSED in failed.err
        assert SECRET not in failed.out + failed.err
