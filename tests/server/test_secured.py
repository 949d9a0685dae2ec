"""The secured node is OpenSearch's security plugin at work, with the facts about it that the product must live with."""

from __future__ import annotations

import pytest

from tests.server.rest import Answer, basic, call
from tests.server.secured import SecuredNode


def ask(node: SecuredNode, user: tuple[str, str], method: str, path: str, body: object = None) -> Answer:
    return call(node.url, method, path, body, headers={"Authorization": basic(*user)}, ca_file=node.ca_file)


def test_admin_indexes_and_reader_searches(secured_node: SecuredNode) -> None:
    mapping = {"mappings": {"properties": {"text": {"type": "text", "analyzer": "english"}}}}
    assert ask(secured_node, secured_node.admin, "PUT", "/secured-basics", mapping).status == 200
    lines = [{"index": {"_id": "fox"}}, {"text": "A running fox"}]
    assert ask(secured_node, secured_node.admin, "POST", "/secured-basics/_bulk?refresh=true", lines).status == 200
    query = {"query": {"match": {"text": "runs"}}}
    found = ask(secured_node, secured_node.reader, "POST", "/secured-basics/_search", query).json()
    assert [hit["_id"] for hit in found["hits"]["hits"]] == ["fox"]
    opened = ask(secured_node, secured_node.reader, "POST", "/secured-basics/_search/point_in_time?keep_alive=1m")
    assert opened.status == 200


@pytest.mark.parametrize(
    ("path", "permission"),
    [
        pytest.param("/", "cluster:monitor/main", id="version"),
        pytest.param("/secured-facts", "indices:admin/get", id="index"),
        pytest.param("/secured-facts/_mapping", "indices:admin/mappings/get", id="mapping"),
        pytest.param("/secured-facts/_settings", "indices:monitor/settings/get", id="settings-and-uuid"),
    ],
)
def test_the_readall_role_may_not_even_look_at(secured_node: SecuredNode, path: str, permission: str) -> None:
    ask(secured_node, secured_node.admin, "PUT", "/secured-facts")
    answer = ask(secured_node, secured_node.reader, "GET", path)
    assert answer.status == 403
    assert answer.json()["error"]["reason"].startswith(f"no permissions for [{permission}] and User [name=readall,")
    # What is left to tell the version by.
    assert answer.headers["x-opensearch-version"] == f"OpenSearch/{secured_node.version} (opensearch)"


def test_the_certificate_is_verified(secured_node: SecuredNode) -> None:
    with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
        call(secured_node.url, "GET", "/")
