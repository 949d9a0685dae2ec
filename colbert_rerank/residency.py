"""Where the rows of a store are while they are scored, and how much memory they may take.

A CPU scores them where they are mapped. A GPU scores them in its memory, where they stay if they fit ("gpu"); else
those of a query's candidates are brought there, from a copy in page-locked memory of the host ("pinned") or the map.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from colbert_rerank.device_rows import DeviceRows, InMemory, Mapped, Rows, Streamed, planes_of
from colbert_rerank.errors import UsageError
from colbert_rerank.hot_rows import HotRows
from colbert_rerank.store import Store

Resident = Literal["auto", "gpu", "pinned", "mmap"]
RESIDENTS: tuple[Resident, ...] = get_args(Resident)

CGROUP = Path("/sys/fs/cgroup")

# By default: the rest is for the network and for what is being scored; and for the system and its page cache.
GPU_SHARE, HOST_SHARE = 0.7, 0.5


class Residence(NamedTuple):
    """``where`` rows are kept, how many bytes of a GPU's memory those recently used may take beside, and ``why``."""

    where: Literal["gpu", "pinned", "mmap"]
    hot_bytes: int
    why: str


def choose(resident: Resident, rows: int, budget: int | None, free_gpu: int, free_host: int) -> Residence:
    """Where a GPU's ``rows`` bytes are kept: "auto" is the first of gpu, pinned and mmap that they fit.

    ``budget`` bounds the memory of the GPU, and page-locked memory of the host; by default it is `GPU_SHARE` of what is
    free there, and `HOST_SHARE`. Raises UsageError where what was asked for does not fit.
    """
    if budget is not None and budget < 0:
        raise UsageError(f"a memory budget of {budget} bytes: expected 0 or more")
    on_gpu, on_host = int(free_gpu * GPU_SHARE), int(free_host * HOST_SHARE)
    if budget is not None:
        on_gpu, on_host = min(budget, free_gpu), min(budget, free_host)
    room = {"gpu": on_gpu, "pinned": on_host}
    if resident in room and rows > room[resident]:
        raise UsageError(
            f"resident {resident}: the store has {_gb(rows)} of rows, and {_gb(room[resident])} of memory is allowed "
            "for them. Raise --memory-budget as far as there is memory, or choose auto or mmap"
        )
    if resident == "gpu" or (resident == "auto" and rows <= on_gpu):
        return Residence("gpu", 0, f"{_gb(rows)} of rows in GPU memory (budget {_gb(on_gpu)})")
    hot = f"those recently used in GPU memory too (budget {_gb(on_gpu)})"
    if resident == "pinned" or (resident == "auto" and rows <= on_host):
        return Residence("pinned", on_gpu, f"{_gb(rows)} of rows in pinned memory (budget {_gb(on_host)}), {hot}")
    return Residence("mmap", on_gpu, f"{_gb(rows)} of rows mapped from the disk, {hot}")


def place(store: Store, device: str, resident: Resident = "auto", budget: int | None = None) -> tuple[Rows, Residence]:
    """The rows of ``store`` as ``device`` scores them, and where they are: without a GPU there is nothing to choose.

    Where they are to be in memory they are verified and copied there now. Raises UsageError, StoreCorruptError.
    """
    if resident not in RESIDENTS:
        raise UsageError(f"resident={resident!r}: expected one of {', '.join(RESIDENTS)}")
    if not device.startswith("cuda"):
        if resident in ("gpu", "pinned") or budget is not None:
            given = f"resident {resident}" if resident in ("gpu", "pinned") else "a memory budget"
            raise UsageError(
                f"{given} is for a CUDA GPU, and scores are computed on {device}: leave it out, or choose a GPU"
            )
        return Mapped(store, device), Residence("mmap", 0, "")

    import torch

    torch.cuda.empty_cache()  # of rows that are gone torch keeps the memory, which would not count as free
    free_gpu, _ = torch.cuda.mem_get_info(device)
    size = sum(int(plane.row_counts.sum()) * plane.values.strides[0] for plane in planes_of(store))
    chosen = choose(resident, size, budget, free_gpu, _available())
    return keep(store, device, chosen), chosen


def keep(store: Store, device: str, chosen: Residence) -> Rows:
    """The rows of ``store`` for a GPU, kept as was ``chosen``. Raises UsageError, StoreCorruptError."""
    planes = planes_of(store)
    if chosen.where == "gpu":
        return DeviceRows(store, [InMemory.of(plane, device) for plane in planes])
    locked = device.startswith("cuda")
    source = [InMemory.of(plane, "cpu", locked=locked) for plane in planes] if chosen.where == "pinned" else planes
    both = sum(plane.values.strides[0] for plane in planes)  # of the cache, vectors and sketches get as many rows each
    hot = [HotRows.within(plane, chosen.hot_bytes * plane.values.strides[0] // both, device) for plane in planes]
    return Streamed(store, device, source, hot)


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def _available() -> int:
    """Bytes of the host's memory that can be had without swapping, and that a container may have."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    try:  # of this process's own group; a container sees no other
        most, taken = ((CGROUP / name).read_text(encoding="ascii").strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return free
    return free if most == "max" else max(0, min(free, int(most) - int(taken)))
