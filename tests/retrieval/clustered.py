"""Documents whose vectors lie in clusters, as those of a checkpoint do, and queries for them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tests.store.stores import Doc

DIM = 16


def clustered(ids: range, seed: int, *, rows: int = 9) -> dict[str, Doc]:
    """Documents of 0 to ``rows`` unit vectors around twenty of them, which are always the same."""
    around = np.random.default_rng(5).standard_normal((20, DIM))
    random = np.random.default_rng(seed)
    docs = {}
    for i in ids:
        vectors = around[random.integers(0, 20, i % (rows + 1))] + 0.3 * random.standard_normal((i % (rows + 1), DIM))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-9
        docs[f"d{i}"] = Doc(vectors.astype("float16"), random.bytes(16))
    return docs


def query(seed: int = 0, tokens: int = 5) -> npt.NDArray[np.float32]:
    found: npt.NDArray[np.float32] = np.random.default_rng(seed).standard_normal((tokens, DIM)).astype(np.float32)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found
