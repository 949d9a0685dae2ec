"""The files of an index by FAISS: how they are made of a store's vectors, grow, and are read again.

Vectors have numbers, by which documents are found: the row in its segment, behind the segment's base. What ivfpq learns
is learnt once, of a sample. Then each segment of the store gets a file of lists of its own, and at the end they become
one: so a build that was interrupted goes on, and what is there already stays. An hnsw is made in memory, and written at
its end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from colbert_rerank.errors import UsageError
from colbert_rerank.retrieval import inverted_lists
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
from colbert_rerank.retrieval.documents import LiveDocuments
from colbert_rerank.retrieval.faiss_library import library, safe_threads
from colbert_rerank.retrieval.inverted_lists import InvertedLists
from colbert_rerank.retrieval.state import Covered, State
from colbert_rerank.store import Store, codebook, files
from colbert_rerank.store.codecs import Matrix, decode
from colbert_rerank.store.manifest import SegmentEntry

RETRIEVER = "faiss"
IVFPQ, HNSW, FLAT = KINDS = ("ivfpq", "hnsw", "flat")
LEARNT = "learnt.faiss"
CODES = 256  # of a sub-quantizer, whose codes are bytes
POINTS = 39  # vectors a centroid, with fewer of which FAISS warns
LINKS = 32  # of a vector in an hnsw; twice as many where all of them are linked
MOST_IN_MEMORY = 4_000_000  # vectors of an hnsw: 2 GB of 128 dimensions

_log = logging.getLogger(__name__)


class Settings(NamedTuple):
    """What an ivfpq is made with: as much as is left out follows from the store."""

    partitions: int | None = None
    subquantizers: int | None = None


def build(
    store: Store,
    kind: str = IVFPQ,
    settings: Settings | None = None,
    *,
    again: bool = False,
    progress: Progress | None = None,
) -> int:
    """Make the index of a store, or go on with it; returns the vectors that were added.

    ``settings`` are those of an ivfpq, and one that is there keeps its own, unless it is made ``again``. ``progress``
    is told how many vectors were added.

    Raises UsageError for a store without vectors, or with too few to learn of or too many to hold, for impossible
    numbers, and without faiss; StoreCorruptError; StoreWriteError where another process builds it.
    """
    settings = settings or Settings()
    _check(store, kind, settings)
    folder = states.folder_of(store, RETRIEVER)
    with safe_threads(), building(folder):
        if again:
            files.discard(folder / states.STATE)
        state = states.load(folder)
        if state is None:
            state = _begun(store, folder, kind, settings)
        elif state.store_id != store.manifest.store_id:
            raise UsageError(f"{folder}: an index of another store; remove it, or pass --again")
        elif state.kind != kind:
            raise UsageError(
                f"--kind {kind}: the index of --retriever faiss is of kind {state.kind}; pass --again for another"
            )
        for option, number in settings._asdict().items():
            if number not in (None, state.settings.get(option)):
                raise UsageError(
                    f"--{option} {number}: the index has {state.settings[option]}; pass --again to learn anew"
                )
        state = without_gone(store, folder, state)
        before = _vectors(state)
        if kind == HNSW:
            state = _grown(store, folder, state, progress)
        elif kind == IVFPQ:
            state = _joined(folder, _coded(store, folder, state, progress))
        sweep(folder, state)
    return _vectors(state) - before


def lacking(store: Store) -> int:
    """How many of a store's rows its index, if there is one, lacks. Raises as `state.load` does."""
    state = states.load(states.folder_of(store, RETRIEVER))
    if state is not None and state.kind == FLAT:
        return 0
    return sum(entry.rows for entry in store.manifest.segments if state is None or not state.covered(entry))


def facts(store: Store) -> dict[str, str | int]:
    """What `index info` prints. Raises as `state.opened` does."""
    folder, state = states.folder_of(store, RETRIEVER), states.opened(store, RETRIEVER, IVFPQ)
    files_of = {file for file in (state.learnt[0], *(one.file for one in state.segments)) if file}
    vectors = store.manifest.rows if state.kind == FLAT else _vectors(state)
    return {
        "retriever": RETRIEVER,
        "kind": state.kind,
        **state.settings,
        "vectors": vectors,
        "vectors of deleted documents": dead(store, state),
        "vectors of the store that it lacks": lacking(store),
        "bytes": sum((folder / file).stat().st_size for file in files_of),
    }


def dead(store: Store, state: State) -> int:
    """How many vectors of the index are of documents that the store has no more."""
    documents = LiveDocuments(store)
    found = _vectors(state)
    for number, entry in enumerate(store.manifest.segments):
        if state.covered(entry):
            first, last = documents.bounds[number : number + 2]
            found -= int(documents.counts[first:last].sum())
    return found


def is_mostly_dead(store: Store) -> bool:
    """Whether more than half of the index's vectors are of such documents. Raises as `state.opened` does."""
    state = states.opened(store, RETRIEVER, IVFPQ)
    return 2 * dead(store, state) > _vectors(state)


def learnt(folder: Path, state: State) -> Any:
    """What an ivfpq has learnt: an index of FAISS that has no vectors yet. Raises StoreCorruptError."""
    return library().read_index(str(checked(folder, *state.learnt)))


def checked(folder: Path, file: str, digest: str) -> Path:
    """The path of a file that is what was written. Raises StoreCorruptError."""
    path = folder / file
    try:
        if files.checksum(path) != digest:
            raise states.damaged(folder, f"the checksum of {file} does not match")
    except FileNotFoundError:
        raise states.damaged(folder, f"{file} is missing") from None
    return path


def _check(store: Store, kind: str, settings: Settings) -> None:
    rows, dim = store.manifest.rows, store.manifest.dim
    if kind not in KINDS:
        raise UsageError(f"--kind {kind}: expected one of {', '.join(KINDS)}")
    check_vectors(store)
    if kind == HNSW and rows > MOST_IN_MEMORY:
        raise UsageError(
            f"--kind hnsw: it is held in memory, {MOST_IN_MEMORY:,} vectors at most, and the store has {rows:,}. Take "
            "--kind ivfpq"
        )
    if kind != IVFPQ:
        for option, number in settings._asdict().items():
            if number is not None:
                raise UsageError(f"--{option}: nothing is learnt for --kind {kind}; leave it out")
        return
    if rows < CODES:
        raise UsageError(
            f"--kind ivfpq: it learns of {CODES} vectors at least, and the store has {rows}. Take --kind flat"
        )
    if settings.subquantizers is not None and (settings.subquantizers < 1 or dim % settings.subquantizers):
        raise UsageError(
            f"--subquantizers {settings.subquantizers}: expected a number that divides the vectors' {dim} dimensions"
        )
    if settings.partitions is not None and not 1 <= settings.partitions <= min(codebook.MOST, rows):
        raise UsageError(f"--partitions {settings.partitions}: expected 1 to {min(codebook.MOST, rows):,}")


def _begun(store: Store, folder: Path, kind: str, settings: Settings) -> State:
    """The state of an index that has no vectors yet."""
    similarity = store.manifest.query_identity.get("similarity", "cosine")
    state = State(store.manifest.store_id, kind, {"similarity": similarity})
    if kind == IVFPQ:
        partitions = settings.partitions or partition_count(store.manifest.rows)
        subquantizers = settings.subquantizers or subquantizer_count(store.manifest.dim)
        index = _trained(store, partitions, subquantizers, metric_of(similarity))
        digest = _written(folder / LEARNT, partial(_write, index))
        chosen = {"partitions": partitions, "subquantizers": subquantizers}
        state = replace(state, settings=state.settings | chosen, learnt=(LEARNT, digest))
    states.save(folder, state)
    return state


def partition_count(rows: int) -> int:
    """Of so many vectors: the power of two above 8 sqrt(rows), as ColBERT v1 has it, as far as they suffice for it."""
    most = min(codebook.MOST, max(1, rows // POINTS))
    return int(min(1 << int(np.ceil(np.log2(8 * np.sqrt(rows)))), 1 << int(np.log2(most))))


def subquantizer_count(dim: int) -> int:
    """One for 8 dimensions, or, where these are not whole eights, for some more."""
    return next(count for count in range(max(1, dim // 8), 0, -1) if dim % count == 0)


def metric_of(similarity: str) -> int:
    faiss = library()
    return int(faiss.METRIC_L2 if similarity == "l2" else faiss.METRIC_INNER_PRODUCT)


def _trained(store: Store, partitions: int, subquantizers: int, metric: int) -> Any:
    faiss = library()
    dim, by_product = store.manifest.dim, metric == faiss.METRIC_INNER_PRODUCT
    centroids = faiss.IndexFlatIP(dim) if by_product else faiss.IndexFlatL2(dim)
    index = faiss.IndexIVFPQ(centroids, dim, partitions, subquantizers, 8, metric)
    index.cp.spherical = by_product
    for means in (index.cp, index.pq.cp):
        means.seed = SEED
        means.min_points_per_centroid = 1  # it would warn, on stderr
    index.cp.niter = codebook.ITERATIONS
    size = min(store.manifest.rows, POINTS * max(partitions, CODES))
    _log.info("learning %s partitions of %s vectors", f"{partitions:,}", f"{size:,}")
    index.train(sample(store, size))
    return index


def _coded(store: Store, folder: Path, state: State, progress: Progress | None) -> State:
    """Of an ivfpq: a file of lists for each segment that has none yet."""
    lacking = _lacking(store, state)
    index = learnt(folder, state) if lacking else None
    for number, entry in lacking:
        base = _end(state)
        parts, end = [], base
        for block in _decoded(store, number, progress):
            parts.append(_lists(index, block, end))
            end += len(block)
        file = f"{Path(entry.file).stem}.lists"
        digest = _written(folder / file, partial(inverted_lists.write, parts=parts))
        state = _covering(state, entry, base, file, digest)
        states.save(folder, state)
    return state


def _joined(folder: Path, state: State) -> State:
    """Of an ivfpq: one file of lists in the place of several."""
    digests = {one.file: one.digest for one in state.segments}
    if len(digests) == 1:
        return state
    lists, width = state.settings["partitions"], state.settings["subquantizers"]  # a byte each
    parts = [InvertedLists.read(checked(folder, file, digest), lists, width) for file, digest in digests.items()]
    return _in_one(folder, state, f"joined-{_end(state)}.lists", partial(inverted_lists.write, parts=parts))


def _grown(store: Store, folder: Path, state: State, progress: Progress | None) -> State:
    """Of an hnsw: one of all segments, where it was lacking some."""
    lacking = _lacking(store, state)
    if not lacking:
        return state
    if state.segments:
        index = library().read_index(str(checked(folder, state.segments[0].file, state.segments[0].digest)))
    else:
        faiss, metric = library(), metric_of(state.settings["similarity"])
        index = faiss.IndexHNSWSQ(store.manifest.dim, faiss.ScalarQuantizer.QT_fp16, LINKS, metric)
    for number, entry in lacking:
        state = _covering(state, entry, _end(state))
        for block in _decoded(store, number, progress):
            index.add(block)
    return _in_one(folder, state, f"{_end(state)}.hnsw", partial(_write, index))


def _in_one(folder: Path, state: State, file: str, fill: Callable[[Path], None]) -> State:
    """The state whose segments are all in one file, which ``fill`` writes, saved."""
    digest = _written(folder / file, fill)
    state = replace(state, segments=tuple(replace(one, file=file, digest=digest) for one in state.segments))
    states.save(folder, state)
    return state


def _lacking(store: Store, state: State) -> list[tuple[int, SegmentEntry]]:
    """The segments with vectors that the index does not cover, and which of the store's they are."""
    entries = enumerate(store.manifest.segments)
    return [(number, entry) for number, entry in entries if entry.rows and not state.covered(entry)]


def _covering(state: State, entry: SegmentEntry, base: int, file: str = "", digest: str = "") -> State:
    covered = Covered(entry.file, entry.columns, entry.rows, file, digest, base)
    return replace(state, segments=(*state.segments, covered))


def _end(state: State) -> int:
    """The first number that no vector has."""
    return max((one.base + one.rows for one in state.segments), default=0)


def _vectors(state: State) -> int:
    return sum(one.rows for one in state.segments)


def _decoded(store: Store, number: int, progress: Progress | None) -> Iterator[Matrix]:
    """The vectors of a segment in order, some at once. Raises StoreCorruptError."""
    for rows in blocks(store, number):
        yield decode(store.codec, rows)
        if progress:
            progress(len(rows))


def _lists(index: Any, vectors: Matrix, first: int) -> InvertedLists:
    """What the index would add for vectors [n, d], which are numbered from ``first`` on."""
    coded = index.sa_encode(vectors)  # the number of its list before each code
    width = index.coarse_code_size()
    numbers = np.zeros((len(vectors), 8), dtype=np.uint8)
    numbers[:, :width] = coded[:, :width]
    return InvertedLists.of(coded[:, width:], numbers.view("<i8")[:, 0].astype(np.int64), first, index.nlist)


def _write(index: Any, path: Path) -> None:
    try:
        library().write_index(index, str(path))
    except RuntimeError as error:  # as it reports what the system refused
        raise OSError(str(error)) from None


def _written(path: Path, fill: Callable[[Path], None]) -> str:
    """Write a file whole, and return its digest. Raises StoreWriteError."""
    digests: list[str] = []

    def filled(temporary: Path) -> None:
        fill(temporary)
        digests.append(files.checksum(temporary))

    files.write_whole(path, filled)
    return digests[0]
