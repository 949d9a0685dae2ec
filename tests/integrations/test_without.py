"""An adapter without its framework says which extra to install."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest

from colbert_rerank.errors import MissingDependencyError

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
EXTRAS = {
    "haystack": ("haystack", "haystack"),
    "langchain": ("langchain", "langchain_core"),
    "llama_index": ("llama-index", "llama_index"),
    "pyterrier": ("pyterrier", "pyterrier"),
    "rerankers": ("rerankers", "rerankers"),
}


@pytest.mark.parametrize("adapter", EXTRAS)
def test_a_missing_framework_is_named_with_its_extra(adapter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    extra, framework = EXTRAS[adapter]
    module = f"colbert_rerank.integrations.{adapter}"
    for name in [n for n in sys.modules if n == framework or n.startswith(f"{framework}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, framework, None)  # to the importer: it is not there
    monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(MissingDependencyError) as error:
        importlib.import_module(module)
    assert f"pip install 'colbert-rerank[{extra}]'" in str(error.value)
    assert re.search(rf"^{extra} = \[", PROJECT.read_text(encoding="utf-8"), flags=re.M)
