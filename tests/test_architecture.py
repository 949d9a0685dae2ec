"""The shape of the packages: who imports whom, how long a module is, what is public, what must not be in the clone."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import colbert_rerank

ROOT = Path(__file__).parent.parent
PACKAGES = ("mappings", "colbert_rerank", "ingest")
# The one direction: what a package may import besides itself. Others than ours are asked for by `mappings` alone.
MAY_IMPORT = {"mappings": set(), "colbert_rerank": {"mappings"}, "ingest": {"mappings", "colbert_rerank"}}
LONGEST = 420
PUBLIC = {"ColbertRerankError", "Document", "Encoder", "Query", "Reranker", "ScoredDoc", "Store"}
# Loading them takes from half a second to several.
HEAVY = {"torch", "transformers", "opensearchpy", "tantivy", "h5py", "ir_measures", "rich", "numpy"}
# What the adapters are for: each may be imported by its own adapter alone.
FRAMEWORKS = {"haystack", "langchain_core", "llama_index", "pandas", "pyterrier", "rerankers"}
HOSTS = {
    "arxiv.org",
    "docs.astral.sh",
    "en.wikipedia.org",
    "example.org",
    "github.com",
    "ir-datasets.com",
    "json-schema.org",  # the name of a JSON schema
    "localhost",
    "maven.apache.org",  # the name of an XML schema
    "node-0.example.com",
    "search.example.org",
    "www.apache.org",
}

MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
each_module = pytest.mark.parametrize("path", MODULES, ids=[path.relative_to(ROOT).as_posix() for path in MODULES])


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(path: Path) -> Iterator[str]:
    """The top-level packages that a module imports, within functions and for type checkers too."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: import by the full name"
            yield str(node.module).partition(".")[0]


@each_module
def test_imports_go_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    found = set(imported(path)) - sys.stdlib_module_names - {package}
    assert found & {*PACKAGES, "tests", "benchmarks"} <= MAY_IMPORT[package]
    if package == "mappings":
        assert found == set(), "mappings has the standard library only"


@each_module
def test_a_framework_is_imported_by_its_adapter_alone(path: Path) -> None:
    if path.parent.name != "integrations":
        assert set(imported(path)) & FRAMEWORKS == set()


@each_module
def test_a_module_can_be_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


@each_module
def test_nothing_is_printed_past_the_command_line_s_own_output(path: Path) -> None:
    for node in ast.walk(tree(path)):
        called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else None
        assert called != "print", f"{path}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import) and "cli" not in path.parts:
            assert "click" not in {alias.name for alias in node.names}, "only the command line knows click"


@each_module
def test_input_is_not_checked_by_assert_and_no_error_is_swallowed_whole(path: Path) -> None:
    for node in ast.walk(tree(path)):
        assert not isinstance(node, ast.Assert), f"{path}:{node.lineno}: python -O removes it"
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None), f"{path}: a bare except"


def test_the_public_names_are_exactly_these() -> None:
    assert set(colbert_rerank.__all__) == PUBLIC
    for name in PUBLIC:
        assert getattr(colbert_rerank, name).__name__ == name
        assert not (ROOT / "colbert_rerank" / f"{name}.py").exists(), "importing the module would hide the name"
        assert not (ROOT / "colbert_rerank" / name).exists()
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        colbert_rerank.Nothing  # noqa: B018


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_loads_nothing_heavy(package: str) -> None:
    program = f"import json, sys, {package}; print(json.dumps([m.partition('.')[0] for m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert set(json.loads(done.stdout)) & (HEAVY | FRAMEWORKS) == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_says_that_it_is_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()


def tracked() -> list[Path]:
    """Every text file that is committed or about to be; the bundled collection and checkpoint aside."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    data = ROOT / "colbert_rerank" / "data"
    return [p for p in paths if data not in p.parents and p.is_file() and b"\0" not in p.read_bytes()]


def test_no_path_of_one_machine_and_no_package_registry_is_named() -> None:
    machine = re.compile(r"(?<![\w.$}~-])/(?:work|root|home|Users)/\w|index[-_]url|find[-]links|trusted[-]host")
    files = tracked()
    assert ROOT / "pyproject.toml" in files
    for path in files:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            assert not machine.search(line), f"{path}:{number}: {line.strip()[:100]}"


def test_no_host_is_named_but_those_known() -> None:
    for path in tracked():
        if path.suffix == ".py" and path.is_relative_to(ROOT / "tests"):
            continue  # made-up hosts
        hosts = set(re.findall(r"https?://(?:[^/\s@]*@)?([a-z][\w.-]+\.[a-z]+)", path.read_text(encoding="utf-8")))
        assert hosts <= HOSTS, path


def test_nothing_is_skipped_and_nothing_put_off() -> None:
    words = re.compile(r"pytest[.]skip|import[o]rskip|x[f]ail|mark[.]skip|TO[D]O|FIX[M]E|NotImplemented[E]rror")
    for path in tracked():
        if path.suffix == ".py":
            assert not words.search(path.read_text(encoding="utf-8")), path
