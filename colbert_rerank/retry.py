"""Asking again, a bounded number of times, where OpenSearch is busy or away."""

from __future__ import annotations

import email.utils
import logging
import random
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import NamedTuple, TypeVar

import opensearchpy

BUSY_STATUS = frozenset({429, 502, 503, 504})
LONGEST_RETRY_AFTER = 300.0  # seconds; a server that asks for more is reported instead of waited for

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Retry(NamedTuple):
    """At most ``attempts`` calls; the n-th pause is drawn from 0 to ``base`` x 2^n seconds, ``cap`` at most."""

    attempts: int
    base: float
    cap: float


READ = Retry(attempts=5, base=0.2, cap=5.0)
WRITE = Retry(attempts=9, base=0.5, cap=30.0)  # about a minute: a node that restarts is back by then


def with_retry(
    action: Callable[[], _T],
    retry: Retry = READ,
    *,
    pause: Callable[[float], object] = time.sleep,
    unreachable: bool = True,
) -> _T:
    """Call ``action``; where OpenSearch is busy (429, 502, 503, 504) or cannot be reached, pause and call it again.

    With ``unreachable`` false a server that cannot be reached is not asked again: its URL may be wrong. The last
    failure is raised as it came. ``action`` must be safe to repeat.
    """
    for attempt in range(retry.attempts - 1):
        try:
            return action()
        except opensearchpy.TransportError as error:
            wait = pause_after(error, attempt, retry)
            if wait is None or (isinstance(error, opensearchpy.ConnectionError) and not unreachable):
                raise
            _log.info("OpenSearch is busy or away (%s), asking again in %.1f s", error.status_code, wait)
            pause(wait)
    return action()


def pause_after(error: opensearchpy.TransportError, attempt: int, retry: Retry) -> float | None:
    """Seconds to wait before calling again; ``None`` where calling again is of no use."""
    if isinstance(error, opensearchpy.SSLError):
        return None
    if not isinstance(error, opensearchpy.ConnectionError) and error.status_code not in BUSY_STATUS:
        return None
    asked: float | None = getattr(error, "retry_after", None)
    if asked is not None and asked > LONGEST_RETRY_AFTER:
        return None
    return backoff(attempt, retry, asked)


def backoff(attempt: int, retry: Retry, asked: float | None = None) -> float:
    """Seconds to pause: full jitter, on top of what ``Retry-After`` asked for."""
    # Jitter keeps many clients from coming back in step; it is no secret.
    return (asked or 0.0) + random.uniform(0, min(retry.cap, retry.base * 2.0**attempt))


def parse_retry_after(value: str | None) -> float | None:
    """A ``Retry-After`` header in seconds from now: a number or an HTTP date; ``None`` where absent or unreadable."""
    if not value:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        when = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=timezone.utc)
    return max(0.0, (when - datetime.now(timezone.utc)).total_seconds())
