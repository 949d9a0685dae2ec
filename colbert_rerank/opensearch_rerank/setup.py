"""Let OpenSearch re-rank by document id in the middle of its searches: settings, connector, model, search pipeline.

What is there already and is as it is wanted is kept. What has to be another is made anew beside the old one, which goes
when the pipeline has the new one: searches go on meanwhile. What goes wrong on the way is taken back; the mapping of an
index, which cannot be, is changed when all else is known to work. What is to be added to the settings is noted in the
pipeline before: whatever ends this, `teardown` and the next setup find it there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import opensearchpy

from colbert_rerank.candidates.doc_id_alias import DOC_ID_ALIAS
from colbert_rerank.errors import OpenSearchError, StoreMismatchError, UsageError
from colbert_rerank.opensearch import server_url
from colbert_rerank.opensearch_rerank.endpoint import Permitted, lacking, pattern_of, permit, withdraw
from colbert_rerank.opensearch_rerank.failures import PRIVATE_ADDRESS, explained
from colbert_rerank.opensearch_rerank.made import Made, made, remove
from colbert_rerank.opensearch_rerank.models import (
    DEPLOYED,
    await_registered,
    await_state,
    deploy,
    predict,
    state_of,
    undeploy,
)
from colbert_rerank.opensearch_rerank.record import (
    PIPELINES,
    Record,
    hashed,
    not_held,
    others,
    pipeline_called,
    record_of,
)
from colbert_rerank.opensearch_rerank.requests import ML, Changes, part, read
from colbert_rerank.opensearch_rerank.service import NotToldError, mismatch, store_origin
from colbert_rerank.types import Origin
from mappings import DOC_ID, rerank_connector, rerank_model, rerank_pipeline

PLUGINS = ("opensearch-ml", "opensearch-neural-search")
CONNECTOR, MODEL = "<connector_id>", "<model_id>"  # of a dry run

_log = logging.getLogger(__name__)


class Wanted(NamedTuple):
    """``service`` is its URL as OpenSearch reaches it; `mappings.rerank_connector` has the two times.

    The indices ``without_alias`` get ``doc_id`` as an alias of ``_id``. ``origin`` is what is to be searched: the store
    has to be made from it, unless ``allow_other_index``. Where it is ``None`` that is not looked at.
    """

    name: str
    service: str
    store: str
    token: str = ""
    id_field: str = DOC_ID
    oversample: int = 10
    read_timeout: int = 5
    strict: bool = False
    deadline_ms: int | None = None
    without_alias: Sequence[str] = ()
    origin: Origin | None = None
    allow_other_index: bool = False

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
    """Make what is missing, and yield a line about each part.

    Raises OpenSearchError, UsageError, and StoreMismatchError for a store of another index.
    """
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
    if wanted.origin is not None:
        yield from _check_store(wanted, wanted.origin)
    with ExitStack() as undo:
        permitted, beside = lacking(changes, wanted.service, wanted.url), others(client, wanted.name)
        held, is_new = _held(wanted, permitted, old, beside), before is None
        if permitted.patterns or permitted.private:
            before = _note(changes, wanted.name, before, old, permitted, held, undo)
        permit(changes, permitted)
        for pattern in permitted.patterns:
            yield f"settings: connectors may call {pattern}, beside what they might before"
        if permitted.private:
            yield "settings: connectors of this cluster may call private addresses, whoever makes them"
        if old is not None and _is_kept(changes, old, wanted):
            record = Record(old.connector, old.model, old.token, *held)
            yield f"connector {old.connector} and model {old.model} are kept"
            _check_answers(changes, old.model, wanted, redeploy=True)
        else:
            try:
                connector, model = yield from _make(changes, wanted, undo)
            except OpenSearchError:
                _check_alone(changes, wanted.name, before)  # which takes away what it finds of this name
                raise
            record = Record(connector, model, hashed(wanted.token), *held)
        if names := ",".join(wanted.without_alias):
            changes.send("PUT", f"/{names}/_mapping", DOC_ID_ALIAS)
            yield f"index: doc_id is an alias of _id in {names}"
        body = _pipeline(wanted, record)
        _check_alone(changes, wanted.name, before)
        if before == body:
            yield f"search pipeline {wanted.name} is kept"
        else:
            undo.callback(_put_back, changes, wanted.name, before, record, undo)
            changes.send("PUT", f"{PIPELINES}/{part(wanted.name)}", body)
            _check_alone(changes, wanted.name, body)
            yield f"search pipeline {wanted.name} is {'made' if is_new else 'changed'}"
        undo.pop_all()
    for other in made(client, wanted.name):
        if other.connector != record.connector:
            remove(changes, other)
            yield f"the old {other} is removed"
    own = [pattern for pattern in record.patterns if pattern == pattern_of(wanted.service)]
    if own != record.patterns:  # it holds what has to be withdrawn until that is done: whoever runs this again finds it
        gone = not_held(beside, [pattern for pattern in record.patterns if pattern not in own])
        withdraw(changes, Permitted(gone, builtin=record.builtin))
        changes.send("PUT", f"{PIPELINES}/{part(wanted.name)}", _pipeline(wanted, replace(record, patterns=own)))
        for pattern in gone:
            yield f"settings: connectors may not call {pattern} any more"


def _check_store(wanted: Wanted, index: Origin) -> Iterator[str]:
    """Raises StoreMismatchError for a store that was made from another one; whether it was cannot always be told."""
    try:
        wrong = mismatch(wanted.store, store_origin(wanted.service, wanted.store, wanted.token), index)
    except NotToldError as error:
        yield f"store: whether {wanted.store!r} was made from {index.name} the service does not say: {error}"
        return
    if not wrong:
        yield f"store: {wanted.store!r} was made from {index.name}"
    elif wanted.allow_other_index:
        yield f"store: {wrong}, unless one is a copy of the other"
    else:
        raise StoreMismatchError(f"{wrong}. If one is a copy of the other, pass --allow-other-index")


def _note(
    changes: Changes,
    name: str,
    before: Mapping[str, Any] | None,
    old: Record | None,
    permitted: Permitted,
    held: Permitted,
    undo: ExitStack,
) -> Mapping[str, Any]:
    """Write into the pipeline, or an empty one, what is about to be added to the settings; its body then."""
    note = replace(old or Record("", ""), patterns=held.patterns, private=held.private, builtin=held.builtin)
    body = {**(before or {}), "description": note.described()}
    undo.callback(_take_back, changes, name, before, note, permitted, undo)
    changes.send("PUT", f"{PIPELINES}/{part(name)}", body)
    return body


def _take_back(
    changes: Changes,
    name: str,
    before: Mapping[str, Any] | None,
    note: Record,
    permitted: Permitted,
    undo: ExitStack,
) -> None:
    """Withdraw from the settings what was added, arrived though no answer came or not, and then what was noted of it.

    Where another setup of this name has put its own pipeline there meanwhile, that needs what was added.
    """
    try:
        found = pipeline_called(changes.client, name)
        if found is not None and record_of(found) != note:
            return
        withdraw(changes, permitted)
    except OpenSearchError as error:
        _log.warning("it could not be taken back: %s", error)
        return
    _put_back(changes, name, before, note, undo)


def _check_alone(changes: Changes, name: str, body: Mapping[str, Any] | None) -> None:
    """Raises OpenSearchError where the pipeline is not what was written or read last."""
    if not changes.dry_run and pipeline_called(changes.client, name) != body:
        raise OpenSearchError(
            f"{server_url(changes.client)}: the search pipeline {name!r} was changed meanwhile, as another setup of "
            "this name does; run this again when that has ended"
        )


def _put_back(changes: Changes, name: str, before: Mapping[str, Any] | None, record: Record, undo: ExitStack) -> None:
    """Have the pipeline as it was ``before``, if the new one arrived though no answer came.

    Where that cannot be told or done, the pipeline may need what was made for it: nothing more is undone.
    """
    try:
        found = pipeline_called(changes.client, name)
        if found is None or record_of(found) != record:
            return
        if before is None:
            changes.remove(f"{PIPELINES}/{part(name)}")
        else:
            changes.send("PUT", f"{PIPELINES}/{part(name)}", before)
    except OpenSearchError as error:
        undo.pop_all()
        _log.warning("%s may be the new search pipeline already, so what was made for it stays: %s", name, error)


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


def _pipeline(wanted: Wanted, record: Record) -> dict[str, Any]:
    return rerank_pipeline(
        record.model,
        id_field=wanted.id_field,
        oversample=wanted.oversample,
        strict=wanted.strict,
        description=record.described(),
    )


def _held(wanted: Wanted, permitted: Permitted, old: Record | None, beside: list[Record]) -> Permitted:
    """What of the settings this pipeline needs or needed, and is ours to take back one day, whoever of us added it."""
    pattern = pattern_of(wanted.service)
    ours = [record for record in (old, *beside) if record is not None]
    is_ours = permitted.patterns or any(pattern in record.patterns for record in ours)
    before = old.patterns if old is not None else []
    return Permitted(
        [*([pattern] if is_ours else []), *(other for other in before if other != pattern)],
        permitted.private or any(record.private for record in ours),
        permitted.builtin or next((record.builtin for record in ours if record.builtin), ""),
    )


def _is_kept(changes: Changes, old: Record, wanted: Wanted) -> bool:
    if not old.connector:  # that setup did not come to its end
        return False
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
    created = changes.send("POST", f"{ML}/connectors/_create", wanted.connector)
    connector = str(created.get("connector_id", CONNECTOR))
    undo.callback(_quietly, partial(changes.remove, f"{ML}/connectors/{part(connector)}"))
    yield f"connector {connector} is made, to {wanted.url}"
    body = rerank_model(wanted.name, connector)
    registered = changes.send("POST", f"{ML}/models/_register?deploy=true", body)
    if changes.dry_run:
        yield f"model {MODEL} is made and deployed"
        return connector, MODEL
    model = await_registered(changes, registered)
    undo.callback(_quietly, partial(remove, changes, Made(connector, (model,))))
    await_state(changes, model, lambda state: state == DEPLOYED)
    yield f"model {model} is made and deployed"
    try:
        _check_answers(changes, model, wanted)
    except OpenSearchError as error:
        raise OpenSearchError(f"{error}. What was made for it is taken away again") from error
    yield "the service answers OpenSearch"
    return connector, model


def _check_answers(changes: Changes, model: str, wanted: Wanted, *, redeploy: bool = False) -> None:
    """That a request gets through to the service and its answer back. Raises OpenSearchError, in plain words.

    A model that was deployed while private addresses were refused remembers that; ``redeploy`` has it forget.
    """
    if changes.dry_run:
        return
    try:
        if redeploy and state_of(changes, model) != DEPLOYED:
            deploy(changes, model)
        predict(changes, model)
    except OpenSearchError as error:
        if redeploy and PRIVATE_ADDRESS in str(error):
            undeploy(changes, model)
            deploy(changes, model)
            _check_answers(changes, model, wanted)
            return
        raise OpenSearchError(f"{wanted.url}: {explained(error)}") from error


def _quietly(work: Callable[[], object]) -> None:
    """Take something back after a failure, which is the one to be told of."""
    try:
        work()
    except OpenSearchError as error:
        _log.warning("it could not be taken back: %s", error)
