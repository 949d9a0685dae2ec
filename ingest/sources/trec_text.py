"""TREC text: `<DOC> <DOCNO>..</DOCNO> .. <TEXT>..</TEXT> </DOC>`, in a file or a folder of files."""

from __future__ import annotations

import html
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from colbert_rerank.errors import InputError
from colbert_rerank.lines import STDIN, numbered_lines, open_bytes, shown_name
from colbert_rerank.types import Document
from ingest.sources.source import visible_files
from ingest.validation import InputReport

_DOC_TAG = re.compile(r"(</?DOC(?:\s[^>]*)?>)", re.IGNORECASE)
_ATTRIBUTES = r"(?:\s[^<>]*=[^<>]*|\s+\w*)?"  # <F P=100>, <hr noshade>; "x <b and y> c" is text
# A comment, whose tags are none, or a tag that opens or closes: not <br/>.
_TAG = re.compile(rf"<!--.*?-->|<(/?)([A-Z][A-Z0-9_.-]*){_ATTRIBUTES}(?<!/)>", re.IGNORECASE | re.DOTALL)
# What is taken out of a field. <stdio.h> and <jo@example.org> are text.
_MARKUP = re.compile(rf"<!--.*?-->|<[!?][A-Z][^<>]*>|</?[A-Z][\w:-]*{_ATTRIBUTES}\s*/?>", re.IGNORECASE | re.DOTALL)
_SNIFFED_BYTES = 1 << 16
# The newswire collections name their titles in these ways; `title` is what the default recipe reads.
_TITLE_TAGS = ("headline", "head")

_log = logging.getLogger(__name__)


class TrecTextSource:
    """Each tag directly below ``<DOC>`` becomes a field under its name in lower case, inner tags removed.

    A tag that stands several times gives one field, joined by line breaks. Text between the fields joins ``text``. A
    tag that is not closed is refused, for where its field ends nobody can tell; but what follows ``<DOCHDR>`` is a web
    page (.GOV, WT10g), which closes its tags as it likes: its ``<TITLE>`` is ``title``, and all the rest ``text``.

    A document without ``<TITLE>`` has its ``<HEADLINE>`` or ``<HEAD>`` as ``title`` too. Text outside of ``<DOC>`` is
    not read.
    """

    def __init__(self, path: str, report: InputReport) -> None:
        self.kind: Final = "trec"
        self.name: Final = path
        self._report = report

    def __iter__(self) -> Iterator[Document]:
        found = False
        for path in self._files():
            for document in self._documents(path):
                found = True
                yield document
        if not found and not self._report.total_skipped:
            raise InputError("no <DOC> .. </DOC> in this source", where=shown_name(self.name))

    def _files(self) -> Iterator[str]:
        if self.name == STDIN or not Path(self.name).is_dir():
            yield self.name
            return
        for path in visible_files(Path(self.name)):
            if holds_documents(str(path)):
                yield str(path)
            else:
                _log.warning("%s holds no <DOC>: left out", path)

    def _documents(self, path: str) -> Iterator[Document]:
        name = shown_name(path)
        lines: list[str] = []
        start = 0  # the line of the open <DOC>, 0 between documents
        number = 0
        spoiled = False  # a line of the open <DOC> was refused, and the document with it

        def spoil(cause: str, message: str, where: str) -> None:
            nonlocal spoiled
            spoiled = True
            self._report.refuse(cause, message, where)

        for number, line in numbered_lines(path, spoil):
            if "<" not in line:
                if start:
                    lines.append(line)
                continue
            for piece in _DOC_TAG.split(line):
                if not _DOC_TAG.fullmatch(piece):
                    if start:
                        lines.append(piece)
                elif piece.startswith("</"):
                    if not start:
                        self._report.refuse("malformed TREC text", "</DOC> without a <DOC>", f"{name}:{number}")
                    elif not spoiled and (document := self._document("\n".join(lines), name, start)):
                        yield document
                    start, lines = 0, []
                else:
                    if start:
                        message = f"this <DOC> is not closed before the next one (line {number})"
                        self._report.refuse("malformed TREC text", message, f"{name}:{start}")
                    start, lines, spoiled = number, [], False
        if start and not spoiled:
            message = f"this <DOC> is not closed before the end of the file (line {number})"
            self._report.refuse("malformed TREC text", message, f"{name}:{start}")

    def _document(self, body: str, name: str, start: int) -> Document | None:
        where = f"{name}:{start}"
        parts: dict[str, list[str]] = {}
        try:
            for field, content in _fields(body):
                parts.setdefault(field, []).append(content)
        except _NotClosedError as error:
            tag = error.tag
            message = f"<{tag[2]}> without a </{tag[2]}> before </DOC>. Close it; where it is text, write &lt;{tag[2]}>"
            line = start + body.count("\n", 0, tag.start())
            self._report.refuse("malformed TREC text", message, f"{name}:{line}")
            return None
        fields: dict[str, object] = {name: "\n".join(filter(None, contents)) for name, contents in parts.items()}
        ids = parts.get("docno", [])
        if len(ids) != 1:
            cause = "missing id" if not ids else "malformed TREC text"
            self._report.refuse(cause, f"{len(ids)} <DOCNO> in one <DOC>, expected 1", where)
            return None
        del fields["docno"]
        if "title" not in fields and (named := next((tag for tag in _TITLE_TAGS if tag in fields), None)):
            fields["title"] = fields[named]
        return Document(ids[0], fields, where)


def holds_documents(path: str) -> bool:
    """Whether a ``<DOC>`` stands near the start of the file."""
    with open_bytes(path) as file:
        try:
            start = file.read(_SNIFFED_BYTES)
        except (EOFError, OSError):  # a damaged gzip: reading it again says so, with its place
            return True
    # Without the zero bytes of UTF-16, which is told of when the file is read.
    return re.search(rb"<DOC[\s>]", start.replace(b"\0", b""), re.IGNORECASE) is not None


class _NotClosedError(Exception):
    def __init__(self, tag: re.Match[str]) -> None:
        self.tag = tag


def _fields(body: str) -> Iterator[tuple[str, str]]:
    """Yield (name, plain text) of each field, and ("text", ..) of what stands between them: no text is passed over."""
    tags = [tag for tag in _TAG.finditer(body) if tag[2]]
    last_closed = {tag[2].lower(): tag.start() for tag in tags if tag[1]}
    field, since = "", 0  # the open field, or none
    is_page = False
    for tag in tags:
        name = tag[2].lower()
        if field:
            if tag[1] and name == field:
                yield field, _plain(body[since : tag.start()])
                is_page = is_page or field == "dochdr"
                field, since = "", tag.end()
        elif not tag[1] and (not is_page or name == "title"):
            if last_closed.get(name, -1) > tag.start():
                if text := _plain(body[since : tag.start()]):
                    yield "text", text
                field, since = name, tag.end()
            elif not is_page:
                raise _NotClosedError(tag)
    if text := _plain(body[since:]):
        yield "text", text


def _plain(content: str) -> str:
    # A blank for a tag: <td>one</td><td>two</td> are two words.
    return html.unescape(_MARKUP.sub(" ", content)).strip()
