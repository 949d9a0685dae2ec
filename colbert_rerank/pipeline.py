"""Two ways to overlap the stages of a batch run, each a generator with a thread beside it.

What waits for others, such as a server, goes `ahead` of the caller; what only others wait for, such as a file's lines,
is done `behind` it. The caller's own thread keeps what a thread could not be left alone with: an interpreter that ends
while a thread of it is within torch aborts, and Ctrl-C reaches the caller's thread at once.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import closing
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

PATIENCE = 1.0  # seconds that the end waits for an item being made; a server may hang


def ahead(items: Generator[T, None, None], room: int, name: str) -> Generator[T, None, None]:
    """``items``, made by a thread of this name before they are asked for: ``room`` wait at most, and one is in hand.

    What ``items`` raises is raised in its place, after all that came before it. Closed early, this ends the thread,
    which closes ``items``, or leaves it to end by itself as soon as the item is made that it is at.
    """
    ready: SimpleQueue[tuple[T] | BaseException | None] = SimpleQueue()
    places, stopped = threading.Semaphore(room), threading.Event()

    def make() -> None:
        try:
            for item in items:
                places.acquire()
                if stopped.is_set():
                    break
                ready.put((item,))
            items.close()
        except BaseException as error:  # whatever it is, it is the caller's
            ready.put(error)
        else:
            ready.put(None)

    thread = threading.Thread(target=make, name=name, daemon=True)  # a server that hangs must not hold up the end
    try:
        thread.start()
        while (made := ready.get()) is not None:
            if isinstance(made, BaseException):
                raise made
            places.release()
            yield made[0]
    finally:
        stopped.set()
        places.release()
        if thread.is_alive():
            thread.join(PATIENCE)


def behind(items: Generator[T, None, None], work: Callable[[T], R], room: int) -> Generator[R, None, None]:
    """``work`` of each item, in order, done by a thread while the next ``room`` items are made here.

    What ``items`` or ``work`` raises is raised in its place. At the end ``items`` is closed, and ``work`` has returned.
    """
    doing: deque[Future[R]] = deque()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="behind") as thread, closing(items):
        try:
            for future in _begun(items, work, thread):
                doing.append(future)
                if len(doing) > room:
                    yield doing.popleft().result()
            while doing:
                yield doing.popleft().result()
        finally:
            for future in doing:
                future.cancel()


def _begun(items: Iterable[T], work: Callable[[T], R], thread: Executor) -> Iterator[Future[R]]:
    try:
        for item in items:
            yield thread.submit(work, item)
    except Exception as error:  # raised when what came before is done
        failed: Future[R] = Future()
        failed.set_exception(error)
        yield failed
