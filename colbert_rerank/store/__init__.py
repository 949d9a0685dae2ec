"""The token store: token vectors by document id, in sealed HDF5 segments read through a memory map."""

from colbert_rerank.store.access import rewriting, staging, writing
from colbert_rerank.store.manifest import Manifest
from colbert_rerank.store.reader import Store, Stored
from colbert_rerank.store.rows import Gathered, RowRanges
from colbert_rerank.store.writer import StoreWriter

__all__ = ["Gathered", "Manifest", "RowRanges", "Store", "StoreWriter", "Stored", "rewriting", "staging", "writing"]
