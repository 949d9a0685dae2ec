"""Who may ask: whoever knows one of the tokens."""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Collection
from ipaddress import ip_address

from colbert_rerank.errors import UsageError

SHORTEST = 16  # characters of a token
_HOST = re.compile(r"(?:\[([^\[\]]+)\]|([^:\[\]]+))(?::\d+)?")


class Tokens:
    """Bearer tokens, one of which has to come with a request; a browser may send one as the password of any user.

    Without any, only this machine may ask, or with ``no_auth`` anybody. Raises UsageError.
    """

    def __init__(self, tokens: Collection[str], *, no_auth: bool = False) -> None:
        if tokens and no_auth:
            raise UsageError("--no-auth and a token: choose one of them")
        for token in tokens:
            if len(token) < SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
                raise UsageError(
                    f"a token has {len(token)} characters: give {SHORTEST} or more, of printable ASCII without spaces"
                )
        self._tokens = [token.encode("ascii") for token in tokens]
        self.only_here = not tokens and not no_auth

    def __bool__(self) -> bool:
        return bool(self._tokens)

    def __repr__(self) -> str:
        return f"Tokens({len(self._tokens)})"

    def admit_host(self, host: str) -> bool:
        """Whether a request may be for this host, by its header.

        A page from elsewhere may give its own name this machine's address, once it is in a browser here; then the
        browser lets it read the answers. The name is all that tells.
        """
        named = _HOST.fullmatch(host)
        return not self.only_here or (named is not None and _is_loopback(named[1] or named[2].lower()))

    def admit(self, authorization: str) -> bool:
        """Whether this header holds one of them. All are compared, in a time that does not tell how much fits."""
        if not self._tokens:
            return True
        given = _given(authorization)
        return sum(hmac.compare_digest(given, token) for token in self._tokens) > 0


def _given(authorization: str) -> bytes:
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip().encode("utf-8", "surrogateescape")
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value.strip(), validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return b""
    return b""


def check_bind(host: str, tokens: Tokens) -> None:
    """Raises UsageError where strangers could ask and no token keeps them out."""
    if not tokens.only_here or _is_loopback(host):
        return
    raise UsageError(
        f"--host {host}: others than this machine could ask. Set a token (--token-file, or COLBERT_RERANK_TOKEN), or "
        "say --no-auth where something else keeps strangers out"
    )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
