"""First-stage queries for OpenSearch: a user's template, or one made from field names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from colbert_rerank.errors import UsageError

PLACEHOLDER = "{{query}}"
# What may stand beside "query": all else in a search body is ours to set.
BESIDE_QUERY = frozenset({"min_score", "post_filter"})
TIE_BREAKER = 0.5
_NONE_NESTED: Mapping[str, str] = MappingProxyType({})


class QueryTemplate(NamedTuple):
    """A search body's own part: ``query`` and what ``BESIDE_QUERY`` names, with the placeholder in it."""

    body: Mapping[str, object]

    def render(self, text: str) -> dict[str, object]:
        """The same with every value that is the placeholder replaced by ``text``.

        The parsed JSON is changed, not its text: no query can break out of its string.
        """
        return {name: _fill(value, text) for name, value in self.body.items()}


def load_template(path: str | Path) -> QueryTemplate:
    """Read a template: a query clause, or a search body that holds ``query``. Raises ``UsageError``."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the query template {path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"the query template {path} is not JSON: {error}") from error
    return make_template(value, where=str(path))


def make_template(value: object, *, where: str = "query template") -> QueryTemplate:
    """Check a parsed template: a query clause, or a search body that holds ``query``. Raises ``UsageError``."""
    if not isinstance(value, Mapping):
        raise UsageError(f"{where}: a query template is a JSON object")
    body = value if "query" in value else {"query": value}
    if others := sorted(set(body) - BESIDE_QUERY - {"query"}):
        raise UsageError(
            f"{where}: {', '.join(map(repr, others))} cannot stand in a query template; beside 'query' only "
            f"{' and '.join(map(repr, sorted(BESIDE_QUERY)))} can"
        )
    if _count(body["query"], where) + sum(_count(body[name], where) for name in BESIDE_QUERY & set(body)) == 0:
        raise UsageError(f'{where}: no value is "{PLACEHOLDER}", which stands for the text of the query')
    return QueryTemplate(body)


def match_contents(field: str) -> QueryTemplate:
    """A plain ``match`` on one field."""
    return QueryTemplate({"query": {"match": {field: {"query": PLACEHOLDER}}}})


def match_fields(fields: Sequence[str], nested: Mapping[str, str] = _NONE_NESTED) -> QueryTemplate:
    """The best field's score and half of the others', as BEIR's lexical baseline searches title and text.

    ``nested`` gives the path of each field that lies in nested objects, of which the best one counts.
    """
    flat = [name for name in fields if name not in nested]
    clauses: list[Mapping[str, object]] = [
        {
            "nested": {
                "path": nested[name],
                "query": {"match": {name: {"query": PLACEHOLDER}}},
                "score_mode": "max",
                "ignore_unmapped": True,
            }
        }
        for name in fields
        if name in nested
    ]
    if len(flat) == 1:
        clauses.insert(0, {"match": {flat[0]: {"query": PLACEHOLDER}}})
    elif flat:
        best = {
            "query": PLACEHOLDER,
            "fields": flat,
            "type": "best_fields",
            "tie_breaker": TIE_BREAKER,
            "lenient": True,
        }
        clauses.insert(0, {"multi_match": best})
    if len(clauses) == 1:
        return QueryTemplate({"query": clauses[0]})
    return QueryTemplate({"query": {"dis_max": {"queries": clauses, "tie_breaker": TIE_BREAKER}}})


def _fill(value: object, text: str) -> object:
    if isinstance(value, str):
        return text if value == PLACEHOLDER else value
    if isinstance(value, Mapping):
        return {name: _fill(inner, text) for name, inner in value.items()}
    if isinstance(value, list):
        return [_fill(inner, text) for inner in value]
    return value


def _count(value: object, where: str) -> int:
    if isinstance(value, str):
        if value != PLACEHOLDER and PLACEHOLDER in value:
            raise UsageError(f'{where}: "{PLACEHOLDER}" must be a whole value, not a part of {value!r}')
        return int(value == PLACEHOLDER)
    if isinstance(value, Mapping):
        if inside := [name for name in value if PLACEHOLDER in str(name)]:
            raise UsageError(f'{where}: "{PLACEHOLDER}" must be a value, not a name as in {inside[0]!r}')
        return sum(_count(inner, where) for inner in value.values())
    if isinstance(value, list):
        return sum(_count(inner, where) for inner in value)
    return 0
