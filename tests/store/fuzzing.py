"""A coverage-guided fuzzer (atheris) on the readers of manifests and of segment headers.

    python -m tests.store.fuzzing manifest|segment FOLDER [options of libFuzzer, such as -runs=100000 -seed=1]

FOLDER holds what it begins with, and what it finds on the way. Whatever the bytes are, the readers may only return, or
raise one of the store's own errors.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

# Nothing of the package is imported here: atheris instruments what is imported after it.
ROOT = Path(__file__).parents[2]
TARGETS = ("manifest", "segment")


class FuzzReport(NamedTuple):
    runs: int
    coverage: dict[str, int]  # by target: edges reached


def fuzz(n: int, seed: int) -> FuzzReport:
    """Run each target ``n`` times; AssertionError, with what the fuzzer said, where a reader did what it may not."""
    coverage = {}
    with tempfile.TemporaryDirectory() as name:
        for target in TARGETS:
            folder = Path(name) / target
            folder.mkdir()
            seeds(target, folder, Path(name) / f"store-{target}")
            # no limit on memory: the greatest use that Linux tells begins with that of the process before the fork
            options = [f"-runs={n}", f"-seed={seed}", "-max_len=65536", "-rss_limit_mb=0", f"-artifact_prefix={name}/"]
            done = subprocess.run(
                [sys.executable, "-m", "tests.store.fuzzing", target, str(folder), *options],
                capture_output=True,
                text=True,
                cwd=ROOT,
            )
            assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
            assert f"Done {n} runs" in done.stderr, done.stderr[-4000:]
            coverage[target] = max(int(found) for found in re.findall(r"cov: (\d+)", done.stderr))
    return FuzzReport(n, coverage)


def seeds(target: str, folder: Path, store: Path) -> None:
    """What the fuzzer begins with: whole files, of floats and of residuals."""
    from colbert_rerank.store import writing
    from tests.store import stores

    for codec, sketches in (("float16", ""), ("residual2", "int8")):
        model = stores.random_docs(["a", "b", "c", "日本語"], 1, dim=4, rows=3)
        with writing(store / codec, stores.new_manifest(4, codec, sketches)) as writer:
            stores.commit(writer, model)
            unit = writer.unit()
            unit.delete("a")
            writer.commit(unit, posted=False)
            writer.finish()
        if target == "manifest":
            shutil.copy(store / codec / "manifest.json", folder / codec)
        else:
            for path in (store / codec / "segments").iterdir():
                shutil.copy(path, folder / f"{codec}-{path.name}")


def manifest_target(folder: Path) -> Callable[[bytes], None]:
    """Bytes as they are; and where they are JSON, under a checksum that is right."""
    from colbert_rerank.errors import StoreError
    from colbert_rerank.store import manifest as manifests
    from tests.store import stores

    def read(data: bytes) -> None:
        (folder / "manifest.json").write_bytes(data)
        with contextlib.suppress(StoreError):
            manifests.load(folder)
        try:
            parsed: Any = json.loads(data)
            stores.sign(folder, parsed)
        except (ValueError, TypeError, RecursionError):
            return
        with contextlib.suppress(StoreError):
            assert manifests.load(folder).recipe.fields is not None

    return read


def segment_target(folder: Path) -> Callable[[bytes], None]:
    from colbert_rerank.errors import StoreError
    from colbert_rerank.store import columns, segment

    def read(data: bytes) -> None:
        mapped = np.frombuffer(data, np.uint8)
        try:
            columns.check_header(folder, mapped)
            columns.read(folder, mapped, segment.REQUIRED, "0" * 16, segment.OPTIONAL)
        except StoreError:
            pass

    return read


def main() -> None:
    import atheris

    target, folder, *options = sys.argv[1:]
    with atheris.instrument_imports(include=["colbert_rerank.store"]):
        import colbert_rerank.store  # noqa: F401
    with tempfile.TemporaryDirectory() as name:
        make = {"manifest": manifest_target, "segment": segment_target}[target]
        atheris.Setup([sys.argv[0], folder, *options], make(Path(name)))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
