"""One JSON object a line: JSONL, NDJSON and the corpus of a BEIR folder."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NoReturn

from colbert_rerank.errors import InputError, UsageError
from colbert_rerank.lines import numbered_lines, shown_name
from colbert_rerank.types import Document
from ingest.validation import InputReport, id_from_json, is_encodable

ID_FIELD = "_id"
_OTHER_ID_FIELDS = ("id", "doc_id")
_BEIR_NAMES = ("corpus.jsonl", "corpus.jsonl.gz")


class JsonlSource:
    """Every field of each object is kept, save an ``_id`` that is the id: OpenSearch refuses it within a body."""

    def __init__(self, path: str, *, id_field: str | None, report: InputReport, kind: str = "jsonl") -> None:
        self.kind: Final = kind
        self.name: Final = path
        self.id_field = id_field
        """The field of the ids; where the user named none, known once the first object was read."""
        self._report = report

    def __iter__(self) -> Iterator[Document]:
        report = self._report
        name = shown_name(self.name)
        for number, line in numbered_lines(self.name, report.refuse):
            if not line or line.isspace():
                continue
            where = f"{name}:{number}"
            fields = _json_object(line, where, report)
            if fields is None:
                continue
            if self.id_field is None:
                self.id_field = _id_field_of(fields, where)
            doc_id = id_from_json(fields, self.id_field, where, report)
            if doc_id is None:
                continue
            if self.id_field == ID_FIELD:
                del fields[ID_FIELD]
            yield Document(doc_id, fields, where)


def beir_corpus(folder: Path) -> Path | None:
    """The corpus file of a BEIR folder; None where the folder has none."""
    return next((path for name in _BEIR_NAMES if (path := folder / name).is_file()), None)


def beir_source(folder: str, *, id_field: str | None, report: InputReport) -> JsonlSource:
    """``corpus.jsonl[.gz]`` in ``folder``, or the corpus file itself. Raises InputError where there is none."""
    path = Path(folder)
    corpus = beir_corpus(path) if path.is_dir() else path
    if corpus is None:
        raise InputError(f"no {' or '.join(_BEIR_NAMES)} in this folder", where=folder)
    return JsonlSource(str(corpus), id_field=id_field or ID_FIELD, report=report, kind="beir")


def _json_object(line: str, where: str, report: InputReport) -> dict[str, object] | None:
    try:
        value = _DECODER.decode(line)
    except json.JSONDecodeError as error:
        problem = error.msg.removesuffix(" starting at")
        report.refuse("malformed JSON", f"not one JSON value: {problem} at column {error.colno}", where)
        return None
    except (ValueError, RecursionError) as error:
        problem = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        report.refuse("malformed JSON", problem, where)
        return None
    if not isinstance(value, dict):
        hint = ". Turn an array into lines with jq -c '.[]'" if isinstance(value, list) else ""
        report.refuse("not an object", f"expected a JSON object, found {_JSON_NAMES[type(value)]}{hint}", where)
        return None
    # Only an escape can bring half of a surrogate pair into text that was valid UTF-8.
    if ("\\ud" in line or "\\uD" in line) and not is_encodable(json.dumps(value, ensure_ascii=False)):
        message = "a \\ud800-\\udfff escape stands on its own: half of a surrogate pair is no character"
        report.refuse("lone surrogate", message, where)
        return None
    return value


_JSON_NAMES = {list: "an array", str: "a string", int: "a number", float: "a number", bool: "a boolean"} | {
    type(None): "null"
}


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the field {twice!r} stands twice in one object")
    return fields


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value, and OpenSearch refuses it")


def _finite_float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {digits[:20]} is out of range")
    return value


def _id_field_of(fields: Mapping[str, object], where: str) -> str:
    if ID_FIELD in fields:
        return ID_FIELD
    found = [name for name in _OTHER_ID_FIELDS if name in fields]
    if len(found) == 1:
        return found[0]
    names = ", ".join(map(str, fields))
    if found:
        raise UsageError(f"{where}: both id and doc_id are there. Say which holds the ids with --id-field")
    raise UsageError(f"{where}: none of _id, id, doc_id is there (the fields: {names}). Name one with --id-field")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite_float)
