"""End-to-end retrieval as in the paper, by FAISS: the vectors nearest to each of a query's, and their documents.

Khattab & Zaharia, SIGIR 2020, section 3.6. Which vectors are near, an index of FAISS says: "ivfpq", what the paper has,
which finds most of them; "hnsw", which finds more, out of memory; or "flat", which has no files, and finds all of them
by looking at each in the store.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from colbert_rerank.errors import IndexBehindError, UsageError
from colbert_rerank.retrieval import inverted_lists, token_lists
from colbert_rerank.retrieval import state as states
from colbert_rerank.retrieval.building import AT_ONCE
from colbert_rerank.retrieval.documents import LiveDocuments, Numbers
from colbert_rerank.retrieval.faiss_files import FLAT, HNSW, IVFPQ, RETRIEVER, checked, learnt, metric_of
from colbert_rerank.retrieval.faiss_library import library, safe_threads
from colbert_rerank.retrieval.state import State
from colbert_rerank.store import Store
from colbert_rerank.store.codecs import Matrix, decode

NPROBE = 16
DEPTH = 1024

Nearest = tuple[Matrix, Numbers]  # similarities or squared distances [Lq, k'], and numbers of vectors, -1 for none


class FaissIndex:
    """The index of a store, for searching. Safe to share between threads and to use after a fork.

    ``depth`` vectors are found for each of a query's, and in an ivfpq ``nprobe`` of the partitions looked at for them.
    """

    def __init__(self, store: Store, *, nprobe: int = NPROBE, depth: int = DEPTH) -> None:
        """Raises UsageError where there is none, StoreCorruptError, and IndexBehindError where it lacks documents."""
        state = states.opened(store, RETRIEVER, IVFPQ)
        self.kind = state.kind
        self.nprobe = nprobe
        self.depth = depth
        self.documents = LiveDocuments(store)
        self._dim = store.manifest.dim
        self._similarity: str = state.settings["similarity"]
        with safe_threads():
            self._vectors: _Vectors = (
                _StoredVectors(store, self.documents, self._similarity)
                if state.kind == FLAT
                else _FiledVectors(store, self.documents, state)
            )
        self._able = self.documents.counts > 0
        self._all = np.flatnonzero(self._able)
        self._in_order: Numbers = self._all[np.argsort(self._vectors.starts[self._all])]
        self._starts = self._vectors.starts[self._in_order]

    def best(
        self, query: Matrix, k: int, similarity: str = "dot", allowed: npt.NDArray[np.bool_] | None = None
    ) -> tuple[Numbers, npt.NDArray[np.float64]]:
        """At most ``k`` documents in which vectors near to those of a query [Lq, d] were found, best first, and scores.

        They are scored by `token_lists.union`. Documents are numbers of `documents`; of ``allowed`` [n] only those that
        are true. Raises UsageError for a query that the index was not made for.
        """
        if query.shape[1] != self._dim or (similarity == "l2") != (self._similarity == "l2"):
            raise UsageError(
                f"the index is of {self._dim} dimensions and the similarity {self._similarity}, and the query of "
                f"{query.shape[1]} and {similarity}: search with the checkpoint that the store was made with"
            )
        documents, similarities = self.lists(query, allowed)
        return token_lists.union(documents, similarities, k)

    def lists(self, query: Matrix, allowed: npt.NDArray[np.bool_] | None = None) -> tuple[Numbers, Matrix]:
        """Whose vectors are nearest to each of a query [Lq, d], -1 for none, and how similar, falling: [Lq, k'] both.

        Of the similarity "l2", minus the squared distance is taken, as in MaxSim.
        """
        numbers = self._all if allowed is None else np.flatnonzero(self._able & allowed)
        if not numbers.size:
            return np.empty((len(query), 0), np.int64), np.empty((len(query), 0), np.float32)
        query = np.ascontiguousarray(query, dtype=np.float32)
        depth = min(self.depth, int(self.documents.counts[numbers].sum()))
        with safe_threads():
            distances, found = self._vectors.nearest(query, depth, numbers, self.nprobe)
        owners = self._in_order[np.searchsorted(self._starts, found, side="right") - 1]
        return np.where(found < 0, -1, owners), -distances if self._similarity == "l2" else distances


class _Vectors(Protocol):
    """What finds vectors by number; ``starts`` [n] are the numbers of each document's first."""

    starts: Numbers

    def nearest(self, query: Matrix, k: int, documents: Numbers, nprobe: int) -> Nearest:
        """The ``k`` nearest vectors to each of a query's, of these documents, which have so many at least."""
        ...


class _StoredVectors:
    """All vectors of a store, decoded some at once, and none left out."""

    def __init__(self, store: Store, documents: LiveDocuments, similarity: str) -> None:
        self._plane, self._codec = store.plane()
        self._documents = documents
        self._metric = metric_of(similarity)
        self._segments: Numbers = np.repeat(np.arange(len(store.segments)), np.diff(documents.bounds))
        self.starts: Numbers = np.cumsum(documents.counts) - documents.counts

    def nearest(self, query: Matrix, k: int, documents: Numbers, nprobe: int) -> Nearest:
        faiss = library()
        ends = np.cumsum(self._documents.counts[documents])
        best = faiss.ResultHeap(len(query), k, keep_max=self._metric == faiss.METRIC_INNER_PRODUCT)
        for some in np.split(documents, np.flatnonzero(np.diff(ends // AT_ONCE)) + 1):
            counts = self._documents.counts[some]
            rows = self._plane.take(self._segments[some], self._documents.starts[some], counts)
            found, places = faiss.knn(query, decode(self._codec, rows), min(k, len(rows)), self._metric)
            # from the place among these rows to the number: both go on by one within a document
            at = np.searchsorted(np.cumsum(counts), places, side="right")
            best.add_result(found, places + (self.starts[some] - np.cumsum(counts) + counts)[at])
        best.finalize()
        return best.D, best.I


class _FiledVectors:
    """Those in the files of an index, which holds others as well: of documents that were deleted."""

    def __init__(self, store: Store, documents: LiveDocuments, state: State) -> None:
        folder = states.folder_of(store, RETRIEVER)
        self._counts = documents.counts
        self.starts: Numbers = documents.starts.copy()
        lacking = 0
        for number, segment in enumerate(store.segments):
            covered = state.covered(segment.entry)
            first, last = documents.bounds[number : number + 2].tolist()
            if covered:
                self.starts[first:last] += covered.base
            elif segment.entry.rows:
                lacking += last - first
        if lacking:
            raise states.behind(store, folder, state.kind, lacking, len(documents))
        files = {one.file: one.digest for one in state.segments}
        if len(files) != 1:
            raise IndexBehindError(
                f"{folder}: the build of this index was interrupted. Go on with it: "
                f"{states.building_command(store, state.kind)}"
            )
        ((file, digest),) = files.items()
        path = checked(folder, file, digest)
        if state.kind == HNSW:
            self._index = library().read_index(str(path))
        else:
            self._index = learnt(folder, state)
            inverted_lists.attach(self._index, path)
        self._kind = state.kind
        self._end = max(one.base + one.rows for one in state.segments)
        self._chosen: tuple[Numbers, Any] = (np.empty(0, np.int64), None)  # the last documents, and what chose them

    def nearest(self, query: Matrix, k: int, documents: Numbers, nprobe: int) -> Nearest:
        faiss = library()
        rows = int(self._counts[documents].sum())
        # of few among many, as many are found only if as much more is looked at
        wider = self._index.ntotal / rows
        only = {} if rows == self._index.ntotal else {"sel": self._selector(documents)}
        if self._kind == HNSW:
            among = min(self._index.ntotal, int(np.ceil(k * wider)))
            settings = faiss.SearchParametersHNSW(efSearch=among, **only)
        else:
            lists = min(self._index.nlist, int(np.ceil(nprobe * wider)))
            settings = faiss.SearchParametersIVF(nprobe=lists, **only)
        found: Nearest = self._index.search(query, k, params=settings)
        return found

    def _selector(self, documents: Numbers) -> Any:
        """What tells FAISS to look at these documents' vectors only; most often the same as for the last query."""
        last, selector = self._chosen
        if selector is None or not np.array_equal(last, documents):
            edges = np.zeros(self._end + 1, dtype=np.int8)
            edges[self.starts[documents]] += 1
            edges[self.starts[documents] + self._counts[documents]] -= 1
            bits = np.packbits(np.cumsum(edges[:-1], dtype=np.int8).view(bool), bitorder="little")
            selector = library().IDSelectorBitmap(bits)
            self._chosen = (documents, selector)
        return selector
