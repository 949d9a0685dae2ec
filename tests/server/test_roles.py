"""The main job under the security plugin's own roles: ``readall`` may search, and may not look at an index at all."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import opensearchpy
import pytest

from colbert_rerank.binding import check_origin
from colbert_rerank.candidates.opensearch import OpenSearchCandidates
from colbert_rerank.connection import Connection
from colbert_rerank.encoder import Encoder
from colbert_rerank.errors import IndexNotFoundError, OpenSearchAuthError, StoreMismatchError
from colbert_rerank.indices import origin_of, resolve_index, resolve_readable
from colbert_rerank.opensearch import check_server, connect
from colbert_rerank.recipe import Recipe
from colbert_rerank.rerank import Ranking, Reranker
from colbert_rerank.store import Store
from colbert_rerank.types import Document
from ingest import first_stage
from ingest.bulk import BulkIndexer
from ingest.pipeline import IngestReport, ingest
from ingest.sources.opensearch import OpenSearchSource
from ingest.validation import InputReport
from mappings import index_body
from tests.collection import RECIPE, documents, ingested, queries
from tests.server.rest import basic, call
from tests.server.secured import SecuredNode

OURS, FOUND = "roles-ours", "roles-found"
FOUND_MAPPING = {
    "dynamic": "strict",
    "properties": {
        "doc_id": {"type": "keyword"},
        "title": {"type": "text", "fields": {"raw": {"type": "keyword"}}},
        "deep": {"properties": {"text": {"type": "text"}, "hidden": {"type": "text", "index": False}}},
    },
}


def client_of(node: SecuredNode, user: tuple[str, str]) -> opensearchpy.OpenSearch:
    return connect(Connection(node.url, user=user[0], password=user[1], ca_file=str(node.ca_file)))


@pytest.fixture(scope="module")
def admin(secured_node: SecuredNode) -> Iterator[opensearchpy.OpenSearch]:
    with closing(client_of(secured_node, secured_node.admin)) as client:
        yield client


@pytest.fixture(scope="module")
def reader(secured_node: SecuredNode) -> Iterator[opensearchpy.OpenSearch]:
    with closing(client_of(secured_node, secured_node.reader)) as client:
        yield client


@pytest.fixture(scope="module")
def store(
    admin: opensearchpy.OpenSearch, tiny_encoder: Encoder, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A store and an index of ours, filled by an administrator."""
    folder = tmp_path_factory.mktemp("roles") / "store"
    ingested(
        folder,
        tiny_encoder,
        documents(60),
        first_stage=first_stage.opensearch(admin, OURS, index_body(RECIPE.fields, shards=2)),
    )
    yield folder
    admin.indices.delete(index=OURS)


@pytest.fixture
def found(admin: opensearchpy.OpenSearch) -> Iterator[list[Document]]:
    """The documents of an index that somebody else made, whose ``doc_id`` means something else."""
    settings = {"number_of_shards": 2, "number_of_replicas": 0}
    admin.indices.create(index=FOUND, body={"settings": settings, "mappings": FOUND_MAPPING})
    held = documents(30)
    for number, document in enumerate(held):
        body = {
            "doc_id": str(number // 2),
            "title": document.fields["title"],
            "deep": {"text": document.fields["text"]},
        }
        admin.index(index=FOUND, id=document.doc_id, body=body)
    admin.indices.refresh(index=FOUND)
    yield held
    admin.indices.delete(index=FOUND)


def rankings(client: opensearchpy.OpenSearch, index: str, folder: Path, encoder: Encoder) -> list[Ranking]:
    opened = Store.open(folder)
    candidates = OpenSearchCandidates(client, index, fields=opened.manifest.recipe.fields)
    check_origin(opened, candidates)
    return list(Reranker(opened, encoder, missing="error").run(queries(8), candidates, 50))


def test_a_reader_re_ranks_as_the_administrator_does(
    admin: opensearchpy.OpenSearch, reader: opensearchpy.OpenSearch, store: Path, tiny_encoder: Encoder
) -> None:
    check_server(reader)
    with pytest.raises(OpenSearchAuthError, match=r"indices:admin/get"):
        resolve_index(reader, OURS)
    ours = rankings(reader, OURS, store, tiny_encoder)
    assert ours == rankings(admin, OURS, store, tiny_encoder)
    assert sum(len(r.ranked) for r in ours) > 100


def test_a_reader_ingests_an_index_that_it_may_only_search(
    admin: opensearchpy.OpenSearch,
    reader: opensearchpy.OpenSearch,
    found: Sequence[Document],
    tiny_encoder: Encoder,
    tmp_path: Path,
) -> None:
    source = OpenSearchSource(reader, FOUND)
    report = IngestReport(InputReport())
    recipe = Recipe(("title", "deep.text"))
    ingest(source, tmp_path / "store", tiny_encoder, recipe=recipe, report=report, index=source)
    assert report.encoded == len(found)
    assert Store.open(tmp_path / "store").manifest.origin == origin_of(resolve_index(admin, FOUND))
    theirs = rankings(reader, FOUND, tmp_path / "store", tiny_encoder)
    assert theirs == rankings(admin, FOUND, tmp_path / "store", tiny_encoder)
    assert any(r.ranked for r in theirs)


def test_a_reader_is_told_of_another_index(
    admin: opensearchpy.OpenSearch, reader: opensearchpy.OpenSearch, store: Path, found: object, tiny_encoder: Encoder
) -> None:
    with pytest.raises(StoreMismatchError, match=FOUND):
        rankings(reader, FOUND, store, tiny_encoder)
    candidates = OpenSearchCandidates(reader, FOUND, fields=["title"])
    with pytest.raises(StoreMismatchError, match="only 0 are in"):
        check_origin(Store.open(store), candidates, allow_other_index=True)


@pytest.mark.parametrize("name", [OURS, FOUND, "roles-alias", "roles-o*"])
def test_a_reader_sees_the_same_indices(
    admin: opensearchpy.OpenSearch, reader: opensearchpy.OpenSearch, store: Path, found: object, name: str
) -> None:
    for index in (OURS, FOUND):
        admin.indices.put_alias(index=index, name="roles-alias")
    whole, partly = resolve_index(admin, name), resolve_readable(reader, name)
    assert [i[:2] for i in partly] == [i[:2] for i in whole]
    for one, other in zip(partly, whole, strict=True):
        fields = {n: f for n, f in other.mapping["properties"].items() if n != "original"}  # an object, not a field
        assert one.mapping["properties"] == fields
        assert bool(one.mapping.get("_meta")) == bool(other.mapping.get("_meta"))


@pytest.mark.parametrize("name", ["roles-none", "roles-none*"])
def test_a_reader_of_no_index(reader: opensearchpy.OpenSearch, name: str) -> None:
    with pytest.raises(IndexNotFoundError, match="roles-none"):
        resolve_readable(reader, name)


def test_a_reader_cannot_write(
    admin: opensearchpy.OpenSearch, reader: opensearchpy.OpenSearch, secured_node: SecuredNode, store: Path
) -> None:
    """One by one in an answer of status 200: that is how the plugin refuses a bulk. It is one error, not thousands."""
    with pytest.raises(OpenSearchAuthError, match=r"do not permit it .*indices:admin/get"):
        first_stage.opensearch(reader, OURS, index_body(RECIPE.fields))(True)
    indexer = BulkIndexer(admin, OURS)
    indexer._client = reader
    with pytest.raises(OpenSearchAuthError, match=r"do not permit to write to it .*indices:data/write/bulk"):
        indexer.index([("new", {"text": "x"})])
    headers = {"Authorization": basic(*secured_node.admin)}
    held = call(secured_node.url, "GET", f"/{OURS}/_count", headers=headers, ca_file=secured_node.ca_file).json()
    assert held["count"] == 60


ON_THE_INDEX = (
    *("indices:admin/get", "indices:admin/create", "indices:admin/refresh*"),
    *("indices:data/read/*", "indices:data/write/*"),
)
ON_THE_CLUSTER = ("indices:data/write/bulk",)


def test_what_the_readme_asks_for_is_enough_to_fill_an_index(
    secured_node: SecuredNode, tiny_encoder: Encoder, tmp_path: Path
) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert all(f"`{permission}`" in readme for permission in (*ON_THE_INDEX, *ON_THE_CLUSTER))
    headers = {"Authorization": basic(*secured_node.admin)}
    role = {
        "cluster_permissions": ON_THE_CLUSTER,
        "index_permissions": [{"index_patterns": ["filled*"], "allowed_actions": ON_THE_INDEX}],
    }
    user = {"password": "correct-Horse-9-battery", "opendistro_security_roles": ["filler"]}
    for path, body in (("roles", role), ("internalusers", user)):
        path = f"/_plugins/_security/api/{path}/filler"
        made = call(secured_node.url, "PUT", path, body, headers=headers, ca_file=secured_node.ca_file)
        assert made.status == 201, made.body
    with closing(client_of(secured_node, ("filler", "correct-Horse-9-battery"))) as client:
        for attempt in range(100):  # the node takes a moment to know a new user
            try:
                check_server(client)
                break
            except OpenSearchAuthError:
                if attempt == 99:
                    raise
                time.sleep(0.1)
        filled = first_stage.opensearch(client, "filled", index_body(RECIPE.fields))
        store = ingested(tmp_path / "store", tiny_encoder, documents(20), first_stage=filled)
        assert filled(False).count() == len(store) == 20
        assert any(r.ranked for r in rankings(client, "filled", store.folder, tiny_encoder))
