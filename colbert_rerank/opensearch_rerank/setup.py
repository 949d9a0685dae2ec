"""Let OpenSearch re-rank by document id in the middle of its searches: settings, connector, model, search pipeline.

What is there already and is as it is wanted is kept. What has to be another is made anew beside the old one, which goes
when the pipeline has the new one: searches go on meanwhile. What goes wrong on the way is taken back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import opensearchpy

from colbert_rerank.errors import OpenSearchError, UsageError
from colbert_rerank.opensearch import server_url, translated
from colbert_rerank.opensearch_rerank.endpoint import Permitted, pattern_of, permit, withdraw
from colbert_rerank.opensearch_rerank.failures import PRIVATE_ADDRESS, explained
from colbert_rerank.opensearch_rerank.record import PIPELINES, Record, hashed, others, pipeline_called, record_of
from colbert_rerank.opensearch_rerank.requests import ML, Changes, part, read
from mappings import DOC_ID, rerank_connector, rerank_model, rerank_pipeline

PLUGINS = ("opensearch-ml", "opensearch-neural-search")
DEPLOYED = "DEPLOYED"
PATIENCE = 60.0  # seconds for a model to be deployed
PROBE = {"query_text": "does this arrive", "text_docs": ["colbert-rerank-setup"]}  # an id that no store has
CONNECTOR, MODEL = "<connector_id>", "<model_id>"  # of a dry run

_log = logging.getLogger(__name__)


class Wanted(NamedTuple):
    """``service`` is its URL as OpenSearch reaches it; `mappings.rerank_connector` has the two times."""

    name: str
    service: str
    store: str
    token: str = ""
    id_field: str = DOC_ID
    oversample: int = 10
    read_timeout: int = 5
    strict: bool = False
    deadline_ms: int | None = None

    @property
    def connector(self) -> dict[str, Any]:
        return rerank_connector(
            self.name,
            self.service,
            self.store,
            token=self.token,
            read_timeout=self.read_timeout,
            deadline_ms=self.deadline_ms,
        )

    @property
    def url(self) -> str:
        url: str = self.connector["actions"][0]["url"]
        return url


def setup(changes: Changes, wanted: Wanted) -> Iterator[str]:
    """Make what is missing, and yield a line about each part. Raises OpenSearchError and UsageError."""
    client = changes.client
    if missing := missing_plugins(changes):
        raise OpenSearchError(
            f"{server_url(client)}: the plugins {' and '.join(missing)} are not installed; OpenSearch's standard "
            "distribution has them"
        )
    before = pipeline_called(client, wanted.name)
    old = record_of(before) if before is not None else None
    if before is not None and old is None:
        raise UsageError(
            f"{server_url(client)} has a search pipeline {wanted.name!r} that was not made by this command; choose "
            "another --name"
        )
    with ExitStack() as undo:
        permitted = permit(changes, wanted.service, wanted.url)
        if permitted.pattern or permitted.private:
            undo.callback(_quietly, partial(withdraw, changes, permitted))
            if permitted.pattern:
                yield f"settings: connectors may call {permitted.pattern}, beside what they might before"
            if permitted.private:
                yield "settings: connectors of this cluster may call private addresses, whoever makes them"
        beside = others(client, wanted.name)
        held = _held(wanted, permitted, [r for r in (old, *beside) if r is not None])
        if old is not None and _is_kept(changes, old, wanted):
            record = Record(old.connector, old.model, old.token, *held)
            yield f"connector {old.connector} and model {old.model} are kept"
            _check_answers(changes, old.model, wanted, redeploy=True)
        else:
            connector, model = yield from _make(changes, wanted, undo)
            record = Record(connector, model, hashed(wanted.token), *held)
        body = rerank_pipeline(
            record.model,
            id_field=wanted.id_field,
            oversample=wanted.oversample,
            strict=wanted.strict,
            description=record.described(),
        )
        if before == body:
            yield f"search pipeline {wanted.name} is kept"
        else:
            changes.send("PUT", f"{PIPELINES}/{part(wanted.name)}", body)
            yield f"search pipeline {wanted.name} is {'made' if before is None else 'changed'}"
        undo.pop_all()
    if old is not None and old.model != record.model:
        remove(changes, old)
        yield f"the old connector {old.connector} and model {old.model} are removed"
    if old is not None and old.pattern not in ("", record.pattern, *(other.pattern for other in beside)):
        withdraw(changes, Permitted(old.pattern, builtin=held.builtin))
        yield f"settings: connectors may not call {old.pattern} any more"


def missing_plugins(changes: Changes) -> list[str]:
    """Plugins that this takes and no node has; none where they may not be asked for.

    Without them the next request fails, too, and says less.
    """
    try:
        listed: Any = changes.client.cat.plugins(params={"format": "json"})
    except opensearchpy.TransportError as error:
        _log.debug("the plugins are not known: %s", error)
        return []
    there = {row["component"] for row in listed}
    return [plugin for plugin in PLUGINS if plugin not in there]


def remove(changes: Changes, record: Record) -> None:
    """The model and its connector, as far as they are there. Raises OpenSearchError."""
    if read(changes.client, f"{ML}/models/{part(record.model)}") is not None:
        changes.send("POST", f"{ML}/models/{part(record.model)}/_undeploy")
        try:
            changes.remove(f"{ML}/models/{part(record.model)}")
        except OpenSearchError:  # a node has not heard of it yet
            _await_state(changes, record.model, lambda state: state != DEPLOYED)
            changes.remove(f"{ML}/models/{part(record.model)}")
    changes.remove(f"{ML}/connectors/{part(record.connector)}")


def _held(wanted: Wanted, permitted: Permitted, ours: list[Record]) -> Permitted:
    """What of the settings this pipeline needs, and is ours to take back one day, whoever of us added it."""
    pattern = pattern_of(wanted.service)
    return Permitted(
        pattern if permitted.pattern or any(record.pattern == pattern for record in ours) else "",
        permitted.private or any(record.private for record in ours),
        permitted.builtin or next((record.builtin for record in ours if record.builtin), ""),
    )


def _is_kept(changes: Changes, old: Record, wanted: Wanted) -> bool:
    connector = read(changes.client, f"{ML}/connectors/{part(old.connector)}")
    model = read(changes.client, f"{ML}/models/{part(old.model)}")
    if connector is None or model is None or not old.has_token(wanted.token):
        return False
    asked = {name: value for name, value in wanted.connector.items() if name != "credential"}
    return model.get("connector_id") == old.connector and _holds(connector, asked)


def _holds(found: Any, wanted: Any) -> bool:
    """Whether all that is wanted is there; OpenSearch adds defaults of its own."""
    if isinstance(wanted, Mapping):
        return isinstance(found, Mapping) and all(_holds(found.get(name), value) for name, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(found, list) and len(found) == len(wanted) and all(map(_holds, found, wanted))
    return str(found).lower() == str(wanted).lower()


def _make(changes: Changes, wanted: Wanted, undo: ExitStack) -> Generator[str, None, tuple[str, str]]:
    """A connector and a model that answers; returns their ids."""
    made = changes.send("POST", f"{ML}/connectors/_create", wanted.connector)
    connector = str(made.get("connector_id", CONNECTOR))
    undo.callback(_quietly, partial(changes.remove, f"{ML}/connectors/{part(connector)}"))
    yield f"connector {connector} is made, to {wanted.url}"
    body = rerank_model(wanted.name, connector)
    registered = changes.send("POST", f"{ML}/models/_register?deploy=true", body)
    if changes.dry_run:
        yield f"model {MODEL} is made and deployed"
        return connector, MODEL
    model = _registered(changes, registered)
    undo.callback(_quietly, partial(remove, changes, Record(connector, model)))
    _await_state(changes, model, lambda state: state == DEPLOYED)
    yield f"model {model} is made and deployed"
    _check_answers(changes, model, wanted)
    yield "the service answers OpenSearch"
    return connector, model


def _registered(changes: Changes, answer: Mapping[str, Any]) -> str:
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


def _await_state(changes: Changes, model: str, reached: Callable[[str], bool]) -> None:
    """Raises OpenSearchError where it is not reached in time."""
    if changes.dry_run:
        return
    state, end = "", time.monotonic() + PATIENCE
    while time.monotonic() < end:
        state = state_of(changes, model)
        if reached(state):
            return
        time.sleep(0.1)
    raise OpenSearchError(f"{server_url(changes.client)}: the model {model} is still {state} after {PATIENCE:.0f} s")


def state_of(changes: Changes, model: str) -> str:
    """ "DEPLOYED", another of ml-commons' states, or "" where there is no such model. Raises OpenSearchError."""
    return str((read(changes.client, f"{ML}/models/{part(model)}") or {}).get("model_state", ""))


def _check_answers(changes: Changes, model: str, wanted: Wanted, *, redeploy: bool = False) -> None:
    """That a request gets through to the service and its answer back. Raises OpenSearchError, in plain words.

    A model that was deployed while private addresses were refused remembers that; ``redeploy`` has it forget.
    """
    if changes.dry_run:
        return
    try:
        if redeploy and state_of(changes, model) != DEPLOYED:
            _deploy(changes, model)
        predict(changes, model)
    except OpenSearchError as error:
        if redeploy and PRIVATE_ADDRESS in str(error):
            changes.send("POST", f"{ML}/models/{part(model)}/_undeploy")
            _await_state(changes, model, lambda state: state != DEPLOYED)
            _deploy(changes, model)
            _check_answers(changes, model, wanted)
            return
        raise OpenSearchError(f"{wanted.url}: {explained(error)}. What was made for it is taken away again") from error


def _deploy(changes: Changes, model: str) -> None:
    changes.send("POST", f"{ML}/models/{part(model)}/_deploy")
    _await_state(changes, model, lambda state: state == DEPLOYED)


def predict(changes: Changes, model: str, body: Mapping[str, Any] = PROBE) -> Mapping[str, Any]:
    """What the service answers through OpenSearch, asked once. Raises OpenSearchError."""
    path = f"{ML}/_predict/text_similarity/{part(model)}"
    with translated(changes.client):
        answer: Mapping[str, Any] = changes.client.transport.perform_request("POST", path, body=dict(body))
    return answer


def _quietly(work: Callable[[], object]) -> None:
    """Take something back after a failure, which is the one to be told of."""
    try:
        work()
    except OpenSearchError as error:
        _log.warning("it could not be taken back: %s", error)
