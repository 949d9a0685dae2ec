"""How many documents to expect, for a progress bar: exact where it is cheap, else unknown."""

from __future__ import annotations

from pathlib import Path

from ingest.sources.source import Source

CHUNK = 1 << 20
GZIP = b"\x1f\x8b"


def expected_documents(source: Source) -> int | None:
    """Lines of a plain file of one document a line, or what a source says of itself; ``None`` where unknown."""
    if (known := getattr(source, "expected", None)) is not None:
        return int(known)
    path = Path(source.name)
    if source.kind == "beir":
        path /= "corpus.jsonl"
    if source.kind not in ("beir", "jsonl", "tsv") or not path.is_file():
        return None
    with path.open("rb") as file:
        if file.read(2) == GZIP:
            return None
        file.seek(0)
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(CHUNK), b""))
