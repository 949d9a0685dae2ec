"""One HTTP request and its whole answer, whatever its status. Standard library only."""

from __future__ import annotations

import base64
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def basic(user: str, password: str) -> str:
    """The value of an Authorization header."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def without_user(url: str) -> tuple[str, str | None]:
    """A URL without the ``user:password@`` in it, and the Authorization header that stands for them."""
    parts = urlsplit(url)
    if parts.username is None:
        return url.rstrip("/"), None
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    return bare.rstrip("/"), basic(unquote(parts.username), unquote(parts.password or ""))


def call(
    url: str,
    method: str,
    path: str,
    body: object = None,
    *,
    headers: Mapping[str, str] | None = None,
    ca_file: Path | None = None,
    timeout: float = 60.0,
) -> Answer:
    """Send ``body`` (bytes as they are, a list as NDJSON, anything else as JSON) to ``url`` + ``path``.

    Raises:
        OSError: no connection, a lost one, or a certificate that does not verify.
    """
    base, authorization = without_user(url)
    data = None
    if isinstance(body, bytes):
        data = body
    elif isinstance(body, list):
        data = "".join(json.dumps(line) + "\n" for line in body).encode()
    elif body is not None:
        data = json.dumps(body).encode()
    sent = {"Content-Type": "application/x-ndjson" if isinstance(body, list) else "application/json", **(headers or {})}
    if authorization is not None:
        sent.setdefault("Authorization", authorization)
    request = urllib.request.Request(base + path, data=data, method=method, headers=sent)
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if base.startswith("https:"):
        handlers.append(urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=ca_file)))
    opener = urllib.request.build_opener(*handlers)
    try:
        with opener.open(request, timeout=timeout) as response:
            return Answer(response.status, _lower(response.headers.items()), response.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, _lower(error.headers.items()), error.read())


def _lower(headers: Any) -> dict[str, str]:
    return {str(name).lower(): str(value) for name, value in headers}
