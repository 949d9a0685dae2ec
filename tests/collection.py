"""Real documents and queries for tests: the bundled collection, and stores made of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np

import colbert_rerank
from colbert_rerank.candidates.bm25 import Bm25Index
from colbert_rerank.encoder import Encoder
from colbert_rerank.recipe import Recipe
from colbert_rerank.store import Manifest, Store
from colbert_rerank.types import Document, Origin, Query, ScoredDoc
from ingest.first_stage import FirstStageOpener, Posting
from ingest.pipeline import IngestReport
from ingest.pipeline import ingest as run
from ingest.validation import InputReport

MUSIQUE = Path(colbert_rerank.__file__).parent / "data" / "musique_mini"
RECIPE = Recipe()


@cache
def _all_documents() -> tuple[Document, ...]:
    lines = (MUSIQUE / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(Document(str(d["_id"]), d, where=f"corpus.jsonl:{n}") for n, d in enumerate(map(json.loads, lines), 1))


class FakeFirstStage:
    """A first stage to fill, which remembers what was posted to it."""

    ours = True

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.documents: dict[str, Document] = {}
        self.stopped = threading.Event()

    def open(self, make: bool) -> FakeFirstStage:
        return self

    def count(self) -> int:
        return len(self.documents)

    def fetch(self, doc_ids: Sequence[str]) -> list[Document]:
        return [self.documents[i] for i in doc_ids if i in self.documents]

    def post(self, postings: Sequence[Posting], content: int) -> None:
        self.documents |= {p.doc_id: Document(p.doc_id, p.fields) for p in postings}

    def finish(self) -> None:
        pass

    def stop(self) -> None:
        self.stopped.set()


class FakeIndex:
    """Candidates out of a list of documents; a search finds none of them."""

    COPY = Origin("opensearch", "copy", "uuid-2")

    def __init__(self, some: Sequence[Document], origin: Origin | None = COPY) -> None:
        self.origin = origin
        self.documents = {d.doc_id: d for d in some}
        self.asked: list[str] = []

    def search(self, queries: Sequence[Query], k: int) -> Iterator[list[ScoredDoc]]:
        return iter([[] for _ in queries])

    def fetch(self, doc_ids: Sequence[str]) -> list[Document]:
        self.asked += doc_ids
        return [self.documents[i] for i in doc_ids if i in self.documents]


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
    codec: str | None = None,
    first_stage: FirstStageOpener | None = None,
) -> Store:
    """The store in ``folder`` after these documents were ingested; its first stage is the BM25 index beside it."""
    run(some, folder, encoder, recipe=recipe, report=IngestReport(InputReport()), first_stage=first_stage, codec=codec)
    return Store.open(folder)


def assert_same_documents(ours: Store, whole: Store) -> None:
    """The same ids, and under each the same vectors, bit for bit, and the same facts."""
    ids = sorted(whole.index.ids())
    assert sorted(ours.index.ids()) == ids
    one, other = ours.gather(ids), whole.gather(ids)
    np.testing.assert_array_equal(one.offsets, other.offsets)
    assert one.values.tobytes() == other.values.tobytes()
    assert [s and s.content_hash for s in ours.describe(ids)] == [s and s.content_hash for s in whole.describe(ids)]


def bm25_of(store: Store) -> Bm25Index:
    return Bm25Index.open_for(store.folder, store.manifest)


def empty_manifest(store_id: str = "a" * 32, content: int = 0) -> Manifest:
    """Of a store that an embedded index can stand beside, where no vectors are looked at."""
    return Manifest(
        store_id=store_id,
        dim=4,
        codec="float16",
        query_identity={},
        document_identity={"fields": ["title", "text"], "separator": " "},
        content=content,
    )
