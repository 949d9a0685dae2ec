"""Inverted lists in a file: of each list the codes, then the rows that they are of; behind all lists, their sizes.

FAISS maps what lies so. What it merges on disk itself it keeps in two files, of which one has the other's name in it,
and speaks of on stdout.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from colbert_rerank.retrieval.documents import Numbers
from colbert_rerank.retrieval.faiss_library import library

Bytes = npt.NDArray[np.uint8]

_ROW = np.dtype("<i8")
_SIZE = np.dtype("<i8")


class InvertedLists:
    """``sizes`` [lists], and as ``data`` what a file of them holds, without the sizes; a code has ``width`` bytes."""

    def __init__(self, data: Bytes, sizes: Numbers, width: int) -> None:
        self.data = data
        self.sizes = sizes
        self.width = width
        self.ends: Numbers = np.cumsum(sizes) * (width + _ROW.itemsize)
        self.starts: Numbers = self.ends - sizes * (width + _ROW.itemsize)

    @staticmethod
    def of(codes: Bytes, numbers: Numbers, first: int, lists: int) -> InvertedLists:
        """Of rows from ``first`` on, their ``codes`` [n, width] and the ``numbers`` [n] of the lists they belong to."""
        rows, width = codes.shape
        order = np.argsort(numbers, kind="stable")
        sizes = np.bincount(numbers, minlength=lists).astype(np.int64)
        found = InvertedLists(np.empty(rows * (width + _ROW.itemsize), np.uint8), sizes, width)
        rank = np.arange(rows) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        at = np.repeat(found.starts, sizes) + rank * width
        found.data[at[:, None] + np.arange(width)] = codes[order]
        at = np.repeat(found.starts + sizes * width, sizes) + rank * _ROW.itemsize
        found.data[at[:, None] + np.arange(_ROW.itemsize)] = (order + first).astype(_ROW).view(np.uint8).reshape(-1, 8)
        return found

    @staticmethod
    def read(path: Path, lists: int, width: int) -> InvertedLists:
        """Those that `write` wrote, mapped."""
        data = np.memmap(path, np.uint8, "r")
        behind = data.size - lists * _SIZE.itemsize
        return InvertedLists(data[:behind], data[behind:].view(_SIZE).astype(np.int64), width)

    def codes(self, number: int) -> Bytes:
        return self.data[self.starts[number] : self.ends[number] - self.sizes[number] * _ROW.itemsize]

    def rows(self, number: int) -> Bytes:
        return self.data[self.ends[number] - self.sizes[number] * _ROW.itemsize : self.ends[number]]


def write(path: Path, parts: Sequence[InvertedLists]) -> None:
    """Write the lists of all ``parts`` as one, and need no memory for them."""
    with path.open("wb") as file:
        for number in range(len(parts[0].sizes)):
            for part in parts:
                file.write(part.codes(number).tobytes())
            for part in parts:
                file.write(part.rows(number).tobytes())
        file.write(np.sum([part.sizes for part in parts], axis=0).astype(_SIZE).tobytes())


def attach(index: Any, path: Path) -> None:
    """Give the lists of a file, mapped, to a trained IVF index of FAISS, to which nothing can be added then."""
    faiss = library()
    found = InvertedLists.read(path, index.nlist, index.code_size)
    lists = faiss.OnDiskInvertedLists(index.nlist, index.code_size, str(path))
    lists.read_only = True
    lists.prefetch_nthread = 0  # threads that it would wait for at the next search, in a child that was forked as well
    sizes = found.sizes.astype(np.uint64)  # which is to be there until the call is over
    lists.set_all_lists_sizes(faiss.swig_ptr(sizes))
    lists.totsize = path.stat().st_size
    lists.do_mmap()
    index.ntotal = int(found.sizes.sum())
    index.replace_invlists(lists, True)
    lists.this.disown()
