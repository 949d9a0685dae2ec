"""What a repair has lost of a store, for as long as it is not there again.

The ids are kept beside the files that the repair has cut from, in the store's folder ``damaged``; without them, or
where some are not known, only who looks after the store can say that nothing is missing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from colbert_rerank.store import StoreWriter, files
from colbert_rerank.store.manifest import REPAIR

DAMAGED = "damaged"  # the folder
LOST = "lost.json"


def note(folder: Path, doc_ids: Sequence[str], unnamed: int) -> None:
    """Add to what is lost. Raises StoreWriteError."""
    known, before = _noted(folder) or ([], 0)
    text = json.dumps({"ids": [*dict.fromkeys([*known, *doc_ids])], "unnamed": before + unnamed}, ensure_ascii=False)
    files.write_text(folder / DAMAGED / LOST, text)


def forget(folder: Path) -> None:
    files.discard(folder / DAMAGED / LOST)


def settle(writer: StoreWriter) -> None:
    """Forget of a repair once all that it lost is here again. Raises StoreWriteError."""
    if REPAIR not in writer.manifest.unfinished:
        return
    lost = _noted(writer.folder)
    if lost and not lost[1] and writer.store().lookup(lost[0]).found.all():
        writer.forget(REPAIR)
        forget(writer.folder)


def _noted(folder: Path) -> tuple[list[str], int] | None:
    try:
        data = json.loads((folder / DAMAGED / LOST).read_text(encoding="utf-8"))
        return [str(doc_id) for doc_id in data["ids"]], int(data["unnamed"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
