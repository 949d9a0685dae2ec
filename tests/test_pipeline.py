"""Stages that overlap give what they give one after the other, and end when they are told to."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from colbert_rerank import pipeline
from colbert_rerank.pipeline import ahead, behind

WAIT = 60.0  # seconds after which a test that waits in vain fails
ROOM = st.integers(1, 5)


@pytest.fixture(autouse=True, scope="module")
def _patient() -> Iterator[None]:
    """A thread that is told to end does, however busy the machine is."""
    with patch.object(pipeline, "PATIENCE", WAIT):
        yield


class FaultError(Exception):
    pass


def given_out(items: Iterable[int], broken: bool = False) -> Generator[int, None, None]:
    yield from items
    if broken:
        raise FaultError("after the last")


def taken(items: Generator[int, None, None]) -> tuple[list[int], str]:
    """What came, and the error that ended it."""
    found: list[int] = []
    try:
        for item in items:
            found.append(item)
    except FaultError as error:
        return found, str(error)
    return found, ""


def negative(item: int) -> int:
    if item == 7:
        raise FaultError("seven")
    return -item


@given(st.lists(st.integers(0, 9)), st.booleans(), ROOM)
def test_ahead_is_the_items_themselves(items: list[int], broken: bool, room: int) -> None:
    assert taken(ahead(given_out(items, broken), room, "test-ahead")) == taken(given_out(items, broken))
    assert not named("test-ahead")


@given(st.lists(st.integers(0, 9)), st.booleans(), ROOM)
def test_behind_is_map(items: list[int], broken: bool, room: int) -> None:
    """Up to the first error, of the items or of the work."""
    one_by_one = taken(negative(item) for item in given_out(items, broken))
    assert taken(behind(given_out(items, broken), negative, room)) == one_by_one
    assert not named("behind")


def named(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(name)]


def test_ahead_makes_what_there_is_room_for_and_one_more() -> None:
    made, full, beyond = [], threading.Event(), threading.Event()
    closed_by: list[str] = []

    def numbers() -> Generator[int, None, None]:
        try:
            for number in range(1000):
                made.append(threading.current_thread().name)
                if number == 4:  # the first is taken, three wait, and this one is in hand
                    full.set()
                if number == 5:
                    beyond.set()
                yield number
        finally:
            closed_by.append(threading.current_thread().name)

    with closing(ahead(numbers(), 3, "test-ahead")) as items:
        assert next(items) == 0
        assert full.wait(WAIT)
        assert not beyond.wait(0.2)
    assert made == ["test-ahead"] * 5
    assert closed_by == ["test-ahead"]
    assert not named("test-ahead")


def test_behind_works_while_the_next_is_made() -> None:
    second = threading.Event()

    def numbers() -> Generator[int, None, None]:
        yield 1
        second.set()
        yield 2

    def waited(number: int) -> bool:
        return second.wait(WAIT)

    assert list(behind(numbers(), waited, 1)) == [True, True]


def test_behind_holds_no_more_than_there_is_room_for() -> None:
    made = []

    def numbers() -> Generator[int, None, None]:
        for number in range(1000):
            made.append(number)
            yield number

    items = numbers()
    with closing(behind(items, negative, 3)) as done:
        assert next(done) == 0
        assert made == [0, 1, 2, 3]
    assert list(items) == [], "it is closed"


def test_ctrl_c_does_not_wait_for_what_hangs() -> None:
    goes_on, ended = threading.Event(), threading.Event()

    def hanging() -> Generator[int, None, None]:
        yield 1
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        goes_on.wait(WAIT)
        try:
            yield 2
        finally:
            ended.set()

    items = ahead(hanging(), 1, "test-ahead")
    with patch.object(pipeline, "PATIENCE", 0.01), pytest.raises(KeyboardInterrupt):
        list(items)
    (thread,) = named("test-ahead")
    assert thread.daemon, "so that it does not hold up the interpreter either"
    goes_on.set()
    thread.join(WAIT)
    assert not thread.is_alive()
    assert ended.is_set()
