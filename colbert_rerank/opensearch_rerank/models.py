"""A model of ml-commons from its registration on: deployed, asked, gone again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from colbert_rerank.errors import OpenSearchError
from colbert_rerank.opensearch import server_url, translated
from colbert_rerank.opensearch_rerank.requests import ML, Changes, part, read

DEPLOYED = "DEPLOYED"
PATIENCE = 60.0  # seconds for a model to be deployed
PROBE = {"query_text": "does this arrive", "text_docs": ["colbert-rerank-setup"]}  # an id that no store has


def await_registered(changes: Changes, answer: Mapping[str, Any]) -> str:
    """The id of a model, once its registration has ended."""
    task, end = str(answer.get("task_id", "")), time.monotonic() + PATIENCE
    if "model_id" in answer and not task:
        return str(answer["model_id"])
    while time.monotonic() < end:
        found = read(changes.client, f"{ML}/tasks/{part(task)}") or {}
        if found.get("state") == "COMPLETED" and "model_id" in found:
            return str(found["model_id"])
        if str(found.get("state", "")).endswith("FAILED"):
            raise OpenSearchError(f"{server_url(changes.client)}: the model was not deployed: {found.get('error')}")
        time.sleep(0.1)
    raise OpenSearchError(f"{server_url(changes.client)}: the model was not registered within {PATIENCE:.0f} s")


def deploy(changes: Changes, model: str) -> None:
    """Raises OpenSearchError."""
    changes.send("POST", f"{ML}/models/{part(model)}/_deploy")
    await_state(changes, model, lambda state: state == DEPLOYED)


def undeploy(changes: Changes, model: str) -> None:
    """Raises OpenSearchError."""
    changes.send("POST", f"{ML}/models/{part(model)}/_undeploy")
    await_state(changes, model, lambda state: state != DEPLOYED)


def await_state(changes: Changes, model: str, reached: Callable[[str], bool]) -> None:
    """Raises OpenSearchError where it is not reached in time."""
    if changes.dry_run:
        return
    state, end = "", time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = read(changes.client, f"{ML}/models/{part(model)}")
        state = str((found or {}).get("model_state", ""))
        if reached(state):
            return
        if found is None:
            raise OpenSearchError(f"{server_url(changes.client)}: the model {model} is gone")
        time.sleep(0.1)
    raise OpenSearchError(f"{server_url(changes.client)}: the model {model} is still {state} after {PATIENCE:.0f} s")


def state_of(changes: Changes, model: str) -> str:
    """ "DEPLOYED", another of ml-commons' states, or "" where there is no such model. Raises OpenSearchError."""
    return str((read(changes.client, f"{ML}/models/{part(model)}") or {}).get("model_state", ""))


def predict(changes: Changes, model: str, body: Mapping[str, Any] = PROBE) -> Mapping[str, Any]:
    """What the service answers through OpenSearch, asked once. Raises OpenSearchError."""
    path = f"{ML}/_predict/text_similarity/{part(model)}"
    with translated(changes.client):
        answer: Mapping[str, Any] = changes.client.transport.perform_request("POST", path, body=dict(body))
    return answer
