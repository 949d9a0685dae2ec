"""What the fields of a document are called and what they hold, for messages about names that give no text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from colbert_rerank.recipe import lookup

_MOST_SHOWN = 12
_DEPTH = 4  # objects within objects that are looked into


def names_of(fields: Mapping[str, object], depth: int = _DEPTH) -> list[str]:
    """The names that ``--fields`` could give; a field within an object has a dotted one."""
    names: dict[str, None] = {}
    for name, value in fields.items():
        objects = [item for item in _items(value) if isinstance(item, Mapping)] if depth else []
        below = [f"{name}.{inner}" for one in objects for inner in names_of(one, depth - 1)]
        names |= dict.fromkeys(below or [str(name)])
    return list(names)


def shown(names: Iterable[str], between: str = ", ") -> str:
    """Some of the names, in a sentence."""
    found = list(names)
    more = f" and {len(found) - _MOST_SHOWN} more" if len(found) > _MOST_SHOWN else ""
    return (between.join(found[:_MOST_SHOWN]) or "none") + more


def without_text(fields: Mapping[str, object], name: str) -> str:
    """Why a field that gives no text gives none: "is missing", "is a number"."""
    value = lookup(fields, name)
    head, _, last = name.rpartition(".")
    parent = lookup(fields, head) if head else None
    if value is None:
        there = name in fields or (isinstance(parent, Mapping) and last in parent)
        return "is null" if there else "is missing"
    items = [item for item in _items(value) if item is not None]
    if not items and isinstance(parent, list):
        return "is missing"
    if any(isinstance(item, Mapping) for item in items):
        return is_object(inner for inner in names_of({name: value}) if inner != name)
    if any(isinstance(item, bool) for item in items):
        return "is a boolean, which is not encoded"
    return "is a number, which is not encoded" if any(map(_is_number, items)) else "is empty"


def is_object(names: Iterable[str]) -> str:
    """What to do about a field that is an object and holds these."""
    found = list(names)
    return f"is an object: name {shown(found, ' or ') if found else 'a field within it'}"


def holds_number(fields: Mapping[str, object], name: str) -> bool:
    """Whether a number or boolean stands under ``name``, which a recipe leaves out."""
    value = lookup(fields, name)
    return not isinstance(value, str) and any(map(_is_number, _items(value)))


def _is_number(value: object) -> bool:
    return isinstance(value, (bool, int, float))


def _items(value: object) -> Iterator[object]:
    """The value, or what stands in a list and in lists within it."""
    if isinstance(value, list):
        for item in value:
            yield from _items(item)
    else:
        yield value
