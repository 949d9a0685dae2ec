"""Golden data is worth something only if its makers share no code with us."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

GENERATE = Path(__file__).parent / "generate"
OURS = {"colbert_rerank", "ingest", "mappings", "tests"}
SCRIPTS = sorted(GENERATE.rglob("*.py"))
# The other scripts are what the generators share.
GENERATORS = [path for path in SCRIPTS if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")]
REQUIREMENTS = sorted(GENERATE.glob("*.requirements.txt"))


def imported(source: str) -> Iterator[str]:
    """The top-level names that the code imports; "." for a relative import."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." if node.level else (node.module or "").partition(".")[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
            ("import_module", "__import__", "run_module")
        ):
            # A name that is computed cannot be read here, so it counts as ours.
            first = node.args[0] if node.args else None
            literal = isinstance(first, ast.Constant) and isinstance(first.value, str)
            yield ast.literal_eval(first).partition(".")[0] if first is not None and literal else "."


def test_there_are_generators() -> None:
    assert "colbert_ai.py" in [path.name for path in GENERATORS]


def test_every_other_script_is_imported_by_one_of_them() -> None:
    names = {name for path in SCRIPTS for name in imported(path.read_text(encoding="utf-8"))}
    assert {path.stem for path in SCRIPTS if path not in GENERATORS} <= names


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_generator_imports_nothing_of_ours(path: Path) -> None:
    assert not set(imported(path.read_text(encoding="utf-8"))) & (OURS | {"."})


@pytest.mark.parametrize(
    "source",
    [
        "import colbert_rerank.encoder as e",
        "def f():\n    from ingest import sources",
        "from . import inputs",
        "import importlib; importlib.import_module('mappings.loader')",
        "__import__('colbert_' + 'rerank')",
    ],
)
def test_an_import_of_ours_would_be_seen(source: str) -> None:
    assert set(imported(source)) & (OURS | {"."})


@pytest.mark.parametrize("path", REQUIREMENTS, ids=lambda path: path.name)
def test_requirements_are_exact_and_name_no_host(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9._-]+==[0-9][A-Za-z0-9.+!]*", line)] == []


@pytest.mark.parametrize("path", GENERATORS, ids=lambda path: path.name)
def test_generator_has_locked_requirements(path: Path) -> None:
    assert path.with_suffix(".requirements.txt") in REQUIREMENTS
