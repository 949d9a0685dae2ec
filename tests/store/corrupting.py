"""Damage a store at random and read it: one function, for the tests and for long soaks."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from colbert_rerank.errors import StoreError
from colbert_rerank.store import Store, layout
from tests.store import stores
from tests.store.stores import Doc


class CorruptionReport(NamedTuple):
    damaged: int
    refused: int
    harmless: int  # after which the store still gave every vector and every fact as it was


def corrupt_store(n: int, seed: int) -> CorruptionReport:
    """Damage one file of a sound store ``n`` times; AssertionError where it is then read as something else.

    An id index, which the segments make up for, may not even be a reason to refuse.
    """
    rng = random.Random(seed)
    values = np.random.default_rng(seed).standard_normal((5000, 16)).astype("float16")  # three blocks of checksums
    first = {f"a{i}": Doc(values[i * 1000 : (i + 1) * 1000], rng.randbytes(16), i, 1) for i in range(5)}
    second = stores.random_docs([f"b{i}" for i in range(6)], seed, dim=16)
    refused = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "store"
        stores.make(folder, [first, second], merge=False)
        files = [folder / layout.MANIFEST, *sorted((folder / layout.SEGMENTS).iterdir())]
        index = stores.index_file(folder)
        for _ in range(n):
            path = rng.choice(files)
            good = path.read_bytes()
            path.write_bytes(damaged(good, rng))
            try:
                stores.assert_holds(Store.open(folder), first | second)
            except StoreError:
                assert path != index, "refused for a file that can be made again"
                refused += 1
            path.write_bytes(good)
        stores.assert_holds(Store.open(folder), first | second)
    return CorruptionReport(n, refused, n - refused)


def damaged(data: bytes, rng: random.Random) -> bytes:
    """A bit flipped, a sector lost, the end cut off, or bytes of another place written over."""
    changed = bytearray(data)
    place = rng.randrange(len(data))
    kind = rng.choice(("bit", "bit", "bit", "sector", "cut", "moved"))
    if kind == "bit":
        changed[place] ^= 1 << rng.randrange(8)
    elif kind == "sector":
        place -= place % 512
        changed[place : place + 512] = bytes(len(changed[place : place + 512]))
    elif kind == "cut":
        del changed[place:]
    else:
        size = min(rng.randrange(1, 64), len(data) - place)
        start = rng.randrange(len(data) - size + 1)
        changed[place : place + size] = data[start : start + size]
    return bytes(changed)
