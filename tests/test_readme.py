"""What the README shows is what was recorded, and its example runs as it stands."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks import render
from colbert_rerank.candidates.template import make_template

README = Path(__file__).parent.parent / "README.md"


def python_example() -> str:
    (section,) = re.findall(r"^## In Python\n(.*?)^## ", README.read_text(encoding="utf-8"), flags=re.S | re.M)
    (block,) = re.findall(r"```python\n(.*?)```", section, flags=re.S)
    return str(block)


def test_the_query_template_is_one() -> None:
    (block,) = re.findall(r"```json\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.S)
    body = make_template(json.loads(block)).render('tides "and" {')
    assert '"match": {"text": "tides \\"and\\" {"}' in json.dumps(body)


@pytest.mark.parametrize("page", render.PAGES, ids=lambda page: page.name)
def test_the_tables_are_the_recorded_figures(page: Path) -> None:
    assert render.rendered(page) == page.read_text(encoding="utf-8"), "run python -m benchmarks.render"


def test_the_python_example_is_ten_lines() -> None:
    assert len(python_example().splitlines()) <= 11
