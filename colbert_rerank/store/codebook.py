"""What a residual codec learns of vectors, and the file that keeps it.

As colbert-ai trains it (colbert/indexing/collection_indexer.py): k-means, then buckets of the differences from the
nearest centroids, the same for all dimensions. There the buckets have equal counts; here they leave the least error.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt

from colbert_rerank.errors import StoreCorruptError, UsageError
from colbert_rerank.store import columns as hdf5
from colbert_rerank.store import layout
from colbert_rerank.store.codecs import Codebook, Codec, Matrix, Residual, nearest_centroids, plain
from colbert_rerank.store.columns import Array
from colbert_rerank.store.manifest import CodebookEntry
from colbert_rerank.store.segment import mapped, seal
from colbert_rerank.types import RESIDUALS

COLUMNS = {layout.CENTROIDS: "<f4", layout.CUTOFFS: "<f4", layout.WEIGHTS: "<f4", layout.UNIT_LENGTH: "|u1"}

_log = logging.getLogger(__name__)

MOST = 1 << 16  # centroids: their numbers have two bytes
SAMPLE = 64  # vectors a centroid
ITERATIONS = 4
QUANTIZER_ITERATIONS = 50
SEED = 20261126
QUANTIZED = 1 << 15  # vectors whose differences the buckets are made for
FEW = 10_000  # vectors
LENGTH_TOLERANCE = 1e-2  # of vectors of length 1, in half precision


def train(name: str, sample: Matrix, rows: int, option: str = "codec") -> Codebook:
    """The codebook of the residual codec ``name``, of a ``sample`` [n, dim] of a store's ``rows`` vectors.

    ``option`` is what the commands choose it by.

    Raises UsageError without faiss.
    """
    try:
        import faiss
    except ImportError:
        raise UsageError(
            f"the codec {name} learns centroids with faiss, which is not installed: pip install 'colbert-rerank[faiss]'"
        ) from None
    if not len(sample):
        raise UsageError(f"the codec {name} learns of vectors, and there are none yet")
    if len(sample) < FEW:
        _log.warning(
            "the codebook of %s is learnt of %s vectors only, and stays as it is: what comes later may be coded badly. "
            "Where much is to come, leave out --%s, and learn it of everything at the end: `store compact --%s %s`",
            name,
            f"{len(sample):,}",
            option,
            option,
            name,
        )
    count = max(1, min(centroid_count(rows), len(sample) // 4))
    _log.info("learning the codebook of %s: %s centroids of %s vectors", name, f"{count:,}", f"{len(sample):,}")
    means = faiss.Kmeans(
        sample.shape[1], count, niter=ITERATIONS, seed=SEED, min_points_per_centroid=1, max_points_per_centroid=SAMPLE
    )
    means.train(np.ascontiguousarray(sample, dtype=np.float32))
    centroids = np.ascontiguousarray(means.centroids, dtype=np.float32)
    few = sample[:: -(-len(sample) // QUANTIZED)]
    differences = (few - centroids[nearest_centroids(few, centroids)]).ravel()
    cutoffs, weights = _quantizer(differences, 1 << RESIDUALS[name])
    lengths = np.linalg.norm(sample, axis=1)
    return Codebook(centroids, cutoffs, weights, bool(np.abs(lengths - 1).max() < LENGTH_TOLERANCE))


def _quantizer(numbers: npt.NDArray[np.float32], buckets: int) -> tuple[Matrix, Matrix]:
    """Cutoffs and weights that leave the least squared error: Lloyd, IEEE Trans. Inf. Theory 28 (1982), method I.

    Each weight is the mean of its bucket, each cutoff the middle between two weights.
    """
    ordered = np.sort(numbers).astype(np.float64)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    bounds: npt.NDArray[np.int64] = (
        np.arange(buckets + 1) * ordered.size // buckets
    )  # at first, buckets of equal counts
    weights = np.zeros(buckets)
    for _ in range(QUANTIZER_ITERATIONS):
        counts = np.diff(bounds)
        np.divide(np.diff(sums[bounds]), counts, out=weights, where=counts > 0)
        cutoffs = (weights[1:] + weights[:-1]) / 2
        bounds = np.concatenate([[0], np.searchsorted(ordered, cutoffs), [ordered.size]])
    return cutoffs.astype(np.float32), weights.astype(np.float32)


def centroid_count(rows: int) -> int:
    """Of a store of so many vectors: the power of two below 16 sqrt(rows), as colbert-ai has it."""
    return min(MOST, 1 << int(np.log2(16 * np.sqrt(rows))))


def sample_size(rows: int) -> int:
    """How many of ``rows`` vectors to learn of."""
    return min(rows, SAMPLE * centroid_count(rows))


def write(folder: Path, file: str, name: str, book: Codebook) -> CodebookEntry:
    """Seal a codebook file. Raises StoreWriteError."""
    path = folder / layout.SEGMENTS / file
    small: dict[str, Array] = {
        layout.CENTROIDS: book.centroids,
        layout.CUTOFFS: book.cutoffs,
        layout.WEIGHTS: book.weights,
        layout.UNIT_LENGTH: np.array([book.unit_length], dtype=np.uint8),
    }
    placed = seal(path, small)
    return CodebookEntry(name, file, path.stat().st_size, placed.columns)


def read(folder: Path, entry: CodebookEntry, dim: int) -> Residual:
    """Raises StoreCorruptError."""
    path = folder / layout.SEGMENTS / entry.file
    found = hdf5.read(path, mapped(path, entry.bytes), COLUMNS, entry.columns)
    buckets = 1 << RESIDUALS[entry.codec]
    centroids: npt.NDArray[np.float32] = found[layout.CENTROIDS]
    sound = centroids.ndim == 2 and centroids.shape[1] == dim and 0 < len(centroids) <= MOST
    sound = sound and found[layout.CUTOFFS].shape == (buckets - 1,) and found[layout.WEIGHTS].shape == (buckets,)
    if not sound or found[layout.UNIT_LENGTH].shape != (1,):
        raise StoreCorruptError(f"{path}: not a codebook of {entry.codec} of {dim} dimensions. {layout.RESTORE}")
    # copies: they are small, and read at every score
    centroids, cutoffs, weights = (found[name].copy() for name in (layout.CENTROIDS, layout.CUTOFFS, layout.WEIGHTS))
    return Residual(entry.codec, Codebook(centroids, cutoffs, weights, bool(found[layout.UNIT_LENGTH][0])))


def blank(name: str, dim: int) -> Residual:
    """The residual codec ``name`` before it has learnt anything, for no rows."""
    buckets = 1 << RESIDUALS[name]
    zeros = (np.zeros(shape, np.float32) for shape in ((1, dim), buckets - 1, buckets))
    centroids, cutoffs, weights = zeros
    return Residual(name, Codebook(centroids, cutoffs, weights, False))


def codec_of(folder: Path, name: str, dim: int, entries: tuple[CodebookEntry, ...]) -> Codec | None:
    """The codec ``name`` of a store; ``None`` where it has yet to learn its codebook. Raises StoreCorruptError."""
    if name not in RESIDUALS:
        return plain(name, dim)
    return next((read(folder, entry, dim) for entry in entries if entry.codec == name), None)
