"""What users install: the wheel's content, and the main job from it in a fresh environment, outside the clone.

It takes minutes. COLBERT_RERANK_WHEEL_PYTHON names the Python of that environment; else it is the one that runs the
tests.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.wheel

ROOT = Path(__file__).parent.parent
LARGEST = 60_000_000  # bytes
DATA = {
    "colbert_rerank/data/musique_mini/corpus.jsonl",
    "colbert_rerank/data/musique_mini/qrels/test.tsv",
    "colbert_rerank/data/musique_mini/queries.jsonl",
    "colbert_rerank/data/starter/artifact.metadata",
    "colbert_rerank/data/starter/config.json",
    "colbert_rerank/data/starter/model.safetensors",
    "colbert_rerank/data/starter/tokenizer.json",
    "colbert_rerank/py.typed",
    "ingest/py.typed",
    "mappings/elasticsearch.json",
    "mappings/index.json",
    "mappings/py.typed",
    "mappings/rerank.json",
}


class Built(NamedTuple):
    wheel: Path
    sdist: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The sdist, and the wheel made from it."""
    folder = tmp_path_factory.mktemp("dist")
    installer = ["--installer", "uv"] if shutil.which("uv") else []
    run([sys.executable, "-m", "build", *installer, "--outdir", str(folder), str(ROOT)])
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return Built(wheel, sdist)


@pytest.fixture(scope="module")
def environment(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the programs of a new environment with the wheel in it."""
    python = os.environ.get("COLBERT_RERANK_WHEEL_PYTHON") or sys.executable
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    constraints, programs = str(ROOT / "constraints.txt"), folder / "bin"
    try:
        if uv := shutil.which("uv"):
            run([uv, "venv", "--quiet", "--python", python, str(folder)])
            run([uv, "pip", "install", "--quiet", "--python", str(programs / "python"), "-c", constraints, built.wheel])
        else:
            run([python, "-m", "venv", str(folder)])
            run([programs / "python", "-m", "pip", "install", "--quiet", "-c", constraints, built.wheel])
        yield programs
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # 5 GB


def run(command: list[str | Path], folder: Path = ROOT, **environ: str) -> str:
    """What a command prints on stdout; it must succeed. It does not see the clone through the environment."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV", "UV_PYTHON")}
    done = subprocess.run(command, cwd=folder, env=inherited | environ, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_wheel_holds_these_packages_and_their_data(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        names = set(wheel.namelist())
    (metadata,) = {name.partition("/")[0] for name in names if ".dist-info/" in name}
    assert {name.partition("/")[0] for name in names} == {"colbert_rerank", "ingest", "mappings", metadata}
    assert names >= DATA
    assert f"{metadata}/licenses/LICENSE" in names
    in_clone = {
        path.relative_to(ROOT).as_posix() for p in ("colbert_rerank", "ingest", "mappings") for path in files(p)
    }
    assert {name for name in names if metadata not in name} == in_clone
    assert built.wheel.stat().st_size < LARGEST


def files(package: str) -> list[Path]:
    return [p for p in (ROOT / package).rglob("*") if p.is_file() and "__pycache__" not in p.parts]


def test_the_wheel_says_what_it_needs_and_offers(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        (metadata,) = [wheel.read(name).decode() for name in wheel.namelist() if name.endswith("/METADATA")]
        (programs,) = [wheel.read(name).decode() for name in wheel.namelist() if name.endswith("/entry_points.txt")]
    assert "Requires-Python: <3.14,>=3.10" in metadata
    assert "License-Expression: Apache-2.0" in metadata
    extras = ["aws", "elasticsearch", "faiss", "haystack", "ir-datasets", "langchain", "llama-index", "onnx", "pages"]
    extras += ["pooling", "pyterrier", "rerankers", "serve"]
    assert re.findall(r"^Provides-Extra: (.*)$", metadata, flags=re.M) == extras
    assert "colbert-rerank = colbert_rerank.cli:main" in programs


def test_neither_holds_tests_benchmarks_or_what_lies_about(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        names = wheel.namelist()
    with tarfile.open(built.sdist) as sdist:
        inside = [name.partition("/")[2] for name in sdist.getnames()]
    assert {"README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml", "PKG-INFO"} <= set(inside)
    for name in [*names, *inside]:
        parts = Path(name).parts
        assert not {"tests", "benchmarks", "__pycache__", "build", ".venv"} & set(parts), name
        assert not name.endswith((".pyc", ".tmp", ".log")), name


def test_the_main_job_runs_from_the_wheel_without_the_clone_and_without_a_network(
    environment: Path, tmp_path: Path
) -> None:
    nowhere = "http://127.0.0.1:9"  # nothing listens there: what asks the network fails
    out = run(
        [environment / "colbert-rerank", "demo", "--quiet"],
        tmp_path,
        HOME=str(tmp_path),
        HF_HOME=str(tmp_path / "hub"),
        HTTP_PROXY=nowhere,
        HTTPS_PROXY=nowhere,
        ALL_PROXY=nowhere,
    )
    where = run([environment / "python", "-c", "import colbert_rerank; print(colbert_rerank.__file__)"], tmp_path)
    assert Path(where).is_relative_to(environment.parent)
    assert "1,890 documents, 100 queries, top 100 re-ranked" in out
    (bm25,) = re.findall(r"^ *BM25 \(embedded\) +([\d.]+)", out, flags=re.M)
    (colbert,) = re.findall(r"^ *ColBERT \(starter\) +([\d.]+)", out, flags=re.M)
    assert 0.53 <= float(bm25) <= 0.54, out
    assert 0.62 < float(colbert) < 0.66, out
    assert (tmp_path / "demo-store" / "manifest.json").is_file()
    assert "colbert-rerank rerank" in out, "what to do next"


def test_the_image_is_built_from_all_that_the_wheel_needs(built: Built, tmp_path: Path) -> None:
    """The first stage of the Dockerfile, outside of a container: the same files come out of what it copies."""
    stage = (ROOT / "Dockerfile").read_text(encoding="utf-8").partition(" AS build")[2].partition("\nFROM")[0]
    for line in re.findall(r"^COPY (.*)$", stage, flags=re.M):
        *names, target = line.split()
        for name in names:
            source, to = ROOT / name, tmp_path / "src" / target / ("" if (ROOT / name).is_dir() else name)
            to.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, to, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
            else:
                shutil.copy(source, to)
    (command,) = re.findall(r"^RUN (pip wheel .*)$", stage, flags=re.M)
    options = command.replace("/wheels", str(tmp_path / "wheels")).split()
    run([sys.executable, "-m", *options], folder=tmp_path / "src")
    (wheel,) = (tmp_path / "wheels").glob("*.whl")
    with zipfile.ZipFile(wheel) as ours, zipfile.ZipFile(built.wheel) as theirs:
        assert {*ours.namelist()} == {*theirs.namelist()}
