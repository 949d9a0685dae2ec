"""The concrete indices behind a name, and what identifies them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import opensearchpy

from colbert_rerank.errors import IndexNotFoundError, OpenSearchAuthError, OpenSearchError, UsageError
from colbert_rerank.opensearch import server_url, translated
from colbert_rerank.retry import with_retry
from colbert_rerank.types import OPENSEARCH, QUALIFIED, Origin
from mappings import mapping_of_fields

# A field that no index has: to sort by it is refused, in a message that names each index and its UUID.
_NO_FIELD = "colbert_rerank.no_such_field"


class IndexInfo(NamedTuple):
    """One concrete index. ``settings`` is its ``index`` object, empty where the user may not see it."""

    name: str
    uuid: str
    mapping: Mapping[str, Any]
    settings: Mapping[str, Any]


def resolve_index(client: opensearchpy.OpenSearch, name: str) -> list[IndexInfo]:
    """The concrete indices behind an index, alias, data stream or pattern, by name. One read request.

    Raises ``IndexNotFoundError``; ``OpenSearchAuthError`` where the user lacks ``indices:admin/get``.
    """
    check_name(name)
    with translated(client, index=name):
        answer = with_retry(lambda: client.indices.get(index=name))
    if not answer:
        raise _not_found(client, name)
    return infos_of(answer)


def infos_of(answer: Mapping[str, Any]) -> list[IndexInfo]:
    """The indices in a server's answer about them, by name."""
    return [
        IndexInfo(
            concrete,
            body["settings"]["index"]["uuid"],
            body.get("mappings") or {},
            body["settings"]["index"],
        )
        for concrete, body in sorted(answer.items())
    ]


def resolve_readable(client: opensearchpy.OpenSearch, name: str) -> list[IndexInfo]:
    """As `resolve_index`, for users too who may search an index and not look at it, such as those of role ``readall``.

    To them the security plugin shows the fields, without ``_meta`` and settings; the UUID stands in the refusal of a
    search. Raises as `resolve_index` does.
    """
    try:
        return resolve_index(client, name)
    except OpenSearchAuthError as refused:
        if getattr(refused.__cause__, "status_code", 0) != 403:
            raise
        try:
            with translated(client, index=name):
                fields = with_retry(lambda: client.indices.get_field_mapping(fields="*", index=name))
            uuids = _uuids(client, name)
        except OpenSearchAuthError:
            raise refused from refused.__cause__  # it names the permission to ask for
        if not uuids:
            raise _not_found(client, name) from None
        return [
            IndexInfo(concrete, uuid, mapping_of_fields(fields.get(concrete, {}).get("mappings", {})), {})
            for concrete, uuid in sorted(uuids.items())
        ]


def window_of(info: IndexInfo) -> int:
    """How many hits a search of the index may ask for."""
    return int(info.settings.get("max_result_window", 10_000))


def origin_of(indices: Sequence[IndexInfo], *, qualified: bool = False, kind: str = OPENSEARCH) -> Origin:
    """What a store records to know these indices again; several are joined by commas, in name order."""
    return Origin(
        QUALIFIED if qualified else kind, ",".join(i.name for i in indices), ",".join(i.uuid for i in indices)
    )


def _uuids(client: opensearchpy.OpenSearch, name: str) -> dict[str, str]:
    """Name to UUID of the indices that a search of ``name`` reaches, from the refusal of a search by every shard."""
    body = {"size": 0, "sort": [{_NO_FIELD: "asc"}]}
    try:
        with translated(client, index=name):
            with_retry(lambda: client.search(index=name, body=body, params={"search_pipeline": "_none"}))
    except OpenSearchError as error:
        info = getattr(error.__cause__, "info", None)
        if not isinstance(info, Mapping) or getattr(error.__cause__, "status_code", 0) != 400:
            raise
        failed = [shard.get("reason", {}) for shard in info.get("error", {}).get("failed_shards", [])]
        found = {reason["index"]: reason["index_uuid"] for reason in failed if "index_uuid" in reason}
        if found:
            return found
        raise
    return {}  # nothing to search, so nothing was refused: a pattern without indices


def check_name(name: str) -> None:
    """Raises UsageError for a name of all indices."""
    if not name or name in ("*", "_all"):
        raise UsageError(f"name an index (or an alias), not {name!r}")


def _not_found(client: opensearchpy.OpenSearch, name: str) -> IndexNotFoundError:
    return IndexNotFoundError(f"{server_url(client)} has no index {name!r}")
