"""What is wrong is one line that says what, where and what to do; nothing is lost and nothing half done."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from unittest.mock import patch

import pytest

from colbert_rerank import pipeline, rerank, trec
from colbert_rerank.candidates.bm25 import Bm25Index
from colbert_rerank.cli import output as messages
from colbert_rerank.encoder import Encoder, Tokens
from colbert_rerank.errors import OpenSearchUnreachableError
from colbert_rerank.store import Store, segment
from colbert_rerank.store import files as store_files
from colbert_rerank.types import Query, ScoredDoc
from ingest.first_stage import Bm25FirstStage
from tests.cli.conftest import DOCUMENTS, Files
from tests.cli.terminal import invoke
from tests.collection import documents, queries
from tests.server.indices import make_index
from tests.server.rest import call

WAIT = 60.0  # seconds after which a test that waits in vain fails
GOOD = '{"_id": "d0", "text": "tides of the sea"}'

# The second of two lines; where; what to do, as far as the cause leaves a choice.
BAD_DOCUMENTS = {
    "malformed": ('{"_id": "d1", "text": "cut', "not one JSON value", "at column 23"),
    "no-id": ('{"text": "t"}', "no id", "--id-field"),
    "null-as-id": ('{"_id": "null", "text": "t"}', "the word null", "Rename it"),
    "connector-parameter": ('{"_id": "${x}", "text": "t"}', "holds ${", "Rename it"),
    "number-as-id": ('{"_id": 7, "text": "t"}', "is a number", "Quote it"),
    "long-id": (json.dumps({"_id": "x" * 513, "text": "t"}), "513 bytes", "at most 512"),
    "id-again": ('{"_id": "d0", "text": "t"}', "already used", "an id of its own"),
    "empty-text": ('{"_id": "d1", "text": " "}', "has no text", "--fields"),
    "not-utf-8": (b'{"_id": "d1", "text": "caf\xe9"}', "not UTF-8", "iconv"),
}


@pytest.mark.parametrize(("line", "what", "advice"), BAD_DOCUMENTS.values(), ids=BAD_DOCUMENTS)
def test_a_bad_document_stops_the_ingest_and_what_came_before_is_stored(
    files: Files, tmp_path: Path, line: str | bytes, what: str, advice: str
) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_bytes(GOOD.encode() + b"\n" + (line if isinstance(line, bytes) else line.encode()) + b"\n")
    failed = invoke("ingest", corpus, "--store", tmp_path / "store", "--model", files.model)
    assert failed.status == 1
    assert failed.error.startswith(f"{corpus}:2: ")
    assert what in failed.error
    assert advice in failed.error
    assert Store.open(tmp_path / "store").index.ids() == ["d0"]


BAD_SOURCES: dict[str, tuple[list[str], int, str]] = {
    "no-file": (["nowhere.jsonl"], 1, "nowhere.jsonl: no such file or folder"),
    "unknown-type": (["s3:bucket/corpus"], 2, "unknown source type 's3'"),
    "unknown-format": (["{corpus}", "--format", "parquet"], 2, "unknown format 'parquet'"),
    "stdin-of-what": (["-"], 2, "documents on stdin need --format jsonl, tsv or trec"),
    "no-source": ([], 2, "Missing argument 'SOURCE'"),
    "no-fields": (["{corpus}", "--fields", ","], 2, "--fields names no field"),
    "other-fields": (["{corpus}", "--fields", "body"], 1, "name the fields to encode with --fields"),
    "columns-of-jsonl": (["{corpus}", "--columns", "id,text"], 2, "--columns names the columns of a TSV"),
    "index-without-server": (["{corpus}", "--index", "x"], 2, "--index: an index in OpenSearch needs --opensearch URL"),
    "settings-of-no-index": (["{corpus}", "--shards", "3", "--bm25-k1", "9"], 2, "--shards, --bm25-k1: an index in"),
    "login-without-server": (["{corpus}", "--os-user", "me"], 2, "--os-user: an index in OpenSearch needs"),
    "qualified-ids-of-a-file": (["{corpus}", "--qualified-ids"], 2, "--qualified-ids: only an index that is read"),
    "settings-of-an-index-that-is-read": (
        ["opensearch:x", "--opensearch", "http://127.0.0.1:1", "--index", "y"],
        2,
        "--index: opensearch:x is only read",
    ),
    "format-of-an-index": (
        ["opensearch:x", "--opensearch", "http://127.0.0.1:1", "--format", "jsonl"],
        2,
        "--format: the documents of opensearch:x have ids and fields already",
    ),
    "host-with-a-blank": (["{corpus}", "--opensearch", "http://ho st:1", "--index", "x"], 2, "must begin with http"),
    "nothing-in-it": (["{empty}", "--format", "jsonl"], 1, "no document was accepted"),
    "server-without-index": (["{corpus}", "--opensearch", "http://127.0.0.1:1"], 2, "name the index to fill"),
    "existing-index-without-server": (["opensearch:x"], 2, "needs --opensearch URL"),
    "url-without-scheme": (["{corpus}", "--opensearch", "localhost:9200", "--index", "x"], 2, "must begin with http"),
    "unknown-model": (["{corpus}", "--model", "nowhere"], 1, "model 'nowhere': no such folder"),
    "no-model-in-folder": (["{corpus}", "--model", "{folder}"], 1, "no config.json"),
    "unknown-device": (["{corpus}", "--device", "abacus"], 2, "expected auto, cpu, cuda"),
    "unknown-choice": (["{corpus}", "--on-error", "panic"], 2, "'panic' is not one of 'stop', 'skip'"),
    "unknown-option": (["{corpus}", "--sotre", "x"], 2, "No such option"),
}


@pytest.mark.parametrize(("arguments", "status", "message"), BAD_SOURCES.values(), ids=BAD_SOURCES)
def test_an_ingest_that_cannot_begin(
    files: Files, tmp_path: Path, arguments: list[str], status: int, message: str
) -> None:
    (tmp_path / "empty").touch()
    given = [a.format(corpus=files.corpus, folder=tmp_path, empty=tmp_path / "empty") for a in arguments]
    model = [] if "--model" in given else ["--model", files.model]
    failed = invoke("ingest", *given, "--store", tmp_path / "store", *model)
    assert failed.status == status
    assert message in failed.error


@pytest.mark.parametrize(
    ("options", "message"),
    [([], "the index to fill is not there"), (["--codec", "float32"], "holds float16 vectors")],
    ids=["of-another-index", "of-another-dtype"],
)
def test_a_refused_ingest_makes_no_index(
    files: Files, opensearch_url: str, index_name: str, options: list[str], message: str
) -> None:
    usual = ("ingest", files.corpus, "--store", files.store, "--model", files.model)
    failed = invoke(*usual, "--opensearch", opensearch_url, "--index", index_name, *options)
    assert failed.status == 1
    assert message in failed.error
    assert call(opensearch_url, "HEAD", f"/{index_name}").status == 404


def test_a_forgotten_server_is_asked_for(files: Files, tmp_path: Path, opensearch_url: str, index_name: str) -> None:
    usual = ("ingest", files.corpus, "--store", tmp_path / "store", "--model", files.model)
    invoke(*usual, "--opensearch", opensearch_url, "--index", index_name).check()
    failed = invoke(*usual)
    assert failed.status == 1
    assert f"belongs to OpenSearch index '{index_name}'" in failed.error
    assert "To go on with that one, give --opensearch URL" in failed.error


def test_a_field_that_an_index_cannot_have_is_refused_before_anything_is_read(
    files: Files, tmp_path: Path, opensearch_url: str, index_name: str
) -> None:
    body = {"properties": {"en": {"type": "text"}, "de": {"type": "text"}}}
    mapping = {"dynamic": "strict", "properties": {"title": {"type": "text"}, "body": body}}
    source = {"title": "tides", "body": {"en": "of the sea"}}
    make_index(opensearch_url, index_name, {"1": source}, mappings=mapping)
    usual = ("ingest", f"opensearch:{index_name}", "--store", tmp_path / "store", "--opensearch", opensearch_url)
    for fields, message in (
        ("title,bdy.en", "the field 'bdy.en' is not there (fields of the index: body.de, body.en, title). Name"),
        ("title,body", "the field 'body' is an object: name body.de or body.en"),
    ):
        failed = invoke(*usual, "--model", files.model, "--fields", fields)
        assert failed.status == 2
        assert failed.error.startswith(f"index '{index_name}': {message}")
        assert not (tmp_path / "store").exists()
    done = invoke(*usual, "--model", files.model, "--fields", "title,body.en").check()
    assert "Warning" not in done.err


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.parametrize("command", ["ingest", "rerank", "demo"])
def test_a_server_that_does_not_answer(files: Files, tmp_path: Path, command: str) -> None:
    url = f"http://127.0.0.1:{closed_port()}"
    arguments: dict[str, tuple[object, ...]] = {
        "ingest": (files.corpus, "--index", "x", "--store", tmp_path / "store"),
        "rerank": ("tides", "--index", "x", "--store", files.store),
        "demo": ("--store", tmp_path / "store"),
    }
    failed = invoke(command, *arguments[command], "--model", files.model, "--opensearch", url)
    assert failed.status == 1
    assert failed.error.startswith(f"{url}: cannot reach OpenSearch")
    assert "check that it runs" in failed.error


def another_model(files: Files, folder: Path) -> Path:
    from tests.tiny import tiny_checkpoint, tiny_weights

    return tiny_checkpoint(folder / "another", tiny_weights(seed=1))


def break_nothing(store: Path) -> None:
    shutil.rmtree(store)


def cut_a_segment(store: Path) -> None:
    segment = next(p for p in (store / "segments").glob("*.h5") if ".ids." not in p.name)
    os.truncate(segment, segment.stat().st_size // 2)


def cut_the_manifest(store: Path) -> None:
    os.truncate(store / "manifest.json", 100)


def number_the_format_9(store: Path) -> None:
    path = store / "manifest.json"
    path.write_text(path.read_text().replace('"format": 2', '"format": 9'))


def drop_the_bm25_index(store: Path) -> None:
    shutil.rmtree(store / "bm25")


BAD_STORES: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "missing": (break_nothing, "no store here", "make one with `ingest`"),
    "cut-segment": (cut_a_segment, "the manifest says", ""),
    "cut-manifest": (cut_the_manifest, "not a manifest, or a damaged one", ""),
    "newer-format": (number_the_format_9, "store format 9; this version reads formats 1 to 2", "Use a newer"),
    "no-bm25-index": (drop_the_bm25_index, "no embedded BM25 index", "Run the same"),
}


def test_an_index_that_opensearch_refuses_leaves_no_store(files: Files, tmp_path: Path, opensearch_url: str) -> None:
    usual = ("ingest", files.corpus, "--store", tmp_path / "store", "--model", files.model)
    failed = invoke(*usual, "--opensearch", opensearch_url, "--index", "UPPER")
    assert failed.status == 2
    assert "OpenSearch refuses to make the index 'UPPER'" in failed.error
    assert list(tmp_path.iterdir()) == []


def test_a_store_without_documents_says_so(files: Files, tmp_path: Path) -> None:
    corpus, store = tmp_path / "corpus.jsonl", tmp_path / "store"
    corpus.write_text('{"_id": "1"}\n')
    assert invoke("ingest", corpus, "--store", store, "--model", files.model).status == 1
    arguments = ("--topics", files.topics, "--store", store, "--model", files.model, "--output", tmp_path / "run")
    for failed in (invoke("run", *arguments), invoke("rerank", "tides", *arguments[2:6])):
        assert failed.status == 1
        assert failed.error == f"{store}: this store holds no documents yet: put some into it with `ingest`"
    invoke("ingest", files.corpus, "--store", store, "--model", files.model).check()
    invoke("rerank", "tides", *arguments[2:6]).check()


@pytest.mark.parametrize(("harm", "what", "advice"), BAD_STORES.values(), ids=BAD_STORES)
def test_a_store_that_cannot_be_searched(
    files: Files, tmp_path: Path, harm: Callable[[Path], None], what: str, advice: str
) -> None:
    store = tmp_path / "store"
    shutil.copytree(files.store, store)
    harm(store)
    output = tmp_path / "run"
    output.write_text("an earlier run\n")
    arguments = ("--topics", files.topics, "--store", store, "--model", files.model, "--output", output)
    for failed in (invoke("run", *arguments), invoke("rerank", "tides", *arguments[2:6])):
        assert failed.status == 1
        assert failed.error.startswith(str(store))
        assert what in failed.error
        assert advice in failed.error
    assert output.read_text() == "an earlier run\n"


def test_a_store_of_another_model_names_both_and_the_right_one(files: Files, tmp_path: Path) -> None:
    other = another_model(files, tmp_path)
    failed = invoke("rerank", "tides", "--store", files.store, "--model", other)
    assert failed.status == 1
    assert "the store has" in failed.error
    assert "this run" in failed.error
    assert str(files.model) in failed.error
    before = {p: p.read_bytes() for p in files.store.rglob("*") if p.is_file()}
    failed = invoke("ingest", files.corpus, "--store", files.store, "--model", other)
    assert failed.error.startswith(f"{files.store}: made with another model")
    assert {p: p.read_bytes() for p in files.store.rglob("*") if p.is_file()} == before


def test_a_bm25_index_of_another_store_is_refused(files: Files, tmp_path: Path) -> None:
    store = tmp_path / "store"
    invoke("ingest", files.corpus, "--store", store, "--model", files.model).check()
    shutil.rmtree(store / "bm25")
    shutil.copytree(files.store / "bm25", store / "bm25")
    failed = invoke("rerank", "tides", "--store", store, "--model", files.model)
    assert "belongs to another store" in failed.error


# What is given instead of a good run; the status; what the message says.
BAD_RUNS: dict[str, tuple[list[str], dict[str, bytes], int, str]] = {
    "topic-twice": (["--topics", "bad"], {"bad": b"1\ta\n1\tb\n"}, 1, "bad:2: topic id '1' stands twice"),
    "topic-without-text": (["--topics", "bad"], {"bad": b"1\ta\n2\t \n"}, 1, "bad:2: topic '2' has an empty query"),
    "topic-of-three-columns": (["--topics", "bad"], {"bad": b"1\ta\tb\n"}, 1, "bad:1: 3 column(s), expected 2"),
    "no-topics": (["--topics", "bad"], {"bad": b"\n"}, 1, "bad: no topics in this file"),
    "no-topics-file": (["--topics", "bad"], {}, 1, "bad: cannot be read: No such file or directory"),
    "topics-not-utf-8": (["--topics", "bad"], {"bad": b"1\tcaf\xe9\n"}, 1, "bad:1: not UTF-8"),
    "bad-qrels": (["--qrels", "bad"], {"bad": b"1 0 d1 relevant\n"}, 1, "bad:1: "),
    "qrels-of-five-columns": (["--qrels", "bad"], {"bad": b"1 0 d1 1 1\n"}, 1, "bad:1: 5 column(s), expected 4"),
    "bad-candidates": (["--candidates", "bad"], {"bad": b"1 Q0 d1 1 x\n"}, 1, "bad:1: 5 column(s), expected 6"),
    "candidate-score": (["--candidates", "bad"], {"bad": b"1 Q0 d1 1 high x\n"}, 1, "'high' is not a finite number"),
    "unknown-measure": (["--measures", "nDGC@10"], {}, 2, "unknown measure 'nDGC@10'"),
    "tag-of-two-words": (["--tag", "my run"], {}, 2, "cannot stand in a TREC run"),
    "no-k": (["--k", "0"], {}, 2, "0 is not in the range x>=1"),
    "two-first-stages": (
        ["--bm25", "--candidates", "bad"],
        {"bad": b""},
        2,
        "--bm25: the candidates come from --candidates",
    ),
    "bm25-and-server": (["--bm25", "--opensearch", "http://x"], {}, 2, "--bm25: the candidates come from --opensearch"),
    "index-without-server": (["--index", "x"], {}, 2, "--index: only with --opensearch URL"),
    "dfs-without-server": (["--dfs"], {}, 2, "--dfs: only with --opensearch URL"),
    "texts-of-a-run-file": (
        ["--candidates", "bad", "--missing", "encode"],
        {"bad": b"1 Q0 d1 1 2 x\n"},
        2,
        "--missing encode: the run in --candidates holds ids and no texts",
    ),
    "login-without-server": (
        ["--os-user", "me", "--timeout", "3"],
        {},
        2,
        "--os-user, --timeout: only with --opensearch",
    ),
    "no-run-file": (["--candidates", ""], {}, 1, "cannot be read"),
    "template-of-a-run-file": (["--candidates", "bad", "--query-template", "bad"], {"bad": b""}, 2, "--query-template"),
    "stdin-twice": (["--topics", "-", "--candidates", "-"], {}, 2, "only one of --topics, --qrels and --candidates"),
    "weight-of-two": (["--interpolate", "2"], {}, 2, "--interpolate 2.0: expected 0"),
    "output-is-a-folder": (["--output", "."], {}, 2, "it is a folder"),
    "output-over-topics": (["--topics", "bad", "--output", "./bad"], {"bad": b"1\ta\n"}, 2, "is the file of --topics"),
    "output-over-qrels": (["--qrels", "bad", "--output", "bad"], {"bad": b"1 0 d 1\n"}, 2, "is the file of --qrels"),
    "output-over-candidates": (
        ["--candidates", "run", "--output", "../{here}/run"],
        {},
        2,
        "is the file of --candidates, and would replace it; name another file",
    ),
    "output-over-the-template": (
        ["--query-template", "bad", "--output", "bad", "--opensearch", "http://127.0.0.1:1"],
        {"bad": b"{}"},
        2,
        "is the file of --query-template",
    ),
    "output-in-the-store": (["--output", "{store}/segments/run"], {}, 2, "lies in the store"),
    "topics-without-hits": (["--topics", "bad"], {"bad": b"1\tzxqv\n"}, 1, "no candidate for any of the 1 topics"),
    "candidates-of-other-topics": (
        ["--candidates", "bad"],
        {"bad": b"q7 Q0 d1 1 2 x\n"},
        1,
        "bad: the run is of other topics: it has rows of 'q7', and the topics begin with",
    ),
    "no-candidates": (["--candidates", "bad"], {"bad": b"\n"}, 1, "bad: no rows in this run"),
    "output-in-no-folder": (["--output", "nowhere/run"], {}, 2, "cannot write the run to nowhere/run"),
}


@pytest.mark.parametrize(("options", "given", "status", "message"), BAD_RUNS.values(), ids=BAD_RUNS)
def test_a_run_that_cannot_be_made_leaves_the_earlier_one(
    files: Files,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    given: dict[str, bytes],
    status: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in {"run": b"an earlier run\n", **given}.items():
        Path(name).write_bytes(content)
    usual = ["--topics", files.topics, "--store", files.store, "--model", files.model, "--output", "run"]
    failed = invoke("run", *usual, *(o.format(store=files.store, here=tmp_path.name) for o in options))
    assert failed.status == status
    assert message in failed.error
    assert Path("run").read_text() == "an earlier run\n"
    assert {p.name for p in tmp_path.iterdir()} == {"run", *given}, "nothing half written stays behind"


def test_missing_vectors_can_be_an_error(files: Files, tmp_path: Path) -> None:
    candidates = tmp_path / "candidates"
    candidates.write_text("1 Q0 d1 1 2 x\n1 Q0 nowhere 2 1 x\n")
    topics = tmp_path / "topics"
    topics.write_text("1\ttides\n")
    usual = ["--topics", topics, "--store", files.store, "--model", files.model, "--output", tmp_path / "run"]
    failed = invoke("run", *usual, "--candidates", candidates, "--missing", "error")
    assert failed.status == 1
    assert "1 of 2 candidates have no vectors" in failed.error
    assert "'nowhere'" in failed.error
    assert not (tmp_path / "run").exists()


def test_an_empty_query(files: Files) -> None:
    failed = invoke("rerank", " ", "--store", files.store, "--model", files.model)
    assert (failed.status, failed.error) == (2, "the query is empty; give it some text")


BAD_EVALS: dict[str, tuple[bytes, list[str], int, str]] = {
    "without-rows": (b"\n", [], 1, "run: no rows in this run"),
    "malformed": (b"1 Q0 d1 1 x\n", [], 1, "run:1: 5 column(s), expected 6"),
    "document-twice": (b"1 Q0 d1 1 2 x\n1 Q0 d1 2 1 x\n", [], 1, "run:2: document 'd1' stands twice"),
    "other-topics": (b"1 Q0 d1 1 2 x\n", [], 1, "no query in common"),
    "unknown-measure": (b"1 Q0 d1 1 2 x\n", ["--measures", "quality"], 2, "unknown measure 'quality'"),
}


@pytest.mark.parametrize(("content", "options", "status", "message"), BAD_EVALS.values(), ids=BAD_EVALS)
def test_a_run_that_cannot_be_measured(
    files: Files, tmp_path: Path, content: bytes, options: list[str], status: int, message: str
) -> None:
    (tmp_path / "run").write_bytes(content)
    failed = invoke("eval", tmp_path / "run", "--qrels", files.qrels, *options)
    assert failed.status == status
    assert message in failed.error


@pytest.mark.parametrize("arguments", [[], ["frobnicate"], ["--frobnicate"]], ids=["nothing", "command", "option"])
def test_what_is_no_command_shows_the_usage(arguments: list[str]) -> None:
    failed = invoke(*arguments)
    assert (failed.status, failed.out) == (2, "")
    assert failed.err.startswith("Usage: colbert-rerank [OPTIONS] COMMAND [ARGS]...")


def test_a_full_disk_while_a_store_is_written(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingest.pipeline.UNIT_TOKENS", {"cpu": 500})
    command = ("ingest", files.corpus, "--store", tmp_path / "store", "--model", files.model)
    write = segment.write

    def full(folder: Path, *args: object) -> object:
        if len(list((folder / "segments").iterdir())) == 2:
            with store_files.write_errors(folder):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(folder, *args)  # type: ignore[arg-type]

    with patch.object(segment, "write", full):
        failed = invoke(*command)
    assert failed.status == 1
    assert "the disk is full. Free some space and run the same command again" in failed.error
    kept = len(Store.open(tmp_path / "store"))
    assert 0 < kept < 60
    assert f"({60 - kept} encoded, {kept} stored before)" in invoke(*command).check().err


@pytest.mark.parametrize(("how", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"])
def test_ctrl_c_in_an_ingest_is_one_line_and_the_same_command_goes_on(
    files: Files, tmp_path: Path, how: signal.Signals, status: int
) -> None:
    """All documents fit one unit: what is encoded of it is kept."""
    encode, kept = Encoder.encode_batches, 0

    def interrupted(*args: object, **options: object) -> Iterator[object]:
        nonlocal kept
        for number, batch in enumerate(encode(*args, **options)):  # type: ignore[arg-type]
            if number == 3:
                signal.raise_signal(how)
            kept += len(batch)
            yield batch

    command = ("ingest", files.corpus, "--store", tmp_path / "store", "--model", files.model)
    with patch.object(Encoder, "encode_batches", interrupted):
        stopped = invoke(*command)
    assert stopped.status == status
    assert stopped.error == (f"interrupted; stored so far: {kept} documents. The same command goes on from there")
    assert stopped.err == (
        f"Warning: storing what is encoded so far; an interrupt now gives that up\nError: {stopped.error}\n"
    )
    search = ("rerank", "tides", "--store", tmp_path / "store", "--model", files.model)
    assert f"the store holds {kept} documents" in invoke(*search).check().err
    assert len(Store.open(tmp_path / "store")) == kept
    assert 0 < kept < 60
    done = invoke(*command).check()
    assert f"({60 - kept} encoded, {kept} stored before)" in done.err
    ids = [d.doc_id for d in documents(60)]
    again, whole = Store.open(tmp_path / "store"), Store.open(files.store)
    assert again.gather(ids).values.tobytes() == whole.gather(ids).values.tobytes()


def test_ctrl_c_says_what_is_not_in_the_index_yet(
    files: Files, tmp_path: Path, opensearch_url: str, index_name: str
) -> None:
    """The postings of what is stored last wait for the next time: a server may hang, and Ctrl-C is to end it now."""
    encode = Encoder.encode_batches

    def interrupted(*args: object, **options: object) -> Iterator[object]:
        yield from islice(encode(*args, **options), 3)  # type: ignore[arg-type]
        signal.raise_signal(signal.SIGINT)

    command = ("ingest", files.corpus, "--store", tmp_path / "store", "--model", files.model)
    into = ("--opensearch", opensearch_url, "--index", index_name)
    with patch.object(Encoder, "encode_batches", interrupted):
        stopped = invoke(*command, *into)
    kept = len(Store.open(tmp_path / "store"))
    assert 0 < kept < 60
    assert stopped.error == (
        f"interrupted; stored so far: {kept} documents, {kept} of them not in the index yet. "
        "The same command goes on from there"
    )
    assert "posted" not in invoke(*command, *into).check().err
    assert call(opensearch_url, "GET", f"/{index_name}/_count").json()["count"] == 60


def test_a_server_that_is_lost_in_an_ingest_leaves_word_of_what_is_kept(files: Files, tmp_path: Path) -> None:
    """As of an index in OpenSearch: here the embedded one stands for it."""
    command = ("ingest", files.corpus, "--store", tmp_path / "store", "--model", files.model)
    with patch.object(Bm25FirstStage, "post", side_effect=OpenSearchUnreachableError("the server is gone")):
        lost = invoke(*command)
    assert (lost.status, lost.error) == (1, "the server is gone")
    kept = f"stored so far: {DOCUMENTS} documents, {DOCUMENTS} of them not in the index yet"
    assert f"Warning: {kept}. The same command goes on from there\n" in lost.err
    assert f"(0 encoded, {DOCUMENTS} stored before)" in invoke(*command).check().err


@pytest.mark.parametrize(("how", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"])
def test_ctrl_c_in_a_run_leaves_the_earlier_one(files: Files, tmp_path: Path, how: signal.Signals, status: int) -> None:
    encode, calls = Encoder.encode_query_tokens, 0

    def interrupted(self: Encoder, tokens: list[Tokens], texts: list[str]) -> object:
        nonlocal calls
        calls += 1
        if calls == 3:
            signal.raise_signal(how)
        return encode(self, tokens, texts)

    output = tmp_path / "run"
    output.write_text("an earlier run\n")
    usual = ["--topics", files.topics, "--store", files.store, "--model", files.model, "--output", output]
    with patch.object(Encoder, "encode_query_tokens", interrupted):
        stopped = invoke("run", *usual)
    assert stopped.status == status
    assert stopped.err == "Error: interrupted; no run was written, and the same command starts it again\n"
    assert output.read_text() == "an earlier run\n"
    assert list(tmp_path.iterdir()) == [output]


def test_ctrl_c_ends_a_run_whose_server_hangs(files: Files, tmp_path: Path) -> None:
    """The embedded index stands for it: the third search has no end."""
    search, hangs, ended = Bm25Index.search, threading.Event(), threading.Event()

    def hanging(self: Bm25Index, asked: Sequence[Query], k: int) -> Iterator[list[ScoredDoc]]:
        yield from islice(search(self, asked, k), 2)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        hangs.wait(WAIT)
        ended.set()

    output = tmp_path / "run"
    usual = ("run", "--topics", files.topics, "--store", files.store, "--model", files.model, "--output", output)
    with patch.object(Bm25Index, "search", hanging), patch.object(pipeline, "PATIENCE", 0.01):
        stopped = invoke(*usual)
        assert not ended.is_set(), "no one waited for it"
        hangs.set()
        assert ended.wait(WAIT)
    assert stopped.status == 130
    assert stopped.err == "Error: interrupted; no run was written, and the same command starts it again\n"
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_under_a_run_ends_all_its_threads(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While queries are left to search and to re-rank: more than can be under way at once."""
    topics = tmp_path / "topics.tsv"
    topics.write_text("".join(f"{q.query_id}\t{q.text}\n" for q in queries(60)))
    monkeypatch.setattr(pipeline, "PATIENCE", WAIT)
    monkeypatch.setattr(trec, "_LINES_A_WRITE", 1)
    monkeypatch.setattr(rerank, "SEARCHED_AHEAD", 1)
    monkeypatch.setattr(rerank, "GATHERED_AHEAD", 1)
    search, finished = Bm25Index.search, []

    def counted(self: Bm25Index, asked: Sequence[Query], k: int) -> Iterator[list[ScoredDoc]]:
        yield from search(self, asked, k)
        finished.append("all of them")

    usual = ("run", "--topics", topics, "--store", files.store, "--model", files.model, "--output", "/dev/full")
    fail, left = messages.fail, list[str]()

    def said(message: str, status: int) -> None:
        left.extend(thread.name for thread in threading.enumerate())
        fail(message, status)

    with patch.object(Bm25Index, "search", counted), patch.object(messages, "fail", said):
        failed = invoke(*usual)
    assert failed.error == (
        "the run /dev/full could not be written: No space left on device. Free the disk or choose another place"
    )
    assert not finished
    assert left
    assert not [name for name in left if name.startswith(("candidates", "gather", "behind"))]
