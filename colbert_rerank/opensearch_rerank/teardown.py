"""Take away what `setup` made, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

from colbert_rerank.errors import UsageError
from colbert_rerank.opensearch import server_url
from colbert_rerank.opensearch_rerank.endpoint import PRIVATE, TRUSTED, Permitted, withdraw
from colbert_rerank.opensearch_rerank.made import made, remove
from colbert_rerank.opensearch_rerank.record import PIPELINES, not_held, others, pipeline_called, record_of
from colbert_rerank.opensearch_rerank.requests import Changes, part, read


def teardown(changes: Changes, name: str) -> Iterator[str]:
    """Remove models and connectors, what was added to the settings, and the pipeline; yield a line about each.

    The pipeline, whose record says what is ours, goes last: where this ends before, it can be run again. Of a pipeline
    that somebody else has deleted, models and connectors are found by their name. What other pipelines of ours need of
    the settings stays. Raises OpenSearchError, and UsageError where the pipeline is not ours or an index searches by it
    unasked.
    """
    client = changes.client
    pipeline = pipeline_called(client, name)
    record = record_of(pipeline) if pipeline is not None else None
    if pipeline is not None and record is None:
        raise UsageError(f"{server_url(client)}: the search pipeline {name!r} was not made by `opensearch setup`")
    if pipeline is not None and (using := indices_by_default(changes, name)):
        raise UsageError(
            f"{', '.join(using)}: searches there go through {name!r} (index.search.default_pipeline), and would fail "
            "without it; change that setting first"
        )
    found = made(client, name)
    for old in found:
        remove(changes, old)
        yield f"{old} {'are' if old.models else 'is'} removed"
    if record is None:
        if not found:
            yield f"there is no search pipeline {name} at {server_url(client)}: nothing to do"
        else:
            yield f"there is no search pipeline {name}, which knew what setup added to {TRUSTED} and {PRIVATE}: look"
        return
    beside = others(client, name)
    private = record.private and not any(other.private for other in beside)
    ours = Permitted(not_held(beside, record.patterns), private, record.builtin)
    for setting in withdraw(changes, ours):
        yield f"settings: {setting} is as before"
    changes.remove(f"{PIPELINES}/{part(name)}")
    yield f"search pipeline {name} is removed"


def indices_by_default(changes: Changes, name: str) -> list[str]:
    """The indices that search by this pipeline unless told otherwise. Raises OpenSearchError."""
    path = "/_all/_settings/index.search.default_pipeline"
    found = read(changes.client, path, flat_settings="true") or {}
    return sorted(i for i, s in found.items() if s["settings"].get("index.search.default_pipeline") == name)
