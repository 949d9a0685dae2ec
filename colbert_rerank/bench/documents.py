"""Documents of random unit vectors: in a store of each codec, and as one file of single precision for the peers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.lib.format import open_memmap

from colbert_rerank.maxsim import in_place, scores_of
from colbert_rerank.store import Gathered, Manifest, RowRanges, Store, StoreWriter, writing

TOKENS, DIM, QUERY_TOKENS = 68, 128, 32  # a passage of MS MARCO, and a query as ColBERT pads it
SHORTEST, LONGEST, SPREAD = 16, 180, 0.5  # tokens of a passage: lognormal with that mean, clipped
UNIT = 5000  # documents
CODECS = ("float16", "int8")
RECIPE = {"fields": ["text"], "separator": " "}


class Matrices(NamedTuple):
    """What peers score, as files of NumPy: a query and the documents' rows, float32, and where each document begins."""

    query: Path
    vectors: Path
    offsets: Path
    documents: int

    @classmethod
    def make(cls, folder: Path, query: npt.NDArray[np.float32], lengths: Sequence[int]) -> Matrices:
        """The files, for documents of so many rows each; their vectors are zeros yet."""
        made = cls(folder / "query.npy", folder / "vectors.npy", folder / "offsets.npy", len(lengths))
        np.save(made.query, query)
        np.save(made.offsets, np.cumsum([0, *lengths]))
        open_memmap(made.vectors, "w+", np.float32, (sum(lengths), query.shape[1]))  # type: ignore[no-untyped-call]
        return made


class Documents:
    """Documents of so many rows each in the stores, of which the first ``in_memory`` are in the file; and a query."""

    def __init__(self, folder: Path, lengths: Sequence[int], in_memory: int, codecs: Sequence[str] = CODECS) -> None:
        self.count = len(lengths)
        rng = np.random.default_rng(20261127)
        self.query = unit_vectors(rng, QUERY_TOKENS, DIM)
        self.file = Matrices.make(folder, self.query, lengths[:in_memory])
        file, begun = np.load(self.file.vectors, mmap_mode="r+"), 0
        with ExitStack() as opened:
            manifests = {codec: Manifest("benchmark", DIM, codec, {}, RECIPE) for codec in codecs}
            writers = [opened.enter_context(writing(folder / codec, manifests[codec])) for codec in codecs]
            for start in range(0, self.count, UNIT):
                some = lengths[start : start + UNIT]
                rows = unit_vectors(rng, sum(some), DIM)
                shared = file[begun : begun + len(rows)]
                shared[:] = rows[: len(shared)]
                begun += len(rows)
                for writer in writers:
                    add(writer, rows, some, start)
            for writer in writers:
                writer.finish()
        # what the first touch costs is measured elsewhere
        self.stores = {codec: Store.open(folder / codec, verify="open") for codec in codecs}

    def score(
        self, codec: str, ids: list[str], query: npt.NDArray[np.float32] | None = None, device: str = "cpu"
    ) -> npt.NDArray[np.float64]:
        """From ids to scores, as the re-ranker goes."""
        docs = self.read(codec, ids, device)
        return scores_of(self.query if query is None else query, docs, device, "dot", "sum")

    def ranked(self, codec: str, ids: list[str]) -> list[str]:
        """The same ids, best first."""
        return [ids[i] for i in np.argsort(-self.score(codec, ids), kind="stable").tolist()]

    def read(self, codec: str, ids: list[str], device: str = "cpu") -> Gathered | RowRanges:
        store = self.stores[codec]
        return store.ranges(ids) if in_place(device) else store.gather(ids)

    def matrices(self, numbers: range) -> Iterator[npt.NDArray[np.float32]]:
        """The vectors [T, d] of documents that are in the file."""
        file, offsets = np.load(self.file.vectors, mmap_mode="r"), np.load(self.file.offsets)
        for number in numbers:
            yield file[offsets[number] : offsets[number + 1]]


def add(writer: StoreWriter, rows: npt.NDArray[np.float32], lengths: Sequence[int], start: int) -> None:
    """One unit of documents, each of so many of these ``rows`` [n, dim], numbered from ``start`` on."""
    unit = writer.unit()
    for number, vectors in enumerate(np.split(rows, np.cumsum(lengths)[:-1]), start):
        unit.add(str(number), vectors, bytes(16))
    writer.commit(unit, posted=True)


def passage_lengths(k: int) -> list[int]:
    """Tokens of ``k`` passages, the same at each call."""
    drawn = np.random.default_rng(TOKENS).lognormal(np.log(TOKENS) - SPREAD**2 / 2, SPREAD, k)
    return [int(n) for n in np.clip(np.rint(drawn), SHORTEST, LONGEST)]


def ids_of(numbers: Iterable[int]) -> list[str]:
    return [str(number) for number in numbers]


def unit_vectors(rng: np.random.Generator, rows: int, dim: int) -> npt.NDArray[np.float32]:
    vectors = rng.standard_normal((rows, dim), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors
