"""A throw-away certificate authority and a certificate for 127.0.0.1 and localhost, made with the openssl command."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

_EXTENSIONS = """\
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = serverAuth,clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = DNS:localhost,IP:127.0.0.1
"""


class Certificates(NamedTuple):
    ca: Path
    certificate: Path
    key: Path


def make_certificates(folder: Path) -> Certificates:
    """Make both in ``folder``, valid for two days.

    Raises:
        RuntimeError: no openssl command, or it failed.
    """
    openssl = shutil.which("openssl")
    if openssl is None:
        raise RuntimeError("The TLS tests need the openssl command (on Debian and Ubuntu: apt-get install openssl).")
    made = Certificates(folder / "ca.pem", folder / "node.pem", folder / "node-key.pem")
    ca_key, request, extensions = folder / "ca-key.pem", folder / "node.csr", folder / "node.ext"
    extensions.write_text(_EXTENSIONS, encoding="ascii")
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    ca_use = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    signed_by = ["-CA", made.ca, "-CAkey", ca_key, "-CAcreateserial", "-extfile", extensions]
    for command in (
        ["req", "-x509", *new_key, "-days", "2", "-subj", "/CN=tests CA", *ca_use, "-keyout", ca_key, "-out", made.ca],
        ["req", *new_key, "-subj", "/CN=tests node", "-keyout", made.key, "-out", request],
        ["x509", "-req", "-in", request, "-days", "2", *signed_by, "-out", made.certificate],
    ):
        words = [str(word) for word in (openssl, *command)]
        ran = subprocess.run(words, capture_output=True, text=True, check=False)
        if ran.returncode != 0:
            raise RuntimeError(f"{' '.join(words)} failed:\n{ran.stderr.strip()}")
    return made
