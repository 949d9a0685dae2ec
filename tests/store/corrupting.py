"""Damage a store at random and read it: one function, for the tests and for long soaks."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from colbert_rerank.errors import StoreError
from colbert_rerank.store import Store, layout, writing
from tests.store import stores
from tests.store.stores import Doc

DIM = 16
KINDS = ("bit", "bit", "bit", "sector", "cut", "moved", "swapped", "number")


class CorruptionReport(NamedTuple):
    damaged: int
    refused: int
    harmless: int  # after which the store still gave every vector and every fact as it was
    kinds: dict[str, int]


class Kind(NamedTuple):
    """A sound store, and all that it holds."""

    folder: Path
    files: list[Path]
    ids: Path
    held: list[Any]


def corrupt_store(n: int, seed: int) -> CorruptionReport:
    """Damage a sound store ``n`` times; AssertionError where it is then read as something else.

    In turn one of floats, and one of residuals and sketches, with tombstones. An id index, which the segments make up
    for, may not even be a reason to refuse.
    """
    rng, kinds = random.Random(seed), Counter[str]()
    refused = 0
    with tempfile.TemporaryDirectory() as name:
        sound = [
            make(Path(name) / codec, seed, codec, sketches)
            for codec, sketches in (("float16", ""), ("residual2", "int8"))
        ]
        for number in range(n):
            one, kind = sound[number % len(sound)], rng.choice(KINDS)
            kinds[kind] += 1
            touched = damage(one, kind, rng)
            try:
                assert held(Store.open(one.folder)) == one.held, (number, kind, list(touched))
            except StoreError:
                assert [*touched] != [one.ids], "refused for a file that can be made again"
                refused += 1
            for path, good in touched.items():
                path.write_bytes(good)
        for one in sound:
            assert held(Store.open(one.folder)) == one.held
    return CorruptionReport(n, refused, n - refused, dict(kinds))


def make(folder: Path, seed: int, codec: str, sketches: str) -> Kind:
    rng = random.Random(seed)
    values = np.random.default_rng(seed).standard_normal((5000, DIM)).astype("float16")  # several blocks of checksums
    first = {f"a{i}": Doc(values[i * 1000 : (i + 1) * 1000], rng.randbytes(16), i, 1) for i in range(5)}
    second = stores.random_docs([f"b{i}" for i in range(6)], seed, dim=DIM)
    with writing(folder, stores.new_manifest(DIM, codec, sketches)) as writer:
        stores.commit(writer, first, posted=True)
        unit = writer.unit()
        for doc_id, doc in second.items():
            stores.add(unit, doc_id, doc)
        unit.delete("a4")
        writer.commit(unit, posted=False)  # so that the two are not merged
        writer.finish()
    shutil.rmtree(folder / layout.BM25, ignore_errors=True)
    files = [folder / layout.MANIFEST, *sorted((folder / layout.SEGMENTS).iterdir())]
    return Kind(folder, files, stores.index_file(folder), held(Store.open(folder)))


IDS = [*(f"a{i}" for i in range(5)), *(f"b{i}" for i in range(6)), "nobody"]


def held(store: Store) -> list[Any]:
    """All that a store can be asked for."""
    found: list[Any] = [sorted(store.index.ids()), list(store.describe(IDS))]
    for sketches in (False, True) if store.sketch_codec else (False,):
        gathered = store.gather(IDS, sketches=sketches)
        found += [gathered.found.tolist(), gathered.offsets.tolist(), gathered.values.tobytes()]
        found.append([matrix.tobytes() for matrix in gathered.matrices()])
    return found


def damage(one: Kind, kind: str, rng: random.Random) -> dict[Path, bytes]:
    """Damage it, and return what the files that were touched held before."""
    path = rng.choice(one.files)
    if kind == "swapped":
        pair = rng.sample(one.files[1:], 2)
        good = {p: p.read_bytes() for p in pair}
        for p, other in zip(pair, reversed(pair), strict=True):
            p.write_bytes(good[other])
        return good
    if kind == "number":
        path = one.folder / layout.MANIFEST
        good = {path: path.read_bytes()}
        change_number(one.folder, rng)
        return good
    good = {path: path.read_bytes()}
    path.write_bytes(damaged(good[path], kind, rng))
    return good


def change_number(folder: Path, rng: random.Random) -> None:
    """Let an entry of the manifest say another number, under a checksum that is right or wrong."""
    data = stores.read_manifest(folder)
    entries = [*data["segments"], *data["codebooks"], data["index"]]
    entry = rng.choice(entries)
    name = rng.choice([key for key, value in entry.items() if type(value) is int])
    entry[name] = rng.choice(
        (entry[name] + 1, entry[name] - 1, 0, entry[name] * 2, rng.randrange(1 << 20), -1, 1 << 40)
    )
    if rng.random() < 0.7:
        stores.sign(folder, data)
    else:
        (folder / layout.MANIFEST).write_text(json.dumps(data), encoding="utf-8")


def damaged(data: bytes, kind: str, rng: random.Random) -> bytes:
    """A bit flipped, a sector lost, the end cut off, or bytes of another place written over."""
    changed = bytearray(data)
    place = rng.randrange(len(data))
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
