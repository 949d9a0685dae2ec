"""Tab-separated text: MS MARCO's `id <tab> text`, with a title between them, or with columns that the user names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from colbert_rerank.errors import UsageError
from colbert_rerank.lines import numbered_lines, shown_name
from colbert_rerank.types import Document
from ingest.validation import InputReport

LEFT_OUT = "-"
_ID_NAMES = ("id", "_id", "doc_id", "docid", "docno", "pid")
_BY_COUNT = {2: ("id", "text"), 3: ("id", "title", "text")}


class TsvSource:
    """No quoting and no escapes, as in MS MARCO: a tab always ends a column, and quotes are text.

    The columns are those that the user names, else those of a header line (an id name first, ``text`` among the
    others), else ``id, text`` or ``id, title, text`` by their number. Every line has as many as the first.
    """

    def __init__(
        self, path: str, *, columns: tuple[str, ...] | None, id_field: str | None, report: InputReport
    ) -> None:
        self.kind: Final = "tsv"
        self.name: Final = path
        self.columns = columns
        """The names of the columns; where the user gave none, known once the first line was read."""
        self._id_field = id_field
        self._report = report
        if columns is not None:
            self._id_place(columns)  # a wrong --columns is refused before anything is read

    def __iter__(self) -> Iterator[Document]:
        report = self._report
        name = shown_name(self.name)
        kept: list[tuple[int, str]] | None = None
        count = id_place = 0
        for number, line in numbered_lines(self.name, report.refuse):
            if not line:
                continue
            cells = line.split("\t")
            if kept is None:
                columns, is_header = self._columns_of(cells, f"{name}:{number}")
                self.columns = columns
                id_place = self._id_place(columns)
                kept = [(i, column) for i, column in enumerate(columns) if i != id_place and column != LEFT_OUT]
                count = len(columns)
                if is_header:
                    continue
            if len(cells) != count:
                message = (
                    f"{len(cells)} column(s), expected {count} ({', '.join(self.columns or ())}); tabs end columns"
                )
                report.refuse("malformed line", message, f"{name}:{number}")
                continue
            yield Document(cells[id_place], {column: cells[i] for i, column in kept}, f"{name}:{number}")

    def _columns_of(self, cells: list[str], where: str) -> tuple[tuple[str, ...], bool]:
        """The columns, and whether the first line is a header."""
        if self.columns is not None:
            return self.columns, tuple(cells) == self.columns
        if cells[0].lower() in _ID_NAMES and "text" in cells[1:]:
            return tuple(cells), True
        if len(cells) not in _BY_COUNT:
            shown = ", ".join(repr(cell[:20]) for cell in cells[:6])
            raise UsageError(
                f"{where}: {len(cells)} columns ({shown}). Name them, for example --columns id,url,title,text"
            )
        return _BY_COUNT[len(cells)], False

    def _id_place(self, columns: tuple[str, ...]) -> int:
        names = (self._id_field,) if self._id_field is not None else _ID_NAMES
        place = next((columns.index(name) for name in names if name in columns), None)
        named = [column for column in columns if column != LEFT_OUT]
        if place is None:
            wanted = self._id_field or " or ".join(_ID_NAMES)
            raise UsageError(f"{self.name}: no column of ids ({wanted}) among {', '.join(columns)}")
        if len(set(named)) != len(named):
            raise UsageError(f"{self.name}: a column name stands twice in {', '.join(columns)}")
        return place
