"""Documents into OpenSearch by ``_bulk``: a bounded window of requests, with an outcome for every document.

opensearch-py's ``parallel_bulk`` hangs where a request fails (its issue 915) and reads the whole input ahead.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import opensearchpy

from colbert_rerank.errors import BulkError, BulkFailure, OpenSearchAuthError, OpenSearchError
from colbert_rerank.indices import origin_of, resolve_index
from colbert_rerank.opensearch import server_url, translated
from colbert_rerank.retry import BUSY_STATUS, WRITE, Retry, backoff, with_retry
from colbert_rerank.server_errors import error_reason
from ingest.failures import check_failures

_log = logging.getLogger(__name__)


class _Action(NamedTuple):
    doc_id: str
    lines: bytes


class _Outcome(NamedTuple):
    done: int
    failures: list[BulkFailure]


class _StoppedError(Exception):
    """Another request failed for good, or the user interrupted: no more waiting."""


class BulkIndexer:
    """Writes to one index, ``window`` requests at a time, each of at most ``chunk_docs`` and about ``chunk_bytes``.

    Holds at most ``window + 1`` chunks in memory. Busy answers (429, 502, 503, 504) and lost connections are tried
    again with a growing, jittered pause that honours ``Retry-After``; so are single documents turned away as busy.
    Raises ``IndexNotFoundError`` at once where there is no such index, since OpenSearch would make one by itself.
    """

    def __init__(
        self,
        client: opensearchpy.OpenSearch,
        index: str,
        *,
        chunk_bytes: int = 5 << 20,
        chunk_docs: int = 1000,
        window: int = 4,
        retry: Retry = WRITE,
    ) -> None:
        self._client = client
        self._index = index
        self._origin = origin_of(resolve_index(client, index))
        self._chunk_bytes = chunk_bytes
        self._chunk_docs = chunk_docs
        self._window = window
        self._retry = retry
        self._stopped = False
        self._stop = threading.Event()
        self._done: queue.SimpleQueue[_Outcome | Exception] = queue.SimpleQueue()

    def stop(self) -> None:
        """Give up, from another thread, for good: a call that is writing raises within a second or so."""
        self._stopped = True
        self._stop.set()
        self._done.put(_StoppedError())

    def index(self, docs: Iterable[tuple[str, Mapping[str, object]]]) -> int:
        """Index (id, body) pairs, replacing what stands under these ids; returns how many were indexed.

        The ids must differ: requests overtake each other. ``docs`` is read in the calling thread, as fast as OpenSearch
        takes it. Raises ``BulkError`` with every refused document, after all others were indexed; another
        ``OpenSearchError`` as soon as going on is of no use, with some documents not sent.
        """
        return self._run(_index_action(doc_id, body) for doc_id, body in docs)

    def delete(self, doc_ids: Iterable[str]) -> int:
        """Delete documents; returns how many were there. Raises as ``index`` does."""
        return self._run(_Action(doc_id, _line({"delete": {"_id": doc_id}})) for doc_id in doc_ids)

    def refresh(self) -> None:
        """Make all that was written visible to searches.

        Raises ``OpenSearchError`` where that failed on a shard, or where the index was replaced meanwhile.
        """
        with translated(self._client, index=self._index):
            answer = with_retry(lambda: self._client.indices.refresh(index=self._index), self._retry)
        if failed := answer["_shards"]["failed"]:
            raise OpenSearchError(
                f"index {self._index!r}: {failed} shard(s) could not be refreshed; see OpenSearch's log"
            )
        if origin_of(resolve_index(self._client, self._index)) != self._origin:
            raise OpenSearchError(
                f"index {self._index!r} was deleted or replaced while documents were written to it; ingest again"
            )

    def _run(self, actions: Iterator[_Action]) -> int:
        todo: queue.SimpleQueue[list[_Action] | None] = queue.SimpleQueue()
        done = self._done = queue.SimpleQueue()
        stop = self._stop = threading.Event()
        if self._stopped:
            raise _StoppedError
        # Daemons, not an executor: its threads would hold up Ctrl-C until the last request has ended.
        workers = [
            threading.Thread(target=self._work, args=(todo, done, stop), daemon=True, name=f"bulk-{number}")
            for number in range(self._window)
        ]
        for worker in workers:
            worker.start()
        total, in_flight = 0, 0
        failures: list[BulkFailure] = []
        patience = 0.2
        try:
            for chunk in self._chunks(actions):
                if in_flight == self._window:
                    total += _collect(done, failures)
                    in_flight -= 1
                todo.put(chunk)
                in_flight += 1
            while in_flight:
                total += _collect(done, failures)
                in_flight -= 1
            patience = 5.0
        except _StoppedError:
            raise
        except Exception:
            patience = 5.0  # so that nothing is written any more once the error is out
            if failures:
                _log.warning("before that: %s", BulkError(failures))
            raise
        finally:
            stop.set()
            for _ in workers:
                todo.put(None)
            for worker in workers:
                worker.join(patience)
        if failures:
            raise BulkError(failures)
        return total

    def _chunks(self, actions: Iterator[_Action]) -> Iterator[list[_Action]]:
        chunk: list[_Action] = []
        size = 0
        for action in actions:
            if chunk and (len(chunk) == self._chunk_docs or size + len(action.lines) > self._chunk_bytes):
                yield chunk
                chunk, size = [], 0
            chunk.append(action)
            size += len(action.lines)
        if chunk:
            yield chunk

    def _work(
        self,
        todo: queue.SimpleQueue[list[_Action] | None],
        done: queue.SimpleQueue[_Outcome | Exception],
        stop: threading.Event,
    ) -> None:
        def pause(seconds: float) -> None:
            if stop.wait(seconds):
                raise _StoppedError

        while (chunk := todo.get()) is not None and not stop.is_set():
            try:
                done.put(self._send(chunk, pause))
            except Exception as error:  # raised again in the calling thread
                done.put(error)

    def _send(self, chunk: list[_Action], pause: Callable[[float], None]) -> _Outcome:
        """Send a chunk until each of its documents is written or refused."""
        done = 0
        failures: list[BulkFailure] = []
        attempt = 0
        while chunk:
            try:
                items = self._request(chunk, pause)
            except OpenSearchError as error:
                status = _spoilt_by_one(error)
                if status is None:
                    raise
                # One document spoils the request, by its id or its size: halves, until it stands alone.
                if len(chunk) == 1:
                    failures.append(BulkFailure(chunk[0].doc_id, status, str(error)))
                    break
                half = len(chunk) // 2
                parts = self._send(chunk[:half], pause), self._send(chunk[half:], pause)
                return _Outcome(
                    done + sum(part.done for part in parts), failures + [f for part in parts for f in part.failures]
                )
            again: list[_Action] = []
            for action, item in zip(chunk, items, strict=True):
                ((kind, outcome),) = item.items()
                status = outcome["status"]
                if status < 300:
                    done += 1
                elif status in BUSY_STATUS:
                    again.append(action)
                    reason = f"{status} {error_reason(outcome.get('error'))}"
                elif status == 403 and outcome["error"].get("type") == "security_exception":
                    raise OpenSearchAuthError(
                        f"{server_url(self._client)}, index {self._index!r}: these credentials do not permit to write "
                        f"to it (403 {error_reason(outcome['error'])})"
                    )  # so it will be for every document
                elif not (kind == "delete" and status == 404):
                    failures.append(BulkFailure(action.doc_id, status, error_reason(outcome.get("error"))))
            chunk = again
            if chunk:
                attempt += 1
                if attempt >= self._retry.attempts:
                    raise OpenSearchError(
                        f"{server_url(self._client)}, index {self._index!r}: OpenSearch kept turning documents away "
                        f"({reason}), {attempt} times; not all were indexed: run it again later"
                    )
                pause(backoff(attempt - 1, self._retry))
        return _Outcome(done, failures)

    def _request(self, chunk: list[_Action], pause: Callable[[float], None]) -> list[dict[str, Any]]:
        body = b"".join(action.lines for action in chunk)
        params = {"filter_path": "errors,items.*.status,items.*.error"}
        with translated(self._client, index=self._index):
            answer = with_retry(
                lambda: self._client.bulk(index=self._index, body=body, params=dict(params)), self._retry, pause=pause
            )
        items: list[dict[str, Any]] = answer["items"]
        if len(items) != len(chunk):
            raise OpenSearchError(
                f"{server_url(self._client)}: {len(items)} outcomes for {len(chunk)} documents; is a proxy in between?"
            )
        return items


def _collect(done: queue.SimpleQueue[_Outcome | Exception], failures: list[BulkFailure]) -> int:
    outcome = done.get()
    if isinstance(outcome, Exception):
        raise outcome
    failures.extend(outcome.failures)
    check_failures(failures)
    return outcome.done


def _spoilt_by_one(error: OpenSearchError) -> int | None:
    """The status of a request refused as a whole though one of its documents may be to blame, else ``None``."""
    cause = error.__cause__
    if not isinstance(cause, opensearchpy.TransportError):
        return None
    if cause.status_code == 413 or cause.error == "action_request_validation_exception":
        return int(cause.status_code)
    return None


def _index_action(doc_id: str, body: Mapping[str, object]) -> _Action:
    return _Action(doc_id, _line({"index": {"_id": doc_id}}) + _line(body))


def _line(value: Mapping[str, object]) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    except UnicodeEncodeError:  # half of a surrogate pair: an escape keeps it as it came
        return json.dumps(value, separators=(",", ":")).encode() + b"\n"
