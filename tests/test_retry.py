"""When a call is made again, and after how long."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import opensearchpy
import pytest

from colbert_rerank.opensearch import BusyError
from colbert_rerank.retry import Retry, parse_retry_after, with_retry

QUICK = Retry(attempts=4, base=0.5, cap=2.0)


def failing(times: int, error: Exception) -> Callable[[], str]:
    """Fails ``times`` times, then answers."""
    left = [times]

    def action() -> str:
        if left[0]:
            left[0] -= 1
            raise error
        return "answer"

    return action


def busy(status: int, retry_after: float | None = None) -> BusyError:
    error = BusyError(status, "busy", {})
    error.retry_after = retry_after
    return error


@pytest.mark.parametrize(
    "error",
    [
        *(pytest.param(busy(status), id=str(status)) for status in (429, 502, 503, 504)),
        pytest.param(opensearchpy.ConnectionError("N/A", "reset", OSError()), id="connection-reset"),
        pytest.param(opensearchpy.ConnectionTimeout("TIMEOUT", "slow", OSError()), id="timeout"),
    ],
)
def test_a_busy_or_absent_server_is_asked_again(error: Exception) -> None:
    pauses: list[float] = []
    assert with_retry(failing(3, error), QUICK, pause=pauses.append) == "answer"
    assert len(pauses) == 3
    assert all(0 <= pause <= limit for pause, limit in zip(pauses, (0.5, 1.0, 2.0), strict=True))


def test_the_last_failure_is_raised() -> None:
    error = busy(503)
    pauses: list[float] = []
    with pytest.raises(BusyError) as raised:
        with_retry(failing(4, error), QUICK, pause=pauses.append)
    assert raised.value is error
    assert len(pauses) == 3


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(opensearchpy.RequestError(400, "parsing_exception", {}), id="bad-request"),
        pytest.param(opensearchpy.AuthenticationException(401, "no", {}), id="unauthorized"),
        pytest.param(opensearchpy.TransportError(500, "error", {}), id="server-error"),
        pytest.param(opensearchpy.SSLError("N/A", "certificate", OSError()), id="certificate"),
        pytest.param(busy(429, retry_after=86_400.0), id="asks-for-a-day"),
    ],
)
def test_what_waiting_does_not_mend_is_raised_at_once(error: Exception) -> None:
    pauses: list[float] = []
    with pytest.raises(type(error)):
        with_retry(failing(1, error), QUICK, pause=pauses.append)
    assert not pauses


def test_retry_after_is_the_least_pause() -> None:
    pauses: list[float] = []
    with_retry(failing(2, busy(429, retry_after=7.0)), QUICK, pause=pauses.append)
    assert 7.0 <= pauses[0] <= 7.5
    assert 7.0 <= pauses[1] <= 8.0


def test_retry_after_is_seconds_or_a_date() -> None:
    soon = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=30), usegmt=True)
    past = format_datetime(datetime.now(timezone.utc) - timedelta(seconds=30), usegmt=True)
    assert parse_retry_after("12") == 12.0
    assert 25 < (parse_retry_after(soon) or 0) <= 30
    assert parse_retry_after(past) == 0.0
    for unreadable in (None, "", "soon", "-3", "²"):
        assert parse_retry_after(unreadable) is None
