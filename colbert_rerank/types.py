"""The field's vocabulary. Ids are ``str`` everywhere; ``_id`` appears only where OpenSearch JSON is touched."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from PIL.Image import Image


class PageImage(Protocol):
    """A page as an image, read when it is needed."""

    def size(self) -> tuple[int, int]:
        """Width and height in pixels, without reading them. Raises InputError."""
        ...

    def open(self) -> Image:
        """The page, as Pillow has it. Raises InputError."""
        ...


class Document(NamedTuple):
    """One document as its source gave it.

    ``fields`` holds every JSON field, not only those that are encoded; ``where`` says where it was read
    (``corpus.jsonl:12``), for error messages. ``seq_no`` and ``primary_term`` are OpenSearch's, -1 where unknown.
    """

    doc_id: str
    fields: Mapping[str, object]
    where: str = ""
    seq_no: int = -1
    primary_term: int = -1
    page: PageImage | None = None  # what is encoded, where that is not text


class Query(NamedTuple):
    query_id: str
    text: str


class ScoredDoc(NamedTuple):
    """``scored`` is false where the re-ranker had no vectors, and ``score`` only keeps the document in its place.

    ``exact`` is false where ``score`` comes from the store's sketches, moved below the exact ones where it was not.
    """

    query_id: str
    doc_id: str
    score: float
    scored: bool = True
    exact: bool = True


class Qrel(NamedTuple):
    query_id: str
    doc_id: str
    relevance: int


# How a store keeps vectors: see `colbert_rerank.store.codecs`.
FLOATS = ("float16", "float32")
RESIDUALS = {"residual4": 4, "residual2": 2, "residual1": 1}  # bits a dimension
CODECS = (*FLOATS, "int8", *RESIDUALS, "binary")

OPENSEARCH = "opensearch"
QUALIFIED = "opensearch, ids INDEX/ID"
BM25 = "bm25"
ELASTICSEARCH = "elasticsearch"


class Origin(NamedTuple):
    """The index that documents or candidates come from: ids mean nothing without it.

    ``kind`` is `OPENSEARCH`, `QUALIFIED` (the same, read under qualified ids), `ELASTICSEARCH` or `BM25` (embedded);
    ``uuid`` changes when an index is deleted and made again.
    """

    kind: str
    name: str
    uuid: str


@runtime_checkable
class Index(Protocol):
    """Documents by id, in an index that is known."""

    @property
    def origin(self) -> Origin | None:
        """Which index it is; ``None`` where nothing names one (a run file)."""
        ...

    def fetch(self, doc_ids: Sequence[str]) -> Iterable[Document]:
        """The documents with these ids, in any order; ids the index does not hold are left out."""
        ...


class Candidates(Index, Protocol):
    """A first stage: what every source of candidates offers to the re-ranker.

    It is searched by one thread while another one fetches.
    """

    def search(self, queries: Sequence[Query], k: int) -> Iterator[list[ScoredDoc]]:
        """Yield, for each query in order, at most ``k`` documents in first-stage order (score falling, then id)."""
        ...
