"""Take away what `setup` made, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

from colbert_rerank.errors import UsageError
from colbert_rerank.opensearch import server_url
from colbert_rerank.opensearch_rerank.endpoint import Permitted, withdraw
from colbert_rerank.opensearch_rerank.record import PIPELINES, others, pipeline_called, record_of
from colbert_rerank.opensearch_rerank.requests import Changes, part, read
from colbert_rerank.opensearch_rerank.setup import remove


def teardown(changes: Changes, name: str) -> Iterator[str]:
    """Remove the pipeline, then the model, the connector and what was added to the settings; yield a line about each.

    What other pipelines of ours need of the settings stays. Raises OpenSearchError, and UsageError where the pipeline
    is not ours or an index searches by it unasked.
    """
    client = changes.client
    pipeline = pipeline_called(client, name)
    if pipeline is None:
        yield f"there is no search pipeline {name} at {server_url(client)}: nothing to do"
        return
    record = record_of(pipeline)
    if record is None:
        raise UsageError(f"{server_url(client)}: the search pipeline {name!r} was not made by `opensearch setup`")
    if using := indices_by_default(changes, name):
        raise UsageError(
            f"{', '.join(using)}: searches there go through {name!r} (index.search.default_pipeline), and would fail "
            "without it; change that setting first"
        )
    changes.remove(f"{PIPELINES}/{part(name)}")
    yield f"search pipeline {name} is removed"
    remove(changes, record)
    yield f"model {record.model} and connector {record.connector} are removed"
    beside = others(client, name)
    pattern = "" if any(other.pattern == record.pattern for other in beside) else record.pattern
    ours = Permitted(pattern, record.private and not beside, record.builtin)
    for setting in withdraw(changes, ours):
        yield f"settings: {setting} is as before"


def indices_by_default(changes: Changes, name: str) -> list[str]:
    """The indices that search by this pipeline unless told otherwise. Raises OpenSearchError."""
    path = "/_all/_settings/index.search.default_pipeline"
    found = read(changes.client, path, flat_settings="true") or {}
    return sorted(i for i, s in found.items() if s["settings"].get("index.search.default_pipeline") == name)
