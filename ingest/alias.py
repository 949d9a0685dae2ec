"""An alias of OpenSearch, let stand for another index at one moment."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import opensearchpy

from colbert_rerank.errors import OpenSearchError, UsageError
from colbert_rerank.opensearch import server_url, translated
from colbert_rerank.retry import WRITE, with_retry

_NEVER = ".no-such-alias"


class Alias:
    """The alias ``name``, which stands for one index. Raises UsageError where it does not, and OpenSearchError."""

    def __init__(self, client: opensearchpy.OpenSearch, name: str) -> None:
        self._client = client
        self.name = name
        self._look()

    def _look(self) -> None:
        client, name = self._client, self.name
        with translated(client, index=name):
            try:
                found: dict[str, Any] = with_retry(lambda: client.indices.get_alias(name=name))
            except opensearchpy.NotFoundError:
                raise UsageError(
                    f"{server_url(client)} has no alias {name!r}; name the one that is to be switched"
                ) from None
        if len(found) != 1 or name not in next(iter(found.values()))["aliases"]:
            raise UsageError(
                f"{server_url(client)}: {name!r} is no alias of a single index (it stands for "
                f"{', '.join(sorted(found)) or 'none'}), and only such a one can be switched"
            )
        ((self.index, body),) = found.items()
        self._properties: dict[str, Any] = body["aliases"][name]
        if properties := sorted(self._properties.keys() - {"is_write_index", "is_hidden"}):
            raise UsageError(
                f"{server_url(client)}: the alias {name!r} has {' and '.join(properties)}, by which searches see other "
                "documents than the index holds; only a plain alias can be switched"
            )

    def check(self, index: str) -> None:
        """Raise OpenSearchError where the alias could not be let stand for ``index``, as for want of the privilege.

        What is asked for changes nothing: that a name which neither index has is taken from both.
        """
        action = {"indices": [self.index, index], "alias": f"{self.name}{_NEVER}"}
        with translated(self._client, index=self.name), suppress(opensearchpy.NotFoundError):  # it may be done
            with_retry(lambda: self._client.indices.update_aliases(body={"actions": [{"remove": action}]}), WRITE)

    def switch(self, index: str) -> bool:
        """Let it stand for ``index``; whether it did not before. Raises as the constructor does."""
        self._look()  # it may have been switched meanwhile
        if index == self.index:
            return False
        actions = [
            {"remove": {"index": self.index, "alias": self.name, "must_exist": True}},
            {"add": {"index": index, "alias": self.name, **self._properties}},
        ]
        try:
            with translated(self._client, index=self.name):
                with_retry(lambda: self._client.indices.update_aliases(body={"actions": actions}), WRITE)
        except OpenSearchError:
            self._look()
            if self.index != index:  # else an answer was lost on the way, and what it told was asked for once more
                raise
        self.index = index
        return True
