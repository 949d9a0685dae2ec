"""Looking at a whole store: what it holds, and whether every byte of it is what was written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from colbert_rerank.errors import StoreCorruptError, StoreError
from colbert_rerank.store import codebook, layout, segment
from colbert_rerank.store import manifest as manifests
from colbert_rerank.store.manifest import Manifest
from colbert_rerank.store.reader import Store


def facts(store: Store) -> dict[str, Any]:
    """What a store says of itself, by name, in words or numbers."""
    manifest = store.manifest
    written = sum(entry.documents for entry in manifest.segments)
    return {
        "store": str(store.folder),
        "store id": manifest.store_id,
        "format": manifest.format,
        "generation": manifest.generation,
        "documents": len(store),
        "entries no longer live": written - len(store),
        "token vectors": manifest.rows,
        "dimensions": manifest.dim,
        "codec": manifest.codec,
        "sketches": manifest.sketches or "none",
        "bytes": manifest.bytes,
        "segments": len(manifest.segments),
        "last ingest": _ended(store.folder, manifest),
        **_made_aside(store),
        "index": f"{manifest.origin.kind} {manifest.origin.name} {manifest.origin.uuid}" if manifest.origin else "none",
        "fields": ", ".join(manifest.recipe.fields),
        "long documents": f"windows, stride {manifest.recipe.stride}" if manifest.recipe.stride else "truncated",
        "pool factor": manifest.recipe.pool_factor,
        "model": manifest.provenance.get("model", ""),
        "choices": manifest.provenance.get("choices", {}),
        "made on": " ".join(str(manifest.provenance.get(key, "")) for key in ("device", "compute_dtype")).strip(),
    }


def _ended(folder: Path, manifest: Manifest) -> str:
    if manifest.unfinished:
        return f"interrupted or under way: {', '.join(name or 'of documents' for name in manifest.unfinished)}"
    if manifests.unindexed(folder, manifest):
        return "none yet that put its documents into the BM25 index, as after `store import`"
    return "complete" if manifest.complete else "with documents that are not known to be in the index"


def staged(folder: Path, manifest: Manifest) -> tuple[int, str] | None:
    """Of a generation that is being made for another index, or was left: its own bytes, and the index."""
    try:
        aside = manifests.load(folder, layout.NEXT)
    except StoreError:
        return None
    own = sum(entry.bytes for entry in aside.segments if entry.file not in manifest.files)
    return own, aside.origin.name if aside.origin else ""


def _made_aside(store: Store) -> dict[str, Any]:
    if found := staged(store.folder, store.manifest):
        return {"made aside": f"{found[0]} bytes for {found[1]}, by `sync --switch`; `store compact` gives it up"}
    return {}


def damages(folder: Path) -> list[str]:
    """Read a store from the first byte to the last; return what is not as it was written, file by file.

    Raises StoreError where there is no manifest to compare with.
    """
    while True:
        manifest = manifests.load(folder)
        found = list(_damages(folder, manifest))
        # a writer may have replaced files while they were read
        if not found or manifests.load(folder).generation == manifest.generation:
            return found


def _damages(folder: Path, manifest: Manifest) -> Iterator[str]:
    sound = []
    for entry in manifest.segments:
        try:
            _, (one,) = segment.map_segments(folder, [entry], segment.row_shapes(manifest))
            for name in one.rows:
                one.verify(name)
            sound.append(one)
        except StoreCorruptError as error:
            yield str(error)
    for book in manifest.codebooks:
        try:
            codebook.read(folder, book, manifest.dim)
        except StoreCorruptError as error:
            yield str(error)
    if len(sound) == len(manifest.segments):
        yield from _index_damages(folder, manifest, sound)


def _index_damages(folder: Path, manifest: Manifest, segments: Sequence[segment.Segment]) -> Iterator[str]:
    if manifest.index is None:
        return
    try:
        found = segment.read_index(folder, manifest.index)
    except StoreCorruptError as error:
        yield f"{segment.index_fault(error)}. `store repair`, or the next `ingest`, writes the id index again"
        return
    if not segment.is_index_of(segments, found):
        yield f"{folder / layout.SEGMENTS / manifest.index.file}: {segment.OTHER_INDEX}"
