"""Real documents and queries for tests: the bundled collection, and stores made of it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import colbert_rerank
from colbert_rerank.candidates.bm25 import Bm25Index
from colbert_rerank.encoder import Encoder
from colbert_rerank.recipe import Recipe
from colbert_rerank.store import Manifest, Store
from colbert_rerank.types import Document, Query
from ingest.first_stage import FirstStage
from ingest.pipeline import IngestReport
from ingest.pipeline import ingest as run
from ingest.validation import InputReport

MUSIQUE = Path(colbert_rerank.__file__).parent / "data" / "musique_mini"
RECIPE = Recipe()


@cache
def _all_documents() -> tuple[Document, ...]:
    lines = (MUSIQUE / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(Document(str(d["_id"]), d, where=f"corpus.jsonl:{n}") for n, d in enumerate(map(json.loads, lines), 1))


def documents(count: int, start: int = 0) -> list[Document]:
    """Paragraphs of Wikipedia, with title and text."""
    return list(_all_documents()[start : start + count])


def texts(count: int, start: int = 0) -> list[str]:
    return [RECIPE.text(d.fields) for d in documents(count, start)]


def queries(count: int) -> list[Query]:
    lines = (MUSIQUE / "queries.jsonl").read_text(encoding="utf-8").splitlines()[:count]
    return [Query(str(q["_id"]), q["text"]) for q in map(json.loads, lines)]


def numbered(some: Iterable[Document], first: int = 1) -> list[Document]:
    """The same documents under the ids "1", "2" and so on, which every other collection has too."""
    return [d._replace(doc_id=str(n)) for n, d in enumerate(some, first)]


def ingested(
    folder: Path,
    encoder: Encoder,
    some: Iterable[Document],
    *,
    recipe: Recipe = RECIPE,
    dtype: str = "float16",
    first_stage: FirstStage | None = None,
) -> Store:
    """The store in ``folder`` after these documents were ingested; its first stage is the BM25 index beside it."""
    run(some, folder, encoder, recipe=recipe, report=IngestReport(InputReport()), first_stage=first_stage, dtype=dtype)
    return Store.open(folder)


def bm25_of(store: Store) -> Bm25Index:
    return Bm25Index.open_for(store.folder, store.manifest)


def empty_manifest(store_id: str = "a" * 32, content: int = 0) -> Manifest:
    """Of a store that an embedded index can stand beside, where no vectors are looked at."""
    return Manifest(
        store_id=store_id,
        dim=4,
        dtype="float16",
        query_identity={},
        document_identity={"fields": ["title", "text"], "separator": " "},
        content=content,
    )
