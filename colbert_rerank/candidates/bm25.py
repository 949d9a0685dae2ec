"""The embedded first stage: BM25 in a folder beside the store, for those who run no search server.

Tantivy carries it. The choice needed incremental adds and deletes, which rules out bm25s (its matrix is built whole);
tantivy has both, commits durably, and scores with Lucene's BM25 (k1 1.2, b 0.75). Text is analysed as OpenSearch's
``english`` analyzer does it: lower case, stop words out, Porter stems. Query text is analysed too, never parsed, so no
query can be a syntax error.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tantivy

from colbert_rerank.candidates import bm25_files
from colbert_rerank.candidates.bm25_files import State
from colbert_rerank.errors import IndexBehindError, StoreMismatchError, StoreWriteError
from colbert_rerank.store import Manifest, Store, files, layout
from colbert_rerank.store import manifest as manifests
from colbert_rerank.types import BM25, Document, Origin, Query, ScoredDoc

HEAP = 128 * 1024 * 1024  # of the writer, bytes
READ_AT_ONCE = 100_000  # addresses of documents, where all are read


class Bm25Index:
    """A BM25 index in ``folder``. Opened by `create_or_open` for writing, by `open_for` for searching."""

    def __init__(self, folder: Path, index: tantivy.Index, state: State) -> None:
        self.folder = folder
        self._analyzer = _analyzer()
        self._open(index, state)

    def _open(self, index: tantivy.Index, state: State) -> None:
        self._index = index
        self._state = state
        index.register_tokenizer("english", self._analyzer)
        index.register_tokenizer("raw_id", tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.raw()).build())

    def __len__(self) -> int:
        return int(self._index.searcher().num_docs)

    @property
    def content(self) -> int:
        return self._state.content

    @property
    def origin(self) -> Origin:
        return origin_of(self._state.store_id)

    @staticmethod
    def create_or_open(store_folder: Path, manifest: Manifest, *, verify: bool = True) -> Bm25Index:
        """The index beside a store, made empty where there is none; what a crash left unfinished is made whole.

        With ``verify`` every byte of it is read.

        Raises StoreMismatchError (another store's), StoreCorruptError, StoreWriteError, StoreReadError.
        """
        folder = store_folder / layout.BM25
        files.make_folder(store_folder)
        files.make_inside(folder)
        with files.write_errors(folder):  # tantivy calls a lock that it may not take an index that it cannot open
            (folder / bm25_files.LOCK).open("ab").close()
        state = bm25_files.load(folder)
        if state is None:
            state = State(manifest.store_id, 0)
            found = (folder / bm25_files.META).exists()
            with bm25_files.read_errors(folder, "opened") if found else bm25_files.write_errors(folder):
                index = tantivy.Index(_schema(), path=str(folder), reuse=True)
        else:
            _check_owner(folder, state, manifest)
            with bm25_files.read_errors(folder, "opened"):
                bm25_files.compare(folder, state.files or {} if verify else {})
                index = tantivy.Index.open(str(folder))
        made = Bm25Index(folder, index, state)
        if state.files is None:
            with bm25_files.write_errors(folder):
                made._finish(state.content)
        return made

    @staticmethod
    def open_for(store_folder: Path, manifest: Manifest) -> Bm25Index:
        """The index beside a store, for searching: one commit of it, in folders that need not be writable.

        Raises IndexBehindError where it lacks what the store holds; StoreMismatchError where there is none any more, or
        it belongs to another store; StoreCorruptError; StoreReadError where it cannot be read; StoreWriteError without
        a temporary folder.
        """
        folder = store_folder / layout.BM25
        if manifest.origin and manifest.origin.kind != BM25:
            raise StoreMismatchError(
                f"{store_folder}: this store has no embedded BM25 index: it was made with --opensearch. Say where "
                "its index is: --opensearch URL"
            )
        if manifests.unindexed(store_folder, manifest):
            raise IndexBehindError(
                f"{store_folder}: this store has no BM25 index yet, as after `store import`. Ingest its documents: "
                f"`colbert-rerank ingest SOURCE --store {store_folder}`, with the --model and --fields that its "
                "vectors were made with"
            )

        def opened(state: State | None) -> Bm25Index:
            if state is None:
                raise StoreMismatchError(
                    f"{store_folder}: this store has no embedded BM25 index any more. Run the same `ingest` again to "
                    "make it"
                )
            _check_owner(folder, state, manifest)
            unposted = any(s.documents and not s.posted for s in manifest.segments)
            if state.content != manifest.content or state.files is None or unposted:
                raise IndexBehindError(_behind(folder, state, manifest))
            bm25_files.compare(folder, state.files)
            return Bm25Index(folder, _open_elsewhere(folder, state.files), state)

        return bm25_files.read_whole(folder, opened)

    @staticmethod
    def verify(store_folder: Path, manifest: Manifest) -> None:
        """Read every byte of the index beside a store, of one that is behind, too.

        What is being committed is waited for, a moment. Raises as `open_for` does; IndexBehindError only where no
        damage is found.
        """
        folder = store_folder / layout.BM25
        try:
            _awaited(store_folder, manifest)
        except IndexBehindError:
            bm25_files.read_whole(folder, lambda state: bm25_files.compare(folder, (state and state.files) or {}))
            raise

    def add(self, documents: Iterable[tuple[str, str, Mapping[str, object]]], content: int) -> None:
        """Add or replace documents (id, text to search, fields to keep), durably; ``content`` is the store's count.

        The text follows from the fields. What is here with the same fields is left alone: a replaced document counts
        in BM25's statistics until `compact`, and a resumed ingest must score as an uninterrupted one.
        """
        with self._writing(content) as writer:
            before = self._index.searcher()
            for doc_id, text, fields in documents:
                kept = json.dumps(fields, ensure_ascii=False).encode("utf-8", "surrogatepass")
                if self._kept(before, doc_id) == kept:
                    continue
                writer.delete_documents_by_term("doc_id", doc_id)
                writer.add_document(_document(doc_id, text, kept))

    def delete(self, doc_ids: Iterable[str], content: int) -> None:
        """Delete documents, durably, those that are here; ``content`` is the store's count."""
        with self._writing(content) as writer:
            for doc_id in doc_ids:
                writer.delete_documents_by_term("doc_id", doc_id)

    def compact(self, text_of: Callable[[Mapping[str, object]], str]) -> None:
        """Let what was deleted or replaced count in BM25's statistics no more, durably.

        ``text_of`` makes the text to search of a document's fields. Tantivy lets no one ask for a merge, so that all
        documents are added anew, and the old ones deleted in the same commit.
        """
        if not bm25_files.holds_deleted(self.folder):
            return
        with self._writing(self.content) as writer:
            before = self._index.searcher()
            writer.delete_documents_by_query(tantivy.Query.all_query())  # of those that are here so far
            for doc_id, kept in self._all(before):
                writer.add_document(_document(doc_id, text_of(json.loads(kept)), kept))

    def clear(self) -> None:
        """Let it hold nothing, as when it was made, durably."""
        with self._writing(0) as writer:
            writer.delete_documents_by_query(tantivy.Query.all_query())

    @contextmanager
    def _writing(self, content: int) -> Iterator[Any]:
        """A writer of tantivy's, whose work is committed at the end.

        One process writes at a time: it holds the store's commit lock. Another may have written since this one did.
        """
        state = bm25_files.load(self.folder)
        if state and state != self._state:
            with bm25_files.read_errors(self.folder, "opened"):
                self._open(tantivy.Index.open(str(self.folder)), state)
        with bm25_files.write_errors(self.folder):
            writer = self._index.writer(heap_size=HEAP, num_threads=1)
            yield writer
            bm25_files.save(self.folder, self._state._replace(files=None))
            writer.commit()
            writer.wait_merging_threads()
            self._finish(content)
            self._index.reload()

    def search(self, queries: Sequence[Query], k: int) -> Iterator[list[ScoredDoc]]:
        """At most ``k`` documents a query, by score falling, then by id."""
        searcher = self._index.searcher()
        for query in queries:
            parsed = self._query(query.text)
            with bm25_files.read_errors(self.folder, "searched"):
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
        with bm25_files.read_errors(self.folder, "read"):
            for _, address in searcher.search(query, 1, count=False).hits:
                return bytes(searcher.doc(address).get_first("fields"))
        return None

    def _all(self, searcher: Any) -> Iterator[tuple[str, bytes]]:
        """All ids, with the fields as they were kept."""
        with bm25_files.read_errors(self.folder, "read"):
            for start in range(0, searcher.num_docs, READ_AT_ONCE):
                found = searcher.search(tantivy.Query.all_query(), READ_AT_ONCE, count=False, offset=start)
                for _, address in found.hits:
                    document = searcher.doc(address)
                    yield document.get_first("doc_id"), bytes(document.get_first("fields"))

    def _query(self, text: str) -> Any:
        terms = []
        for term, count in Counter(self._analyzer.analyze(text)).items():
            one = tantivy.Query.term_query(self._index.schema, "contents", term, "freq")
            # a term given twice counts twice, as in OpenSearch's match
            terms.append(tantivy.Query.boost_query(one, count) if count > 1 else one)
        return _sum(terms)

    def _finish(self, content: int) -> None:
        """Record what tantivy has committed."""
        bm25_files.show(self.folder)
        known = self._state.files or {}
        self._state = self._state._replace(content=content, files=bm25_files.listed(self.folder, known))
        bm25_files.save(self.folder, self._state)


def open_beside(store: Store) -> tuple[Store, Bm25Index]:
    """The BM25 index beside a store, for searching, and the generation of the store that it goes with: the newest.

    What is being committed is waited for, a moment. Raises as `Bm25Index.open_for` does, and as `Store.open`.
    """
    manifest = store.manifest
    while True:
        manifest, index = _awaited(store.folder, manifest)
        if (opened := store.at(manifest)) is not None:  # once only: with ``verify="open"`` all of it is read
            return opened, index
        manifest = manifests.load(store.folder)


def _awaited(store_folder: Path, manifest: Manifest) -> tuple[Manifest, Bm25Index]:
    """The index beside a store, when it has caught up with it, and the manifest that it goes with.

    Raises as `Bm25Index.open_for` does; IndexBehindError where that does not happen within PATIENCE.
    """
    until = 0.0
    while True:
        try:
            return manifest, Bm25Index.open_for(store_folder, manifest)
        except IndexBehindError:
            now = time.monotonic()
            until = until or now + bm25_files.PATIENCE
            if manifests.unindexed(store_folder, manifest) or now > until:
                raise
        time.sleep(0.05)
        manifest = manifests.load(store_folder)


def origin_of(store_id: str) -> Origin:
    """The embedded index has no name but its store's."""
    return Origin(BM25, layout.BM25, store_id)


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


def _check_owner(folder: Path, state: State, manifest: Manifest) -> None:
    if state.store_id != manifest.store_id:
        raise StoreMismatchError(f"{folder}: this BM25 index belongs to another store ({state.store_id})")


def _behind(folder: Path, state: State, manifest: Manifest) -> str:
    """That the index does not go with the store, why that may be, and which command goes on."""
    commands = [f"`{_command(name)}`" for name in manifest.unfinished]
    committed = state.files is not None and not commands
    if committed and state.content == manifest.content:
        why = "documents were left out of it. Run the `ingest` of what they came from once more"
    elif manifest.none_posted:  # it was an older copy, or a first ingest died at its beginning
        why = "no document is known to be in it. Run the `ingest` of all its documents again"
    elif committed and all(s.posted for s in manifest.segments):
        why = "one of the two is a copy from another time. Run the `ingest` of all its documents again"
    else:
        named = ", ".join(commands) or "`store delete` or `store compact`"
        why = (
            f"under way, or interrupted: {named}. If it is running, try again in a moment, at the latest when it has "
            "ended; if not, run it again"
        )
    come = f"content {state.content}" if state.files is not None else f"content {state.content}, unfinished"
    if state.content == manifest.content and state.files is not None:
        return f"{folder}: the BM25 index is behind the store; {why}"
    return f"{folder}: the BM25 index is behind the store ({come}, the store has {manifest.content}); {why}"


def _command(unfinished: str) -> str:
    """What a manifest calls so."""
    return "store repair" if unfinished == manifests.REPAIR else f"ingest {unfinished}".rstrip()


def _open_elsewhere(folder: Path, names: Iterable[str]) -> tantivy.Index:
    """Open the files ``names`` by links from a temporary folder: tantivy writes a lock file to where it opens.

    It maps all files as it opens, and needs neither links nor folder then. Raises StoreWriteError.
    """
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
            private = Path(temporary) / layout.BM25
            private.mkdir()
            for name in names:
                (private / name).symlink_to(folder.resolve() / name)
            index = tantivy.Index.open(str(private))
            # a thread of tantivy's looks for commits: it must not take the lock, anew, in a folder being removed
            private.rename(private.with_name("opened"))
            return index
    except OSError as error:
        raise StoreWriteError(
            f"{folder}: searching it needs a temporary folder: {error}. Set TMPDIR to one that this user can write to"
        ) from None


def _document(doc_id: str, text: str, kept: bytes) -> tantivy.Document:
    document = tantivy.Document()
    document.add_text("doc_id", doc_id)
    document.add_text("contents", text)
    document.add_bytes("fields", kept)
    return document


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
