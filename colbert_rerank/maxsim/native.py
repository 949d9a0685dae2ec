"""MaxSim on a CPU by the compiled kernel (native/maxsim.c), straight from the rows as a store has mapped them.

Where it was not built, `packed` does the same with torch.
"""

from __future__ import annotations

import ctypes
import os
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from colbert_rerank.native import address, library
from colbert_rerank.store.codecs import SIGNS, Binary, Codec, Floats, Int8, Residual, byte_table
from colbert_rerank.store.rows import RowRanges, check_within

WORTH_A_THREAD = 8_000_000  # products of two numbers: a tenth of a millisecond or two

_PROCESS = os.getpid()  # after a fork OpenMP would wait for ever for the threads that it had before

_FLOAT32, _FLOAT16, _INT8, _CODES = range(4)


class _Work(ctypes.Structure):
    """As in maxsim.c."""

    _fields_ = (
        ("dim", ctypes.c_int64),
        ("tokens", ctypes.c_int64),
        ("query", ctypes.c_void_p),
        ("kind", ctypes.c_int32),
        ("squared", ctypes.c_int32),
        ("mean", ctypes.c_int32),
        ("plain", ctypes.c_int32),
        ("rows", ctypes.c_void_p),
        ("row_bytes", ctypes.c_int64),
        ("weights", ctypes.c_void_p),
        ("bits", ctypes.c_int32),
        ("unit_length", ctypes.c_int32),
        ("centroids", ctypes.c_void_p),
        ("centroid_count", ctypes.c_int64),
        ("documents", ctypes.c_int64),
        ("starts", ctypes.c_void_p),
        ("counts", ctypes.c_void_p),
        ("scores", ctypes.c_void_p),
    )


def scores(
    query: npt.NDArray[np.float32],
    docs: RowRanges,
    similarity: str = "dot",
    aggregation: str = "sum",
    *,
    isa: str | None = None,
    plain: bool = False,
    threads: int | None = None,
) -> npt.NDArray[np.float64]:
    """Scores [n] of one query [Lq, d] with the documents found; NaN where a row, or the query, is not finite.

    A document's score does not depend, to the bit, on the others, on their order, or on ``threads``; it does on
    ``isa``, by default the best that this machine has (`isas`), and on ``plain``, for comparison: with AVX-512 rows
    that cannot be a token's best are told from the others first, and left out, unless it is set.

    Raises ValueError for ranges beyond the rows and an ``isa`` that is not here, and RuntimeError where the kernel is
    not there.
    """
    native = library()
    if native is None:
        raise RuntimeError("the kernel was not built: isas() is empty")
    if isa is not None and isa not in isas():
        raise ValueError(f"isa {isa!r}: this machine has {', '.join(isas())}")
    Q = np.ascontiguousarray(query, dtype=np.float32)
    coded = _coded(docs.codec)
    starts, counts = (np.ascontiguousarray(numbers, dtype=np.int64) for numbers in (docs.starts, docs.counts))
    check_within(starts, counts, len(docs.values))
    found = np.empty(starts.size)
    work = _Work(
        dim=Q.shape[1],
        tokens=Q.shape[0],
        query=address(Q),
        kind=coded.kind,
        squared=similarity == "l2",
        mean=aggregation == "mean",
        plain=plain,
        rows=address(docs.values),
        row_bytes=docs.values.itemsize * docs.values.shape[1],  # of one row NumPy gives any stride
        weights=address(coded.weights),
        bits=coded.bits,
        unit_length=coded.unit_length,
        centroids=address(coded.centroids),
        centroid_count=0 if coded.centroids is None else len(coded.centroids),
        documents=starts.size,
        starts=address(starts),
        counts=address(counts),
        scores=address(found),
    )
    wanted = 1 + int(counts.sum()) * Q.size // WORTH_A_THREAD
    name, at_once = (isa or isas()[0]).encode(), threads or min(_threads(), wanted)
    if native.maxsim_scores(ctypes.byref(work), name, at_once, _openmp() if os.getpid() == _PROCESS else None):
        raise MemoryError("no memory for a few rows of vectors")
    return found


def isas() -> tuple[str, ...]:
    """The instruction sets that the kernel can use on this machine, best first; none where it was not built."""
    native = library()
    return tuple(native.maxsim_isas().decode().split()) if native else ()


class _Coded(NamedTuple):
    """How the kernel reads rows."""

    kind: int
    weights: npt.NDArray[np.float32] | None = None
    bits: int = 8
    unit_length: bool = False
    centroids: npt.NDArray[np.float32] | None = None


def _coded(codec: Codec) -> _Coded:
    if isinstance(codec, Floats):
        return _Coded(_FLOAT16 if codec.name == "float16" else _FLOAT32)
    if isinstance(codec, Int8):
        return _Coded(_INT8)
    if isinstance(codec, Binary):
        return _Coded(_CODES, byte_table(1, SIGNS), 1)
    if isinstance(codec, Residual):
        book = codec.book
        return _Coded(_CODES, byte_table(codec.bits, book.weights), codec.bits, book.unit_length, book.centroids)
    raise TypeError(f"the kernel does not know the codec {codec.name!r}")


def _threads() -> int:
    """As many as torch uses, for whom OMP_NUM_THREADS and the cores that this process may use count."""
    import torch

    return torch.get_num_threads()


@lru_cache(maxsize=1)
def _openmp() -> int | None:
    """The address of `GOMP_parallel` in the OpenMP library that torch is linked with; ``None`` where it is with none.

    Its threads have just encoded the query, and are awake: they wait for more, and threads of our own would wait for
    the cores that they do that on.
    """
    import torch

    try:
        linked = ctypes.CDLL(str(Path(torch.__file__).with_name("lib") / "libtorch_cpu.so"))
        return ctypes.cast(linked.GOMP_parallel, ctypes.c_void_p).value
    except (OSError, AttributeError):
        return None
