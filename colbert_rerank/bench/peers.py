"""Peers as this process sees them: asked for the same documents, and held to the same scores."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from colbert_rerank.bench import peer
from colbert_rerank.bench.documents import QUERY_TOKENS, Matrices
from colbert_rerank.bench.turns import Work
from colbert_rerank.errors import UsageError

AGREE = 1e-3  # a token; how far a peer's score, of other roundings, may be from ours of float16
CHECKED = 100  # documents


class PeerMissingError(Exception):
    """It is not installed, or does not run here; the message is its own."""


class Answer(NamedTuple):
    ms: float
    scores: npt.NDArray[np.float64]


class Peer:
    """A process of a library; ends with its ``with`` block. Raises PeerMissingError where the library does not run."""

    def __init__(self, name: str, python: str, matrices: Matrices, threads: int) -> None:
        self._name, folder = name, matrices.vectors.parent
        self._errors = (folder / f"{name}.stderr").open("w+", encoding="utf-8")
        counted = {"OMP_NUM_THREADS": str(threads), "RAYON_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        files = [str(matrices.query), str(matrices.vectors), str(matrices.offsets)]
        found = str(Path(python).absolute()) if os.sep in python else python  # it is called from another folder
        command = [found, peer.__file__, name, *files, str(threads)]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,  # a pipe that no one reads would fill
                text=True,
                env=os.environ | counted,
                cwd=folder,  # its own folder would hide libraries by its modules' names
            )
        except OSError as error:
            self._errors.close()
            raise UsageError(f"{python} cannot be run: {error}") from None
        ready = self._read()
        if not isinstance(ready, dict):
            self._end()
            self._errors.seek(0)
            said = self._errors.read().strip()
            self._errors.close()
            raise PeerMissingError(said.rpartition("\n")[2] or "it ended at once")
        self.version = str(ready["version"])

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
        if stdin := self._process.stdin:
            with suppress(BrokenPipeError):  # it has ended, as the reading will tell
                stdin.write(json.dumps(numbers) + "\n")
                stdin.flush()
        found = self._read()
        if not isinstance(found, dict):
            raise PeerMissingError("it ended")
        return Answer(float(found["ms"]), np.array(found["scores"], dtype=np.float64))

    def ms(self, numbers: list[int]) -> float:
        """The time of a peer that was seen to run. Raises UsageError where it has ended since."""
        try:
            return self.score(numbers).ms
        except PeerMissingError:
            raise UsageError(
                f"{self._name} ended while it was measured: has this machine memory enough for it? The vectors it "
                "holds are ten times as large as the last cache"
            ) from None

    def _read(self) -> object:
        line = self._process.stdout.readline() if self._process.stdout else ""
        return json.loads(line) if line.startswith("{") else None


Ours = Callable[[list[int]], npt.NDArray[np.float64]]
"""The scores that we give the documents of these numbers."""


def started(
    opened: ExitStack,
    names: Iterable[str],
    pythons: Mapping[str, str],
    matrices: Matrices,
    threads: int,
    ours: Ours,
    versions: dict[str, str],
) -> tuple[dict[str, Work], dict[str, str]]:
    """The peers that run and are seen to do the same work, for as long as ``opened``; and why others are missing."""
    works, missing = {}, {}
    numbers = list(range(min(CHECKED, matrices.documents)))
    for name in names:
        if name not in pythons:
            missing[name] = "not asked for"
            continue
        try:
            one = opened.enter_context(Peer(name, pythons[name], matrices, threads))
            check_scores(one.score(numbers).scores, ours(numbers))
        except PeerMissingError as error:
            missing[name] = str(error)
            continue
        versions[name] = one.version
        works[name] = Work(matrices.documents, one.ms)
    return works, missing


def check_scores(theirs: npt.NDArray[np.float64], ours: npt.NDArray[np.float64]) -> None:
    """Raises PeerMissingError where a peer's scores are other ones."""
    if not np.allclose(theirs, ours, rtol=0, atol=AGREE * QUERY_TOKENS):
        raise PeerMissingError(f"its scores are others, by up to {np.abs(theirs - ours).max():.3g}")
