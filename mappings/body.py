"""A document's JSON as an index of ours stores it, and back.

Our columns ``doc_id`` and ``contents`` share the top level with the document's own fields. A field of the document that
cannot stand there goes, value untouched, into the unparsed object ``original``: so no document is refused for the names
or shapes of its fields, and ``document_fields`` gives back what came in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mappings.index import CONTENTS, DOC_ID, ORIGINAL


def document_body(doc_id: str, fields: Mapping[str, object], text_fields: Sequence[str]) -> dict[str, object]:
    """The body to index: ``fields`` beside our ``doc_id``.

    A document's own ``_id`` or ``doc_id`` that says the same is left out; all else that clashes goes into ``original``.
    """
    body: dict[str, object] = {DOC_ID: doc_id}
    original: dict[str, object] = {}
    heads = {name.split(".")[0] for name in text_fields}
    for name, value in fields.items():
        if name in ("_id", DOC_ID) and value == doc_id:
            continue
        if _stands_at_top(name, value, text_fields, heads):
            body[name] = value
        else:
            original[name] = value
    if original:
        body[ORIGINAL] = original
    return body


def document_fields(source: Mapping[str, object]) -> dict[str, object]:
    """The document's own fields, from the ``_source`` of an index that we made."""
    fields = {name: value for name, value in source.items() if name not in (DOC_ID, ORIGINAL)}
    original = source.get(ORIGINAL)
    if isinstance(original, Mapping):
        fields.update(original)
    return fields


def _stands_at_top(name: str, value: object, text_fields: Sequence[str], heads: set[str]) -> bool:
    parts = name.split(".")
    if any(not part.strip() for part in parts) or name.startswith("_") or parts[0] in (DOC_ID, ORIGINAL):
        return False
    if parts[0] == CONTENTS and CONTENTS not in text_fields:
        return False  # it would be searched as if it were a text field
    if parts[0] not in heads:
        return True
    # The mapping knows this name: below a text field nothing can stand, and its value must be text all through.
    below = [text.split(".")[len(parts) :] for text in text_fields if text.split(".")[: len(parts)] == parts]
    return bool(below) and all(_is_text(value, path) for path in below)


def _is_text(value: object, path: Sequence[str]) -> bool:
    """Whether a field mapped as text at ``path`` below ``value`` can be indexed: objects down to it, none at it."""
    if value is None:
        return True
    if isinstance(value, (list, tuple)):
        return all(_is_text(item, path) for item in value)
    if not path:
        return not isinstance(value, Mapping)
    if not isinstance(value, Mapping):
        return False
    return path[0] not in value or _is_text(value[path[0]], path[1:])
