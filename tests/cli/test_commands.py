"""The main job by hand: ingest, rerank, run, eval."""

from __future__ import annotations

import gzip
import json
import re
import shlex
import shutil
from pathlib import Path
from unittest.mock import patch

import pytest

from colbert_rerank.candidates.bm25 import Bm25Index
from colbert_rerank.cli.rerank import SHOWN
from colbert_rerank.store import Store
from tests.cli.conftest import DOCUMENTS, QUERIES, Files
from tests.cli.terminal import invoke
from tests.collection import documents, queries

QUESTION = "who founded Publix"


def run(files: Files, output: Path, *options: object) -> str:
    """The measures that `run` prints, where it prints any."""
    arguments = ("run", "--topics", files.topics, "--store", files.store, "--model", files.model, "--output", output)
    return invoke(*arguments, *options).check().out


def shown(table: str) -> dict[str, list[str]]:
    """A table by its first column, which may hold blanks."""
    rows = [line.rsplit(maxsplit=len(table.splitlines()[0].split())) for line in table.splitlines()[1:]]
    return {row[0].strip(): row[1:] for row in rows}


def test_the_same_ingest_again_encodes_nothing(files: Files) -> None:
    done = invoke("ingest", files.corpus, "--store", files.store, "--model", files.model).check()
    assert f"(0 encoded, {DOCUMENTS} stored before)" in done.err
    assert done.out == ""


@pytest.mark.parametrize("form", ["file", "gzipped", "stdin", "gzipped-stdin"])
def test_documents_come_from_where_they_are(files: Files, tmp_path: Path, form: str) -> None:
    content = files.corpus.read_bytes()
    if "gzipped" in form:
        content = gzip.compress(content)
    source: tuple[object, ...] = ("-", "--format", "jsonl")
    if "stdin" not in form:
        path = tmp_path / "corpus"
        path.write_bytes(content)
        source, content = (path,), b""
    store = tmp_path / "store"
    invoke("ingest", *source, "--store", store, "--model", files.model, stdin=content).check()
    made, known = Store.open(store), Store.open(files.store)
    ids = sorted(d.doc_id for d in documents(DOCUMENTS))
    assert sorted(made.index.ids()) == ids
    assert made.gather(ids).values.tobytes() == known.gather(ids).values.tobytes()


def test_rerank_shows_each_document_with_its_place_before(files: Files) -> None:
    arguments = ("rerank", QUESTION, "--store", files.store, "--model", files.model, "--top", 5)
    table = invoke(*arguments).check().out.splitlines()
    assert re.split(r"\s{2,}", table[0].strip()) == ["rank", "id", "score", "first stage", "text"]
    assert len(table) == 6
    objects = [json.loads(line) for line in invoke(*arguments, "--json").check().out.splitlines()]
    assert [o["rank"] for o in objects] == [1, 2, 3, 4, 5]
    for line, o in zip(table[1:], objects, strict=True):
        assert line.split()[:4] == [str(o["rank"]), o["doc_id"], f"{o['score']:.6f}", str(o["first_stage_rank"])]
    assert {o["doc_id"] for o in objects} <= {d.doc_id for d in documents(DOCUMENTS)}
    titles = {d.doc_id: str(d.fields["title"]) for d in documents(DOCUMENTS)}
    for line, o in zip(table[1:], objects, strict=True):
        text = " ".join(line.split()[4:])
        assert text.startswith(f"{titles[o['doc_id']]} | ")
        assert (len(text), text[-1]) == (SHOWN, "…"), "these paragraphs are longer"


def test_the_first_stage_ranks_are_the_first_stage_s(files: Files) -> None:
    arguments = ("rerank", QUESTION, "--store", files.store, "--model", files.model, "--k", 7, "--json")
    objects = [json.loads(line) for line in invoke(*arguments).check().out.splitlines()]
    assert sorted(o["first_stage_rank"] for o in objects) == [1, 2, 3, 4, 5, 6, 7]
    before = sorted(objects, key=lambda o: o["first_stage_rank"])
    scores = [o["first_stage_score"] for o in before]
    assert scores == sorted(scores, reverse=True)
    assert [o["score"] for o in objects] == sorted((o["score"] for o in objects), reverse=True)


def test_a_repeated_run_is_the_same_to_the_byte(files: Files, tmp_path: Path) -> None:
    for name in ("a", "b"):
        run(files, tmp_path / name, "--k", 20)
    rows = [line.split() for line in (tmp_path / "a").read_text().splitlines()]
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert list(dict.fromkeys(row[0] for row in rows)) == [q.query_id for q in queries(QUERIES)]
    assert max(int(row[3]) for row in rows) == 20


def test_a_run_with_queries_by_onnx_runtime_is_the_same_but_for_last_digits(files: Files, tmp_path: Path) -> None:
    run(files, tmp_path / "torch")
    run(files, tmp_path / "onnx", "--query-backend", "onnx")
    scores: dict[str, dict[tuple[str, str], float]] = {}
    for name in ("torch", "onnx"):
        rows = [line.split() for line in (tmp_path / name).read_text().splitlines()]
        scores[name] = {(row[0], row[2]): float(row[4]) for row in rows}
    assert scores["onnx"] == pytest.approx(scores["torch"], abs=1e-4, rel=0)
    assert scores["onnx"] != scores["torch"], "to the bit, so that torch has encoded both"


def test_a_run_names_its_slowest_stage(files: Files, tmp_path: Path) -> None:
    usual = ("run", "--topics", files.topics, "--store", files.store, "--model", files.model)
    done = invoke(*usual, "--output", tmp_path / "run", "--qrels", files.qrels, "--log-format", "json").check()
    said = [json.loads(line) for line in done.err.splitlines()]
    (means,) = [one["mean_ms"] for one in said if "mean_ms" in one]
    assert means.keys() == {"candidates", "encode", "gather", "score", "order", "write"}
    (overlapped,) = [one for one in said if "busy" in one]
    busy = overlapped["busy"]
    assert busy.keys() == {"candidates", "gather", "re-ranking", "write"}
    assert list(busy.values()) == sorted(busy.values(), reverse=True)
    assert all(0 < share <= 1 for share in busy.values())
    in_turn = sum(means[stage] for stage in ("encode", "score", "order"))
    assert busy["re-ranking"] == pytest.approx(in_turn / overlapped["wall_ms"])
    slowest, share = next(iter(busy.items()))
    assert overlapped["slowest"] == slowest
    assert f"; slowest stage: {slowest} (busy {share:.0%} of the time)" in overlapped["message"]


def test_topics_on_stdin_and_a_run_on_stdout(files: Files, tmp_path: Path) -> None:
    run(files, tmp_path / "run", "--tag", "mine")
    arguments = ("run", "--topics", "-", "--store", files.store, "--model", files.model, "--output", "-")
    done = invoke(*arguments, "--tag", "mine", "--qrels", files.qrels, stdin=files.topics.read_bytes()).check()
    assert done.out == (tmp_path / "run").read_text()
    assert "re-ranked" in done.err, "the measures must not stand in the run"
    assert f"Warning: {QUERIES} of 100 judged queries are in the run; the others count as 0" in done.err


def test_a_run_file_as_the_first_stage(files: Files, tmp_path: Path) -> None:
    first = [
        f"{query.query_id} Q0 {document.doc_id} {rank} {-rank} bm25"
        for query in queries(QUERIES)
        for rank, document in enumerate(documents(10), start=1)
    ]
    candidates = tmp_path / "bm25.txt"
    candidates.write_text("\n".join(first) + "\n")
    run(files, tmp_path / "run", "--candidates", candidates, "--k", 4)
    found = {tuple(line.split()[:3:2]) for line in (tmp_path / "run").read_text().splitlines()}
    assert found == {(q.query_id, d.doc_id) for q in queries(QUERIES) for d in documents(4)}


def test_eval_prints_what_run_printed(files: Files, tmp_path: Path) -> None:
    measures = ("--measures", "nDCG@10 RR(rel=2)@10 R@100")
    output = tmp_path / "run"
    table = run(files, output, "--qrels", files.qrels, *measures)
    assert table.splitlines()[0].split() == ["nDCG@10", "RR(rel=2)@10", "R@100"]
    after = shown(invoke("eval", output, "--qrels", files.qrels, *measures).check().out)
    assert list(after.values()) == [shown(table)["re-ranked"]]
    by_query = invoke("eval", output, "--qrels", files.qrels, *measures, "--by-query").check().out
    rows = shown(by_query)
    assert rows.pop("all") == shown(table)["re-ranked"]
    judged = {line.split()[0] for line in files.qrels.read_text().splitlines()[1:]}
    assert set(rows) == judged
    numbered = tmp_path / "numbered"
    numbered.write_text("".join(f"{q} 0 d 1\n" for q in ("10", "x", "9")))
    (tmp_path / "one").write_text("9 Q0 d 1 1 x\n8 Q0 d 1 1 x\n")
    done = invoke("eval", tmp_path / "one", "--qrels", numbered, "--by-query").check()
    assert list(shown(done.out)) == ["9", "10", "x", "all"]
    assert done.err.splitlines() == [
        "Warning: 1 of 3 judged queries are in the run; the others count as 0",
        "1 query without judgements left out of the measures",
    ]
    means = [sum(float(row[i]) for row in rows.values()) / len(rows) for i in range(3)]
    assert means == pytest.approx([float(v) for v in shown(table)["re-ranked"]], abs=1e-4)


def test_missing_vectors_are_counted_aloud(files: Files, tmp_path: Path) -> None:
    candidates = tmp_path / "run"
    ids = [d.doc_id for d in documents(3)] + ["not-stored"]
    rows = [f"{q.query_id} Q0 {i} {n} {-n} x" for q in queries(QUERIES) for n, i in enumerate(ids)]
    candidates.write_text("\n".join(rows))
    arguments = ("run", "--topics", files.topics, "--store", files.store, "--model", files.model, "--output", "-")
    done = invoke(*arguments, "--candidates", candidates).check()
    assert f"Warning: {QUERIES} candidates without vectors: put after the others" in done.err
    assert [line.split()[2] for line in done.out.splitlines()][3::4] == ["not-stored"] * QUERIES
    done = invoke(*arguments, "--candidates", candidates, "--missing", "drop").check()
    assert f"Warning: {QUERIES} candidates without vectors: left out" in done.err
    assert "not-stored" not in done.out


def test_documents_without_vectors_are_marked(files: Files, tmp_path: Path) -> None:
    """As of a store that is behind its index."""
    few = tmp_path / "few"
    few.write_text("".join(json.dumps(d.fields) + "\n" for d in documents(3)))
    invoke("ingest", few, "--store", tmp_path / "behind", "--model", files.model).check()
    title = documents(1)[0].fields["title"]
    index = Bm25Index.open_for(files.store, Store.open(files.store).manifest)
    with patch.object(Bm25Index, "open_for", lambda *_: index), patch("colbert_rerank.rerank.check_origin"):
        arguments = ("rerank", title, "--store", tmp_path / "behind", "--model", files.model, "--k", 8)
        objects = [json.loads(line) for line in invoke(*arguments, "--json").check().out.splitlines()]
        table = invoke(*arguments).check().out.splitlines()[1:]
    stored = {d.doc_id for d in documents(3)}
    assert [o["scored"] for o in objects] == [o["doc_id"] in stored for o in objects]
    assert {o["scored"] for o in objects} == {True, False}
    assert [line.split()[2] == "unscored" for line in table] == [not o["scored"] for o in objects]


def test_queries_of_a_run_that_are_no_topics_are_counted(files: Files, tmp_path: Path) -> None:
    candidates = tmp_path / "bm25.txt"
    (doc_id,) = [d.doc_id for d in documents(1)]
    rows = [f"{query_id} Q0 {doc_id} 1 1 x\n" for query_id in (queries(1)[0].query_id, "other", "and-one-more")]
    candidates.write_text("".join(rows))
    usual = ("run", "--topics", files.topics, "--store", files.store, "--model", files.model, "--output", "-")
    done = invoke(*usual, "--candidates", candidates).check()
    assert len(done.out.splitlines()) == 1
    assert f"Warning: 2 queries of {candidates} not among the topics, left out" in done.err
    failed = invoke(*usual, "--candidates", "-", stdin="".join(rows[1:]).encode())
    assert failed.error.startswith("<stdin>: the run is of other topics")
    assert f"Warning: {QUERIES - 1} queries found no candidate" in done.err


def test_a_query_without_hits_is_no_failure(files: Files, tmp_path: Path) -> None:
    done = invoke("rerank", "zxqv", "--store", files.store, "--model", files.model).check()
    assert done.out == ""
    assert done.err == "Warning: the first stage found nothing for this query\n"
    topics = tmp_path / "topics.tsv"
    topics.write_text("1\tzxqv\n2\twho founded Publix\n")
    arguments = ("run", "--topics", topics, "--store", files.store, "--model", files.model, "--output", "-")
    done = invoke(*arguments).check()
    assert {line.split()[0] for line in done.out.splitlines()} == {"2"}
    assert "Warning: 1 query found no candidate" in done.err


def test_a_store_is_known_by_its_content_not_by_its_place(files: Files, tmp_path: Path) -> None:
    shutil.copytree(files.store, tmp_path / "moved")
    a, b = (
        invoke("rerank", QUESTION, "--store", store, "--model", files.model).check().out
        for store in (files.store, tmp_path / "moved")
    )
    assert a == b != ""


def test_skipped_documents_are_counted_and_named(files: Files, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"_id": "a", "text": "tides"}\n{"_id": 7, "text": "x"}\n{"_id": "b"}\n')
    arguments = ("ingest", corpus, "--store", tmp_path / "store", "--model", files.model, "--on-error", "skip")
    done = invoke(*arguments).check()
    assert "1 document, " in done.err
    assert "Warning: 1 skipped: non-string id" in done.err
    assert "Warning: 1 skipped: empty text" in done.err
    assert f"{corpus}:2: the id 7" in done.err
    assert invoke(*arguments, "--quiet").check().err == "2 documents skipped\n"


def test_skipped_documents_after_the_tenth_are_counted_and_each_has_its_place(files: Files, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"_id": "a", "text": "tides"}\n' + "{\n" * 19)
    arguments = ("ingest", corpus, "--store", tmp_path / "store", "--model", files.model, "--on-error", "skip")
    lines = invoke(*arguments).check().err.splitlines()
    assert sum(line.startswith(f"  {corpus}:") for line in lines) == 10
    assert "  and 9 more" in lines
    logged = [json.loads(line) for line in invoke(*arguments, "--log-format", "json").check().err.splitlines()]
    places = [(line["file"], line["line"]) for line in logged if "file" in line]
    assert places == [(str(corpus), number) for number in range(2, 12)]
    assert [line["more"] for line in logged if "more" in line] == [9]
    corpus.write_text('{"_id": "a", "text": "tides"}\n' + "{\n" * 10)
    assert "more" not in invoke(*arguments).check().err


def test_after_a_resume_documents_that_were_cut_are_those_encoded_now(files: Files, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    lines = [json.dumps({"_id": str(number), "text": "tide " * 500}) for number in range(2)]
    corpus.write_text(lines[0])
    arguments = ("ingest", corpus, "--store", tmp_path / "store", "--model", files.model)
    assert "Warning: 1 document longer than the " in invoke(*arguments).check().err
    corpus.write_text("\n".join(lines))
    assert "Warning: 1 document of those encoded now longer than the " in invoke(*arguments).check().err


def test_ids_with_white_space_are_told_each_time(files: Files, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(
        '{"_id": "a b", "text": "tides"}\n{"_id": "c\u3000d", "text": "sea"}\n{"_id": "e", "text": "sun"}\n'
    )
    for _ in range(2):  # unchanged documents, too
        done = invoke("ingest", corpus, "--store", tmp_path / "store", "--model", files.model).check()
        assert "Warning: 2 documents with white space in the id: a TREC run cannot name them\n" in done.err


def test_a_field_that_no_document_has_is_named(files: Files, tmp_path: Path) -> None:
    arguments = ("ingest", files.corpus, "--store", tmp_path / "store", "--model", files.model)
    done = invoke(*arguments, "--fields", "titel,text").check()
    assert "Warning: of --fields, no document has text in 'titel' (their fields: title, text" in done.err
    assert "of the first" not in done.err, "it is told once"
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"_id": "a", "text": "tides"}\n')
    done = invoke("ingest", corpus, "--store", tmp_path / "other", "--model", files.model).check()
    assert "no document has text" not in done.err, "title is asked for by default only"


def test_a_field_that_no_document_has_is_named_long_before_the_end(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under --on-error stop a document without any text stops the ingest: another field has text here."""
    monkeypatch.setattr("ingest.pipeline.READ_AHEAD", 8)
    corpus = tmp_path / "corpus.jsonl"
    lines = [f'{{"_id": "{i}", "title": "tide {i}", "body": {{"en": "sea", "de": "Meer"}}}}' for i in range(40)]
    corpus.write_text("\n".join([*lines, "{"]))
    arguments = ("ingest", corpus, "--store", tmp_path / "store", "--model", files.model)
    failed = invoke(*arguments, "--fields", "title,body")
    assert failed.err.count("Warning: ") == 1
    assert (
        "Warning: of --fields, none of the first 8 documents has text in 'body' "
        "(their fields: title, body.en, body.de)\n" in failed.err
    )
    assert "none of the first" not in invoke(*arguments, "--fields", "title,body.en").err


def test_numbers_and_booleans_in_encoded_fields_are_counted(files: Files, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    years = ("1999", '"1999"', "true", '["a", [7]]', "null", '""')
    lines = [f'{{"_id": "{i}", "text": "tide", "year": {year}}}' for i, year in enumerate(years)]
    corpus.write_text("\n".join(lines))
    arguments = ("ingest", corpus, "--store", tmp_path / "store", "--model", files.model, "--fields", "text,year")
    warning = "Warning: 3 documents have a number or boolean in 'year', which is not encoded as text\n"
    for _ in range(2):  # unchanged documents, too
        assert warning in invoke(*arguments).check().err
    assert "number or boolean" not in invoke(*arguments[:2], "--store", tmp_path / "b", *arguments[4:6]).check().err


def test_a_first_ingest_that_failed_does_not_bind_the_next(files: Files, tmp_path: Path) -> None:
    arguments = ("ingest", files.corpus, "--store", tmp_path / "store", "--model", files.model)
    assert invoke(*arguments, "--fields", "body", "--codec", "float32").status == 1
    before = Store.open(tmp_path / "store").manifest
    invoke(*arguments).check()
    after = Store.open(tmp_path / "store").manifest
    assert (before.recipe.fields, before.codec) == (("body",), "float32")
    assert (after.recipe.fields, after.codec, after.store_id) == (("title", "text"), "float16", before.store_id)
    assert invoke("rerank", QUESTION, "--store", tmp_path / "store", "--model", files.model).check().out


def test_a_run_in_which_nothing_was_scored_is_none(files: Files, tmp_path: Path) -> None:
    """The ids of another collection: a run file names no index that could be compared."""
    (tmp_path / "bm25.txt").write_text("".join(f"{q.query_id} Q0 other 1 1 x\n" for q in queries(QUERIES)))
    arguments = ("run", "--topics", files.topics, "--store", files.store, "--model", files.model)
    for missing in ("first_stage", "drop"):
        options = ("--candidates", tmp_path / "bm25.txt", "--output", tmp_path / "run", "--missing", missing)
        failed = invoke(*arguments, *options)
        assert failed.status == 1
        assert f"none of the {QUERIES} candidates has vectors in this store" in failed.error
        assert not (tmp_path / "run").exists()


def test_what_comes_next_is_said_with_the_options_it_needs(files: Files, tmp_path: Path) -> None:
    done = invoke("ingest", files.corpus, "--store", tmp_path / "a store", "--model", files.model).check()
    (line,) = [line for line in done.err.splitlines() if line.startswith("Search it:")]
    arguments = shlex.split(line.removeprefix("Search it:"))
    assert arguments[0] == "colbert-rerank"
    assert invoke(*arguments[1:]).check().out


def test_what_comes_next_is_said_as_the_shell_finds_it(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After scripts/demo the program is in .venv/bin, and no shell looks there."""
    program = tmp_path / ".venv" / "bin" / "colbert-rerank"
    program.parent.mkdir(parents=True)
    program.touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    command = ("ingest", files.corpus, "--store", "store", "--model", files.model)
    for path, said in (("/usr/bin", ".venv/bin/colbert-rerank rerank"), (program.parent, "colbert-rerank rerank")):
        monkeypatch.setenv("PATH", str(path))
        done = invoke(*command, program=str(program)).check()
        assert f"Search it:  {said} " in done.err


def test_other_fields_are_counted(files: Files, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"_id": "1", "text": "a fish", "url": "old"}\n')
    arguments = ("ingest", corpus, "--store", tmp_path / "store", "--model", files.model)
    invoke(*arguments).check()
    corpus.write_text('{"_id": "1", "text": "a fish", "url": "new"}\n')
    assert "1 document of the same text with other fields, posted again" in invoke(*arguments).check().err
