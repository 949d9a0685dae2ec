"""Bodies that are large and wrong: they are refused before their items are looked at."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from colbert_rerank.serve.routes import DIALECTS
from colbert_rerank.serve.stores import ServedStore
from tests.serve.conftest import LIMITS, client_of


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every string that was looked at."""
    found: list[str] = []

    def note(text: str) -> bool:
        found.append(text)
        return True

    monkeypatch.setattr("colbert_rerank.serve.dialects.in_utf8", note)
    return found


@pytest.mark.parametrize("path", [*DIALECTS, "/encode"])
@pytest.mark.parametrize("item", ["", 1, {}, []], ids=repr)
def test_a_list_that_is_too_long_is_not_looked_at(client: TestClient, path: str, item: Any, seen: list[str]) -> None:
    for key in ("documents", "texts", "text_2", "queries"):
        refused = client.post(path, json={key: [item] * (LIMITS.documents + 1)})
        assert (refused.status_code, "101 documents are more than 100" in refused.json()["error"]) == (413, True)
    assert seen == []


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("/rerank", "documents"),
        ("/rerank", "texts"),
        ("/voyage/v1/rerank", "documents"),
        ("/tei/rerank", "texts"),
        ("/vllm/score", "text_2"),
    ],
)
def test_the_first_item_that_is_wrong_ends_it(client: TestClient, path: str, key: str, seen: list[str]) -> None:
    body = {key: ["first", 7, *["last"] * 50], "query": "tides", "text_1": "tides"}
    refused = client.post(path, json=body)
    assert (refused.status_code, key in refused.json()["error"]) == (422, True)
    assert "first" in seen
    assert "last" not in seen


@pytest.mark.parametrize("kind", [None, "application/x-www-form-urlencoded", "text/plain"])
def test_a_body_that_is_not_called_json(client: TestClient, kind: str | None) -> None:
    """As curl has it by itself. A web page could send it here, and could not if it were called JSON."""
    headers = {} if kind is None else {"content-type": kind}
    refused = client.post("/rerank", content='{"query": "tides", "documents": ["a"]}', headers=headers)
    assert refused.status_code == 422
    assert "send it with the header 'Content-Type: application/json'" in refused.json()["error"]


def test_what_is_no_object_is_said(served: ServedStore) -> None:
    with client_of(served) as client:
        for body in ([1] * 1000, 7, None, "x"):
            assert client.post("/rerank", json=body).status_code == 422
