"""The token store against a plain copy of the same bytes, and against h5py.

    python -m benchmarks.store --work FOLDER

A store of 60,000 documents of 68 token vectors (128 dimensions, fp16, 1 GB) in 1, 100 and 1,000 segments; documents
are drawn anew for each repeat, and all that is compared takes turns. First touch verifies the checksums of what it
reads; the pages are in the system's cache throughout, as they were just written.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from benchmarks import record
from colbert_rerank.store import Manifest, Store, layout, writing

DOCUMENTS, TOKENS, DIM = 60_000, 68, 128
SEGMENTS = (1, 100, 1000)
ASKED = (1000, 10_000)
REPEATS = 15
FANCY = 200  # documents; h5py takes seconds for more

Drawn = npt.NDArray[np.int64]
Work = Callable[[Drawn, list[str]], object]


def make(folder: Path, segments: int) -> None:
    rng = np.random.default_rng(segments)
    with writing(folder, Manifest("benchmark", DIM, "float16", {}, {"fields": ["text"], "separator": " "})) as writer:
        for number, ordinals in enumerate(np.array_split(np.arange(DOCUMENTS), segments)):
            unit = writer.unit()
            for ordinal in ordinals.tolist():
                unit.add(str(ordinal), rng.standard_normal((TOKENS, DIM), dtype=np.float32), bytes(16))
            writer.commit(unit, posted=number % 2 == 0)  # so that they are not merged
        writer.finish()


def measure(folder: Path, segments: int, asked: int) -> dict[str, Any]:
    rng = np.random.default_rng(asked)
    start = time.perf_counter()
    store = Store.open(folder)
    opened = time.perf_counter() - start
    first = timed(lambda _, ids: store.gather(ids), rng, asked)
    store.gather([str(ordinal) for ordinal in range(DOCUMENTS)])  # verifies all
    files = [h5py.File(folder / layout.SEGMENTS / entry.file, "r") for entry in store.manifest.segments]
    bounds = np.cumsum([0, *(entry.documents for entry in store.manifest.segments)])
    source = np.zeros((asked * TOKENS, DIM), np.float16)
    works: dict[str, Work] = {
        "gather": lambda _, ids: store.gather(ids),
        "lookup": lambda _, ids: store.lookup(ids),
        "copy": lambda _, __: source.copy(),
        "h5py_slices": lambda drawn, _: slices(files, bounds, drawn),
    }
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(REPEATS):
        for name, work in works.items():
            times[name].append(timed(work, rng, asked))
    ms = {f"{name}_ms": 1000 * statistics.median(values) for name, values in times.items()}
    spread = {f"{name}_p90_ms": 1000 * float(np.percentile(values, 90)) for name, values in times.items()}
    fancy = timed(lambda drawn, _: rows_of(files, bounds, drawn), rng, FANCY) * asked / FANCY
    return {
        "segments": segments,
        "documents": asked,
        "open_ms": 1000 * opened,
        "first_touch_ms": 1000 * first,
        **ms,
        **spread,
        "h5py_fancy_ms": 1000 * fancy,
        "copies": ms["gather_ms"] / ms["copy_ms"],
        "faster_than_slices": ms["h5py_slices_ms"] / ms["gather_ms"],
    }


def timed(work: Work, rng: np.random.Generator, asked: int) -> float:
    """Seconds that ``work`` takes with so many documents, drawn anew."""
    drawn = rng.choice(DOCUMENTS, asked, replace=False)
    ids = [str(ordinal) for ordinal in drawn.tolist()]
    start = time.perf_counter()
    work(drawn, ids)
    return time.perf_counter() - start


def slices(files: list[h5py.File], bounds: Drawn, drawn: Drawn) -> npt.NDArray[np.float16]:
    """What h5py's own reading takes: one slice a document."""
    numbers = np.searchsorted(bounds, drawn, side="right") - 1
    starts = (drawn - bounds[numbers]) * TOKENS
    datasets = [file[layout.VALUES] for file in files]
    return np.concatenate([datasets[n][s : s + TOKENS] for n, s in zip(numbers.tolist(), starts.tolist(), strict=True)])


def rows_of(files: list[h5py.File], bounds: Drawn, drawn: Drawn) -> list[npt.NDArray[np.float16]]:
    """The same by one list of rows a segment."""
    numbers = np.searchsorted(bounds, drawn, side="right") - 1
    found = []
    for number in np.unique(numbers).tolist():
        starts = np.sort(drawn[numbers == number] - bounds[number]) * TOKENS
        found.append(files[number][layout.VALUES][(starts[:, None] + np.arange(TOKENS)).ravel()])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a folder for the stores, one at a time")
    arguments = parser.parse_args()
    rows = []
    for segments in SEGMENTS:
        folder = arguments.work / f"store-{segments}"
        make(folder, segments)
        rows += [measure(folder, segments, asked) for asked in ASKED]
        print(*rows[-len(ASKED) :], sep="\n")
        shutil.rmtree(folder)
    versions = {"hdf5": h5py.version.hdf5_version}
    path = Path(__file__).parent / "results" / "store.json"
    record.write(path, rows, tokens=TOKENS, dim=DIM, stored=DOCUMENTS, repeats=REPEATS, **versions)


if __name__ == "__main__":
    main()
