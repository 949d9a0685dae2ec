"""A cache of documents' rows in the memory of a GPU: of those least recently used, the rows go first.

Documents are of many lengths, so they lie in pages of a few rows each, anywhere: nothing is ever moved to make room.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

    from colbert_rerank.store.plane import Plane

PAGE = 16  # rows: half a page a document is lost


class HotRows:
    """Rows [.., width] of documents by key, as many as fit ``pages``. Not safe to share between threads.

    It holds documents of one generation of a store; of another one, make another.
    """

    def __init__(self, pages: int, width: int, dtype: torch.dtype, device: str) -> None:
        import torch

        self._rows = torch.empty((pages * PAGE, width), dtype=dtype, device=device)
        self._free = list(range(pages))
        self._pages: OrderedDict[int, list[int]] = OrderedDict()  # by key, the most recently used last

    @staticmethod
    def within(plane: Plane, size: int, device: str) -> HotRows:
        """A cache of ``size`` bytes, and no larger than the plane's rows could need."""
        import torch

        values = plane.values
        most = -(-int(plane.row_counts.sum()) // PAGE) * 2
        pages = min(most, size // (PAGE * values.strides[0]))
        return HotRows(pages, values.shape[1], torch.from_numpy(np.empty(0, values.dtype)).dtype, device)

    def __len__(self) -> int:
        return len(self._pages)

    def __contains__(self, key: int) -> bool:
        return key in self._pages

    def use(self, keys: Sequence[int], counts: Sequence[int], out: torch.Tensor) -> npt.NDArray[np.bool_]:
        """Copy to ``out`` [sum of counts, width] the rows of the documents that are here; say which [n] these are.

        Number i has ``counts[i]`` rows, and its place in ``out`` is behind those before it.
        """
        import torch

        hits = np.array([key in self._pages for key in keys], dtype=bool)
        for key in (key for key, hit in zip(keys, hits.tolist(), strict=True) if hit):
            self._pages.move_to_end(key)
        there = torch.from_numpy(np.flatnonzero(np.repeat(hits, counts))).to(out.device)
        out[there] = self._rows[self._places(keys, counts, hits).to(out.device)]
        return hits

    def keep(self, keys: Sequence[int], counts: Sequence[int], rows: torch.Tensor) -> None:
        """Remember documents that are not here, of whose rows [sum of counts, width] number i has ``counts[i]``.

        Of more than fit, the last ones stay.
        """
        import torch

        for key, count in zip(keys, counts, strict=True):
            needed = -(-count // PAGE)
            if not 0 < needed <= len(self._rows) // PAGE or key in self._pages:
                continue
            while len(self._free) < needed:
                self._free += self._pages.popitem(last=False)[1]
            self._pages[key] = [self._free.pop() for _ in range(needed)]
        kept = np.array([key in self._pages for key in keys], dtype=bool)
        there = torch.from_numpy(np.flatnonzero(np.repeat(kept, counts))).to(rows.device)
        self._rows[self._places(keys, counts, kept).to(rows.device)] = rows[there]

    def _places(self, keys: Sequence[int], counts: Sequence[int], which: npt.NDArray[np.bool_]) -> torch.Tensor:
        """Where the rows of ``which`` documents lie."""
        import torch

        chosen = [
            (self._pages[key], count)
            for key, count, one in zip(keys, counts, which.tolist(), strict=True)
            if one and count
        ]
        if not chosen:
            return torch.empty(0, dtype=torch.int64)
        pages = np.concatenate([pages for pages, _ in chosen])
        inside = np.concatenate([np.arange(count) for _, count in chosen])
        lengths = np.array([count for _, count in chosen])
        first = np.cumsum([0, *(len(pages) for pages, _ in chosen[:-1])])
        return torch.from_numpy(pages[np.repeat(first, lengths) + inside // PAGE] * PAGE + inside % PAGE)
