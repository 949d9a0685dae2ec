"""Documents of random unit vectors: in a store of each codec, and as one file of single precision for the peers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt

from colbert_rerank.maxsim import in_place, scores_of
from colbert_rerank.store import Gathered, Manifest, RowRanges, Store, StoreWriter, writing

TOKENS, DIM, QUERY_TOKENS = 68, 128, 32  # a passage of MS MARCO, and a query as ColBERT pads it
UNIT = 5000  # documents
CODECS = ("float16", "int8")
RECIPE = {"fields": ["text"], "separator": " "}


class Documents:
    """``count`` documents in the stores, of which the first ``in_memory`` are in the file; and a query."""

    def __init__(self, folder: Path, count: int, in_memory: int) -> None:
        self.count, self.in_memory = count, min(count, in_memory)
        self.vectors, self.query_file = folder / "vectors.npy", folder / "query.npy"
        rng = np.random.default_rng(20261127)
        self.query = unit_vectors(rng, QUERY_TOKENS, DIM)
        np.save(self.query_file, self.query)
        shape = (self.in_memory * TOKENS, DIM)
        file = np.lib.format.open_memmap(self.vectors, "w+", np.float32, shape)  # type: ignore[no-untyped-call]
        with ExitStack() as opened:
            manifests = {codec: Manifest("benchmark", DIM, codec, {}, RECIPE) for codec in CODECS}
            writers = [opened.enter_context(writing(folder / codec, manifests[codec])) for codec in CODECS]
            for start in range(0, count, UNIT):
                rows = unit_vectors(rng, min(UNIT, count - start) * TOKENS, DIM)
                shared = file[start * TOKENS : (start + UNIT) * TOKENS]
                shared[:] = rows[: len(shared)]
                for writer in writers:
                    add(writer, rows, start)
            for writer in writers:
                writer.finish()
        # what the first touch costs is measured elsewhere
        self.stores = {codec: Store.open(folder / codec, verify="open") for codec in CODECS}

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
        file = np.load(self.vectors, mmap_mode="r")
        for number in numbers:
            yield file[number * TOKENS : (number + 1) * TOKENS]


def add(writer: StoreWriter, rows: npt.NDArray[np.float32], start: int) -> None:
    """One unit of documents of `TOKENS` of these ``rows`` [n, dim] each, numbered from ``start`` on."""
    unit = writer.unit()
    for number, vectors in enumerate(rows.reshape(-1, TOKENS, rows.shape[1]), start):
        unit.add(str(number), vectors, bytes(16))
    writer.commit(unit, posted=True)


def ids_of(numbers: Iterable[int]) -> list[str]:
    return [str(number) for number in numbers]


def unit_vectors(rng: np.random.Generator, rows: int, dim: int) -> npt.NDArray[np.float32]:
    vectors = rng.standard_normal((rows, dim), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors
