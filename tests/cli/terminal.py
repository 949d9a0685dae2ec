"""The command line as its users call it: arguments in; exit status, stdout and stderr out.

In this process, because loading torch takes seconds. `test_output.py` starts a few real processes as well.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple
from unittest.mock import patch

from colbert_rerank.cli import main

LOGGERS = ("", "colbert_rerank", "colbert_rerank.binding", "colbert_rerank.cli", "ingest")


class Result(NamedTuple):
    status: int
    out: str
    err: str

    def check(self) -> Result:
        assert self.status == 0, self.err
        return self

    @property
    def error(self) -> str:
        """The one line that says what is wrong, of a command that failed as it should."""
        assert self.status not in (0, None), self
        assert self.out == "", "a command that fails has no results"
        assert "Traceback" not in self.err
        (line,) = [line for line in self.err.splitlines() if line.startswith("Error: ")]
        return line.removeprefix("Error: ")


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def invoke(
    *arguments: object,
    stdin: bytes = b"",
    environ: Mapping[str, str] | None = None,
    terminal: bool = False,
    program: str = "colbert-rerank",
) -> Result:
    """What `colbert-rerank ARGUMENTS` does. Warnings of libraries are errors, as everywhere in the tests."""
    out, err = (Screen(), Screen()) if terminal else (io.StringIO(), io.StringIO())
    with (
        patch.object(sys, "argv", [program, *map(str, arguments)]),
        patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin))),
        patch.object(sys, "stdout", out),
        patch.object(sys, "stderr", err),
        patch.object(sys, "warnoptions", ["error"]),
        patch.dict(os.environ, environ or {}),
        logging_as_it_was(),
    ):
        try:
            main()
        except SystemExit as end:
            status = end.code
    assert isinstance(status, int) or status is None, status
    return Result(status or 0, out.getvalue(), err.getvalue())


@contextmanager
def logging_as_it_was() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(logger.handlers[:], logger.propagate, logger.level) for logger in loggers]
    try:
        yield
    finally:
        for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
            logger.handlers[:] = handlers
            logger.propagate = propagate
            logger.setLevel(level)
