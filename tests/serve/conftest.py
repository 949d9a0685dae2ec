"""A small store, and the service over it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from colbert_rerank.encoder import Encoder
from colbert_rerank.rerank import Reranker
from colbert_rerank.serve.app import create_app
from colbert_rerank.serve.auth import Tokens
from colbert_rerank.serve.engine import Engine
from colbert_rerank.serve.metrics import Metrics
from colbert_rerank.serve.service import Limits
from colbert_rerank.serve.stores import ServedStore
from colbert_rerank.store import Store
from tests.collection import documents, ingested
from tests.serve.stepping import Stepped

REAL = 40
LIMITS = Limits(body=1 << 20, documents=100, texts=10, refresh=0.1)


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Encoder) -> Path:
    made = tmp_path_factory.mktemp("served") / "store"
    ingested(made, tiny_encoder, documents(REAL))
    return made


@pytest.fixture(scope="package")
def served(folder: Path, tiny_encoder: Encoder) -> ServedStore:
    return ServedStore("real", Store.open(folder), tiny_encoder, {})


@pytest.fixture(scope="package")
def reranker(served: ServedStore, tiny_encoder: Encoder) -> Reranker:
    """What the service's answers have to be."""
    return Reranker(served.reranker.store, tiny_encoder)


def client_of(
    served: ServedStore, *, tokens: tuple[str, ...] = (), no_auth: bool = False, limits: Limits = LIMITS
) -> TestClient:
    """Of a service of its own; errors are answers, as they are for others."""
    metrics = Metrics()
    engine = Engine({served.name: served}, served.reranker.encoder, observe=metrics.batch)
    app = create_app(engine, metrics, Tokens(tokens, no_auth=no_auth), limits)
    return TestClient(app, base_url="http://127.0.0.1:8080", raise_server_exceptions=False)


@pytest.fixture(scope="package")
def client(served: ServedStore) -> Iterator[TestClient]:
    with client_of(served) as client:
        yield client


@pytest.fixture
def stepped(reranker: Reranker, monkeypatch: pytest.MonkeyPatch) -> Stepped:
    """A part of it is one text, so that they can be told apart."""
    monkeypatch.setattr("colbert_rerank.serve.runs.passes", lambda _, some: [[n] for n in range(len(some))])
    return Stepped(reranker)


@pytest.fixture
def own(served: ServedStore, tiny_encoder: Encoder, stepped: Stepped) -> ServedStore:
    """A store of its own, which `stepped` re-ranks."""
    store = ServedStore("real", served.reranker.store, tiny_encoder, {})
    store.current = store.current._replace(reranker=stepped)  # type: ignore[arg-type]
    return store
