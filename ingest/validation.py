"""What a document must be before it is encoded and indexed; the one place that says so."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from colbert_rerank.errors import InputError, UsageError
from colbert_rerank.id_set import IdSet
from colbert_rerank.recipe import Recipe, lookup
from colbert_rerank.types import Document
from ingest.fields import holds_number, names_of, shown, without_text

OnError = Literal["stop", "skip"]
MAX_ID_BYTES = 512
_REFUSALS_KEPT = 10
_NAMES_KEPT = 100

# Nearly every id in the wild; the slow checks below are for the others. At most 512 ASCII characters are 512 bytes.
_PLAIN_ID = re.compile(r"[A-Za-z0-9_.:/@+,()#=%&~;-]{1,512}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass
class InputReport:
    """What became of the input: how much was accepted, what was refused and why.

    Under ``on_error="stop"`` the first refusal raises InputError; under ``"skip"`` each is counted by cause, and the
    first ten are kept.
    """

    on_error: OnError = "stop"
    accepted: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    refusals: list[InputError] = field(default_factory=list)
    ids_with_spaces: int = 0
    """Accepted ids that hold white space: OpenSearch keeps them, a TREC run file cannot."""
    unseen_fields: list[str] = field(default_factory=list)
    """The fields to encode that held no text in any accepted document so far."""
    field_names: dict[str, None] = field(default_factory=dict)
    """The fields of the accepted documents, as long as there were unseen ones."""
    numbers: Counter[str] = field(default_factory=Counter)
    """How many accepted documents hold a number or boolean in a field to encode, which is not encoded as text."""

    @property
    def total_skipped(self) -> int:
        return sum(self.skipped.values())

    def refuse(self, cause: str, message: str, where: str) -> None:
        """Raise InputError, or count the case and return (an ``OnBad`` of ``colbert_rerank.lines``)."""
        error = InputError(message, where=where)
        if self.on_error == "stop":
            raise error
        self.skipped[cause] += 1
        if len(self.refusals) < _REFUSALS_KEPT:
            self.refusals.append(error)


def validated(documents: Iterable[Document], recipe: Recipe, report: InputReport) -> Iterator[tuple[Document, str]]:
    """Yield each good document with the text that the recipe makes of it; refuse the others through ``report``.

    Refused: an id that is empty, over 512 bytes of UTF-8, ``null``, or holds ``${``, a control character or half of a
    surrogate pair; an id that was seen before in this pass; a text that is empty or holds half of a surrogate pair.
    White space within an id is accepted and counted. Control characters within a text are accepted: tokenizers drop
    them.

    Raises InputError at the first refusal when ``report.on_error`` is ``"stop"``.
    """
    seen = IdSet()
    report.unseen_fields = list(recipe.fields)
    for document in documents:
        doc_id = document.doc_id
        text = recipe.text(document.fields)
        if (document.page is not None) != recipe.pages:
            kind = "page images" if recipe.pages else "texts"
            raise UsageError(
                f"{document.where}: the model reads {kind}, and this is none of them. Choose another model, or a "
                f"source of {kind}"
            )
        if problem := refusal(document, text, recipe):
            report.refuse(*problem, document.where)
            continue
        # Last, so that a document refused for its text does not make a later, good one with its id a duplicate.
        if not seen.add(doc_id):
            message = f"id {doc_id!r} was already used by an earlier document. Give each document an id of its own"
            report.refuse("duplicate id", message, document.where)
            continue
        report.accepted += 1
        if report.unseen_fields:
            unseen = report.unseen_fields
            report.unseen_fields = [f for f in unseen if not recipe._replace(fields=(f,)).text(document.fields)]
            if report.unseen_fields and len(report.field_names) < _NAMES_KEPT:
                report.field_names |= dict.fromkeys(names_of(document.fields))
        report.numbers.update(name for name in recipe.fields if holds_number(document.fields, name))
        if not _is_plain(doc_id) and any(map(str.isspace, doc_id)):
            report.ids_with_spaces += 1
        yield document, text


def refusal(document: Document, text: str, recipe: Recipe) -> tuple[str, str] | None:
    """(cause, message) for a document that cannot be used; ``text`` is what the recipe makes of it."""
    doc_id = document.doc_id
    if not _is_plain(doc_id) and (problem := id_problem(doc_id)):
        return problem
    if not text and not recipe.pages:
        return "empty text", _empty_text(document, recipe)
    if not is_encodable(text):
        return "lone surrogate", f"the text of {doc_id!r} {_SURROGATE}"
    return None


def _is_plain(doc_id: str) -> bool:
    return _PLAIN_ID.fullmatch(doc_id) is not None and doc_id != "null"


def id_from_json(fields: Mapping[str, object], id_field: str, where: str, report: InputReport) -> str | None:
    """The string under ``id_field``, which may be dotted to reach into objects.

    None where it is missing or not a string and ``report`` let that pass.
    """
    value = lookup(fields, id_field)
    if isinstance(value, str):
        return value
    if value is None:
        message = f"no id: the field {id_field!r} is missing or null. Name the field of the ids with --id-field"
        report.refuse("missing id", message, where)
    else:
        kind = "a number" if isinstance(value, (int, float)) and not isinstance(value, bool) else "not a string"
        names = [id_field] if id_field in fields else id_field.split(".")
        path = "".join(f'["{name}"]' for name in names)
        message = (
            f"the id {str(value)[:60]} in {id_field!r} is {kind}; ids are strings, because 7, 7.0 and '07' would meet. "
            f"Quote it, for example with jq -c '.{path} |= tostring'"
        )
        report.refuse("non-string id", message, where)
    return None


def is_encodable(text: str) -> bool:
    """Whether UTF-8 can hold ``text``; half of a surrogate pair, as a JSON escape may bring, it cannot."""
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


_SURROGATE = "holds half of a surrogate pair (a \\ud800-\\udfff escape on its own), which is no character"


def id_problem(doc_id: str) -> tuple[str, str] | None:
    """(cause, message) for an id that cannot be used."""
    if not doc_id:
        return "empty id", "the id is empty"
    if not is_encodable(doc_id):
        return "lone surrogate", f"the id {doc_id!a} {_SURROGATE}"
    size = len(doc_id.encode("utf-8"))
    if size > MAX_ID_BYTES:
        return "id too long", f"the id {doc_id[:60]!r}... has {size} bytes; OpenSearch takes at most {MAX_ID_BYTES}"
    if _CONTROL.search(doc_id):
        return "control character in id", f"the id {doc_id!r} holds a control character"
    if doc_id == "null":
        return "reserved id", "the id is the word null, which OpenSearch's remote models read as no value. Rename it"
    if "${" in doc_id:
        message = f"the id {doc_id!r} holds ${{, which OpenSearch's connectors replace as a parameter. Rename it"
        return "reserved id", message
    return None


def _empty_text(document: Document, recipe: Recipe) -> str:
    why = ", ".join(f"{name} {without_text(document.fields, name)}" for name in recipe.fields)
    return (
        f"document {document.doc_id!r} has no text to encode: {why} (its fields: {shown(names_of(document.fields))}). "
        "Give it a text, or name the fields to encode with --fields"
    )
