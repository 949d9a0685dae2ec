"""What a source of documents is, and what a user may say about one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from colbert_rerank.types import Document


class Source(Protocol):
    """Documents from one place. A source over files may be iterated again; one over stdin may not."""

    @property
    def kind(self) -> str:
        """One of ``ingest.sources.KINDS``."""
        ...

    @property
    def name(self) -> str:
        """The path, dataset id or index, as the user gave it."""
        ...

    def __iter__(self) -> Iterator[Document]: ...


def visible_files(folder: Path) -> Iterator[Path]:
    """The files below a folder, in order of path; none whose name, or whose folder's, begins with a dot."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


@dataclass(frozen=True)
class SourceOptions:
    """``None`` means: find out by looking at the content.

    ``format`` is ``beir``, ``jsonl``, ``tsv``, ``trec`` or ``pages``; ``id_field`` names the field (or column) of the
    ids; ``columns`` names the columns of a TSV, ``-`` for one to leave out.
    """

    format: str | None = None
    id_field: str | None = None
    columns: tuple[str, ...] | None = None
