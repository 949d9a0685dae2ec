"""The index that documents go into: made if absent, continued if ours, left alone if not."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import opensearchpy

from colbert_rerank.candidates.cluster import OpenSearchCluster
from colbert_rerank.candidates.documents import Documents
from colbert_rerank.errors import IndexNotFoundError, OpenSearchError, UsageError
from colbert_rerank.indices import IndexInfo, origin_of, resolve_index
from colbert_rerank.opensearch import server_url, translated
from colbert_rerank.retry import WRITE, with_retry
from colbert_rerank.server_errors import error_reason
from colbert_rerank.types import Document, Origin
from mappings import document_body, made_by_us, settings_of, text_fields_of

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """Where documents go. ``ours`` is false for an index that someone else made: its documents get no ``doc_id``."""

    client: opensearchpy.OpenSearch
    info: IndexInfo

    @property
    def origin(self) -> Origin:
        return origin_of([self.info])

    @property
    def ours(self) -> bool:
        return made_by_us(self.info.mapping) is not None

    @property
    def documents(self) -> Documents:
        return Documents(OpenSearchCluster(self.client), self.info.name, [self.info])

    def count(self) -> int:
        """How many documents it holds, those among them that a search does not see yet."""
        with translated(self.client, index=self.info.name):
            with_retry(lambda: self.client.indices.refresh(index=self.info.name), WRITE)
            return int(with_retry(lambda: self.client.count(index=self.info.name), WRITE)["count"])

    def body_of(self, document: Document) -> dict[str, object]:
        """The JSON to index for a document."""
        if self.ours:
            return body_of(document, text_fields_of(self.info.mapping))
        # OpenSearch takes no field called _id; here it only repeats the id.
        return {name: value for name, value in document.fields.items() if name != "_id" or value != document.doc_id}


def body_of(document: Document, text_fields: Sequence[str]) -> dict[str, object]:
    """The JSON to index in an index of ours; ``mappings.document_fields`` takes it back."""
    return document_body(document.doc_id, document.fields, text_fields)


def prepare_index(
    client: opensearchpy.OpenSearch,
    name: str,
    body: Mapping[str, Any],
    *,
    into_existing: bool = False,
    wanted: Collection[str] = (),
    make: bool = True,
) -> Target:
    """Make the index with ``body`` (of ``mappings.index_body``), or check the one that is there. Deletes nothing.

    Of the settings in ``body``, an index that is there must have those that ``wanted`` names (`mappings.settings_of`).

    An index that this package did not make is refused unless ``into_existing``, and its mapping is never changed.
    Raises ``UsageError`` for that, for one of ours with other text fields or settings, and for a name or body that
    OpenSearch refuses; ``IndexNotFoundError`` where there is none and ``make`` is false.
    """
    try:
        found = resolve_index(client, name)
    except IndexNotFoundError:
        if not make:
            raise
        _create(client, name, body)
        found = resolve_index(client, name)
    if len(found) > 1:
        raise UsageError(f"{name!r} stands for {len(found)} indices; documents can go into one only")
    (info,) = found
    target = Target(client, info)
    if target.ours:
        _check_ours(client, info, body, wanted)
    elif not into_existing:
        raise UsageError(
            f"{server_url(client)} already has an index {info.name!r} that this package did not make, and will not "
            "write to unasked. Choose another name, pass --into-existing, or read it as the source"
        )
    return target


def _create(client: opensearchpy.OpenSearch, name: str, body: Mapping[str, Any]) -> None:
    try:
        with translated(client, index=name):
            with_retry(lambda: _create_once(client, name, body), WRITE)
    except OpenSearchError as error:
        cause = error.__cause__
        if isinstance(cause, opensearchpy.RequestError):
            info = cause.info if isinstance(cause.info, dict) else {}
            raise UsageError(
                f"OpenSearch refuses to make the index {name!r}: {error_reason(info.get('error'))}"
            ) from error
        raise
    _log.info("made the index %s", name)


def _create_once(client: opensearchpy.OpenSearch, name: str, body: Mapping[str, Any]) -> None:
    try:
        client.indices.create(index=name, body=body)
    except opensearchpy.RequestError as error:
        # An answer may be lost on the way: then the index is there on the second attempt.
        if error.error != "resource_already_exists_exception":
            raise


def _check_ours(
    client: opensearchpy.OpenSearch, info: IndexInfo, body: Mapping[str, Any], wanted: Collection[str]
) -> None:
    entry = made_by_us(info.mapping) or {}
    if entry.get("version") != 1:
        raise UsageError(
            f"the index {info.name!r} at {server_url(client)} was made by another version of this package "
            f"(mapping version {entry.get('version')}, this one knows 1); use that version, or another index"
        )
    held, fields = text_fields_of(info.mapping), text_fields_of(body["mappings"])
    if fields != held:
        raise UsageError(
            f"the index {info.name!r} at {server_url(client)} was made for the fields {', '.join(held)}, not "
            f"{', '.join(fields)}; name the same fields, or another index"
        )
    has, asked = settings_of({"settings": {"index": info.settings}, "mappings": info.mapping}), settings_of(body)
    for name in wanted:
        if has[name] != asked[name]:
            raise UsageError(
                f"the index {info.name!r} at {server_url(client)} is there already, with {name} {has[name]}, not "
                f"{asked[name]}; leave that option out, or choose another index"
            )
