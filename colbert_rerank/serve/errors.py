"""What goes wrong, as an answer: one sentence, and nothing of the machine behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from pydantic import BaseModel
from starlette.responses import Response

from colbert_rerank.errors import InputError, MissingVectorsError, UsageError
from colbert_rerank.serve.engine import BusyError, EndingError, UnknownStoreError
from colbert_rerank.serve.stores import FirstStageAwayError


class EmptyError(InputError):
    """Of Text Embeddings Inference's dialect, which has a status of its own for it."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}: empty; there is nothing to re-rank")


class TooLongError(Exception):
    def __init__(self, what: str, tokens: int) -> None:
        super().__init__(f"{what} has {tokens:,} tokens more than the model reads, and is not to be cut")


class TooLargeError(Exception):
    def __init__(self, most: int) -> None:
        super().__init__(f"the body is larger than {most:,} bytes, which is all that is taken here")


class TooManyError(Exception):
    def __init__(self, what: str, count: int, most: int) -> None:
        super().__init__(f"documents: {count:,} {what} are more than {most:,}, which are all that are taken here")


class CallerLeftError(Exception):
    def __init__(self) -> None:
        super().__init__("whoever asked is gone")


class UnauthorizedError(Exception):
    def __init__(self) -> None:
        super().__init__("a token is needed: send it as 'Authorization: Bearer TOKEN'")


class ElsewhereError(Exception):
    def __init__(self) -> None:
        super().__init__(
            "without a token this service is asked as localhost, or by an address of this machine alone: set a token, "
            "or say --no-auth where something else keeps strangers out"
        )


class NotReadyError(Exception):
    def __init__(self, why: str) -> None:
        super().__init__(f"not ready: {why}")


class Refusal(BaseModel):
    """``error_type`` is as Text Embeddings Inference calls it; ``message`` repeats ``error``, for other clients."""

    error: str
    error_type: str
    message: str


STATUS: Mapping[type[Exception], int] = {
    EmptyError: 400,
    UnauthorizedError: 401,
    UnknownStoreError: 404,
    MissingVectorsError: 409,
    TooLargeError: 413,
    TooLongError: 413,
    TooManyError: 413,
    ElsewhereError: 421,
    InputError: 422,
    UsageError: 422,
    BusyError: 429,
    CallerLeftError: 499,  # as nginx has it: nobody gets it, but it is counted
    NotReadyError: 503,
    EndingError: 503,
    FirstStageAwayError: 503,
}
TYPES = {401: "Unauthorized", 413: "Validation", 422: "Validation", 429: "Overloaded", 500: "Backend", 503: "Unhealthy"}
DOCUMENTED: dict[int | str, dict[str, Any]] = {
    code: {"model": Refusal} for code in sorted({400, 405, *STATUS.values()} - {499})
}


def answer_of(error: Exception) -> Response:
    """The answer to one of `STATUS`; 500, which says nothing, for any other."""
    code = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 500)
    headers = {}
    if isinstance(error, UnauthorizedError):
        headers["WWW-Authenticate"] = 'Basic realm="colbert-rerank", charset="UTF-8"'
    if isinstance(error, BusyError):
        headers["Retry-After"] = str(max(1, round(error.retry_after)))
    message = str(error) if code < 500 or code == 503 else "the service failed; its log says more"
    return refusal(message, code, headers, "Empty" if isinstance(error, EmptyError) else "")


def refusal(message: str, code: int, headers: Mapping[str, str] | None = None, kind: str = "") -> Response:
    # A message may repeat half a surrogate pair of what was sent, which no JSON can hold.
    text = message.encode("utf-8", "replace").decode("utf-8")
    said = {"error": text, "error_type": kind or TYPES.get(code, "Error"), "message": text}
    return json_answer(said, code, headers)


def json_answer(body: Any, code: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), code, headers, media_type="application/json")
