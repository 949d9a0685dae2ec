"""Documents' rows: where they lie in a store, or copied out of it."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from colbert_rerank.store.codecs import Codec, decode
from colbert_rerank.store.columns import Array
from colbert_rerank.store.ids import ranges as spans

if TYPE_CHECKING:
    import torch


def check_within(starts: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], rows: int) -> None:
    """Raises ValueError for documents beyond the first or the last of so many rows."""
    if starts.size and (min(starts.min(), counts.min()) < 0 or (counts > rows - starts).any()):
        raise ValueError("documents must lie within the rows")


class RowRanges(NamedTuple):
    """Where the token vectors of the documents that were found lie among many more, as ``codec`` has coded them.

    ``found`` [n] over the ids asked for; of those found, in the order asked for, number i has ``counts[i]`` rows of
    ``values`` [.., width], from ``starts[i]`` on.
    """

    found: npt.NDArray[np.bool_]
    values: Array
    starts: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    codec: Codec


class DeviceRanges(NamedTuple):
    """As `RowRanges`, among rows that lie in the memory of a GPU, or will once ``copied`` has happened there."""

    found: npt.NDArray[np.bool_]
    values: torch.Tensor
    starts: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    codec: Codec
    copied: torch.cuda.Event | None = None

    def wait(self) -> None:
        """Let what the current stream does next come after the copy."""
        if self.copied is not None:
            import torch

            stream = torch.cuda.current_stream(self.values.device)
            stream.wait_event(self.copied)
            self.values.record_stream(stream)

    def packed(self) -> tuple[torch.Tensor, npt.NDArray[np.int64]]:
        """The documents' rows one after the other, copied on the GPU, and offsets [number found + 1]."""
        import torch

        rows = torch.from_numpy(spans(self.starts, self.counts)).to(self.values.device)
        return self.values[rows], np.concatenate([[0], np.cumsum(self.counts)])


class Gathered(NamedTuple):
    """Token vectors of the documents that were found, packed in the order asked for, as ``codec`` has coded them.

    ``found`` [n] over the ids asked for; ``values`` [sum T, width] and ``offsets`` [number found + 1] over those found.
    """

    found: npt.NDArray[np.bool_]
    values: Array
    offsets: npt.NDArray[np.int64]
    codec: Codec

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        return np.diff(self.offsets)

    @property
    def ranges(self) -> RowRanges:
        return RowRanges(self.found, self.values, self.offsets[:-1], self.counts, self.codec)

    def on(self, device: str) -> DeviceRanges:
        """The same, copied to a GPU."""
        import torch

        values = torch.from_numpy(self.values).to(device)
        return DeviceRanges(self.found, values, self.offsets[:-1], self.counts, self.codec)

    def matrices(self) -> list[npt.NDArray[np.float32]]:
        """The vectors of each document found, [T, d] in float32."""
        vectors = decode(self.codec, self.values)
        return [vectors[start:end] for start, end in pairwise(self.offsets.tolist())]


DocumentRows = Gathered | RowRanges | DeviceRanges  # of the documents that were found, wherever they are
