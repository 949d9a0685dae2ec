"""A node behind OpenSearch's own security plugin: https, passwords, roles. For tests of authentication and permissions.

It is a 3.4.0 node, because 3.4.0.0 is the newest security plugin on Maven Central. That plugin declares a need for the
rule-framework module, which Maven Central lacks and which only its resource-sharing feature uses: the declaration is
taken out, all code is the published one. Of the stock modules the node has analysis-common; it has no scripts.

    with SecuredNode() as node:
        call(node.url, "GET", "/", headers={"Authorization": basic(*node.admin)}, ca_file=node.ca_file)

The users are those of the plugin's sample configuration: ``admin`` may do everything; ``reader`` (role readall) may
search, and may not even ask for the version, a mapping or a setting.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.server.certificates import make_certificates
from tests.server.layout import SECURED_VERSION, lay_out
from tests.server.node import OpenSearchNode
from tests.server.rest import basic, call

_ANALYSIS_COMMON = f"""\
description=Built-in analyzers
version={SECURED_VERSION}
name=analysis-common
classname=org.opensearch.analysis.common.CommonAnalysisModulePlugin
java.version=21
opensearch.version={SECURED_VERSION}
custom.foldername=
extended.plugins=
has.native.controller=false
"""


class SecuredNode(OpenSearchNode):
    """See OpenSearchNode for the arguments."""

    version = SECURED_VERSION
    scheme = "https"
    admin = ("admin", "admin")
    reader = ("readall", "readall")

    def __init__(self, *, heap: str = "512m", settings: Mapping[str, object] | None = None) -> None:
        files = {"pemcert_filepath": "node.pem", "pemkey_filepath": "node-key.pem", "pemtrustedcas_filepath": "ca.pem"}
        security = {
            **{f"ssl.{side}.{name}": file for side in ("transport", "http") for name, file in files.items()},
            "ssl.transport.enforce_hostname_verification": False,
            "ssl.http.enabled": True,
            "allow_default_init_securityindex": True,
            "nodes_dn": ["CN=tests node"],
            "authcz.admin_dn": ["CN=nobody"],
            "restapi.roles_enabled": ["all_access"],  # so that admin may make users
        }
        prefixed = {f"plugins.security.{name}": value for name, value in security.items()}
        super().__init__(heap=heap, settings={**prefixed, **(settings or {})})
        self.ca_file: Path | None = None

    def _lay_out(self) -> tuple[Path, list[Path]]:
        folder = lay_out("secured", finish=_complete)
        return folder / f"opensearch-{SECURED_VERSION}", [folder / "opensearch-security"]

    def _make_home(self, server: Path, plugins: Sequence[Path], home: Path) -> Path:
        super()._make_home(server, plugins, home)
        self.ca_file = make_certificates(home / "config").ca
        shutil.copytree(plugins[0] / "config", home / "config" / "opensearch-security")
        return home

    def _is_healthy(self) -> bool:
        headers = {"Authorization": basic(*self.admin)}
        path = "/_cluster/health?wait_for_status=yellow&timeout=5s"
        return call(self.url, "GET", path, headers=headers, ca_file=self.ca_file, timeout=10).status == 200


def _complete(folder: Path) -> None:
    module = folder / f"opensearch-{SECURED_VERSION}" / "modules" / "analysis-common"
    (module / "plugin-descriptor.properties").write_text(_ANALYSIS_COMMON, encoding="utf-8")
    descriptor = folder / "opensearch-security" / "plugin-descriptor.properties"
    text = descriptor.read_text(encoding="utf-8")
    descriptor.write_text(re.sub(r"(?m)^extended\.plugins=.*$", "extended.plugins=", text), encoding="utf-8")
