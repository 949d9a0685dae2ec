"""Documents' rows as a device scores them: where they are mapped, where they stay in its memory, or brought there."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from colbert_rerank.errors import UsageError
from colbert_rerank.hot_rows import HotRows
from colbert_rerank.maxsim import in_place
from colbert_rerank.store import Gathered, RowRanges, Store
from colbert_rerank.store.ids import ranges
from colbert_rerank.store.plane import Plane, take_rows
from colbert_rerank.store.rows import DeviceRanges, DocumentRows

if TYPE_CHECKING:
    import torch

_PIECE = 64 << 20  # bytes that are copied at once
_MUCH = 4 << 20  # bytes, from which on a query's rows are gathered in threads
_EXPECTED = 16  # queries ahead of which rows are read


class Rows(Protocol):
    """A store's rows, by document id."""

    def expect(self, doc_ids: Sequence[str], *, sketches: bool = False) -> None:
        """These will be read next: begin with it, where that takes time and can be done aside."""
        ...

    def read(self, doc_ids: Sequence[str], *, sketches: bool = False) -> DocumentRows:
        """Their rows, as `maxsim.scores_of` takes them. Raises StoreCorruptError."""
        ...

    def hot(self) -> tuple[int, int]:
        """Of how many documents the rows were in the GPU's memory already, and how many were read."""
        ...


class Mapped:
    """Rows of a store's map; gathered, where the device cannot score them in place."""

    def __init__(self, store: Store, device: str) -> None:
        self._store = store
        self._device = device

    def expect(self, doc_ids: Sequence[str], *, sketches: bool = False) -> None:
        pass

    def read(self, doc_ids: Sequence[str], *, sketches: bool = False) -> Gathered | RowRanges:
        read = self._store.ranges if in_place(self._device) else self._store.gather
        return read(doc_ids, sketches=sketches)

    def hot(self) -> tuple[int, int]:
        return 0, 0


class InMemory(NamedTuple):
    """All rows [R, width] of a plane, copied to the memory of a device, where segment i begins at ``bases[i]``."""

    rows: torch.Tensor
    bases: npt.NDArray[np.int64]

    @staticmethod
    def of(plane: Plane, device: str, *, locked: bool = False) -> InMemory:
        """Verified, and copied piece by piece. Raises StoreCorruptError."""
        import torch

        values = plane.values
        ends = np.cumsum(plane.row_counts)
        dtype = torch.from_numpy(np.empty(0, values.dtype)).dtype
        rows = torch.empty((int(ends[-1]) if ends.size else 0, values.shape[1]), dtype=dtype, device=device)
        if locked and rows.nbytes:
            _lock(rows)
        start = 0
        for piece in plane.pieces(max(1, _PIECE // values.strides[0])):
            rows[start : start + len(piece)].copy_(torch.from_numpy(piece.copy()))
            start += len(piece)
        return InMemory(rows, ends - plane.row_counts)

    @property
    def values(self) -> npt.NDArray[np.generic]:
        """As a `Plane` has them, of rows in the host's memory."""
        found: npt.NDArray[np.generic] = self.rows.numpy()
        return found

    def locate(
        self, segments: npt.NDArray[np.int64], starts: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """Where these spans begin."""
        found: npt.NDArray[np.int64] = self.bases[segments] + starts
        return found


class DeviceRows:
    """Rows that all stay in a device's memory, ``planes`` of vectors and, if there are some, of sketches."""

    def __init__(self, store: Store, planes: Sequence[InMemory]) -> None:
        self._store = store
        self._planes = planes

    def expect(self, doc_ids: Sequence[str], *, sketches: bool = False) -> None:
        pass

    def read(self, doc_ids: Sequence[str], *, sketches: bool = False) -> DeviceRanges:
        _, codec = self._store.plane(sketches=sketches)
        plane, (found, segments, starts, counts) = self._planes[sketches], self._store.spans(doc_ids)
        return DeviceRanges(found, plane.rows, plane.locate(segments, starts, counts), counts, codec)

    def hot(self) -> tuple[int, int]:
        return 0, 0


class Streamed:
    """Rows that are brought to a GPU as they are needed, but for the ``hot`` ones that are there.

    They are gathered into page-locked memory by one thread after another, and copied on a stream of their own, so that
    it goes on while a query is encoded. The page-locked memory is torch's: a buffer that was let go is taken again once
    its copy has ended.
    """

    def __init__(self, store: Store, device: str, planes: Sequence[Plane | InMemory], hot: Sequence[HotRows]) -> None:
        import torch

        self._store = store
        self._device = torch.device(device)
        self._planes = planes
        # of each segment, counted over all of them
        self._first_rows = [np.cumsum(plane.row_counts) - plane.row_counts for plane in planes_of(store)]
        self._hot = hot
        self._hits = self._read = 0
        self._cuda = self._device.type == "cuda"
        self._stream = torch.cuda.Stream(self._device) if self._cuda else None  # type: ignore[no-untyped-call]
        if self._stream is not None:  # what was made so far, such as the cache, was made on this one
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="rows")
        self._lock = threading.Lock()
        self._expected: OrderedDict[tuple[bool, tuple[str, ...]], Future[DeviceRanges]] = OrderedDict()

    def expect(self, doc_ids: Sequence[str], *, sketches: bool = False) -> None:
        begun = self._reader.submit(self._bring, doc_ids, sketches)
        with self._lock:
            self._expected[sketches, tuple(doc_ids)] = begun
            while len(self._expected) > _EXPECTED:
                self._expected.popitem(last=False)

    def read(self, doc_ids: Sequence[str], *, sketches: bool = False) -> DeviceRanges:
        with self._lock:
            begun = self._expected.pop((sketches, tuple(doc_ids)), None)
        # the caches are the one thread's; who scores waits for the copy, in a thread and stream of its own
        return (begun or self._reader.submit(self._bring, doc_ids, sketches)).result()

    def hot(self) -> tuple[int, int]:
        return self._hits, self._read

    def _bring(self, doc_ids: Sequence[str], sketches: bool) -> DeviceRanges:
        import torch

        plane, codec = self._store.plane(sketches=sketches)
        source, hot = self._planes[sketches], self._hot[sketches]
        found, segments, starts, counts = self._store.spans(doc_ids)
        # a document is known by its first row; where there is none, nothing is looked for
        keys = self._first_rows[sketches][segments] + starts
        lengths = counts.tolist()
        with torch.cuda.stream(self._stream):
            values = torch.empty(
                (int(counts.sum()), plane.values.shape[1]),
                dtype=torch.from_numpy(np.empty(0, plane.values.dtype)).dtype,
                device=self._device,
            )
            hits = hot.use(keys.tolist(), lengths, values)
            cold = ~hits & (counts > 0)
            rows = ranges(source.locate(segments[cold], starts[cold], counts[cold]), counts[cold])
            host = torch.empty((rows.size, values.shape[1]), dtype=values.dtype, pin_memory=self._cuda)
            take_rows(source.values, rows, host.numpy(), _MUCH)
            brought = host.to(self._device, non_blocking=True)
            values[torch.from_numpy(np.flatnonzero(np.repeat(cold, counts))).to(self._device)] = brought
            hot.keep(keys[cold].tolist(), counts[cold].tolist(), brought)
            copied = self._stream.record_event() if self._stream is not None else None
        self._hits += int(hits.sum())
        self._read += hits.size
        offsets = np.cumsum([0, *lengths])
        return DeviceRanges(found, values, offsets[:-1], counts, codec, copied)


def planes_of(store: Store) -> list[Plane]:
    """Of vectors and, if there are some, of sketches."""
    return [store.plane(sketches=sketches)[0] for sketches in (False, True) if not sketches or store.sketch_codec]


def _lock(rows: torch.Tensor) -> None:
    """Page-lock the memory of ``rows`` for as long as it lives; torch's own would be rounded up to a power of two."""
    import torch

    runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    if error := int(runtime.cudaHostRegister(rows.data_ptr(), rows.nbytes, 0)):
        raise UsageError(
            f"resident pinned: {rows.nbytes:,} bytes cannot be page-locked (CUDA error {error}); choose mmap"
        )
    weakref.finalize(rows, runtime.cudaHostUnregister, rows.data_ptr())
