"""docker-compose.yml is safe to start as it stands, and README names the address, the user and the CA it serves."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from tests.server.layout import VERSION

ROOT = Path(__file__).resolve().parents[1]
PASSWORD = "OPENSEARCH_INITIAL_ADMIN_PASSWORD"
# Where the image's install_demo_configuration.sh puts its CA. The node certificate that it signs names localhost and
# 127.0.0.1 (both read from opensearch-project/security at 3.6.0.0).
CA_PATH = "/usr/share/opensearch/config/root-ca.pem"
URL = "https://localhost:9200"
USER = "admin"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return cast("dict[str, Any]", yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def test_images_are_pinned_to_the_version_that_the_tests_run(compose: dict[str, Any]) -> None:
    images = {name: service["image"] for name, service in compose["services"].items()}
    assert images == {
        "opensearch": f"opensearchproject/opensearch:{VERSION}",
        "dashboards": f"opensearchproject/opensearch-dashboards:{VERSION}",
    }
    assert re.fullmatch(r"3\.\d+\.\d+", VERSION)


@pytest.mark.parametrize("service", ["opensearch", "dashboards"])
def test_ports_are_bound_to_this_machine_only(compose: dict[str, Any], service: str) -> None:
    ports = compose["services"][service]["ports"]
    assert ports
    assert [port for port in ports if not str(port).startswith("127.0.0.1:")] == []
    assert "network_mode" not in compose["services"][service]


def test_dashboards_start_only_when_asked_for_and_after_opensearch(compose: dict[str, Any]) -> None:
    dashboards = compose["services"]["dashboards"]
    assert dashboards["profiles"] == ["dashboards"]
    assert dashboards["depends_on"] == {"opensearch": {"condition": "service_healthy"}}
    assert "profiles" not in compose["services"]["opensearch"]


def test_the_password_must_come_from_the_user(compose: dict[str, Any]) -> None:
    value = compose["services"]["opensearch"]["environment"][PASSWORD]
    assert re.fullmatch(rf"\$\{{{PASSWORD}:\?[^}}]*\.env[^}}]*\}}", value)  # ":?" also refuses an empty one
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == [f"{PASSWORD}=''"]


def test_git_ignores_the_password_file_but_not_its_example() -> None:
    ignored = subprocess.run(
        ["git", "check-ignore", "--no-index", ".env", ".env.example"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ignored.stdout.split() == [".env"]


def test_security_is_on_and_never_waved_through(compose: dict[str, Any]) -> None:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    for way_around in ("DISABLE_SECURITY", "DISABLE_INSTALL_DEMO_CONFIG", "security.disabled", "--insecure", "curl -k"):
        assert way_around not in text
    assert compose["services"]["opensearch"]["environment"]["discovery.type"] == "single-node"


def test_the_health_check_verifies_what_a_user_would(compose: dict[str, Any]) -> None:
    kind, command = compose["services"]["opensearch"]["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    assert command.startswith("curl --fail ")
    assert f"--cacert {CA_PATH} " in command
    assert f'--user "{USER}:$${PASSWORD}" ' in command
    assert f'"{URL}/_cluster/health?' in command


def test_data_lie_in_a_named_volume(compose: dict[str, Any]) -> None:
    assert compose["services"]["opensearch"]["volumes"] == ["opensearch-data:/usr/share/opensearch/data"]
    assert list(compose["volumes"]) == ["opensearch-data"]


@pytest.mark.parametrize(
    "said",
    [
        pytest.param("cp .env.example .env", id="password-file"),
        pytest.param("docker compose up --detach --wait", id="start"),
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
