"""Peers as this process sees them: asked for the same documents, and held to the same scores."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from colbert_rerank.bench import peer
from colbert_rerank.errors import UsageError

# By name, what a benchmark's table calls it.
LABELS = {"maxsim_cpu": "maxsim-cpu, matrices in memory", "pylate": "PyLate rank.rerank, vectors in memory"}


class PeerMissingError(Exception):
    """It is not installed, or does not run here; the message is its own."""


class Answer(NamedTuple):
    ms: float
    scores: npt.NDArray[np.float64]


class Peer:
    """A process of a library; ends with its ``with`` block. Raises PeerMissingError where the library does not run."""

    def __init__(self, name: str, python: str, vectors: Path, query: Path, tokens: int, threads: int) -> None:
        self._errors = (vectors.parent / f"{name}.stderr").open("w+", encoding="utf-8")
        counted = {"OMP_NUM_THREADS": str(threads), "RAYON_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        command = [python, peer.__file__, name, str(vectors), str(query), str(tokens), str(threads)]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,  # a pipe that no one reads would fill
                text=True,
                env=os.environ | counted,
                cwd=vectors.parent,  # its own folder would hide libraries by its modules' names
            )
        except OSError as error:
            self._errors.close()
            raise UsageError(f"{python} cannot be run: {error}") from None
        if self._read() != "ready":
            self._end()
            self._errors.seek(0)
            said = self._errors.read().strip()
            self._errors.close()
            raise PeerMissingError(said.rpartition("\n")[2] or "it ended at once")

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        self._errors.close()

    def _end(self) -> None:
        self._process.kill()
        self._process.communicate()

    def score(self, numbers: list[int]) -> Answer:
        """Raises PeerMissingError where it has ended."""
        stdin = self._process.stdin
        if stdin:
            stdin.write(json.dumps(numbers) + "\n")
            stdin.flush()
        found = self._read()
        if not isinstance(found, dict):
            raise PeerMissingError("it ended")
        return Answer(float(found["ms"]), np.array(found["scores"], dtype=np.float64))

    def _read(self) -> object:
        line = self._process.stdout.readline() if self._process.stdout else ""
        return json.loads(line) if line.startswith(("{", '"')) else None
