"""A real OpenSearch node on 127.0.0.1 for the tests, made from Maven artefacts. Standard library only.

    with OpenSearchNode() as node:
        print(node.url)

From a shell, ``python tests/server/node.py`` starts a node and stops it at Ctrl-C, and ``--check`` says whether
this machine has what a node needs (exit status 3: no Java 21 or newer, 4: no Maven).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import TypeVar

if not __package__:  # run as a script: the package is found from the repository root
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.server.layout import (
    PARTS,
    VERSION,
    ServerMissingError,
    find_java,
    find_maven,
    is_laid_out,
    java_version,
    lacks_locale_data,
    lay_out,
    layout_folder,
)
from tests.server.rest import call

__all__ = ["NodeFailedError", "OpenSearchNode", "ServerMissingError", "find_java", "lay_out"]

NodeT = TypeVar("NodeT", bound="OpenSearchNode")

_LOG4J = """\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = [%d{ISO8601}][%-5p][%-25c{1.}] %marker%m%n
rootLogger.level = info
rootLogger.appenderRef.console.ref = console
"""

# Runs as a short Python program that asks the kernel to end the process with its parent and then becomes Java, so a
# killed test run leaves no node behind. (subprocess's preexec_fn would do, but warns where threads are running.)
_DIE_WITH_PARENT = """\
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


class NodeFailedError(RuntimeError):
    """OpenSearch did not start; the message ends with its log."""


class OpenSearchNode:
    """One node, bound to 127.0.0.1, that lives as long as the ``with`` block and not longer than this process.

    Start it in the main thread: the kernel ends it with the thread that started it.

    Args:
        heap: Java's heap, as in ``-Xmx``.
        port: of the HTTP side; 0 lets the node take a free one.
        settings: further lines for opensearch.yml.
        plugins: names of folders of the "plugins" part to load; it is fetched only if there are any.
        data: where the indices lie; by default in a temporary folder that goes with the node.
        quick_start: Java options of a node that is young all its life; without them it is as fast as in production.
        timeout: seconds to wait for the node to answer.

    Raises:
        ServerMissingError: no Java, no Maven, or nothing to download from.
        NodeFailedError: OpenSearch exits, or does not answer in time.
    """

    version = VERSION
    scheme = "http"

    def __init__(
        self,
        *,
        heap: str = "512m",
        port: int = 0,
        settings: Mapping[str, object] | None = None,
        plugins: Sequence[str] = (),
        data: Path | None = None,
        quick_start: bool = True,
        timeout: float = 180.0,
    ) -> None:
        self.url = ""
        self._heap = heap
        self._port = port
        self._settings = dict(settings or {})
        self._plugins = list(plugins)
        self._data = data
        self._quick_start = quick_start
        self._timeout = timeout
        self._work: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self: NodeT) -> NodeT:
        java_home = find_java()
        server, plugins = self._lay_out()
        class_path = [str(server / "lib" / "*")]
        if lacks_locale_data(java_home):
            class_path += sorted(str(jar) for jar in lay_out("icu").glob("*.jar"))
        self._work = Path(tempfile.mkdtemp(prefix="opensearch-node-")).resolve()
        try:
            home = self._make_home(server, plugins)
            self._start(self._command(java_home, server, home, class_path), home)
            self._await_health(home)
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

    def _lay_out(self) -> tuple[Path, list[Path]]:
        """The unpacked server and the plugins to load."""
        server = lay_out("server") / f"opensearch-{VERSION}"
        return server, [lay_out("plugins") / name for name in self._plugins]

    def _make_home(self, server: Path, plugins: Sequence[Path]) -> Path:
        """A path.home of its own made of links, so that one unpacked server serves many nodes."""
        assert self._work is not None
        home = self._work / "home"
        for name in ("config", "plugins", "logs", "data", "tmp"):
            (home / name).mkdir(parents=True)
        for name in ("lib", "modules", "agent", "bin"):
            (home / name).symlink_to(server / name)
        for plugin in plugins:
            (home / "plugins" / plugin.name).symlink_to(plugin)
        if self._data is not None:
            self._data.mkdir(parents=True, exist_ok=True)
        settings = {
            "cluster.name": "colbert-rerank-tests",
            "node.name": "node-0",
            "discovery.type": "single-node",
            "network.host": "127.0.0.1",
            "http.port": self._port,
            "transport.port": 0,
            "node.portsfile": True,  # the node writes the port it got to logs/http.ports
            "path.data": str((self._data or home / "data").resolve()),
            "path.logs": str(home / "logs"),
            # A nearly full disk must not turn indices read-only in the middle of a test.
            "cluster.routing.allocation.disk.threshold_enabled": False,
            **self._settings,
        }
        lines = "".join(f"{name}: {json.dumps(value)}\n" for name, value in settings.items())
        (home / "config" / "opensearch.yml").write_text(lines, encoding="utf-8")
        (home / "config" / "log4j2.properties").write_text(_LOG4J, encoding="utf-8")
        return home

    def _command(self, java_home: Path, server: Path, home: Path, class_path: Sequence[str]) -> list[str]:
        options = [
            f"-Xms{self._heap}",
            f"-Xmx{self._heap}",
            *(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"] if self._quick_start else ["-XX:+UseG1GC"]),
            "-Djava.awt.headless=true",
            "-Dfile.encoding=UTF-8",
            "-Djava.locale.providers=SPI,CLDR",
            f"-Djava.io.tmpdir={home / 'tmp'}",
            "-Djna.nosys=true",
            "-Dio.netty.noUnsafe=true",
            "-Dio.netty.noKeySetOptimization=true",
            "-Dio.netty.recycler.maxCapacityPerThread=0",
            "-Dlog4j.shutdownHookEnabled=false",
            "-Dlog4j2.disable.jmx=true",
            "-Dorg.apache.lucene.store.MMapDirectory.sharedArenaMaxPermits=1",
            "--add-opens=java.base/java.nio=ALL-UNNAMED",
            "--enable-native-access=ALL-UNNAMED",
            f"-javaagent:{server / 'agent' / 'opensearch-agent.jar'}",
            f"-Dopensearch.path.home={home}",
            f"-Dopensearch.path.conf={home / 'config'}",
            "-Dopensearch.distribution.type=zip",
            "-Dopensearch.bundled_jdk=false",
        ]
        if os.geteuid() == 0:
            # OpenSearch refuses to run as root, which it learns through JNA's native library. CI often is root, so the
            # library is made unloadable: OpenSearch then warns instead.
            options += ["-Djna.nounpack=true", f"-Djna.boot.library.path={home / 'tmp'}"]
        java = str(java_home / "bin" / "java")
        return [java, *options, "-cp", os.pathsep.join(class_path), "org.opensearch.bootstrap.OpenSearch"]

    def _start(self, command: Sequence[str], home: Path) -> None:
        env = {name: value for name, value in os.environ.items() if name not in ("JAVA_TOOL_OPTIONS", "CLASSPATH")}
        shim = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid())]
        with (home.parent / "node.log").open("wb") as log:
            self._process = subprocess.Popen(
                [*shim, *command],
                cwd=home,
                env={**env, "LC_ALL": "C.UTF-8"},
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
        raise NodeFailedError(f"OpenSearch {self.version} {what}. The end of its log:\n{self.log_tail()}")

    def _is_healthy(self) -> bool:
        return call(self.url, "GET", "/_cluster/health?wait_for_status=yellow&timeout=5s", timeout=10).status == 200


def check() -> int:
    """Print what this machine has and lacks; 0 if a node can be started."""
    status = 0
    try:
        home = find_java()
        print(f"Java {java_version(home)}: {home}")
    except ServerMissingError as missing:
        print(missing, file=sys.stderr)
        status = missing.status
    if is_laid_out():
        print(f"OpenSearch {VERSION}: {layout_folder() / PARTS['server']}")
        return status
    try:
        print(f"Maven: {find_maven()}; OpenSearch {VERSION} will be fetched (162 MB) when first needed")
    except ServerMissingError as missing:
        print(missing, file=sys.stderr)
        status = status or missing.status
    return status


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=f"Start an OpenSearch {VERSION} node on 127.0.0.1 until Ctrl-C.")
    parser.add_argument("--check", action="store_true", help="only say whether this machine has what a node needs")
    parser.add_argument("--port", type=int, default=9200, help="HTTP port; 0 takes a free one (default: 9200)")
    parser.add_argument("--heap", default="512m", help="Java's heap (default: 512m)")
    parser.add_argument("--data", type=Path, help="keep the indices in this folder (default: they go with the node)")
    parser.add_argument("--plugin", action="append", default=[], help="load it, such as opensearch-knn; repeatable")
    parser.add_argument("--production", action="store_true", help="Java as in production, for benchmarks: slower start")
    options = parser.parse_args(arguments)
    if options.check:
        return check()
    stopping = threading.Event()

    def ask_to_stop(number: int, frame: FrameType | None) -> None:
        stopping.set()

    try:
        if not is_laid_out():
            print(f"Fetching OpenSearch {VERSION} with Maven (162 MB, once) ...", flush=True)
        with OpenSearchNode(
            port=options.port,
            heap=options.heap,
            data=options.data,
            plugins=options.plugin,
            quick_start=not options.production,
        ) as node:
            signal.signal(signal.SIGINT, ask_to_stop)
            signal.signal(signal.SIGTERM, ask_to_stop)
            print(
                f"OpenSearch {VERSION} answers at {node.url} (no password, this machine only). Ctrl-C stops it.",
                flush=True,
            )
            while node.is_running() and not stopping.wait(0.5):
                pass
            if not stopping.is_set():
                raise NodeFailedError(f"OpenSearch {VERSION} exited. The end of its log:\n{node.log_tail()}")
    except (ServerMissingError, NodeFailedError) as failed:
        print(f"Error: {failed}", file=sys.stderr)
        return failed.status if isinstance(failed, ServerMissingError) else 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
