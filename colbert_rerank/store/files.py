"""The one layer through which a store's files are written durably: whole or not at all.

A file is written under a temporary name in its own folder, forced to disk, renamed, and the folder forced to disk.
What a crash leaves behind has a temporary name, or is not listed in the manifest, and is swept up by the next writer.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import xxhash

from colbert_rerank.errors import StoreWriteError

TEMPORARY = ".tmp"


def write_whole(path: Path, fill: Callable[[Path], None]) -> None:
    """Make ``path`` from what ``fill`` writes to a temporary file, or leave it as it was and raise StoreWriteError."""
    temporary = path.with_name(path.name + TEMPORARY)
    with write_errors(path):
        try:
            fill(temporary)
            _sync(temporary)
            _rename(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """The same with a text as UTF-8."""
    write_whole(path, lambda temporary: _write(temporary, text))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def checksum(path: Path) -> str:
    """XXH3-64 of a file."""
    hashed = xxhash.xxh3_64()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            hashed.update(chunk)
    return hashed.hexdigest()


def make_folder(path: Path) -> None:
    """Make ``path`` and the folders above it that are not there yet, durably."""
    with write_errors(path):
        made = [folder for folder in (path, *path.parents) if not folder.exists()]
        for folder in reversed(made):
            _make(folder)
        for folder in made or [path]:  # a process that was killed may have made it
            _sync(folder.parent)


def make_inside(path: Path) -> None:
    """Make the folder ``path``; it is durable when a file beside it is written whole, which forces their folder."""
    with write_errors(path):
        _make(path)


def discard(path: Path) -> None:
    """Remove a file, if it is there, durably: what comes later relies on it. Raises StoreWriteError."""
    with write_errors(path):
        if path.exists():
            unlink(path)
            _sync(path.parent)


def unlink(path: Path) -> None:
    """Remove a file, if it is there. Not durably: what is left over after a crash is removed again."""
    path.unlink(missing_ok=True)


def keep_aside(paths: Iterable[Path], folder: Path) -> None:
    """Let files that are about to be removed stay in ``folder``, too, where the file system can link them."""
    with write_errors(folder):
        _make(folder)
        for path in paths:
            with suppress(FileNotFoundError, FileExistsError, PermissionError):
                os.link(path, folder / path.name)


def move(path: Path, to: Path) -> None:
    """Let ``path`` be ``to``, a file that is replaced or a folder that is empty, durably. Raises StoreWriteError."""
    with write_errors(to):
        _rename(path, to)
        _sync(to.parent)


def remove(paths: Iterable[Path]) -> None:
    """Remove files and empty folders, one after the other; stop at a folder that holds something else."""
    with suppress(OSError):
        for path in paths:
            path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn an operating system's refusal to write into StoreWriteError."""
    try:
        yield
    except OSError as error:
        raise StoreWriteError(f"cannot write {path}: {_reason(error)}. What was committed before is intact") from error


class Lock:
    """A lock on a file (flock), which the system lets go of when its holder dies, however it dies.

    Held by one process, or shared by several. Raises StoreWriteError where the file system knows no locks.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle = -1

    def take(self, *, shared: bool = False, wait: bool = False) -> bool:
        """Take the lock, instead of how it is held; whether that was possible, at once or after a ``wait``.

        Where it was not, or the file has been removed meanwhile, the lock is not held any more.
        """
        if self._handle < 0:
            with write_errors(self.path):
                try:
                    self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                except FileNotFoundError:  # its folder
                    return False
        try:
            how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            fcntl.flock(self._handle, how if wait else how | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            return False
        except OSError as error:  # some network file systems know no locks
            raise StoreWriteError(f"cannot lock {self.path}: {_reason(error)}") from error
        if not _is_file(self.path, self._handle):
            self.release()
            return False
        return True

    @property
    def held(self) -> bool:
        return self._handle >= 0

    def release(self) -> None:
        if self._handle >= 0:
            with suppress(OSError):
                fcntl.flock(self._handle, fcntl.LOCK_UN)  # a child that was forked may have the file open, too
            os.close(self._handle)
            self._handle = -1


def _is_file(path: Path, handle: int) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _rename(path: Path, to: Path) -> None:
    path.replace(to)


def _make(folder: Path) -> None:
    folder.mkdir(exist_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _reason(error: OSError) -> str:
    # h5py reports the system's error inside its own text, and sometimes without an errno
    text = str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT) or "errno = 28" in text:
        return "the disk is full. Free some space and run the same command again, it goes on where it stopped"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"{os.strerror(error.errno).lower()}. Give a folder this user can write to"
    return os.strerror(error.errno).lower() if error.errno else text
