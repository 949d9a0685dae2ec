"""Centroid interaction: documents scored by the centroids nearest to their tokens, instead of by their vectors.

What PLAID (Santhanam et al., CIKM 2022, section 3.3) prunes candidates by. A document's token is two bytes, and all
that is multiplied is the query with the centroids, once; so all documents are looked at, and none has to be chosen
first.
"""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from colbert_rerank.native import address, library
from colbert_rerank.store.codecs import Matrix

TOKENS = 32  # as in native/interaction.c
STEPS = 255
WORTH_A_THREAD = 4 << 20  # tokens of documents: some milliseconds

Numbers = npt.NDArray[np.int64]


class Table(NamedTuple):
    """What each centroid is worth to each token of a query: ``least`` + ``step`` times a byte of ``values`` [K, 32 n].

    The query is filled up with tokens to which all are worth nothing. ``least`` is of all tokens together.
    """

    values: npt.NDArray[np.uint8]
    least: float
    step: float

    @staticmethod
    def of(query: Matrix, centroids: Matrix, similarity: str = "dot") -> Table:
        """Of a query [Lq, d] and centroids [K, d]; in the same steps for all tokens, each from its own least on.

        Of the similarity "l2", minus the squared distance is taken, as in MaxSim.
        """
        worth = (centroids @ query.T).astype(np.float32)
        if similarity == "l2":
            worth = 2 * worth - np.square(centroids).sum(axis=1)[:, None] - np.square(query).sum(axis=1)
        least = worth.min(axis=0)
        step = float((worth - least).max()) / STEPS or 1.0
        values = np.zeros((len(centroids), -(-len(query) // TOKENS) * TOKENS), dtype=np.uint8)
        values[:, : len(query)] = np.rint((worth - least) / step)
        return Table(values, float(least.sum()), step)


class _Scan(ctypes.Structure):
    """As in interaction.c."""

    _fields_ = (
        ("tokens", ctypes.c_int64),
        ("table", ctypes.c_void_p),
        ("codes", ctypes.c_void_p),
        ("documents", ctypes.c_int64),
        ("starts", ctypes.c_void_p),
        ("counts", ctypes.c_void_p),
        ("scores", ctypes.c_void_p),
    )


def sums(
    table: Table, codes: npt.NDArray[np.uint16], starts: Numbers, counts: Numbers, *, threads: int = 1
) -> npt.NDArray[np.int32]:
    """Sums [n] of the greatest bytes that the table has for the tokens of each document, by the compiled library.

    A document is ``counts`` of ``codes`` from ``starts`` on; the caller sees to it that they are there, and that all
    codes are centroids of the table. Without the library `reference` does the same.
    """
    native = library()
    if native is None:
        return reference(table, codes, starts, counts)
    found = np.empty(starts.size, dtype=np.int32)
    parts = max(1, min(threads, int(counts.sum()) // WORTH_A_THREAD))
    bounds = np.linspace(0, starts.size, parts + 1).astype(np.int64).tolist()

    def scan(first: int, last: int) -> None:
        one = _Scan(
            tokens=table.values.shape[1],
            table=address(table.values),
            codes=address(codes),
            documents=last - first,
            starts=address(starts[first:last]),
            counts=address(counts[first:last]),
            scores=address(found[first:last]),
        )
        native.interaction_scores(ctypes.byref(one), 0)

    if parts == 1:
        scan(0, starts.size)
    else:
        with ThreadPoolExecutor(parts) as pool:
            list(pool.map(scan, bounds[:-1], bounds[1:]))
    return found


def reference(table: Table, codes: npt.NDArray[np.uint16], starts: Numbers, counts: Numbers) -> npt.NDArray[np.int32]:
    """`sums`, one document after the other."""
    found = np.zeros(starts.size, dtype=np.int32)
    for i, (start, count) in enumerate(zip(starts.tolist(), counts.tolist(), strict=True)):
        if count:
            found[i] = table.values[codes[start : start + count]].max(axis=0).sum(dtype=np.int32)
    return found
