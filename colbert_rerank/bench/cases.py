"""What is measured: scoring from a mapped store, and the peers' scoring of what is in memory already.

Documents are random unit vectors, in stores at least ten times as large as the last cache. Every repetition draws
others, and all that is compared takes its turn in each repetition. Encoding is timed nowhere.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from colbert_rerank.bench.peers import LABELS, Peer, PeerMissingError
from colbert_rerank.errors import UsageError
from colbert_rerank.machine import environment
from colbert_rerank.maxsim import in_place, native, scores_of
from colbert_rerank.store import Gathered, Manifest, RowRanges, Store, writing

TOKENS, DIM, QUERY_TOKENS = 68, 128, 32  # a passage of MS MARCO, and a query as ColBERT pads it
CACHES = 10  # times the last cache
UNIT = 5000  # documents
CODECS = ("float16", "int8")
AGREE = 1e-3  # a token; how far a peer's score, of float32 vectors, may be from ours of float16

Timed = Callable[[list[int]], float]
"""Milliseconds that the work takes with the documents of these numbers."""


class Row(NamedTuple):
    """One line of the table: ``peer`` is what takes ``ratio`` times as long as ``ours``."""

    name: str
    ours: str
    peer: str


ROWS = (
    Row("cpu_fp16_vs_maxsim_cpu", "float16", "maxsim_cpu"),
    Row("cpu_int8_vs_maxsim_cpu", "int8", "maxsim_cpu"),
    Row("cpu_fp16_vs_pylate", "float16", "pylate"),
    Row("cpu_fp16_with_gather_vs_score_alone", "float16", "float16, score alone"),
    Row("cpu_fp16_vs_one_copy", "float16", "one copy of the bytes"),
)


def measure(
    *,
    k: int = 1000,
    repeats: int = 30,
    peers: Mapping[str, str],
    work: Path | None = None,
    progress: Callable[[str], None] = lambda stage: None,
) -> dict[str, Any]:
    """Measure and return what `colbert-rerank bench --json` writes: machine, versions, and the rows of the table.

    ``k`` candidates a query; ``peers`` names the Python that has each library. ``work`` is a folder for stores of a few
    gigabytes, by default a temporary one. A peer that does not run is named in its rows as missing. Raises UsageError.
    """
    import torch

    if k < 1 or repeats < 1:
        raise UsageError("k and repeats: expected 1 or more")
    threads = torch.get_num_threads()
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="colbert-rerank-bench-", dir=work)))
        progress("making stores")
        data = _Data(folder, max(2 * k, CACHES * last_cache() // (TOKENS * (DIM + 4))))
        works, missing = dict(data.works()), {}
        for name, python in peers.items():
            progress(f"starting {name}")
            try:
                peer = opened.enter_context(Peer(name, python, data.vectors, data.query_file, TOKENS, threads))
                works[name] = _checked(peer, data)
            except PeerMissingError as error:
                missing[name] = str(error)
        progress("measuring")
        times = _in_turns(works, data.documents, k, repeats)
    rows = [_row(row, times, missing, k=k, threads=threads, repeats=repeats) for row in ROWS]
    shape = {"documents": data.documents, "tokens": TOKENS, "dim": DIM, "query_tokens": QUERY_TOKENS, "k": k}
    path = {"scoring": native.isas()[0] if in_place("cpu") else "torch"}
    return {**environment(), **shape, **path, "rows": rows}


def last_cache() -> int:
    """Bytes of this machine's last cache; where it does not say, of a large one."""
    try:
        return os.sysconf("SC_LEVEL3_CACHE_SIZE") or 32 << 20
    except (ValueError, OSError):
        return 32 << 20


class _Data:
    """The documents, in a store of each codec and as one file of single precision; and a query."""

    def __init__(self, folder: Path, documents: int) -> None:
        self.documents = documents
        self.vectors, self.query_file = folder / "vectors.npy", folder / "query.npy"
        rng = np.random.default_rng(20261127)
        self.query = _unit_length(rng.standard_normal((QUERY_TOKENS, DIM), dtype=np.float32))
        np.save(self.query_file, self.query)
        values = np.empty((documents * TOKENS, DIM), np.float32)
        for start in range(0, len(values), UNIT * TOKENS):
            part = values[start : start + UNIT * TOKENS]
            part[:] = _unit_length(rng.standard_normal(part.shape, dtype=np.float32))
        np.save(self.vectors, values)
        self.stores = {codec: _make(folder / codec, codec, values) for codec in CODECS}

    def works(self) -> dict[str, Timed]:
        def scored(codec: str) -> Timed:
            return lambda numbers: _ms(lambda: self.score(codec, numbers))

        return {
            "float16": scored("float16"),
            "int8": scored("int8"),
            "float16, score alone": self._score_alone,
            "one copy of the bytes": self._copy,
        }

    def score(self, codec: str, numbers: list[int]) -> npt.NDArray[np.float64]:
        """From ids to scores, as the re-ranker goes."""
        return scores_of(self.query, self._read(codec, numbers), "cpu", "dot", "sum")

    def _score_alone(self, numbers: list[int]) -> float:
        docs = self._read("float16", numbers)
        return _ms(lambda: scores_of(self.query, docs, "cpu", "dot", "sum"))

    def _read(self, codec: str, numbers: list[int]) -> Gathered | RowRanges:
        ids, store = [str(number) for number in numbers], self.stores[codec]
        return store.ranges(ids) if in_place("cpu") else store.gather(ids)

    def _copy(self, numbers: list[int]) -> float:
        source = np.ones((len(numbers) * TOKENS, DIM), np.float16)
        return _ms(source.copy)


def _make(folder: Path, codec: str, values: npt.NDArray[np.float32]) -> Store:
    rows = values.reshape(-1, TOKENS, DIM)
    with writing(folder, Manifest("benchmark", DIM, codec, {}, {"fields": ["text"], "separator": " "})) as writer:
        for start in range(0, len(rows), UNIT):
            unit = writer.unit()
            for number, vectors in enumerate(rows[start : start + UNIT], start):
                unit.add(str(number), vectors, bytes(16))
            writer.commit(unit, posted=True)
        writer.finish()
    return Store.open(folder, verify="open")  # what the first touch costs is measured elsewhere


def _checked(peer: Peer, data: _Data) -> Timed:
    """The peer's time, once it is seen to do the same work. Raises PeerMissingError."""
    numbers = list(range(100))
    theirs = peer.score(numbers).scores
    ours = data.score("float16", numbers)
    if not np.allclose(theirs, ours, rtol=0, atol=AGREE * QUERY_TOKENS):
        raise PeerMissingError(f"its scores are others, by up to {np.abs(theirs - ours).max():.3g}")
    return lambda drawn: peer.score(drawn).ms


def _in_turns(works: Mapping[str, Timed], documents: int, k: int, repeats: int) -> dict[str, list[float]]:
    rng = np.random.default_rng(1)
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(repeats + 1):
        for name, work in works.items():
            ms = work(rng.choice(documents, k, replace=False).tolist())
            if number:  # the first warms up
                times[name].append(ms)
    return times


def _row(row: Row, times: Mapping[str, list[float]], missing: Mapping[str, str], **shape: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"name": row.name, "ours": row.ours, "peer": LABELS.get(row.peer, row.peer), **shape}
    if row.ours not in times or row.peer not in times:
        return found | {"missing": missing.get(row.peer, "not asked for")}
    for side, values in (("ours", times[row.ours]), ("peer", times[row.peer])):
        p10, median, p90 = np.percentile(values, [10, 50, 90]).tolist()
        found |= {f"{side}_ms": median, f"{side}_p10_ms": p10, f"{side}_p90_ms": p90}
    return found | {"ratio": found["peer_ms"] / found["ours_ms"]}


def _ms(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - start)


def _unit_length(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    found: npt.NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return found
