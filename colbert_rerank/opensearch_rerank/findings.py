"""What the doctor finds, one thing at a time."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Finding(NamedTuple):
    """``state`` is "note" for what is to be known and is no fault."""

    check: str
    state: Literal["ok", "wrong", "note"]
    message: str
