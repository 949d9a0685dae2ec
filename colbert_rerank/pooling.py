"""Token pooling: fewer vectors a document, each the mean of vectors that are alike.

Clavié, Chaffin & Adams, "Reducing the Footprint of Multi-Vector Retrieval with Minimal Performance Impact via Token
Pooling" (2024), with hierarchical clustering, as colbert-ai, PyLate and sentence-transformers have it: Ward's method
over the rows of the matrix of cosine distances, cut into one cluster for ``factor`` vectors. As in the last two, the
first vector, [CLS], is left alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from colbert_rerank.errors import UsageError

PROTECTED = 1  # vectors


def check_pooling() -> None:
    """Raises UsageError without SciPy."""
    try:
        import scipy.cluster.hierarchy  # noqa: F401
    except ImportError:
        raise UsageError(
            "token pooling clusters with SciPy, which is not installed: pip install 'colbert-rerank[pooling]'"
        ) from None


def pooled(vectors: npt.NDArray[Any], factor: int) -> npt.NDArray[np.float32]:
    """The vectors [T, d] of one document, of which about T / ``factor`` are left, in float32."""
    from scipy.cluster.hierarchy import fcluster, linkage

    rest = vectors[PROTECTED:].astype(np.float32)
    clusters = max(1, len(rest) // factor)
    if len(rest) <= clusters or not np.isfinite(rest).all():  # which is told of where they are stored
        return vectors.astype(np.float32)
    labels = fcluster(linkage(1 - rest @ rest.T, "ward"), t=clusters, criterion="maxclust")
    means = [rest[labels == label].mean(axis=0) for label in np.unique(labels)]
    return np.concatenate([vectors[:PROTECTED].astype(np.float32), means])
