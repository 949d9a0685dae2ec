"""Asking again, a bounded number of times, where a search server is busy or away."""

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


class Passing(NamedTuple):
    """Trouble that may pass: a server is busy, or ``unreachable``. ``retry_after`` is in seconds, as it asked."""

    status: int | str
    unreachable: bool
    retry_after: float | None = None


READ = Retry(attempts=5, base=0.2, cap=5.0)
WRITE = Retry(attempts=9, base=0.5, cap=30.0)  # about a minute: a node that restarts is back by then


def with_retry(
    action: Callable[[], _T],
    retry: Retry = READ,
    *,
    pause: Callable[[float], object] = time.sleep,
    unreachable: bool = True,
    passing: Callable[[Exception], Passing | None] | None = None,
) -> _T:
    """Call ``action``; where the server is busy (429, 502, 503, 504) or cannot be reached, pause and call it again.

    With ``unreachable`` false a server that cannot be reached is not asked again: its URL may be wrong. ``passing``
    says what trouble an exception tells of; by default of opensearch-py's. The last failure is raised as it came.
    ``action`` must be safe to repeat.
    """
    passing = passing or _passing
    for attempt in range(retry.attempts - 1):
        try:
            return action()
        except Exception as error:
            trouble = passing(error)
            wait = _pause(trouble, attempt, retry)
            if trouble is None or wait is None or (trouble.unreachable and not unreachable):
                raise
            _log.info("the server is busy or away (%s), asking again in %.1f s", trouble.status, wait)
            pause(wait)
    return action()


def pause_after(error: opensearchpy.TransportError, attempt: int, retry: Retry) -> float | None:
    """Seconds to wait before calling again; ``None`` where calling again is of no use."""
    return _pause(_passing(error), attempt, retry)


def _passing(error: Exception) -> Passing | None:
    if not isinstance(error, opensearchpy.TransportError) or isinstance(error, opensearchpy.SSLError):
        return None
    unreachable = isinstance(error, opensearchpy.ConnectionError)
    if not unreachable and error.status_code not in BUSY_STATUS:
        return None
    return Passing(error.status_code, unreachable, getattr(error, "retry_after", None))


def _pause(trouble: Passing | None, attempt: int, retry: Retry) -> float | None:
    if trouble is None or (trouble.retry_after or 0) > LONGEST_RETRY_AFTER:
        return None
    return backoff(attempt, retry, trouble.retry_after)


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
