"""Where documents come from: one module per kind of source, all yielding `Document`s."""

from __future__ import annotations

from ingest.sources.registry import FILE_FORMATS, KINDS, open_source
from ingest.sources.source import Source, SourceOptions

__all__ = ["FILE_FORMATS", "KINDS", "Source", "SourceOptions", "open_source"]
