"""The nodes that the tests share, and ``--no-server``, which leaves their tests out."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.server.elasticsearch import ElasticsearchNode
from tests.server.node import RERANKING, OpenSearchNode
from tests.server.rest import call
from tests.server.secured import SecuredNode

if TYPE_CHECKING:
    from colbert_rerank.encoder import Encoder

NODES = ("elasticsearch_node", "secured_node", "plugins_node", "opensearch_url")

_LEFT_OUT = pytest.StashKey[dict[str, int]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-server", action="store_true", help="leave out the tests that need a search server")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Others(config))
    config.addinivalue_line("markers", "own_node: starts a node of its own, whatever OPENSEARCH_URL says")
    if not _has_gpu():  # read when Triton is imported, as it may be by any library
        os.environ["TRITON_INTERPRET"] = "1"
    # what the frameworks of the adapters would tell their makers; read when they are imported
    os.environ |= {"HAYSTACK_TELEMETRY_ENABLED": "false", "LANGSMITH_TRACING": "false", "LANGCHAIN_TRACING_V2": "false"}
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it fetches one
    # a shell starts what runs in its background deaf to Ctrl-C, and so would be every process that a test interrupts
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if ({*NODES} - {"opensearch_url"}) & set(fixtures):
            item.add_marker(pytest.mark.own_node)
        if "opensearch_url" in fixtures or item.get_closest_marker("own_node"):
            item.add_marker(pytest.mark.server)
        # of several processes one has all tests of a node, or of a file
        node = next((name for name in fixtures if name in NODES), None)
        item.add_marker(pytest.mark.xdist_group(node or item.nodeid.partition("::")[0]))
    if hasattr(config, "workerinput"):  # of several processes none is to wait for another's longest tests at the end
        items.sort(key=lambda item: not any(map(item.get_closest_marker, ("server", "proof", "wheel"))))
    left_out = config.stash.setdefault(_LEFT_OUT, {})
    if any(item.get_closest_marker("gpu") for item in items) and not _has_gpu():
        left_out["no CUDA device: {} tests that need one were left out"] = _deselect(config, items, "gpu")
    if any(item.get_closest_marker("triton") for item in items) and not _has_triton():
        left_out["no Triton: {} tests of the GPU's kernel were left out"] = _deselect(config, items, "triton")
    if any(item.get_closest_marker("triton") for item in items) and not _has_gpu():
        _mend_interpreter()
    if config.getoption("--no-server"):
        left_out["--no-server: {} tests that need a browser were left out"] = _deselect(config, items, "browser")
        left_out["--no-server: {} tests that need a server were left out"] = _deselect(config, items, "server")
    elif os.environ.get("OPENSEARCH_URL"):
        # Where a server is given, the machine need not be able to start one.
        left_out["OPENSEARCH_URL: {} tests that start a node of their own were left out"] = _deselect(
            config, items, "own_node"
        )


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def _mend_interpreter() -> None:
    """Triton 3.6, which torch 2.11 asks for, makes loops' bounds of arrays [1], as NumPy 2.4 no longer does.

    Triton has mended it since: https://github.com/triton-lang/triton/issues/9171
    """
    from triton.runtime import interpreter

    patched = interpreter._patch_lang_tensor

    def mended(tensor: Any, scope: Any) -> None:
        patched(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = mended


def _deselect(config: pytest.Config, items: list[pytest.Item], marker: str) -> int:
    left_out = [item for item in items if item.get_closest_marker(marker)]
    items[:] = [item for item in items if not item.get_closest_marker(marker)]
    config.hook.pytest_deselected(items=left_out)
    return len(left_out)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if (told := getattr(session.config, "workeroutput", None)) is not None:  # one of several processes
        told["left_out"] = session.config.stash.get(_LEFT_OUT, {})


class _Others:
    """What the processes that ran the tests left out, which is the same in all of them."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        self._config.stash[_LEFT_OUT] = getattr(node, "workeroutput", {}).get("left_out", {})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for message, count in config.stash.get(_LEFT_OUT, {}).items():
        terminalreporter.write_sep("=", message.format(count), yellow=True)


@pytest.fixture(scope="session")
def opensearch_url() -> Iterator[str]:
    """The URL of a real OpenSearch: OPENSEARCH_URL where it is set, else a node started once for the whole run.

    A machine that lacks what a node needs fails here. It never skips.
    """
    given = os.environ.get("OPENSEARCH_URL")
    if given:
        yield given.rstrip("/")
        return
    with OpenSearchNode() as node:
        yield node.url


@pytest.fixture(scope="session")
def secured_node() -> Iterator[SecuredNode]:
    """A real node behind OpenSearch's security plugin: ``url`` (https), ``ca_file``, ``admin``, ``reader``."""
    with SecuredNode() as node:
        yield node


@pytest.fixture(scope="session")
def plugins_node() -> Iterator[OpenSearchNode]:
    """A real OpenSearch with what its standard distribution has for re-ranking: k-NN, ml-commons, neural-search."""
    with OpenSearchNode(heap="1g", plugins=RERANKING) as node:
        yield node


@pytest.fixture(scope="session")
def elasticsearch_node() -> Iterator[ElasticsearchNode]:
    """A real Elasticsearch, started once for the whole run: ``url`` (with the user admin), ``reader``, ``searcher``.

    A machine that lacks what a node needs fails here. It never skips.
    """
    with ElasticsearchNode() as node:
        yield node


@pytest.fixture
def index_name(opensearch_url: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """An index name that no other test has. Indices whose names begin with it are deleted after the test."""
    yield from _name_of_its_own(opensearch_url, request)


@pytest.fixture
def elastic_index(elasticsearch_node: ElasticsearchNode, request: pytest.FixtureRequest) -> Iterator[str]:
    """The same in Elasticsearch."""
    yield from _name_of_its_own(elasticsearch_node.url, request)


def _name_of_its_own(url: str, request: pytest.FixtureRequest) -> Iterator[str]:
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:40]
    name = f"crt-{words}-{uuid.uuid4().hex[:8]}"
    yield name
    listed = call(url, "GET", f"/_cat/indices/{name}*?h=index&format=json&expand_wildcards=all")
    assert listed.status == 200, listed.body
    for row in listed.json():
        deleted = call(url, "DELETE", f"/{row['index']}")
        assert deleted.status == 200, deleted.body


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small checkpoint with random weights; see `tests.tiny`."""
    from tests.tiny import tiny_checkpoint

    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture(scope="session")
def tiny_encoder(tiny: Path) -> Encoder:
    from colbert_rerank.encoder import Encoder

    return Encoder.load(str(tiny), device="cpu")


@pytest.fixture(scope="session")
def starter_encoder() -> Encoder:
    """The bundled checkpoint: about 40 documents a second, where the quality of vectors matters."""
    from colbert_rerank.encoder import Encoder

    return Encoder.load("starter", device="cpu")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch on one thread: on busy cores a small network spends nearly all its time waiting for the others."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
