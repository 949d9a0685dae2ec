"""What is measured, and where its rows come from.

Documents are random unit vectors, in stores at least ten times as large as the last cache. Every repetition draws
others, and all that is compared takes its turn in each repetition. Encoding is timed only where a row names it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from colbert_rerank.bench import cross_encoder, gpu, rows, server
from colbert_rerank.bench.documents import DIM, QUERY_TOKENS, TOKENS, Documents, ids_of, passage_lengths
from colbert_rerank.bench.peers import started
from colbert_rerank.bench.rows import Progress, Row
from colbert_rerank.bench.turns import Work, in_turns, wall_ms
from colbert_rerank.errors import UsageError
from colbert_rerank.machine import environment
from colbert_rerank.maxsim import in_place, native, scores_of

if TYPE_CHECKING:
    from opensearchpy import OpenSearch

    from colbert_rerank.encoder import Encoder

CACHES = 10  # times the last cache
CPU_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def measure(
    *,
    k: int = 1000,
    repeats: int = 30,
    peers: Mapping[str, str],
    client: OpenSearch | None = None,
    encoder: Encoder | None = None,
    with_cross_encoder: bool = False,
    work: Path | None = None,
    progress: Progress = lambda stage: None,
) -> dict[str, Any]:
    """Measure and return what `colbert-rerank bench --json` writes: machine, versions, and the rows of the table.

    ``k`` candidates a query, where a row does not name their number; ``peers`` names the Python that has each library.
    ``client`` is of an OpenSearch that may be filled for a while, ``encoder`` what re-ranks its candidates;
    ``with_cross_encoder`` takes minutes. ``work`` is a folder for 40 times the last cache, by default a temporary
    one. What does not run is named in its rows as missing. Raises UsageError and OpenSearchError.
    """
    import torch

    if k < 1 or repeats < 1:
        raise UsageError("k and repeats: expected 1 or more")
    if client is not None:
        server.check_free(client)
    shape = {"k": k, "threads": torch.get_num_threads(), "repeats": repeats}
    versions: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="colbert-rerank-bench-", dir=work) as made:
        folder = Path(made)
        least = max(2 * k, *(2 * depth for depth in server.DEPTHS.values()))
        counts = [max(least, CACHES * last_cache() // (TOKENS * row)) for row in (DIM + 4, 4 * DIM)]
        found = _passages(counts[1], peers, folder, versions, shape, progress)
        size = TOKENS * (counts[0] * (2 * DIM + DIM + 4) + counts[1] * 4 * DIM)
        progress(f"making stores, {size / 1e9:.1f} GB of them")
        # int8 and float32: each as large as it has to be
        documents = Documents(folder, [TOKENS] * counts[0], counts[1])
        found += _scoring(documents, rows.SCORING, peers, versions, shape, progress)
        found += server.measure(client, documents, encoder, folder, versions, shape, progress)
        found += cross_encoder.measure(documents, with_cross_encoder, shape, progress)
        found += gpu.measure(documents, folder, peers, versions, with_cross_encoder, shape, progress)
    known = environment()
    known["versions"] |= versions
    sizes = {
        "last_cache_bytes": last_cache(),
        "documents": documents.count,
        "tokens": TOKENS,
        "dim": DIM,
        "query_tokens": QUERY_TOKENS,
        "k": k,
    }
    path = {"scoring": native.isas()[0] if in_place("cpu") else "torch"}
    return {**known, **sizes, **path, "rows": found}


def last_cache() -> int:
    """Bytes of the last cache that a core has, as Linux says it in KiB; elsewhere, of a large one."""
    sizes = [path.read_text(encoding="ascii").strip() for path in CPU_CACHES.glob("index*/size")]
    return max((int(size[:-1]) * 1024 for size in sizes if size.endswith("K")), default=32 << 20)


def _passages(
    count: int,
    peers: Mapping[str, str],
    folder: Path,
    versions: dict[str, str],
    shape: dict[str, int],
    progress: Progress,
) -> list[dict[str, Any]]:
    """With documents as long as passages are, ``count`` of them as float32 and twice as many as float16."""
    count += count // 20  # to cut off the longest makes them shorter
    lengths = passage_lengths(2 * count)
    progress("making a store of passages")
    with tempfile.TemporaryDirectory(dir=folder) as made:  # gone before the larger ones need its memory
        documents = Documents(Path(made), lengths, count, ["float16"])
        found = _scoring(documents, rows.PASSAGES, peers, versions, shape, progress)
    return [row | {"mean_passage_tokens": sum(lengths) / len(lengths)} for row in found]


def _scoring(
    documents: Documents,
    listed: Sequence[Row],
    peers: Mapping[str, str],
    versions: dict[str, str],
    shape: dict[str, int],
    progress: Progress,
) -> list[dict[str, Any]]:
    wanted = {row.peer: None for row in listed if row.peer in rows.LABELS}
    sides = [side for row in listed for side in (row.ours, row.peer)]
    with ExitStack() as opened:
        progress(f"starting {', '.join(wanted)}")
        theirs, missing = started(
            opened,
            wanted,
            peers,
            documents.file,
            shape["threads"],
            lambda numbers: documents.score("float16", ids_of(numbers)),
            versions,
        )
        progress("measuring")
        ours = {name: work for name, work in _ours(documents).items() if name in sides}
        times = in_turns(ours | theirs, shape["k"], shape["repeats"])
    return [_row(row, times, missing, shape) for row in listed]


def _ours(documents: Documents) -> dict[str, Work]:
    def score_alone(numbers: list[int]) -> float:
        docs = documents.read("float16", ids_of(numbers))
        return wall_ms(lambda: scores_of(documents.query, docs, "cpu", "dot", "sum"))

    def copy(numbers: list[int]) -> float:
        values = documents.stores["float16"].plane()[0].values
        rows = len(numbers) * TOKENS
        source = values[numbers[0] * TOKENS % (len(values) - rows) :][:rows]  # anywhere, so that no cache has it
        return wall_ms(source.copy)

    def from_ids(codec: str) -> Callable[[list[int]], float]:
        def timed(numbers: list[int]) -> float:
            ids = ids_of(numbers)  # as a first stage gives them
            return wall_ms(lambda: documents.score(codec, ids))

        return timed

    timed = {
        "float16": from_ids("float16"),
        "int8": from_ids("int8"),
        "float16, score alone": score_alone,
        "one copy of the bytes": copy,
    }
    return {name: Work(documents.count, work) for name, work in timed.items()}


def _row(
    row: Row, times: Mapping[str, list[float]], missing: Mapping[str, str], shape: dict[str, int]
) -> dict[str, Any]:
    if row.peer not in times:
        return rows.missing(row, missing[row.peer])
    return rows.measured(row, times[row.ours], times[row.peer], **shape)
