"""The README's examples run as they stand, each with the same two documents."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from colbert_rerank.encoder import Encoder
from colbert_rerank.rerank import Reranker
from tests.collection import documents, ingested

README = Path(__file__).parents[2] / "README.md"
FRAMEWORKS = ("langchain", "llama_index", "haystack", "pyterrier", "rerankers")


def examples() -> dict[str, str]:
    """By the adapter they import."""
    (section,) = re.findall(r"^## In frameworks\n(.*?)^## ", README.read_text(encoding="utf-8"), flags=re.S | re.M)
    blocks = re.findall(r"```python\n(.*?)```", section, flags=re.S)
    return {re.findall(r"colbert_rerank\.integrations\.(\w+)", block)[0]: block for block in blocks}


def test_there_is_one_for_each_adapter() -> None:
    adapters = {path.stem for path in (README.parent / "colbert_rerank" / "integrations").glob("*.py")}
    assert {*examples()} == {*FRAMEWORKS} == adapters - {"__init__", "pairing"}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_it_runs(
    framework: str,
    tmp_path: Path,
    tiny_encoder: Encoder,
    one_thread: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    some = [d._replace(doc_id=f"d{n}") for n, d in enumerate(documents(2), start=1)]
    store = ingested(tmp_path / "my-store", tiny_encoder, some)
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    exec(examples()[framework], {})
    printed = capsys.readouterr().out
    ranked = Reranker(store, tiny_encoder).rerank("how do tides work", [("d1", 0.0), ("d2", 0.0)])
    first, second = (printed.index(d.doc_id) for d in ranked)
    assert first < second, printed
