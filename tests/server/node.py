"""A real OpenSearch node on 127.0.0.1 for the tests, made from Maven artefacts. Standard library only.

    with OpenSearchNode() as node:
        print(node.url)

From a shell, ``python tests/server/node.py`` starts a node and stops it at Ctrl-C, and ``--check`` says whether
this machine has what a node needs (exit status 3: no Java 21 or newer, 4: no Maven).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

if not __package__:  # run as a script: the package is found from the repository root
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.server.layout import (
    ELASTICSEARCH_VERSION,
    PARTS,
    VERSION,
    ServerMissingError,
    find_java,
    find_maven,
    is_laid_out,
    is_part_of_a_jdk,
    java_version,
    lay_out,
    layout_folder,
)
from tests.server.process import LOG4J, Launch, Node, NodeFailedError

# The plugins of a search pipeline that re-ranks, in folders of the part "plugins".
RERANKING = ("opensearch-job-scheduler", "opensearch-knn", "opensearch-ml", "opensearch-neural-search")

__all__ = ["RERANKING", "NodeFailedError", "OpenSearchNode", "ServerMissingError", "find_java", "lay_out"]


class OpenSearchNode(Node):
    """A `Node` of OpenSearch.

    Args:
        heap: Java's heap, as in ``-Xmx``.
        port: of the HTTP side; 0 lets the node take a free one.
        settings: further lines for opensearch.yml.
        plugins: names of folders of the "plugins" part to load; it is fetched only if there are any.
        data: where the indices lie; by default in a temporary folder that goes with the node.
        quick_start: Java options of a node that is young all its life; without them it is as fast as in production.
        timeout: seconds to wait for the node to answer.
    """

    product = "OpenSearch"
    version = VERSION

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
        super().__init__(timeout=timeout)
        self._heap = heap
        self._port = port
        self._settings = dict(settings or {})
        self._plugins = list(plugins)
        self._data = data
        self._quick_start = quick_start

    def _fetch(self) -> None:
        self._lay_out()

    def _prepare(self, java_home: Path, work: Path) -> Launch:
        server, plugins = self._lay_out()
        class_path = [str(server / "lib" / "*")]
        if is_part_of_a_jdk(java_home):
            class_path += sorted(str(jar) for jar in lay_out("icu").glob("*.jar"))
        home = self._make_home(server, plugins, work / "home")
        return Launch(self._command(java_home, server, home, class_path), home, {})

    def _lay_out(self) -> tuple[Path, list[Path]]:
        """The unpacked server and the plugins to load."""
        server = lay_out("server") / f"opensearch-{VERSION}"
        return server, [lay_out("plugins") / name for name in self._plugins]

    def _make_home(self, server: Path, plugins: Sequence[Path], home: Path) -> Path:
        """A path.home of its own made of links, so that one unpacked server serves many nodes."""
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
        (home / "config" / "log4j2.properties").write_text(LOG4J, encoding="utf-8")
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


def check() -> int:
    """Print what this machine has and lacks; 0 if a node can be started."""
    status = 0
    try:
        home = find_java()
        print(f"Java {java_version(home)}: {home}")
    except ServerMissingError as missing:
        print(missing, file=sys.stderr)
        status = missing.status
    parts = {
        "server": f"OpenSearch {VERSION} (162 MB)",
        "elasticsearch": f"Elasticsearch {ELASTICSEARCH_VERSION} (132 MB)",
    }
    for part in filter(is_laid_out, parts):
        print(f"{parts[part]}: {layout_folder() / PARTS[part]}")
    to_fetch = [name for part, name in parts.items() if not is_laid_out(part)]
    if not to_fetch:
        return status
    try:
        print(f"Maven: {find_maven()}; {' and '.join(to_fetch)} will be fetched when first needed")
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
    parser.add_argument("--reranking", action="store_true", help="load the plugins of a search that is re-ranked")
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
            plugins=[*(RERANKING if options.reranking else ()), *options.plugin],
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
