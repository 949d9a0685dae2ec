"""Topics, qrels and runs, read and written line by line."""

from __future__ import annotations

import contextlib
import html
import io
import itertools
import json
import math
import os
import re
import sys
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from colbert_rerank.errors import InputError, NonFiniteError, StoreWriteError, UsageError
from colbert_rerank.id_set import IdSet
from colbert_rerank.lines import STDIN, numbered_lines, shown_name
from colbert_rerank.types import Qrel, Query, ScoredDoc

_QUERY_ID_FIELDS = ("_id", "id", "query_id", "qid")
_QUERY_TEXT_FIELDS = ("text", "query")
_QUERY_ID_COLUMNS = (*_QUERY_ID_FIELDS, "query-id", "queryid", "topic", "topic_id")
_BEIR_QRELS_HEADER = ("query-id", "corpus-id", "score")
_TOP = re.compile(r"</?top>", re.IGNORECASE)
# A field ends at a tag of TREC's topics, or at any that begins a line: "<stdio.h>" and "x <b" within one are text.
_TOPIC_TAG = re.compile(
    r"<(/?)(num|dom|title|desc|description|smry|narr|narrative|con|fac|def|nat|time)>"
    r"|^[ \t]*<(/?)([a-z][\w-]*)(?:\s[^<>]*)?>",
    re.IGNORECASE | re.MULTILINE,
)
_LABELS = {"num": re.compile(r"^\s*Number\s*:", re.IGNORECASE), "title": re.compile(r"^\s*Topic\s*:", re.IGNORECASE)}
# What C's isspace() takes, and so trec_eval; str.split() would also split at U+00A0 and its like within an id.
_BLANKS = re.compile(r"[ \t\n\r\v\f]+")
# Any Unicode blank, as readers in Python split there; controls; a byte order mark; half of a surrogate pair.
_UNWRITABLE = re.compile(r"[\s\x00-\x1f\x7f\ufeff\ud800-\udfff]")
_LINES_A_WRITE = 1000

_Line = tuple[int, str]


def read_topics(path: str) -> Iterator[Query]:
    """The topics of a BEIR ``queries.jsonl``, a TSV (``id <tab> text``) or a TREC ``<top>`` file, found by content.

    Raises InputError for a malformed topic, an empty query, an id that is empty, stands twice or holds white space (a
    run file could not hold it), and a file without topics.
    """
    name = shown_name(path)
    lines = numbered_lines(path)
    first = next(((number, line) for number, line in lines if line.strip()), None)
    if first is None:
        raise InputError("no topics in this file", where=name)
    lines = itertools.chain([first], lines)
    start = first[1].lstrip()
    if start.startswith("["):
        raise InputError("a JSON array; make it lines with jq -c '.[]'", where=f"{name}:{first[0]}")
    if start.startswith("{"):
        topics = _jsonl_topics(lines, name)
    elif start.startswith("<"):
        topics = _sgml_topics(lines, name)
    else:
        topics = _tsv_topics(lines, name)
    seen: set[str] = set()
    for query, where in topics:
        if problem := _id_problem(query.query_id, "topic"):
            raise InputError(problem, where=where)
        if not query.text:
            raise InputError(f"topic {query.query_id!r} has an empty query", where=where)
        if query.query_id in seen:
            raise InputError(f"topic id {query.query_id!r} stands twice in this file", where=where)
        seen.add(query.query_id)
        yield query
    if not seen:
        raise InputError("no topics in this file: expected <top> .. </top>", where=name)


def read_qrels(path: str) -> Iterator[Qrel]:
    """Judgements: TREC's four columns (``query iteration document relevance``), or BEIR's three under their header.

    Raises InputError for a malformed line and for a document that is judged twice for one query.
    """
    name = shown_name(path)
    seen = IdSet()
    is_beir: bool | None = None
    for number, line in numbered_lines(path):
        if not line.strip():
            continue
        where = f"{name}:{number}"
        if is_beir is None:
            is_beir = tuple(line.split("\t")) == _BEIR_QRELS_HEADER
            if is_beir:
                continue
        cells = [cell.strip() for cell in line.split("\t")] if is_beir else _columns(line)
        expected = _BEIR_QRELS_HEADER if is_beir else ("query", "iteration", "document", "relevance")
        if len(cells) != len(expected):
            message = f"{len(cells)} column(s), expected {len(expected)}: {' '.join(expected)}"
            raise InputError(message, where=where)
        query_id, doc_id, grade = cells[0], cells[-2], cells[-1]
        if not query_id or not doc_id:
            raise InputError(f"an empty {'document' if query_id else 'query'} id", where=where)
        if not re.fullmatch(r"[+-]?[0-9]+", grade):
            raise InputError(f"the relevance {grade!r} is not a whole number", where=where)
        if not seen.add(f"{query_id}\0{doc_id}"):
            raise InputError(f"document {doc_id!r} is judged twice for query {query_id!r}", where=where)
        yield Qrel(query_id, doc_id, int(grade))


def read_run(path: str) -> Iterator[ScoredDoc]:
    """The rows of a TREC run (``query Q0 document rank score tag``) in the order of the file.

    As trec_eval does, the rank is not read: the score says the order. Raises InputError for a malformed line, a score
    that is not finite, a document that stands twice under one query, and a run without rows.
    """
    name = shown_name(path)
    seen = IdSet()
    for number, line in numbered_lines(path):
        cells = _columns(line)
        if not cells:
            continue
        where = f"{name}:{number}"
        if len(cells) != 6:
            raise InputError(f"{len(cells)} column(s), expected 6: query Q0 document rank score tag", where=where)
        query_id, _, doc_id, _, digits, _ = cells
        try:
            score = math.nan if "_" in digits else float(digits)
        except ValueError:
            score = math.nan
        if not math.isfinite(score):
            raise InputError(f"the score {digits!r} is not a finite number", where=where)
        if not seen.add(f"{query_id}\0{doc_id}"):
            raise InputError(f"document {doc_id!r} stands twice under query {query_id!r}", where=where)
        yield ScoredDoc(query_id, doc_id, score)
    if not len(seen):
        raise InputError("no rows in this run", where=name)


def write_run(rows: Iterable[ScoredDoc], path: str, tag: str) -> int:
    """Write a TREC run and return its number of rows. Ranks are from 1, scores have six decimals.

    Rows come grouped by query, best first. The file appears under its name when it is whole; where anything fails,
    ``path`` is as it was before. ``-`` is stdout; a pipe or a device is written to as it is.

    Raises as `RunLines` and `write_lines` do.
    """
    return write_lines(RunLines(tag).of(rows), path)


def write_lines(lines: Iterable[str], path: str) -> int:
    """As `write_run`, of lines that are made already.

    Raises UsageError for a path that cannot be written, StoreWriteError where the disk is full or failing.
    """
    if path == STDIN:
        return _write(lines, _stdout(), "<stdout>")
    target = Path(path).resolve()  # a link stays, and what it points to is replaced
    if target.is_dir():
        raise UsageError(f"cannot write the run to {path}: it is a folder")
    if target.exists() and not target.is_file():
        with _disk_errors(path), target.open("w", encoding="utf-8", newline="\n") as out:
            return _write(lines, out, path)
    partial = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        file = partial.open("w", encoding="utf-8", newline="\n")
    except OSError as error:
        raise UsageError(f"cannot write the run to {path}: {error.strerror}") from error
    try:
        count = _write(lines, file, path)
        with _disk_errors(path):
            file.flush()
            os.fsync(file.fileno())
            file.close()
            partial.replace(target)
    except BaseException:  # Ctrl-C too leaves nothing behind
        with contextlib.suppress(OSError):  # close() flushes once more, to the same full disk
            file.close()
        partial.unlink(missing_ok=True)
        raise
    return count


class RunLines:
    """The lines of one TREC run, for its rows in as many parts as they come."""

    def __init__(self, tag: str) -> None:
        """Raises UsageError for a tag that a run cannot hold."""
        if problem := _id_problem(tag, "run tag"):
            raise UsageError(problem)
        self._tag = tag
        self._written: set[str] = set()  # the queries so far

    def of(self, rows: Iterable[ScoredDoc]) -> Iterator[str]:
        """The lines of these rows, all those of a query in one part.

        Raises UsageError for an id or an order that a run cannot hold, NonFiniteError for a score.
        """
        docs: set[str] = set()
        query_id: str | None = None
        rank = 0
        last = math.inf
        for row in rows:
            if row.query_id != query_id:
                query_id, rank, last = row.query_id, 0, math.inf
                docs.clear()
                if problem := _id_problem(query_id, "query"):
                    raise UsageError(f"{problem}; the run was not written")
                if query_id in self._written:
                    raise UsageError(f"query {query_id!r} comes in two places: a run is grouped by query")
                self._written.add(query_id)
            if problem := _id_problem(row.doc_id, "document"):
                raise UsageError(f"{problem}; the run was not written")
            if row.doc_id in docs:
                raise UsageError(f"document {row.doc_id!r} stands twice under query {query_id!r}")
            docs.add(row.doc_id)
            if not math.isfinite(row.score):
                raise NonFiniteError(f"the score of document {row.doc_id!r} for query {query_id!r} is {row.score}")
            score = round(row.score, 6) + 0.0  # never "-0.000000"
            if score > last:
                raise UsageError(
                    f"document {row.doc_id!r} of query {query_id!r} has a better score than the one before it"
                )
            last = score
            rank += 1
            yield f"{query_id} Q0 {row.doc_id} {rank} {score:.6f} {self._tag}\n"


def as_trec_eval_ranks(rows: Iterable[ScoredDoc]) -> list[ScoredDoc]:
    """The rows of one query in the order in which trec_eval reads them: score falling, ties by document id falling.

    trec_eval keeps scores in single precision: 16.0000001 and 16.0000002 are a tie for it, and so they are here.
    """
    listed = list(rows)
    single = array("f", [row.score for row in listed])
    order = sorted(range(len(listed)), key=lambda i: (single[i], listed[i].doc_id), reverse=True)
    return [listed[i] for i in order]


def _stdout() -> TextIO:
    """Standard output, of the same bytes wherever it is: a locale's encoding would be another in another place."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", newline="\n")
    return sys.stdout


def _write(lines: Iterable[str], file: TextIO, path: str) -> int:
    waiting = iter(lines)
    count = 0
    while batch := list(itertools.islice(waiting, _LINES_A_WRITE)):
        with _disk_errors(path):
            file.writelines(batch)
        count += len(batch)
    return count


@contextlib.contextmanager
def _disk_errors(path: str) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:  # `| head`: for the command line to end quietly
        raise
    except OSError as error:
        message = f"the run {path} could not be written: {error.strerror}. Free the disk or choose another place"
        raise StoreWriteError(message) from error


def _columns(line: str) -> list[str]:
    stripped = line.strip(" \t\n\r\v\f")
    return _BLANKS.split(stripped) if stripped else []


def _id_problem(value: str, kind: str) -> str | None:
    """Why a run file cannot hold ``value``."""
    if not value:
        return "the run tag is empty" if kind == "run tag" else f"a {kind} id is empty"
    if found := _UNWRITABLE.search(value):
        what = f"U+{ord(found.group()):04X}, a blank, a control character or no character at all"
        return f"the {kind} {value!a} cannot stand in a TREC run, whose columns are parted by blanks: it holds {what}"
    return None


def _jsonl_topics(lines: Iterator[_Line], name: str) -> Iterator[tuple[Query, str]]:
    for number, line in lines:
        if not line.strip():
            continue
        where = f"{name}:{number}"
        try:
            topic = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"not one JSON value: {error}", where=where) from error
        if not isinstance(topic, dict):
            raise InputError("expected a JSON object", where=where)
        query_id = next((topic[field] for field in _QUERY_ID_FIELDS if field in topic), None)
        text = next((topic[field] for field in _QUERY_TEXT_FIELDS if field in topic), None)
        if not isinstance(query_id, str):
            raise InputError(f"expected a string under {' or '.join(_QUERY_ID_FIELDS)}", where=where)
        if not isinstance(text, str):
            raise InputError(f"expected a string under {' or '.join(_QUERY_TEXT_FIELDS)}", where=where)
        yield Query(query_id, text.strip()), where


def _tsv_topics(lines: Iterator[_Line], name: str) -> Iterator[tuple[Query, str]]:
    for place, (number, line) in enumerate(lines):
        if not line.strip():
            continue
        cells = line.split("\t")
        if place == 0 and _is_header([cell.strip().lower() for cell in cells]):
            continue
        if len(cells) != 2:
            message = f"{len(cells)} column(s), expected 2: id <tab> query (or JSON objects, or TREC <top> .. </top>)"
            raise InputError(message, where=f"{name}:{number}")
        yield Query(cells[0].strip(), cells[1].strip()), f"{name}:{number}"


def _is_header(cells: list[str]) -> bool:
    """Of the columns of a TSV: the names of an id and of a text."""
    return len(cells) == 2 and cells[0] in _QUERY_ID_COLUMNS and cells[1] in _QUERY_TEXT_FIELDS


def _sgml_topics(lines: Iterator[_Line], name: str) -> Iterator[tuple[Query, str]]:
    """``<num> Number: 301 <title> ..`` up to the next tag, closed (``</num>``) or not, as the years of TREC have it."""
    start, body = 0, ""
    for number, line in lines:
        rest = line
        while tag := _TOP.search(rest):
            before, rest = rest[: tag.start()], rest[tag.end() :]
            if tag.group().startswith("</"):
                if not start:
                    raise InputError("</top> without a <top>", where=f"{name}:{number}")
                where = f"{name}:{start}"
                yield _sgml_topic(body + before, where), where
                start = 0
            elif start:
                raise InputError(
                    f"this <top> is not closed before the next one (line {number})", where=f"{name}:{start}"
                )
            else:
                start, body = number, ""
        if start:
            body += rest + "\n"
    if start:
        raise InputError("this <top> is not closed before the end of the file", where=f"{name}:{start}")


def _sgml_topic(body: str, where: str) -> Query:
    fields: dict[str, str] = {}
    tags = list(_TOPIC_TAG.finditer(body))
    for tag, following in itertools.zip_longest(tags, tags[1:]):
        field = (tag[2] or tag[4]).lower()
        if tag[1] or tag[3] or field not in _LABELS:
            continue
        if field in fields:
            raise InputError(f"two <{field}> in one <top>", where=where)
        content = body[tag.end() : following.start() if following else len(body)]
        fields[field] = " ".join(html.unescape(_LABELS[field].sub("", content)).split())
    for field in _LABELS:
        if field not in fields:
            raise InputError(f"no <{field}> in this <top>", where=where)
    return Query(fields["num"], fields["title"])
