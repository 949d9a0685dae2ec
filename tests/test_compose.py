"""docker-compose.yml and Dockerfile: safe to start as they stand, and every command of ours in them starts.

No container engine is at hand: the file is checked against the Compose specification's schema (tests/compose-spec.json,
of compose-spec/compose-spec at 170098b, Apache License 2.0), and its commands run outside of containers.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import certifi
import jsonschema
import promql_parser
import pytest
import yaml
from packaging.requirements import Requirement

from tests.collection import MUSIQUE
from tests.serve.running import WAIT
from tests.server.layout import VERSION
from tests.server.node import OpenSearchNode
from tests.server.rest import call

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PASSWORD, TOKEN = "OPENSEARCH_INITIAL_ADMIN_PASSWORD", "COLBERT_RERANK_TOKEN"
# Where the image's install_demo_configuration.sh puts its CA. The node certificate that it signs names localhost,
# 127.0.0.1 and NODE (read from opensearch-project/security at 3.6.0.0).
CA_PATH = "/usr/share/opensearch/config/root-ca.pem"
NODE = "node-0.example.com"
URL = "https://localhost:9200"
USER = "admin"
OURS = ("ingest", "service", "setup")
JOB = "certificate"
SECRET = "a-token-for-the-tests-of-compose"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return cast("dict[str, Any]", yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return cast("dict[str, dict[str, Any]]", compose["services"])


@pytest.fixture(scope="module")
def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def interpolated(value: Any, environ: Mapping[str, str]) -> Any:
    """As compose does it, as far as this file needs it: ${NAME}, ${NAME:-default}, ${NAME:?message}, and $$ for $."""
    if isinstance(value, dict):
        return {name: interpolated(inner, environ) for name, inner in value.items()}
    if isinstance(value, list):
        return [interpolated(inner, environ) for inner in value]
    if not isinstance(value, str):
        return value

    def one(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        if not environ.get(found["name"], "") and found["how"] == ":?":
            raise AssertionError(f"{found['name']}: {found['text']}")
        return environ.get(found["name"], "") or (found["text"] or "")

    return re.sub(r"\$\$|\$\{(?P<name>\w+)(?:(?P<how>:[-?])(?P<text>[^}]*))?\}", one, value)


def test_it_is_a_compose_file(compose: dict[str, Any]) -> None:
    schema = json.loads((ROOT / "tests" / "compose-spec.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft7Validator(schema)
    for environ in ({PASSWORD: "p", TOKEN: "t"}, {PASSWORD: "p", TOKEN: "t", "COLBERT_RERANK_TARGET": "cuda"}):
        assert [error.message for error in validator.iter_errors(interpolated(compose, environ))] == []
    compose["services"]["service"]["prots"] = []
    assert not validator.is_valid(compose), "the schema knows what it does not know"
    del compose["services"]["service"]["prots"]


def test_all_it_names_is_there(compose: dict[str, Any], services: dict[str, dict[str, Any]]) -> None:
    named: dict[str, set[str]] = {"volumes": set(), "configs": set()}
    for service in services.values():
        sources = [volume.split(":")[0] for volume in service.get("volumes", [])]
        named["volumes"] |= {source for source in sources if re.fullmatch(r"[a-z][a-z-]*", source)}
        named["configs"] |= {config["source"] for config in service.get("configs", [])}
    for kind, names in named.items():
        assert names == set(compose[kind]), kind
    files = [config["file"] for config in compose["configs"].values() if "file" in config]
    assert all((ROOT / file).is_file() for file in files)
    assert (ROOT / "colbert_rerank/data/musique_mini/corpus.jsonl").is_file()


def test_what_waits_can_be_waited_for(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        waits = service.get("depends_on", {})
        for other, how in waits.items() if isinstance(waits, dict) else [(other, {}) for other in waits]:
            condition = how.get("condition", "service_started")
            if condition == "service_healthy":
                assert "healthcheck" in services[other], (name, other)
            elif condition == "service_completed_successfully":
                assert services[other]["restart"] == "no", (name, other)
            assert other in services


def test_images_are_pinned(services: dict[str, dict[str, Any]]) -> None:
    images = {name: service["image"] for name, service in services.items()}
    assert images["opensearch"] == f"opensearchproject/opensearch:{VERSION}", "the version that the tests run"
    assert images["dashboards"] == f"opensearchproject/opensearch-dashboards:{VERSION}"
    assert re.fullmatch(r"3\.\d+\.\d+", VERSION)
    for name in ("prometheus", "grafana"):
        assert re.search(r":v?\d+\.\d+\.\d+$", images[name])


def test_ports_are_bound_to_this_machine_only(services: dict[str, dict[str, Any]]) -> None:
    assert {name for name, service in services.items() if "ports" in service} == {*services} - {"ingest", "setup", JOB}
    for service in services.values():
        assert [port for port in service.get("ports", []) if not str(port).startswith("127.0.0.1:")] == []
        assert "network_mode" not in service


def test_others_start_only_when_asked_for(services: dict[str, dict[str, Any]]) -> None:
    profiles = {name: service["profiles"] for name, service in services.items() if "profiles" in service}
    assert profiles == {"dashboards": ["dashboards"], "prometheus": ["monitoring"], "grafana": ["monitoring"]}
    assert services["dashboards"]["depends_on"] == {"opensearch": {"condition": "service_healthy"}}


def test_secrets_must_come_from_the_user(compose: dict[str, Any], services: dict[str, dict[str, Any]]) -> None:
    with pytest.raises(AssertionError, match=rf"{PASSWORD}.*\.env"):
        interpolated(services["opensearch"], {})
    with pytest.raises(AssertionError, match=rf"{TOKEN}.*\.env"):
        interpolated(services["service"], {PASSWORD: "p"})
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == [f"{PASSWORD}=''", f"{TOKEN}=''"]
    words = [word for service in services.values() for word in service.get("command", [])]
    assert not any(PASSWORD in word or TOKEN in word for word in words), "a command line is seen by all"


def test_git_ignores_the_password_file_but_not_its_example() -> None:
    ignored = subprocess.run(
        ["git", "check-ignore", "--no-index", ".env", ".env.example"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ignored.stdout.split() == [".env"]


def test_security_is_on_and_never_waved_through(services: dict[str, dict[str, Any]]) -> None:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    ways = (
        "DISABLE_SECURITY",
        "DISABLE_INSTALL_DEMO_CONFIG",
        "security.disabled",
        "--insecure",
        "curl -k",
        "--no-auth",
    )
    assert [way for way in ways if way in text] == []
    assert services["opensearch"]["environment"]["discovery.type"] == "single-node"
    for name in (*OURS, JOB):
        service = services[name]
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not service.get("privileged")
    assert "USER app" in (ROOT / "Dockerfile").read_text(encoding="utf-8").rpartition("FROM")[2]


def test_the_health_check_verifies_what_a_user_would(services: dict[str, dict[str, Any]]) -> None:
    kind, command = services["opensearch"]["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    assert command.startswith("curl --fail ")
    assert f"--cacert {CA_PATH} " in command
    assert f'--user "{USER}:$${PASSWORD}" ' in command
    assert f'"{URL}/_cluster/health?' in command


def test_opensearch_is_called_by_a_name_of_its_certificate(services: dict[str, dict[str, Any]]) -> None:
    assert services["opensearch"]["networks"]["default"]["aliases"] == [NODE]
    assert f"opensearch-config:{Path(CA_PATH).parent}" in services["opensearch"]["volumes"]
    for name in OURS:
        command = services[name]["command"]
        assert f"--opensearch=https://{NODE}:9200" in command
        assert "--ca-file=/ca/root-ca.pem" in command
        assert "ca:/ca:ro" in services[name]["volumes"]


def test_the_node_s_keys_are_seen_by_it_alone(services: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """But for a job that copies the certificate authority, which lies beside them, and nothing else."""
    mounted = {
        name: volume
        for name, service in services.items()
        for volume in service.get("volumes", [])
        if volume.startswith("opensearch-config:")
    }
    assert mounted == {
        "opensearch": f"opensearch-config:{Path(CA_PATH).parent}",
        JOB: "opensearch-config:/opensearch:ro",
    }
    job = services[JOB]
    assert job["environment"] == {}
    assert services["ingest"]["depends_on"] == {JOB: {"condition": "service_completed_successfully"}}
    for name in ("opensearch/root-ca.pem", "opensearch/esnode-key.pem", "ca/none"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    places = {"/opensearch/": f"{tmp_path}/opensearch/", "/ca/": f"{tmp_path}/ca/"}
    subprocess.run(outside(job["entrypoint"], places)[3:], check=True)
    assert (tmp_path / "ca/root-ca.pem").read_text() == "opensearch/root-ca.pem"
    assert sorted(path.name for path in (tmp_path / "ca").iterdir()) == ["none", "root-ca.pem"]
    assert "/ca" in re.findall(r"install --directory --owner app (.*)$", stages()["cpu"], flags=re.M)[0].split()


def test_what_runs_all_the_time_starts_again(services: dict[str, dict[str, Any]]) -> None:
    for name in ("opensearch", "service"):
        assert services[name]["restart"] == "unless-stopped"


def test_what_is_named_for_later_is_used() -> None:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    assert {*re.findall(r" &([\w-]+)", text)} == {*re.findall(r" \*([\w-]+)", text)}


def outside(command: Sequence[str], places: Mapping[str, str]) -> list[str]:
    """The command of a container, with what is elsewhere here."""
    words = []
    for word in command:
        for inside, here in places.items():
            word = word.replace(inside, here)
        words.append(word)
    return [sys.executable, "-m", "colbert_rerank", *words]


@pytest.fixture
def index(plugins_node: OpenSearchNode) -> Iterator[str]:
    yield "articles"
    call(plugins_node.url, "DELETE", "/articles")


def test_our_commands_start_and_do_their_work(
    services: dict[str, dict[str, Any]], plugins_node: OpenSearchNode, index: str, tmp_path: Path
) -> None:
    """The ingest, the service with its health check, the set-up job, and a search that is re-ranked."""
    (tmp_path / "corpus").mkdir()
    lines = (MUSIQUE / "corpus.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[:30]
    (tmp_path / "corpus" / "corpus.jsonl").write_text("".join(lines), encoding="utf-8")
    places = {
        "/stores/": f"{tmp_path}/",
        "/corpus": f"{tmp_path}/corpus",
        f"https://{NODE}:9200": plugins_node.url,
        "/ca/root-ca.pem": certifi.where(),
    }
    given = interpolated(services["service"]["environment"], {PASSWORD: "p", TOKEN: SECRET})
    environ = {**os.environ, **given, "OMP_NUM_THREADS": "1"}

    def done(name: str) -> str:
        ran = subprocess.run(
            outside(services[name]["command"], places), env=environ, capture_output=True, text=True, timeout=WAIT
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    done("ingest")
    command = [*outside(services["service"]["command"], places), "--port", "0"]
    serving = subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True)
    try:
        assert serving.stderr is not None
        said = ""
        while "listening at" not in said:
            line = serving.stderr.readline()
            assert line, said
            said += line
        assert "a token is needed: articles (30 documents)" in said
        port = re.findall(r"http://0\.0\.0\.0:(\d+)", said)[0]
        assert health(services, port) == 0
        places["http://service:8080"] = f"http://127.0.0.1:{port}"
        body = done("setup").partition("\n")[2].replace("how do tides work", "band")
        found = call(plugins_node.url, "POST", "/articles/_search?search_pipeline=colbert", body.encode()).json()
        hits = found["hits"]["hits"]
        assert [hit["_score"] for hit in hits] != [hit["sort"][0] for hit in hits], "scores are MaxSim's"
        serving.send_signal(signal.SIGTERM)
        start = time.monotonic()
        assert serving.wait(WAIT) == 0
        grace = [word.partition("=")[2] for word in command if word.startswith("--grace=")]
        assert int(services["service"]["stop_grace_period"].rstrip("s")) > int(grace[0])
        assert time.monotonic() - start < int(grace[0])
        assert health(services, port) != 0
    finally:
        serving.kill()
        serving.wait(WAIT)
        if serving.stderr is not None:
            serving.stderr.close()
        teardown = [sys.executable, "-m", "colbert_rerank", "opensearch", "teardown", "--opensearch", plugins_node.url]
        subprocess.run(teardown, check=True, capture_output=True)


def health(services: dict[str, dict[str, Any]], port: str) -> int:
    """The exit status of the service's health check."""
    kind, program, *rest = services["service"]["healthcheck"]["test"]
    assert (kind, program) == ("CMD", "python")
    command = [sys.executable, *(word.replace(":8080", f":{port}") for word in rest)]
    return subprocess.run(command, capture_output=True, timeout=WAIT, check=False).returncode


def expressions() -> list[str]:
    rules = yaml.safe_load((ROOT / "docs/monitoring/rules.yml").read_text(encoding="utf-8"))
    board = json.loads((ROOT / "docs/monitoring/board.json").read_text(encoding="utf-8"))
    found = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    return [*found, *(target["expr"] for panel in board["panels"] for target in panel["targets"])]


@pytest.mark.parametrize("expression", expressions())
def test_expressions_are_of_metrics_that_there_are(expression: str) -> None:
    from colbert_rerank.serve.engine import Engine
    from colbert_rerank.serve.metrics import Metrics

    promql_parser.parse(expression.replace("$__rate_interval", "5m"))
    metrics = Metrics()
    metrics.watch(cast("Engine", _Empty()))
    families = re.findall(r"^# TYPE (\S+) (\S+)$", metrics.text().decode(), flags=re.M)
    endings = {"counter": [""], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}
    there = {"up", *(f"{name}{ending}" for name, kind in families for ending in endings[kind])}
    named = set(re.findall(r"colbert_rerank_\w+|\bup\b", expression))
    assert named
    assert named <= there


class _Empty:
    """An engine without stores."""

    stores: dict[str, object] = {}  # noqa: RUF012

    def __len__(self) -> int:
        return 0


@pytest.mark.parametrize("token", [SECRET, "1234567890123456", "1234567890.123456", "~a-token-of-some-/+=._"])
def test_prometheus_asks_the_service_with_its_token(compose: dict[str, Any], token: str) -> None:
    text = interpolated(compose["configs"]["prometheus"]["content"], {TOKEN: token})
    (job,) = yaml.safe_load(text)["scrape_configs"]
    assert job["authorization"] == {"credentials": token}
    assert job["static_configs"] == [{"targets": ["service:8080"]}]
    (source,) = yaml.safe_load(compose["configs"]["grafana-datasource"]["content"])["datasources"]
    assert source["url"] == "http://prometheus:9090"
    board = json.loads((ROOT / "docs/monitoring/board.json").read_text(encoding="utf-8"))
    assert {panel["datasource"]["uid"] for panel in board["panels"]} == {source["uid"]}


def stages() -> dict[str, str]:
    """The text of each stage by its name."""
    parts = re.split(r"^FROM ", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.M)[1:]
    return {part.split("\n")[0].rpartition(" AS ")[2]: part for part in parts}


def copied() -> list[str]:
    lines = re.findall(r"^COPY (.*) \S+$", "".join(stages().values()), flags=re.M)
    return [name for line in lines for name in line.split()]


def test_the_image_is_of_what_is_let_through(services: dict[str, dict[str, Any]]) -> None:
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignore[1] == "*"
    assert sorted(copied()) == sorted(line[1:] for line in ignore if line.startswith("!"))
    assert all((ROOT / name).exists() for name in copied())
    assert [*stages()] == ["build", "cpu", "cuda"]
    target = services["service"]["build"]["target"]
    assert {interpolated(target, {}), interpolated(target, {"COLBERT_RERANK_TARGET": "cuda"})} == {"cpu", "cuda"}


def test_triton_may_write_and_load_what_it_compiles(services: dict[str, dict[str, Any]]) -> None:
    """The file system is read-only, and a tmpfs forbids executing unless it is told otherwise."""
    (folder,) = re.findall(r"^ENV TRITON_CACHE_DIR=(\S+)$", stages()["cuda"], flags=re.M)
    assert f"install --directory --owner app {folder}" in stages()["cuda"]
    mounted = dict(place.split(":") for place in services["service"]["tmpfs"] if ":" in place)
    assert "exec" in mounted[folder].split(",")


def test_the_image_installs_what_there_is() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (extras,) = re.findall(r'"colbert-rerank\[(.*)\] @', stages()["cpu"])
    assert {*extras.split(",")} <= {*project["optional-dependencies"]}
    python = re.findall(r"^ARG PYTHON=(.*)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.M)[0]
    assert Requirement(f"x{project['requires-python']}").specifier.contains(f"{python}.0")
    entry = json.loads(re.findall(r"^ENTRYPOINT (.*)$", stages()["cpu"], flags=re.M)[0])
    assert entry == [name for name, target in project["scripts"].items() if target == "colbert_rerank.cli:main"]


@pytest.mark.parametrize(
    "said",
    [
        pytest.param("cp .env.example .env", id="password-file"),
        pytest.param("docker compose up --detach --wait opensearch", id="start"),
        pytest.param(f"docker compose cp opensearch:{CA_PATH} root-ca.pem", id="ca"),
        pytest.param(f"--cacert root-ca.pem --user {USER} {URL}", id="first-request"),
        pytest.param(f"--opensearch {URL} --os-user {USER} --ca-file root-ca.pem", id="our-command"),
        pytest.param("docker compose --profile dashboards up --detach --wait", id="dashboards"),
        pytest.param("http://localhost:5601", id="dashboards-address"),
    ],
)
def test_readme_says_how_to_connect(readme: str, said: str) -> None:
    assert said in readme


def test_readme_names_no_other_scheme_or_address_for_the_compose_node(readme: str) -> None:
    assert "http://localhost:9200" not in readme
    assert "https://127.0.0.1:9200" not in readme
    assert "curl -k" not in readme
    assert "curl --insecure" not in readme
