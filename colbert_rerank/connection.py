"""Where an OpenSearch or Elasticsearch cluster is and how to log in."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from colbert_rerank.errors import UsageError

_NO_HOST = re.compile(r"[\s%<>\"{}|^`\\]")
OPENSEARCH, ELASTICSEARCH = "OpenSearch", "Elasticsearch"
SERVICE = "service's"  # of the re-ranking service
SERVICE_TOKEN = "COLBERT_RERANK_TOKEN"


@dataclass(frozen=True)
class Connection:
    """Where a cluster is and how to log in. Secrets are shown neither by ``repr`` nor in any error.

    A user and password in the URL are split off it. ``timeout`` is in seconds, for one request. ``server`` is
    `OPENSEARCH` or `ELASTICSEARCH`. Raises ``UsageError``.
    """

    url: str
    user: str = ""
    password: str = field(default="", repr=False)
    api_key: str = field(default="", repr=False)
    bearer: str = field(default="", repr=False)
    ca_file: str = ""
    verify: bool = True
    aws_region: str = ""
    timeout: float = 60.0
    server: str = OPENSEARCH

    def __post_init__(self) -> None:
        url, user, password = split_url(self.url, self.server)
        object.__setattr__(self, "url", url)  # the dataclass is frozen for everyone else
        if user or password:
            if self.user and self.user != user:
                raise UsageError(f"{url}: the URL names another user than {self.user!r}; give one of them")
            object.__setattr__(self, "user", user)
            object.__setattr__(self, "password", self.password or password)
        if self.password and not self.user:
            raise UsageError(f"{url}: a password without a user; name the user too")
        ways = {
            "a user with password": self.user,
            "an API key": self.api_key,
            "a bearer token": self.bearer,
            "AWS signatures": self.aws_region,
        }
        given = [name for name, value in ways.items() if value]
        if len(given) > 1:
            raise UsageError(f"{url}: {' and '.join(given)} were given; choose one way to log in")
        if self.user and not self.password:
            raise UsageError(
                f"{url}: the user {self.user!r} without a password; set {environment(self.server)}PASSWORD, or give "
                "it in a file"
            )
        for secret in (self.user, self.password, self.api_key, self.bearer):
            if any(ord(character) < 32 for character in secret):
                raise UsageError(f"{url}: {given[0]} holds a line break or another control character")
        if not (self.api_key + self.bearer).isascii():
            raise UsageError(f"{url}: {given[0]} holds characters that cannot stand in an HTTP header")
        if self.ca_file and not Path(self.ca_file).exists():
            raise UsageError(f"{url}: no CA certificate at {self.ca_file}")
        if not self.timeout > 0:
            raise UsageError(f"{url}: the timeout must be more than 0 seconds, not {self.timeout}")

    @property
    def authorization(self) -> str:
        """The header of that name; empty where nothing is to be sent, or requests are signed."""
        if self.api_key:
            return f"ApiKey {self.api_key}"
        if self.bearer:
            return f"Bearer {self.bearer}"
        if self.user:
            # As UTF-8, which the servers expect; their libraries would write Latin-1.
            return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode("ascii")
        return ""

    @classmethod
    def from_environment(
        cls,
        url: str,
        *,
        user: str = "",
        password_file: str | Path = "",
        api_key_file: str | Path = "",
        token_file: str | Path = "",
        ca_file: str | Path = "",
        verify: bool = True,
        aws_region: str = "",
        timeout: float = 60.0,
        server: str = OPENSEARCH,
        environ: Mapping[str, str] = os.environ,
    ) -> Connection:
        """The same, with secrets from files (their last line break is left off) or else from the environment.

        The variables are ``COLBERT_RERANK_OPENSEARCH_`` (or ``ELASTICSEARCH_``, by ``server``) + ``USER``,
        ``PASSWORD``, ``API_KEY``, ``TOKEN``. An explicit
        way to log in (an argument, a file, a user in the URL) leaves the variables of the other ways aside.
        """
        _, user_in_url, password_in_url = split_url(url, server)
        prefix = environment(server)
        explicit = bool(user or password_file or api_key_file or token_file or aws_region or user_in_url)
        basic = not explicit or bool(user or password_file or user_in_url)
        if basic and not user_in_url:
            user = user or environ.get(prefix + "USER", "")
        password = read_secret(password_file)
        if basic and (user or user_in_url) and not (password or password_in_url):
            password = environ.get(prefix + "PASSWORD", "")
        return cls(
            url=url,
            user=user,
            password=password,
            api_key=read_secret(api_key_file) or ("" if explicit else environ.get(prefix + "API_KEY", "")),
            bearer=read_secret(token_file) or ("" if explicit else environ.get(prefix + "TOKEN", "")),
            ca_file=str(ca_file),
            verify=verify,
            aws_region=aws_region,
            timeout=timeout,
            server=server,
        )


def environment(server: str) -> str:
    """How the variables of a server's secrets begin."""
    return f"COLBERT_RERANK_{server.upper()}_"


def split_url(url: str, server: str = OPENSEARCH) -> tuple[str, str, str]:
    """URL without user and password, user, password."""
    example = f"write it like {'http://localhost:8080' if server == SERVICE else 'https://localhost:9200'}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:  # its message could show a password
        raise UsageError(f"the {server} URL cannot be read; {example}, special characters percent-encoded") from None
    if parts.scheme not in ("http", "https") or not host or _NO_HOST.search(host):
        raise UsageError(f"the {server} URL must begin with http:// or https:// and name a host; {example}")
    if parts.query or parts.fragment:
        raise UsageError(f"the {server} URL must end before any ? or #; {example}")
    address = f"[{host}]" if ":" in host else host
    clean = f"{parts.scheme}://{address}" + (f":{port}" if port else "") + parts.path.rstrip("/")
    return clean, unquote(parts.username or ""), unquote(parts.password or "")


def read_secret(path: str | Path) -> str:
    """The text of a file without its last line break; empty where none is named. Raises UsageError."""
    if not path:
        return ""
    secret = _read(path).rstrip("\r\n")
    if not secret:
        raise UsageError(f"the secret file {path} is empty")
    return secret


def read_tokens(path: str | Path | None, environ: Mapping[str, str] = os.environ) -> list[str]:
    """The tokens of a re-ranking service, one a line, blank lines left out: of a file, or else of the environment.

    Raises UsageError for a file without any, and for what cannot stand in a request's header.
    """
    tokens = [line.strip() for line in (_read(path) if path else environ.get(SERVICE_TOKEN, "")).splitlines()]
    tokens = [token for token in tokens if token]
    if path and not tokens:
        raise UsageError(f"{path}: there is no token in it")
    if not all(token.isascii() and token.isprintable() for token in tokens):
        raise UsageError(f"{path or SERVICE_TOKEN}: a token holds characters that cannot stand in an HTTP header")
    return tokens


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the secret in {path}: {getattr(error, 'strerror', '') or 'not UTF-8'}") from None
