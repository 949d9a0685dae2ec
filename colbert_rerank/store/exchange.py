"""A store's vectors for others, and others' vectors for a store.

The folder of arrays that `export_arrays` writes and `read_arrays` reads:

    vectors.npy          [sum T, d] float16 or float32, all documents' vectors one after the other
    offsets.npy          [n + 1] int64, where each document begins and the last one ends
    ids.json             list of the n ids
    content_hashes.npy   [n, 16] uint8; fields_hashes.npy, seq_nos.npy and primary_terms.npy: see the store's format
    store.json           what the vectors were made with; without it, and the columns before it, vectors are anyone's
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from tokenize import TokenError
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from colbert_rerank.errors import InputError, UsageError
from colbert_rerank.recipe import HASH_BYTES
from colbert_rerank.store.columns import Array
from colbert_rerank.store.manifest import Manifest
from colbert_rerank.store.reader import Store
from colbert_rerank.types import QUALIFIED, Origin

VECTORS, OFFSETS, IDS, MADE_WITH = "vectors.npy", "offsets.npy", "ids.json", "store.json"
HASHES = ("content_hashes.npy", "fields_hashes.npy")
DESCRIBED = (*HASHES, "seq_nos.npy", "primary_terms.npy")
AT_ONCE = 1000  # documents
# What json and NumPy raise of a damaged file: NumPy takes its header for Python.
_UNREADABLE = (OSError, ValueError, EOFError, OverflowError, RecursionError, SyntaxError, TokenError)
# What a field for vectors must be, where late interaction is scored inside the engine.
OPENSEARCH_FIELD = {"type": "object", "enabled": False}


def elasticsearch_field(dim: int) -> dict[str, object]:
    return {"type": "rank_vectors", "element_type": "float", "dims": dim}


class Arrays(NamedTuple):
    """Documents with their vectors: document i has the rows ``offsets[i]`` to ``offsets[i + 1]``."""

    ids: list[str]
    vectors: Array
    offsets: npt.NDArray[np.int64]
    described: dict[str, Array]  # by file
    made_with: dict[str, Any] | None


def stored_ids(store: Store) -> list[str]:
    """All ids, in the order in which their vectors lie."""
    ids = store.index.ids()
    at = store.lookup(ids)
    return [ids[i] for i in np.lexsort([at.ordinals, at.segments]).tolist()]


def known_ids(store: Store, doc_ids: Sequence[str] | None) -> list[str]:
    """Those asked for, or all. Raises InputError for one that the store does not hold."""
    if doc_ids is None:
        return stored_ids(store)
    doc_ids = list(dict.fromkeys(doc_ids))
    found = store.lookup(doc_ids).found
    if not found.all():
        missing = doc_ids[int(np.argmin(found))]
        raise InputError(f"the store holds no document {missing!r} ({int((~found).sum()):,} ids are not there)")
    return doc_ids


def matrices(store: Store, doc_ids: Sequence[str]) -> Iterator[npt.NDArray[np.float32]]:
    """The vectors [T, d] of each document, of those that are here. Raises StoreCorruptError."""
    for start in range(0, len(doc_ids), AT_ONCE):
        yield from store.gather(doc_ids[start : start + AT_ONCE]).matrices()


def export_arrays(store: Store, folder: Path, doc_ids: Sequence[str] | None = None) -> int:
    """Write the folder of arrays, which must not be there yet; return the number of documents.

    Raises UsageError, InputError for an unknown id, StoreCorruptError.
    """
    ids = known_ids(store, doc_ids)
    if folder.exists():
        raise UsageError(f"{folder} is there already; give a new folder")
    folder.mkdir(parents=True)
    at = store.lookup(ids)
    offsets = np.concatenate([[0], np.cumsum(at.row_counts)])
    shape, dtype = (int(offsets[-1]), store.manifest.dim), np.dtype(store.manifest.vector_dtype)
    with (folder / VECTORS).open("wb") as file:
        header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_2_0(file, header)  # type: ignore[no-untyped-call]
        for matrix in matrices(store, ids):
            file.write(matrix.astype(dtype).tobytes())
    np.save(folder / OFFSETS, offsets)
    for name, column in _described(store, ids).items():
        np.save(folder / name, column)
    (folder / IDS).write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8", errors="surrogatepass")
    made_with = asdict(store.manifest) | {"segments": [], "index": None, "codebooks": []}
    (folder / MADE_WITH).write_text(json.dumps(made_with, indent=1, sort_keys=True), encoding="utf-8")
    return len(ids)


def export_pylate(store: Store, path: Path, doc_ids: Sequence[str] | None = None) -> int:
    """Write ``documents_ids`` and ``documents_embeddings``, a tensor [T, d] each, in one file for ``torch.load``."""
    import torch

    ids = known_ids(store, doc_ids)
    if path.exists():
        raise UsageError(f"{path} is there already; give a new file")
    embeddings = [torch.from_numpy(matrix.copy()) for matrix in matrices(store, ids)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        torch.save({"documents_ids": ids, "documents_embeddings": embeddings}, file)
    return len(ids)


def export_bulk(store: Store, field: str, doc_ids: Sequence[str] | None = None) -> Iterator[str]:
    """Bodies of the `_bulk` API that add the vectors, as a list of lists, to documents that are in an index already.

    For ``lateInteractionScore`` in OpenSearch (a field of `OPENSEARCH_FIELD`), and for ``rank_vectors`` in
    Elasticsearch. Yields the two lines of each document as one text.
    """
    ids = known_ids(store, doc_ids)
    for doc_id, matrix in zip(ids, matrices(store, ids), strict=True):
        name = {"_id": doc_id}
        if store.manifest.origin and store.manifest.origin.kind == QUALIFIED:
            name = dict(zip(("_index", "_id"), doc_id.split("/", 1), strict=True))
        action = json.dumps({"update": name}, ensure_ascii=False)
        rows = ",".join("[" + ",".join(map(_shortest, row)) + "]" for row in matrix)
        yield f'{action}\n{{"doc":{{{json.dumps(field, ensure_ascii=False)}:[{rows}]}}}}\n'


def read_arrays(folder: Path) -> Arrays:
    """The folder of arrays, its large one mapped. Raises InputError where a file is missing or does not fit."""
    ids = _read(folder / IDS, _json)
    vectors, offsets = (_read(folder / name, _array) for name in (VECTORS, OFFSETS))
    described = {name: _read(folder / name, _array) for name in DESCRIBED if (folder / name).exists()}
    made_with = _read(folder / MADE_WITH, _json) if (folder / MADE_WITH).exists() else None
    if not isinstance(ids, list) or not all(isinstance(doc_id, str) for doc_id in ids) or len(set(ids)) != len(ids):
        raise InputError("must be a list of texts, each once", where=str(folder / IDS))
    count = len(ids)
    if vectors.ndim != 2 or vectors.dtype not in (np.float16, np.float32):
        raise InputError(
            f"is {vectors.dtype} {list(vectors.shape)}, expected float16 or float32 [sum T, d]",
            where=str(folder / VECTORS),
        )
    _check_integers(folder / OFFSETS, offsets, count + 1)
    fall = offsets[1:] < offsets[:-1]  # a difference of unsigned numbers is never below 0
    if offsets[0] != 0 or offsets[-1] != len(vectors) or fall.any():
        raise InputError(f"must rise from 0 to {len(vectors)}, the number of vectors", where=str(folder / OFFSETS))
    for name, column in described.items():
        if name in HASHES and (column.dtype != np.uint8 or column.shape != (count, HASH_BYTES)):
            raise InputError(
                f"is {column.dtype} {list(column.shape)}, expected uint8 [{count}, {HASH_BYTES}]: a hash for each id",
                where=str(folder / name),
            )
        if name not in HASHES:
            _check_integers(folder / name, column, count)
            if column.min(initial=-1) < -1:
                raise InputError(f"holds {column.min()}, expected -1 (unknown) or more", where=str(folder / name))
    return Arrays(ids, vectors, offsets.astype(np.int64), described, made_with)


def _read(path: Path, read: Callable[[Path], Any]) -> Any:
    try:
        return read(path)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"not a folder of arrays ({VECTORS}, {OFFSETS}, {IDS}): {path.name} is missing", where=str(path.parent)
        ) from None
    except _UNREADABLE as error:
        what = "JSON in UTF-8" if path.suffix == ".json" else "one array of numbers as numpy.save writes it"
        # NumPy goes on with how to load what is not to be trusted
        reason = " ".join(str(error).partition(". ")[0].split())
        raise InputError(f"cannot be read ({reason}), expected {what}", where=str(path)) from None


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _array(path: Path) -> Array:
    found = np.load(path, mmap_mode="r")
    if not isinstance(found, np.ndarray):  # several, in a zip file
        raise ValueError("an archive")
    return found


def _check_integers(path: Path, column: Array, count: int) -> None:
    fit = column.dtype.kind in "iu" and np.can_cast(column.dtype, np.int64)
    if not fit or column.shape != (count,):
        raise InputError(f"is {column.dtype} {list(column.shape)}, expected int64 [{count}]", where=str(path))


def _described(store: Store, ids: Sequence[str]) -> dict[str, Array]:
    """What the store remembers of these documents, by file, in the order of `DESCRIBED`."""
    known = [one for one in store.describe(ids) if one]
    hashes = [b"".join(one.content_hash for one in known), b"".join(one.fields_hash for one in known)]
    numbers = [[one.seq_no for one in known], [one.primary_term for one in known]]
    columns: list[Array] = [np.frombuffer(joined, np.uint8).reshape(-1, HASH_BYTES) for joined in hashes]
    columns += [np.array(column, dtype=np.int64) for column in numbers]
    return dict(zip(DESCRIBED, columns, strict=True))


def _shortest(number: np.float32) -> str:
    """The shortest decimal that is read as the same float32."""
    return np.format_float_positional(number, unique=True, trim="0")


def manifest_of(made_with: dict[str, Any], store_id: str, codec: str) -> Manifest:
    """The manifest of a new store of exported vectors. Raises InputError."""
    try:
        origin = made_with["origin"]
        made = Manifest(
            store_id=store_id,
            dim=int(made_with["dim"]),
            codec=codec,
            query_identity=dict(made_with["query_identity"]),
            document_identity=dict(made_with["document_identity"]),
            provenance=dict(made_with["provenance"]),
            origin=Origin(*origin) if origin else None,
        )
        if not made.recipe.fields or not made.query_identity:
            raise ValueError("it names no fields, or no model")
        if not all(isinstance(text, str) for text in (*made.recipe.fields, made.recipe.separator, *(origin or ()))):
            raise ValueError("a name in it is no text")
        return made
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"does not say what the vectors were made with: {error}", where=MADE_WITH) from None
