"""The connectors that `setup` made and their models, as a cluster lists them: known though their ids be lost."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import opensearchpy

from colbert_rerank.errors import OpenSearchError
from colbert_rerank.opensearch_rerank.models import PATIENCE, undeploy
from colbert_rerank.opensearch_rerank.requests import ML, Changes, part, read
from mappings import rerank_connector


class Made(NamedTuple):
    """The ids of a connector and of the models that call by it."""

    connector: str
    models: tuple[str, ...]

    def __str__(self) -> str:
        return f"connector {self.connector}" + "".join(f" and model {model}" for model in self.models)


def made(client: opensearchpy.OpenSearch, name: str) -> list[Made]:
    """All of this name that `setup` made. Raises OpenSearchError."""
    description = rerank_connector(name, "", "")["description"]
    connectors = [i for i, body in _called(client, "connectors", name) if body.get("description") == description]
    models = _called(client, "models", name) if connectors else []
    return [Made(i, tuple(model for model, body in models if body.get("connector_id") == i)) for i in connectors]


def _called(client: opensearchpy.OpenSearch, what: str, name: str) -> list[tuple[str, dict[str, Any]]]:
    body = {"size": 1000, "query": {"term": {"name.keyword": name}}}
    found = read(client, f"{ML}/{what}/_search", body) or {}
    return [(hit["_id"], hit["_source"]) for hit in found["hits"]["hits"]] if found else []


def remove(changes: Changes, old: Made) -> None:
    """The models and their connector, as far as they are there. Raises OpenSearchError."""
    for model in old.models:
        if read(changes.client, f"{ML}/models/{part(model)}") is not None:
            _remove(changes, model)
    changes.remove(f"{ML}/connectors/{part(old.connector)}")


def _remove(changes: Changes, model: str) -> None:
    """One that is still being deployed, as for a setup that was killed, can only be removed when that is done."""
    end = time.monotonic() + PATIENCE
    while True:
        undeploy(changes, model)
        try:
            return changes.remove(f"{ML}/models/{part(model)}")
        except OpenSearchError as error:
            if "deployed state" not in str(error) or time.monotonic() > end:
                raise
        time.sleep(0.1)
