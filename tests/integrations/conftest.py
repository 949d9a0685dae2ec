"""A small store, of which the adapters' tests ask more documents than it has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from colbert_rerank.encoder import Encoder
from colbert_rerank.rerank import Reranker
from colbert_rerank.store import Store
from tests.collection import documents, ingested

STORED = 20


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Encoder) -> Store:
    """Of the first `STORED` documents of the bundled collection."""
    return ingested(tmp_path_factory.mktemp("integrations") / "store", tiny_encoder, documents(STORED))


@pytest.fixture
def opened(store: Store, tiny_encoder: Encoder, one_thread: None) -> Callable[..., Reranker]:
    """Gives re-rankers of the store, with options."""

    def reranker(**options: Any) -> Reranker:
        return Reranker(store, tiny_encoder, **options)

    return reranker
