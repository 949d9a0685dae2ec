"""Lines of text files as users have them: UTF-8, perhaps gzipped, perhaps on stdin, each with its number."""

from __future__ import annotations

import contextlib
import gzip
import io
import shlex
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

from colbert_rerank.errors import InputError

STDIN = "-"
_GZIP_MAGIC = b"\x1f\x8b"
_COMPRESS_MAGIC = b"\x1f\x9d"
_BOM = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # its byte order marks
_UTF_32 = (b"\xff\xfe\0\0", b"\0\0\xfe\xff")
_BUFFER = 1 << 20
_DAMAGED_GZIP = (EOFError, gzip.BadGzipFile, zlib.error)

OnBad = Callable[[str, str, str], None]
"""What to do with a bad piece of input: (cause, message, where). It raises, or counts the case and returns."""


def refuse(cause: str, message: str, where: str) -> NoReturn:
    """The strict ``OnBad``: every bad piece of input is an ``InputError``."""
    raise InputError(message, where=where)


def shown_name(path: str) -> str:
    return "<stdin>" if path == STDIN else path


@contextlib.contextmanager
def open_bytes(path: str) -> Iterator[BinaryIO]:
    """Open ``path`` (``-`` is stdin) for reading; gzip is found by its first two bytes, whatever the name.

    Raises InputError where the file is missing, unreadable or a folder.
    """
    with contextlib.ExitStack() as stack:
        if path == STDIN:
            buffered = _buffered(sys.stdin.buffer)
            if buffered is not sys.stdin.buffer:
                stack.callback(buffered.detach)  # stdin is not ours to close
        else:
            try:
                buffered = _buffered(stack.enter_context(Path(path).open("rb", buffering=_BUFFER)))
            except OSError as error:
                raise InputError(f"cannot be read: {error.strerror}. Check the path", where=path) from error
        magic = buffered.peek(2)[:2]
        if magic == _COMPRESS_MAGIC:
            raise InputError(
                "is compressed with compress(1) (.Z): run `uncompress` on it first", where=shown_name(path)
            )
        if magic == _GZIP_MAGIC:
            unzipped = stack.enter_context(gzip.GzipFile(fileobj=buffered, mode="rb"))
            yield cast(BinaryIO, io.BufferedReader(_Unzipped(unzipped), _BUFFER))
        else:
            yield cast(BinaryIO, buffered)


def numbered_lines(path: str, on_bad: OnBad = refuse) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, line) of a UTF-8 file; only LF and CR LF end a line, and are not part of it.

    A byte order mark at the start is dropped; that of UTF-16 or UTF-32 raises InputError. A line that is not UTF-8 and
    a gzip stream that is cut or damaged go to ``on_bad``; where that returns, the line is left out, or the file ends.
    """
    name = shown_name(path)
    number = 0
    with open_bytes(path) as file:
        lines = iter(file)
        while True:
            try:
                raw = next(lines, None)
            except _DAMAGED_GZIP as error:
                message = (
                    f"the gzip data is cut off or damaged ({error}): all that follows is lost. Copy the file again"
                )
                on_bad("damaged gzip", message, f"{name}:{number + 1}")
                return
            except OSError as error:
                raise InputError(f"cannot be read: {error.strerror}", where=f"{name}:{number + 1}") from error
            if raw is None:
                return
            number += 1
            if number == 1 and raw.startswith((*_UTF_32, *_UTF_16)):
                kind = "UTF-32" if raw.startswith(_UTF_32) else "UTF-16"
                raise _to_convert(path, kind, gzipped=isinstance(getattr(file, "raw", None), _Unzipped))
            if number == 1 and raw.startswith(_BOM):
                raw = raw[len(_BOM) :]
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                message = (
                    f"not UTF-8: byte 0x{raw[error.start]:02x} at column {error.start + 1}. "
                    "Convert the file, for example with iconv -f LATIN1 -t UTF-8"
                )
                on_bad("not UTF-8", message, f"{name}:{number}")
                continue
            yield number, line.rstrip("\r\n")


def read_ids(path: str) -> list[str]:
    """Document ids, one a line; empty lines are skipped. Raises InputError."""
    return [text for _, line in numbered_lines(path) if (text := line.rstrip("\r\n"))]


def _to_convert(path: str, kind: str, *, gzipped: bool) -> InputError:
    name = "FILE" if path == STDIN else shlex.quote(path)
    convert = f"iconv -f {kind} -t UTF-8"
    command = f"gzip -dc < {name} | {convert}" if gzipped else f"{convert} < {name}"
    return InputError(f"is {kind}, not UTF-8. Convert it: {command} > NEW_FILE", where=shown_name(path))


class _Unzipped(io.RawIOBase):
    """A raw stream to put a buffer on: read1() gives what comes before damaged data, read() loses it."""

    def __init__(self, file: gzip.GzipFile) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read1(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _buffered(stream: BinaryIO) -> io.BufferedReader[Any]:
    if isinstance(stream, io.BufferedReader):
        return stream
    return io.BufferedReader(cast(io.RawIOBase, stream), _BUFFER)
