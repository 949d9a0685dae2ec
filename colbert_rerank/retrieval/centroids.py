"""An index of two bytes a token: the number of the centroid nearest to it.

What is learnt is learnt once, of a sample; a store of residuals has learnt it already. After that each segment of the
store gets a file of codes, and what is there already stays: that is how an index grows, and how one that was
interrupted goes on.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from colbert_rerank.errors import StoreCorruptError, UsageError
from colbert_rerank.machine import cores
from colbert_rerank.retrieval import state as states
from colbert_rerank.retrieval.building import (
    SEED,
    Progress,
    blocks,
    building,
    check_vectors,
    sample,
    sweep,
    without_gone,
)
from colbert_rerank.retrieval.documents import LiveDocuments, Numbers
from colbert_rerank.retrieval.interaction import Table, sums
from colbert_rerank.retrieval.state import Covered, State
from colbert_rerank.store import Store, codebook, layout
from colbert_rerank.store import columns as hdf5
from colbert_rerank.store.codecs import Matrix, Residual, decode, nearest_centroids
from colbert_rerank.store.segment import mapped, seal

RETRIEVER = "centroids"
CODES = "codes"  # [rows of the segment] uint16
LEARNT = "centroids.h5"

_log = logging.getLogger(__name__)


def build(store: Store, *, partitions: int | None = None, again: bool = False, progress: Progress | None = None) -> int:
    """Make the index of a store, or go on with it; returns the rows that were added.

    ``partitions`` centroids are learnt of a sample, by default as many as a codec of residuals learns; one that is
    there keeps its own, unless it is made ``again``. ``progress`` is told how many rows were added.

    Raises UsageError for a store without vectors, an impossible number, and without faiss; StoreCorruptError;
    StoreWriteError where another process builds it.
    """
    folder = states.folder_of(store, RETRIEVER)
    rows = store.manifest.rows
    check_vectors(store)
    if partitions is not None and not 1 <= partitions <= min(codebook.MOST, rows):
        raise UsageError(
            f"--partitions {partitions}: expected 1 to {min(codebook.MOST, rows):,}: as many as the store has vectors, "
            "and two bytes can tell apart"
        )
    with building(folder):
        state = None if again else states.load(folder)
        if state is not None and (state.store_id != store.manifest.store_id or state.kind != RETRIEVER):
            raise UsageError(f"{folder}: an index of another store, or of another kind; remove it, or pass --again")
        if state is not None and partitions not in (None, state.settings["partitions"]):
            raise UsageError(
                f"--partitions {partitions}: the index has {state.settings['partitions']}; pass --again to learn anew"
            )
        if state is None:
            state = _learnt(store, folder, partitions)
        centroids = _centroids(folder, state)
        state = without_gone(store, folder, state)
        added = 0
        for number, segment in enumerate(store.segments):
            entry = segment.entry
            if state.covered(entry):
                continue
            codes = _codes(store, number, centroids)
            file = f"{Path(entry.file).stem}.codes.h5"
            placed = seal(folder / file, {CODES: codes})
            covered = Covered(entry.file, entry.columns, entry.rows, file, placed.columns)
            state = replace(state, segments=(*state.segments, covered))
            states.save(folder, state)
            added += codes.size
            if progress:
                progress(codes.size)
        sweep(folder, state)
    return added


def lacking(store: Store) -> int:
    """How many of a store's rows its index, if there is one, lacks. Raises as `state.load` does."""
    state = states.load(states.folder_of(store, RETRIEVER))
    return sum(entry.rows for entry in store.manifest.segments if state is None or not state.covered(entry))


def facts(store: Store) -> dict[str, str | int]:
    """What `index info` prints. Raises as `state.opened` does."""
    folder, state = states.folder_of(store, RETRIEVER), states.opened(store, RETRIEVER, RETRIEVER)
    files_of = [state.learnt[0], *(one.file for one in state.segments)]
    return {
        "retriever": state.kind,
        "centroids": state.settings["partitions"],
        "vectors": sum(one.rows for one in state.segments),
        "vectors of the store that it lacks": lacking(store),
        "bytes": sum((folder / file).stat().st_size for file in files_of),
    }


def _learnt(store: Store, folder: Path, partitions: int | None) -> State:
    """Learn centroids, or take those of the store's own codec, which it was coded with."""
    codec = _residual(store)
    if codec is not None and partitions in (None, len(codec.book.centroids)):
        centroids = codec.book.centroids
    else:
        _log.info("learning centroids")
        centroids = _trained(store, partitions)
    placed = seal(folder / LEARNT, {layout.CENTROIDS: centroids})
    state = State(store.manifest.store_id, RETRIEVER, {"partitions": len(centroids)}, (LEARNT, placed.columns))
    states.save(folder, state)
    return state


def _residual(store: Store) -> Residual | None:
    """A codec of the store whose rows begin with the number of a centroid."""
    return next((c for c in (store.codec, store.sketch_codec) if isinstance(c, Residual)), None)


def _trained(store: Store, partitions: int | None) -> Matrix:
    try:
        import faiss
    except ImportError:
        raise UsageError(
            "centroids are learnt with faiss, which is not installed: pip install 'colbert-rerank[faiss]'"
        ) from None
    rows = store.manifest.rows
    vectors = sample(store, min(rows, codebook.SAMPLE * (partitions or codebook.centroid_count(rows))))
    count = partitions or max(1, min(codebook.centroid_count(rows), len(vectors) // 4))
    means = faiss.Kmeans(
        vectors.shape[1],
        count,
        niter=codebook.ITERATIONS,
        seed=SEED,
        min_points_per_centroid=1,
        max_points_per_centroid=codebook.SAMPLE,
    )
    means.train(vectors)
    return np.ascontiguousarray(means.centroids, dtype=np.float32)


def _codes(store: Store, number: int, centroids: Matrix) -> npt.NDArray[np.uint16]:
    """The codes of a segment's rows, in order."""
    own = _residual(store)
    coded = own is not None and np.array_equal(own.book.centroids, centroids)
    found: list[npt.NDArray[np.uint16]] = [np.empty(0, np.uint16)]
    for rows in blocks(store, number, sketches=coded and own is not store.codec):
        if coded:
            found.append(rows[:, :2].copy().view("<u2")[:, 0].astype(np.uint16))
        else:
            found.append(nearest_centroids(decode(store.codec, rows), centroids).astype(np.uint16))
    return np.concatenate(found)


def _centroids(folder: Path, state: State) -> Matrix:
    file, digest = state.learnt
    found = _read(folder, file, {layout.CENTROIDS: "<f4"}, digest)[layout.CENTROIDS]
    if found.ndim != 2 or len(found) != state.settings["partitions"]:
        raise states.damaged(folder, f"{file} holds no centroids")
    return np.array(found)  # a copy: it is read at every search


def _read(folder: Path, file: str, columns: dict[str, str], digest: str) -> dict[str, hdf5.Array]:
    path = folder / file
    try:
        return hdf5.read(path, mapped(path, path.stat().st_size), columns, digest)
    except FileNotFoundError:
        raise states.damaged(folder, f"{file} is missing") from None
    except StoreCorruptError as error:
        raise states.damaged(folder, str(error).removesuffix(layout.RESTORE).rstrip(". ")) from None


class CentroidIndex:
    """The index of a store, for searching. Safe to share between threads and to use after a fork."""

    def __init__(self, store: Store) -> None:
        """Raises UsageError where there is none, StoreCorruptError, and IndexBehindError where it lacks documents."""
        folder = states.folder_of(store, RETRIEVER)
        state = states.opened(store, RETRIEVER, RETRIEVER)
        self.documents = LiveDocuments(store)
        self.centroids = _centroids(folder, state)
        self._codes: list[npt.NDArray[np.uint16]] = []
        lacking = 0
        for number, segment in enumerate(store.segments):
            covered = state.covered(segment.entry)
            if covered is None:
                lacking += int(np.diff(self.documents.bounds[number : number + 2])[0])
                self._codes.append(np.empty(0, np.uint16))
                continue
            codes = _read(folder, covered.file, {CODES: "<u2"}, covered.digest)[CODES]
            if codes.shape != (covered.rows,) or codes.max(initial=0) >= len(self.centroids):
                raise states.damaged(folder, f"{covered.file} does not hold the codes of {covered.rows} rows")
            self._codes.append(codes)
        if lacking:
            raise states.behind(store, folder, RETRIEVER, lacking, len(self.documents))
        self._able = self.documents.counts > 0
        self._all = np.flatnonzero(self._able)

    def best(
        self, query: Matrix, k: int, similarity: str = "dot", allowed: npt.NDArray[np.bool_] | None = None
    ) -> tuple[Numbers, npt.NDArray[np.float64]]:
        """The ``k`` documents that score highest for a query [Lq, d] by centroid interaction, best first, and scores.

        Documents are numbers of `documents`; of ``allowed`` [n] only those that are true. Of equal scores the first
        ones are taken. Documents without vectors are no one's best.
        """
        table = Table.of(query, self.centroids, similarity)
        numbers = self._all if allowed is None else np.flatnonzero(self._able & allowed)
        bounds = np.searchsorted(numbers, self.documents.bounds).tolist()
        found = np.empty(numbers.size, dtype=np.int32)
        for codes, first, last in zip(self._codes, bounds, bounds[1:], strict=False):
            if first < last:
                here = numbers[first:last]
                starts, counts = self.documents.starts[here], self.documents.counts[here]
                found[first:last] = sums(table, codes, starts, counts, threads=cores())
        best = _highest(found, k)
        return numbers[best], table.least + table.step * found[best].astype(np.float64)


def _highest(scores: npt.NDArray[np.int32], k: int) -> Numbers:
    """The places of the ``k`` highest scores, falling; of equal ones the first."""
    if k < scores.size:
        cut = np.partition(scores, scores.size - k)[scores.size - k]
        above = np.flatnonzero(scores > cut)
        kept = np.concatenate([above, np.flatnonzero(scores == cut)[: k - above.size]])
    else:
        kept = np.arange(scores.size)
    ordered: Numbers = kept[np.lexsort((kept, -scores[kept]))]
    return ordered
