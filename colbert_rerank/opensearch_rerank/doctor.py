"""Try re-ranking in OpenSearch for real, and say what is wrong with it, and what to do.

States tell little: a model is "deployed" whose address may not be called, and a search whose re-ranking failed is
answered in its first order with status 200. So the service is asked through the model, a search goes through the
pipeline, and what its processors say of themselves is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote

import opensearchpy

from colbert_rerank.errors import OpenSearchAuthError, OpenSearchError
from colbert_rerank.indices import origin_of
from colbert_rerank.opensearch import translated
from colbert_rerank.opensearch_rerank.endpoint import PRIVATE, TRUSTED, Permissions
from colbert_rerank.opensearch_rerank.failures import explained, meaning
from colbert_rerank.opensearch_rerank.findings import Finding
from colbert_rerank.opensearch_rerank.models import DEPLOYED, predict
from colbert_rerank.opensearch_rerank.record import pipeline_called, record_of
from colbert_rerank.opensearch_rerank.requests import ML, Changes, part, read
from colbert_rerank.opensearch_rerank.searched import SIZE, Searched, beyond_window, searched
from colbert_rerank.opensearch_rerank.service import NotToldError, asked_from_here, mismatch, store_origin
from colbert_rerank.opensearch_rerank.setup import missing_plugins
from colbert_rerank.rerank import unscored_scores
from colbert_rerank.scoring import UNSCORED_STEP
from mappings import QUALIFIED_ID

SHOWN = 3
NO_IDS = ("", "null")  # what the service gets for a document without an id, from _source and from doc values

ADVICE = (
    "a search with track_total_hits: false is not re-ranked; a number there is right",
    "pages are not of one ranking: with from and size, as many hits again are re-ranked, those after `from`",
)
DEADLINE = "read_timeout is in whole seconds; a shorter deadline is for the service to keep: setup --deadline-ms"


class Way(NamedTuple):
    """From a pipeline to the service, as far as it goes."""

    model: str
    id_field: str
    oversample: float
    ignore_failure: bool
    url: str = ""
    deadline_ms: int | None = None


def examine(
    client: opensearchpy.OpenSearch,
    name: str,
    index: str,
    query: str,
    *,
    fields: Sequence[str] = (),
    service: str = "",
    token: str = "",
    allow_other_index: bool = False,
) -> Iterator[Finding]:
    """Findings about the pipeline ``name``, from the plugins on to the ranks of a ``query`` in ``index``.

    ``fields`` are searched. ``token`` is sent to the ``service`` whose URL this is, to ask it from here, too, and to no
    other that the cluster may name: who can write a connector is not to get it. ``allow_other_index`` takes a store
    that was made from another one. Changes nothing. Raises OpenSearchError where OpenSearch itself does not answer, and
    UsageError.
    """
    changes = Changes(client, dry_run=True)
    if missing := missing_plugins(changes):
        yield Finding("plugins", "wrong", f"no node has {' or '.join(missing)}; the standard distribution does")
        return
    pipeline = pipeline_called(client, name)
    if pipeline is None:
        yield Finding("pipeline", "wrong", f"there is none called {name}: run `colbert-rerank opensearch setup`")
        return
    way = _way(pipeline)
    if way is None:
        yield Finding("pipeline", "wrong", f"{name} has no `rerank` processor with a model: run setup again")
        return
    found_in = searched(client, index, fields=fields, qualified=way.id_field == QUALIFIED_ID)
    yield from _pipeline(way, pipeline, found_in)
    onward = _connector(client, way)
    if isinstance(onward, Finding):
        yield onward
        return
    way = onward
    yield from _settings(client, way)
    record = record_of(pipeline)
    has_another = bool(token) and record is not None and not record.has_token(token)
    try:
        predict(changes, way.model)
        yield Finding("predict", "ok", f"OpenSearch reaches {way.url}")
        if has_another:
            yield Finding("token", "note", "the connector has another than that given here, and the service takes it")
    except OpenSearchError as error:
        yield Finding("predict", "wrong", explained(error))
        if has_another:
            yield Finding("connector", "wrong", "it was made with another token: run setup again with --token-file")
    yield from _indices(client, name, way, found_in)
    is_the_service = way.url.startswith(f"{service}/") if service else False
    if service and not is_the_service:
        yield Finding("connector", "wrong", f"it calls {way.url}, which is not at {service}: run setup again")
    sent = token if is_the_service else ""
    yield from _store(way, found_in, sent, allow_other_index)
    try:
        yield from _search(client, name, way, found_in._replace(id_field=way.id_field), query, sent)
    except OpenSearchError as error:
        yield Finding("search", "wrong", f"it fails, re-ranked or not: {error}")
    for advice in ADVICE if way.deadline_ms is not None else (*ADVICE, DEADLINE):
        yield Finding("advice", "note", advice)


def _way(pipeline: Mapping[str, Any]) -> Way | None:
    """What the processors of a pipeline say, whoever made it."""
    asked = _processor(pipeline.get("request_processors"), "oversample") or {}
    rerank = _processor(pipeline.get("response_processors"), "rerank") or {}
    model = (rerank.get("ml_opensearch") or {}).get("model_id")
    fields = (rerank.get("context") or {}).get("document_fields") or []
    if not model or not fields:
        return None
    factor = float(asked.get("sample_factor", 1))
    return Way(str(model), str(fields[0]), factor, bool(rerank.get("ignore_failure", False)))


def _processor(listed: Any, kind: str) -> Mapping[str, Any] | None:
    return next((one[kind] for one in listed or [] if kind in one), None)


def _pipeline(way: Way, pipeline: Mapping[str, Any], indices: Searched) -> Iterator[Finding]:
    if way.oversample <= 1 or _processor(pipeline.get("response_processors"), "truncate_hits") is None:
        yield Finding(
            "pipeline",
            "note",
            "without oversample and truncate_hits only as many hits are re-ranked as a search asks for",
        )
    if way.id_field != indices.id_field:
        yield Finding(
            "pipeline",
            "note",
            f"it sends the field {way.id_field!r}; the ids of {indices.name} are in {indices.id_field!r}",
        )
    fails = "a search goes on in its first order" if way.ignore_failure else "the search fails, too (strict)"
    yield Finding("pipeline", "ok", f"re-ranks {way.oversample:g} times the hits; where that fails, {fails}")


def _connector(client: opensearchpy.OpenSearch, way: Way) -> Way | Finding:
    model = read(client, f"{ML}/models/{part(way.model)}")
    if model is None:
        return Finding("model", "wrong", f"{way.model} is gone: run `colbert-rerank opensearch setup` again")
    if model.get("model_state") != DEPLOYED:
        state = model.get("model_state")
        return Finding("model", "wrong", f"{way.model} is {state}: run `colbert-rerank opensearch setup` again")
    connector = read(client, f"{ML}/connectors/{part(str(model.get('connector_id', '')))}")
    if connector is None:
        return Finding("connector", "wrong", "it is gone: run `colbert-rerank opensearch setup` again")
    (action, *_) = connector.get("actions") or [{}]
    deadline = re.search(r'"deadline_ms": *(\d+)', str(action.get("request_body", "")))
    return way._replace(url=str(action.get("url", "")), deadline_ms=int(deadline[1]) if deadline else None)


def _settings(client: opensearchpy.OpenSearch, way: Way) -> Iterator[Finding]:
    try:
        held = Permissions.read(client)
    except OpenSearchAuthError as error:  # who may search need not be allowed to see them
        yield Finding("settings", "note", f"they are not shown to this user: {error}")
        return
    if not held.trusts(way.url):
        yield Finding("settings", "note", f"{way.url} is not among {TRUSTED}: a new connector to it would be refused")
    if held.private:
        yield Finding("settings", "note", f"connectors of this cluster may call private addresses ({PRIVATE})")


def _indices(client: opensearchpy.OpenSearch, name: str, way: Way, indices: Searched) -> Iterator[Finding]:
    if way.id_field not in ("_id", QUALIFIED_ID):
        body = {"query": {"bool": {"must_not": {"exists": {"field": way.id_field}}}}}
        with translated(client, index=indices.name):
            lacking = int(client.count(index=indices.name, body=body)["count"])
        if lacking:
            yield Finding(
                "index",
                "wrong",
                f"{lacking:,} documents have no field {way.id_field!r}: the service gets '' or 'null' for them, and "
                "leaves them below all others",
            )
    for info in indices.infos:
        default = (info.settings.get("search") or {}).get("default_pipeline")
        if default == name and not way.ignore_failure:
            yield Finding(
                "index",
                "wrong",
                f"{info.name}: {name} is its default pipeline and fails with its service, and with searches of size 0 "
                "or without ext.rerank: let it ignore failures",
            )
        elif default == name:
            yield Finding("index", "note", f"{info.name}: searches without ext.rerank ask for more hits for nothing")
        elif default not in (None, "_none"):
            yield Finding("index", "note", f"{info.name}: {default} is its default; name {name} in each search")
    if too_many := beyond_window(indices.infos, way.oversample):
        yield Finding("index", "wrong", f"{too_many}: run setup with another --oversample")


def _store(way: Way, indices: Searched, token: str, allow_other_index: bool) -> Iterator[Finding]:
    """Whether it was made from what is searched: ids such as "1" are everywhere."""
    service, found, rest = way.url.partition("/v1/stores/")
    store = unquote(rest.removesuffix("/rerank"))
    if not found:
        return
    searched_in = origin_of(indices.infos, qualified=way.id_field == QUALIFIED_ID)
    try:
        wrong = mismatch(store, store_origin(service, store, token), searched_in)
    except NotToldError as error:
        yield Finding(
            "store", "note", f"whether {store!r} was made from {indices.name} the service does not say: {error}"
        )
        return
    if not wrong:
        yield Finding("store", "ok", f"{store!r} was made from {indices.name}")
    elif allow_other_index:
        yield Finding("store", "note", wrong)
    else:
        yield Finding("store", "wrong", f"{wrong}. If one is a copy of the other, say --allow-other-index")


def _search(
    client: opensearchpy.OpenSearch, name: str, way: Way, indices: Searched, query: str, token: str
) -> Iterator[Finding]:
    """A search without the pipeline and one through it; and the service, asked from here for the same ids."""
    count = round(SIZE * way.oversample)
    plain = {name: value for name, value in indices.body(query, count).items() if name != "ext"}
    with translated(client, index=indices.name):
        before = client.search(index=indices.name, body=plain, params={"search_pipeline": "_none"})
        through = {"search_pipeline": name, "verbose_pipeline": "true"}
        after = client.search(index=indices.name, body=indices.body(query, SIZE), params=through)
    first = [_id_of(hit, way.id_field) for hit in before["hits"]["hits"]]
    if not first:
        yield Finding("search", "wrong", f"nothing is found for {query!r}, so nothing was tried: give another --query")
        return
    said: dict[str, Any] = next(
        (p for p in after.get("processor_results") or [] if p.get("processor_name") == "rerank"), {}
    )
    if said.get("status") != "success":
        yield Finding("search", "wrong", f"re-ranking failed: {meaning(str(said.get('error', 'it says nothing')))}")
    else:
        yield _ranked(first, after["hits"]["hits"], way.id_field, int(said.get("duration_millis", 0)))
    nameless = sum(doc_id in NO_IDS for doc_id in first)
    if nameless:
        yield Finding("search", "wrong", f"{nameless} of {len(first)} hits come without an id in {way.id_field!r}")
    yield asked_from_here(way.url, query, first, token, way.deadline_ms)


def _id_of(hit: Mapping[str, Any], id_field: str) -> str:
    values = (hit.get("fields") or {}).get(id_field) or [""]
    return str(values[0])


def _ranked(first: list[str], hits: Sequence[Mapping[str, Any]], id_field: str, ms: int) -> Finding:
    """What became of the ``first`` order; where all that the service gave were scores that keep it, nothing."""
    ranked, scores = [_id_of(hit, id_field) for hit in hits], [float(hit.get("_score") or 0) for hit in hits]
    place = {doc_id: n for n, doc_id in enumerate(first, 1)}
    if ranked == first[: len(ranked)]:
        if max(abs(a - b) for a, b in zip(scores, unscored_scores(0.0, len(scores)), strict=True)) < UNSCORED_STEP / 10:
            why = "is its deadline too short, or is none of them in its store?"
            return Finding("search", "wrong", f"not re-ranked: the service scored none of the hits; {why}")
        return Finding("search", "note", f"re-ranked in {ms} ms, and the order is the same; try another --query")
    moves = [f"{doc_id!r} {place.get(doc_id, '?')} -> {n}" for n, doc_id in enumerate(ranked[:SHOWN], 1)]
    return Finding(
        "search", "ok", f"re-ranked {len(first)} hits in {ms} ms; ranks before and after: {', '.join(moves)}"
    )
