"""The documents of an ir_datasets id, such as `beir/scifact` or `msmarco-passage`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any, Final

from colbert_rerank.errors import InputError, MissingDependencyError
from colbert_rerank.types import Document

_ID = "doc_id"
_NOT_JSON = object()


class IrDatasetsSource:
    """Each field of the data set's documents, save ``doc_id``; raw bytes (web pages as fetched) are left out.

    Iterating raises InputError where ir_datasets cannot download or read them.
    """

    def __init__(self, dataset_id: str) -> None:
        """Raises MissingDependencyError without ir_datasets, InputError for an id it does not know."""
        try:
            import ir_datasets
        except ImportError as error:
            raise MissingDependencyError("ir_datasets: sources", "ir_datasets") from error
        self.kind: Final = "ir_datasets"
        self.name: Final = dataset_id
        try:
            self._dataset: Any = ir_datasets.load(dataset_id)
        except KeyError as error:
            message = "ir_datasets knows no such data set. Its ids are listed at https://ir-datasets.com"
            raise InputError(message, where=f"ir_datasets:{dataset_id}") from error
        if not self._dataset.has_docs():
            message = "this data set has no documents; its parent may have them"
            raise InputError(message, where=f"ir_datasets:{dataset_id}")

    def __iter__(self) -> Iterator[Document]:
        for number, doc in enumerate(self._docs(), start=1):
            fields = {key: value for key, value in _json_value(doc).items() if key != _ID}
            yield Document(doc.doc_id, fields, f"ir_datasets:{self.name}:{number}")

    def _docs(self) -> Iterator[Any]:
        try:
            yield from self._dataset.docs_iter()
        except Exception as error:  # from a RuntimeError to whatever requests, gzip and lxml raise
            problem = textwrap.shorten(f"{type(error).__name__}: {error}", 300)
            message = (
                f"ir_datasets could not download or read the documents ({problem}). Check the network, or put the "
                "files into IR_DATASETS_HOME (~/.ir_datasets) as https://ir-datasets.com tells for this data set"
            )
            raise InputError(message, where=f"ir_datasets:{self.name}") from error


def _json_value(value: Any) -> Any:
    """What JSON can hold: named tuples become objects, other tuples arrays; bytes are left out of both."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {key: kept for key, item in value.items() if (kept := _json_value(item)) is not _NOT_JSON}
    if isinstance(value, (list, tuple)):
        return [item for item in map(_json_value, value) if item is not _NOT_JSON]
    return _NOT_JSON
