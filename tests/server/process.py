"""A search server as a process of Java that lives as long as a ``with`` block. Standard library only."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, TypeVar

from tests.server.layout import find_java
from tests.server.rest import call

NodeT = TypeVar("NodeT", bound="Node")

LOG4J = """\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = [%d{ISO8601}][%-5p][%-25c{1.}] %marker%m%n
rootLogger.level = info
rootLogger.appenderRef.console.ref = console
"""

# Runs as a short Python program that becomes the user it is told (to whom the kernel then forgets what it was asked, so
# that comes first), asks the kernel to end the process with its parent, and then becomes the server: so a killed test
# run leaves no node behind. (subprocess's preexec_fn would do, but warns where threads are running.)
_DIE_WITH_PARENT = """\
import ctypes, os, signal, sys
parent, user = map(int, sys.argv[1:3])
if user >= 0:
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() != parent:
    sys.exit("the parent is gone")
os.execv(sys.argv[3], sys.argv[3:])
"""


class NodeFailedError(RuntimeError):
    """The server did not start; the message ends with its log."""


class Launch(NamedTuple):
    """What to run, in the folder ``home``, beside which the log is written. ``user`` is a number, -1 for this one."""

    command: Sequence[str]
    home: Path
    environ: Mapping[str, str]
    user: int = -1


class Node(ABC):
    """One node, bound to 127.0.0.1, that lives as long as the ``with`` block and not longer than this process.

    Start it in the main thread: the kernel ends it with the thread that started it. ``timeout`` is in seconds, for the
    node to answer.

    Raises:
        ServerMissingError: no Java, no Maven, or nothing to download from.
        NodeFailedError: the server exits, or does not answer in time.
    """

    product = ""
    version = ""
    scheme = "http"

    def __init__(self, *, timeout: float = 180.0) -> None:
        self.url = ""
        self._timeout = timeout
        self._work: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self: NodeT) -> NodeT:
        java_home = find_java()
        self._fetch()
        self._work = Path(tempfile.mkdtemp(prefix=f"{self.product.lower()}-node-")).resolve()
        try:
            launch = self._prepare(java_home, self._work)
            self._start(launch)
            self._await_health(launch.home)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the node and remove its temporary folder. May be called twice."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._work is not None:
            shutil.rmtree(self._work, ignore_errors=True)
            self._work = None

    def kill(self) -> None:
        """End the node as a crash or a power cut would: it can do nothing more."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def log_tail(self, characters: int = 4000) -> str:
        """The end of the node's log."""
        if self._work is None or not (self._work / "node.log").is_file():
            return "(no log)"
        return (self._work / "node.log").read_text(encoding="utf-8", errors="replace")[-characters:]

    @abstractmethod
    def _fetch(self) -> None:
        """Have what the node is made of on this machine. Raises ServerMissingError."""

    @abstractmethod
    def _prepare(self, java_home: Path, work: Path) -> Launch:
        """Write what the node needs into the folder ``work``."""

    def _start(self, launch: Launch) -> None:
        env = {name: value for name, value in os.environ.items() if name not in ("JAVA_TOOL_OPTIONS", "CLASSPATH")}
        shim = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), str(launch.user)]
        with (launch.home.parent / "node.log").open("wb") as log:
            self._process = subprocess.Popen(
                [*shim, *launch.command],
                cwd=launch.home,
                env={**env, "LC_ALL": "C.UTF-8", **launch.environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _await_health(self, home: Path) -> None:
        ports = home / "logs" / "http.ports"
        deadline = time.monotonic() + self._timeout
        while self.is_running() and time.monotonic() < deadline:
            if ports.is_file() and ports.read_text(encoding="utf-8").strip():
                self.url = f"{self.scheme}://{ports.read_text(encoding='utf-8').split()[0]}"
                with contextlib.suppress(OSError):  # not up yet
                    if self._is_healthy():
                        return
            time.sleep(0.1)
        what = f"gave no answer in {self._timeout:g} s" if self.is_running() else "exited while starting"
        raise NodeFailedError(f"{self.product} {self.version} {what}. The end of its log:\n{self.log_tail()}")

    def _is_healthy(self) -> bool:
        return call(self.url, "GET", "/_cluster/health?wait_for_status=yellow&timeout=5s", timeout=10).status == 200
