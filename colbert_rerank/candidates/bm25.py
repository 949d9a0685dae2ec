"""The embedded first stage: BM25 in a folder beside the store, for those who run no search server.

Tantivy carries it. The choice needed incremental adds and deletes, which rules out bm25s (its matrix is built whole);
tantivy has both, commits durably, and scores with Lucene's BM25 (k1 1.2, b 0.75). Text is analysed as OpenSearch's
``english`` analyzer does it: lower case, stop words out, Porter stems. Query text is analysed too, never parsed, so no
query can be a syntax error.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tantivy

from colbert_rerank.errors import StoreCorruptError, StoreMismatchError, StoreWriteError
from colbert_rerank.store import Manifest, files, layout
from colbert_rerank.types import Document, Origin, Query, ScoredDoc

STATE = "state.json"
HEAP = 128 * 1024 * 1024  # of the writer, bytes


class Bm25Index:
    """A BM25 index in ``folder``. Opened by `create_or_open` for writing, by `open_for` for searching."""

    def __init__(self, folder: Path, index: tantivy.Index, store_id: str, content: int) -> None:
        self.folder = folder
        self.store_id = store_id
        self.content = content  # the store's content count that this index has followed
        self._index = index
        self._analyzer = _analyzer()
        index.register_tokenizer("english", self._analyzer)
        index.register_tokenizer("raw_id", tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.raw()).build())

    @property
    def origin(self) -> Origin:
        return origin_of(self.store_id)

    @staticmethod
    def create_or_open(store_folder: Path, manifest: Manifest) -> Bm25Index:
        """The index beside a store, made empty where there is none. Raises StoreMismatchError, StoreWriteError."""
        folder = store_folder / layout.BM25
        if not (folder / STATE).exists():
            files.make_folder(folder)
            with files.write_errors(folder):
                index = tantivy.Index(_schema(), path=str(folder), reuse=True)
            made = Bm25Index(folder, index, manifest.store_id, 0)
            made._save_state(0)
            return made
        return _open(folder, manifest)

    @staticmethod
    def open_for(store_folder: Path, manifest: Manifest) -> Bm25Index:
        """The index beside a store, for searching.

        Raises StoreMismatchError where there is none, where it belongs to another store, or where it is behind.
        """
        folder = store_folder / layout.BM25
        if not (folder / STATE).exists():
            raise StoreMismatchError(
                f"{store_folder}: this store has no embedded BM25 index: it was made with --opensearch. "
                "Search with --opensearch URL --index NAME, or give --candidates RUN"
            )
        found = _open(folder, manifest)
        if found.content != manifest.content:
            raise StoreMismatchError(
                f"{folder}: the BM25 index is behind the store (content {found.content}, the store has "
                f"{manifest.content}): an ingest was interrupted or is under way. Run the same `ingest` again"
            )
        return found

    def add(self, documents: Iterable[tuple[str, str, Mapping[str, object]]], content: int) -> None:
        """Add or replace documents (id, text to search, fields to keep), durably; ``content`` is the store's count.

        The text follows from the fields. What is here with the same fields is left alone: a replaced document counts
        in BM25's statistics until its segment is merged, and a resumed ingest must score as an uninterrupted one.
        """
        with _write_errors(self.folder):
            before = self._index.searcher()
            writer = self._index.writer(heap_size=HEAP, num_threads=1)
            for doc_id, text, fields in documents:
                kept = json.dumps(fields, ensure_ascii=False).encode("utf-8", "surrogatepass")
                if self._kept(before, doc_id) == kept:
                    continue
                writer.delete_documents_by_term("doc_id", doc_id)
                document = tantivy.Document()
                document.add_text("doc_id", doc_id)
                document.add_text("contents", text)
                document.add_bytes("fields", kept)
                writer.add_document(document)
            writer.commit()
            writer.wait_merging_threads()
        self._save_state(content)
        self._index.reload()

    def search(self, queries: Sequence[Query], k: int) -> Iterator[list[ScoredDoc]]:
        """At most ``k`` documents a query, by score falling, then by id."""
        searcher = self._index.searcher()
        for query in queries:
            parsed = self._query(query.text)
            hits = _search(searcher, parsed, k)
            ids = [searcher.doc(address).get_first("doc_id") for _, address in hits]
            ranked = sorted(zip((s for s, _ in hits), ids, strict=True), key=lambda hit: (-hit[0], hit[1]))
            yield [ScoredDoc(query.query_id, doc_id, float(score)) for score, doc_id in ranked[:k]]

    def fetch(self, doc_ids: Sequence[str]) -> Iterator[Document]:
        searcher = self._index.searcher()
        for doc_id in doc_ids:
            kept = self._kept(searcher, doc_id)
            if kept is not None:
                yield Document(doc_id, json.loads(kept), where=f"{self.folder}")

    def _kept(self, searcher: Any, doc_id: str) -> bytes | None:
        """The fields of a document as they were kept, or ``None``."""
        query = tantivy.Query.term_query(self._index.schema, "doc_id", doc_id)
        for _, address in searcher.search(query, 1, count=False).hits:
            return bytes(searcher.doc(address).get_first("fields"))
        return None

    def _query(self, text: str) -> Any:
        terms = []
        for term, count in Counter(self._analyzer.analyze(text)).items():
            one = tantivy.Query.term_query(self._index.schema, "contents", term, "freq")
            # a term given twice counts twice, as in OpenSearch's match
            terms.append(tantivy.Query.boost_query(one, count) if count > 1 else one)
        return _sum(terms)

    def _save_state(self, content: int) -> None:
        state = json.dumps({"store_id": self.store_id, "content": content})
        files.write_whole(self.folder / STATE, lambda path: _write(path, state))
        self.content = content


def origin_of(store_id: str) -> Origin:
    """The embedded index has no name but its store's."""
    return Origin("bm25", layout.BM25, store_id)


def _sum(queries: Sequence[Any]) -> Any:
    """Whose score is the sum of theirs, the same to the bit wherever in the index a document lies.

    Tantivy adds the terms of one wide union in an order that depends on what else a segment holds, and floats added in
    another order give another sum: copies of one document would not tie. So only two are ever added at a time.
    """
    if not queries:
        return tantivy.Query.empty_query()
    while len(queries) > 1:
        pairs = [queries[i : i + 2] for i in range(0, len(queries), 2)]
        queries = [tantivy.Query.boolean_query([(tantivy.Occur.Should, q) for q in pair]) for pair in pairs]
    return queries[0]


def _search(searcher: Any, query: Any, k: int) -> list[tuple[float, Any]]:
    """The best ``k`` hits and all that tie with the last of them: the cut must not depend on the index's layout."""
    limit = k + 64
    while True:
        limit = max(1, min(limit, searcher.num_docs))  # room is made for as many hits as are asked for
        hits: list[tuple[float, Any]] = searcher.search(query, limit, count=False).hits
        if len(hits) < limit or limit >= searcher.num_docs or hits[-1][0] < hits[k - 1][0]:
            return hits
        limit *= 4


def _open(folder: Path, manifest: Manifest) -> Bm25Index:
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        index = tantivy.Index.open(str(folder))
        found = Bm25Index(folder, index, str(state["store_id"]), int(state["content"]))
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise StoreCorruptError(
            f"{folder}: the BM25 index cannot be opened: {error}. Remove it and ingest again"
        ) from None
    if found.store_id != manifest.store_id:
        raise StoreMismatchError(f"{folder}: this BM25 index belongs to another store ({found.store_id})")
    return found


def _schema() -> Any:
    builder = tantivy.SchemaBuilder()
    builder.add_text_field("doc_id", stored=True, tokenizer_name="raw_id", index_option="basic")
    builder.add_text_field("contents", stored=False, tokenizer_name="english", index_option="freq")
    builder.add_bytes_field("fields", stored=True, indexed=False)
    return builder.build()


def _analyzer() -> Any:
    return (
        tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
        .filter(tantivy.Filter.remove_long(255))
        .filter(tantivy.Filter.lowercase())
        .filter(tantivy.Filter.custom_stopword(STOP_WORDS))
        .filter(tantivy.Filter.stemmer("english"))
        .build()
    )


# Lucene's English stop words, those of OpenSearch's english analyzer.
STOP_WORDS = re.findall(
    r"\w+",
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these they "
    "this to was will with",
)


@contextmanager
def _write_errors(folder: Path) -> Iterator[None]:
    """Tantivy reports every failure to write as a ValueError."""
    try:
        yield
    except ValueError as error:
        raise StoreWriteError(f"cannot write the BM25 index in {folder}: {error}. The vectors are intact") from error


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
