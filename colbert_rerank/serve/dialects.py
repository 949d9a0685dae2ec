"""What callers send and what they are sent, in each dialect.

All ask the same of the engine. Documents that are plain strings are ids on a store's path, and texts elsewhere. Keys
that nobody knows are ignored, as OpenSearch's connectors may add some; of ``top_n`` and ``top_k`` either is taken, and
0, null and none mean all.
"""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from colbert_rerank.errors import InputError
from colbert_rerank.request import in_utf8
from colbert_rerank.rerank import Missing
from colbert_rerank.serve.decimals import decimal
from colbert_rerank.serve.errors import EmptyError
from colbert_rerank.serve.jobs import Answer, Asked, Job, Result

# Far more characters than any model reads of a query: to tokenize megabytes would take what others wait for.
LONGEST_QUERY = 1 << 16


def _whole(text: str) -> str:
    if not in_utf8(text):
        raise ValueError("it holds half of a surrogate pair, which is no character")
    return text


def _short(query: str) -> str:
    if len(query) > LONGEST_QUERY:
        raise ValueError(
            f"{len(query):,} characters are more than {LONGEST_QUERY:,}, which are all that a query may have"
        )
    return query


Text = Annotated[str, AfterValidator(_whole)]
QueryText = Annotated[Text, AfterValidator(_short), Field(json_schema_extra={"maxLength": LONGEST_QUERY})]
Texts = Annotated[list[Text], Field(fail_fast=True)]
Queries = Annotated[list[QueryText], Field(fail_fast=True)]
Count = Annotated[int, Field(ge=0)] | None


class Request(BaseModel, ABC):
    """What is asked in one dialect, for documents of the ``store`` of that name, or of none."""

    model_config = ConfigDict(extra="ignore", strict=True)

    @property
    def uncut(self) -> bool:
        """Whether the caller would rather be refused than have a text cut."""
        return False

    @abstractmethod
    def job(self, store: str | None) -> Job:
        """Raises InputError."""

    @abstractmethod
    def answer(self, job: Job, answer: Answer) -> Any:
        """What is sent back, for orjson."""


class Ranking(Request):
    """One that is answered with the best of the documents."""

    query: QueryText
    top_n: Count = None
    top_k: Count = None

    def best(self, answer: Answer) -> Sequence[Result]:
        count = self.top_n or self.top_k
        return answer.results[:count] if count else answer.results


class DocumentIn(BaseModel):
    """A document by its ``id`` in the store, by its ``text``, or by this where it is not in the store.

    Other fields are read where the request's ``rank_fields`` name them.
    """

    model_config = ConfigDict(extra="allow", strict=True)

    id: Text | None = None
    text: Text | None = None
    first_stage_score: Annotated[float, Field(allow_inf_nan=False, strict=False)] | None = None

    def of_fields(self, names: Sequence[str]) -> DocumentIn:
        """The same, its text that of these fields, in this order; those that have none are left out.

        Raises InputError for half a character.
        """
        fields = {"id": self.id, "text": self.text, **(self.model_extra or {})}
        given = [value for name in names if isinstance(value := fields.get(name), str) and value.strip()]
        if not all(map(in_utf8, given)):
            raise InputError("documents: a field holds half of a surrogate pair, which is no character")
        return self.model_copy(update={"text": " ".join(given) or None})


class RerankRequest(Ranking):
    """Ours, and Cohere's (v1 and v2), Jina's and TEI's, which say ``texts`` for ``documents``."""

    api_version: ClassVar[str] = "1"

    documents: Annotated[list[Text | DocumentIn], Field(fail_fast=True)] | None = None
    texts: Texts | None = None
    model: Text | None = None
    rank_fields: Texts | None = None
    return_documents: bool | None = None
    missing: Missing = "first_stage"
    deadline_ms: Annotated[float, Field(gt=0, allow_inf_nan=False, strict=False)] | None = None
    return_text: bool = False
    truncate: bool | str | None = None  # a word in some of Cohere's other requests, and then not meant for here

    @property
    def uncut(self) -> bool:
        return self.documents is None and self.truncate is False

    def job(self, store: str | None) -> Job:
        given: Sequence[str | DocumentIn] | None = self.documents
        if given is None and self.texts is not None:
            check_not_empty(self.query, self.texts)
            given = self.texts
        if given is None:
            raise InputError("documents: missing")
        if names := self.rank_fields:
            given = [d if isinstance(d, str) else d.of_fields(names) for d in given]
        if store is not None and self.missing == "drop" and any(isinstance(d, str) for d in given):
            raise InputError(
                "missing: 'drop' leaves documents out of the answer, and who sends plain strings needs all of them; "
                'send objects, {"id": ...}'
            )
        deadline = None if self.deadline_ms is None else time.perf_counter() + self.deadline_ms / 1000
        return Job(store, self.query, [asked(d, store) for d in given], self.missing, deadline)

    def answer(self, job: Job, answer: Answer) -> Any:
        results = self.best(answer)
        if self.documents is None:
            return tei(job, results, self.return_text)
        found = []
        for result in results:
            doc = job.documents[result.place]
            one: dict[str, Any] = {"index": result.place, "relevance_score": decimal(result.score)}
            if doc.doc_id is not None:
                one["id"] = doc.doc_id
            if job.store is not None:
                one["source"] = result.source
            if self.return_documents and doc.text is not None:
                one["document"] = {"text": doc.text}
            found.append(one)
        body: dict[str, Any] = {"id": new_id(), "object": "rerank", "model": answer.model, "results": found}
        if job.store is not None:
            body |= {"store": job.store, "store_generation": answer.generation}
        body |= {"status": answer.status, **({"reason": answer.reason} if answer.reason else {})}
        body |= {"scored": sum(r.source != "first_stage" for r in answer.results), "missing": answer.missing}
        body |= {"query_truncated": answer.query_truncated}
        body["timings_ms"] = rounded(answer.timings_ms)
        body["usage"] = {"prompt_tokens": answer.tokens, "total_tokens": answer.tokens}
        body["meta"] = {"api_version": {"version": self.api_version}, "billed_units": {"search_units": 1}}
        return body


class CohereV2Request(RerankRequest):
    """As version 1, but documents never come back."""

    api_version: ClassVar[str] = "2"

    def answer(self, job: Job, answer: Answer) -> Any:
        self.return_documents = False
        return super().answer(job, answer)


class JinaRequest(RerankRequest):
    """Documents come back unless they are not wanted."""

    def answer(self, job: Job, answer: Answer) -> Any:
        self.return_documents = self.return_documents is not False
        found = super().answer(job, answer)
        return found if self.documents is None else found | {"object": "list"}


class TextsRequest(Ranking):
    """Text Embeddings Inference. Scores are MaxSim's, whatever ``raw_scores`` says: no sigmoid is left of them."""

    texts: Texts
    return_text: bool = False
    truncate: bool | None = None

    @property
    def uncut(self) -> bool:
        return self.truncate is False

    def job(self, store: str | None) -> Job:
        check_not_empty(self.query, self.texts)
        return Job(store, self.query, [asked(text, store) for text in self.texts])

    def answer(self, job: Job, answer: Answer) -> Any:
        return tei(job, self.best(answer), self.return_text)


class StringsRequest(Ranking):
    """A query, and documents as strings and nothing else."""

    documents: Texts
    model: Text | None = None

    def job(self, store: str | None) -> Job:
        return Job(store, self.query, [asked(d, store) for d in self.documents])


class VoyageRequest(StringsRequest):
    return_documents: bool = False
    truncation: bool | None = None

    @property
    def uncut(self) -> bool:
        return self.truncation is False

    def answer(self, job: Job, answer: Answer) -> Any:
        data = [
            {"index": r.place, "relevance_score": decimal(r.score)} | text_of(job, r, self.return_documents, "document")
            for r in self.best(answer)
        ]
        return {"object": "list", "data": data, "model": answer.model, "usage": {"total_tokens": answer.tokens}}


class InfinityRequest(StringsRequest):
    return_documents: bool = False

    def answer(self, job: Job, answer: Answer) -> Any:
        results = [
            {"relevance_score": decimal(r.score), "index": r.place} | text_of(job, r, self.return_documents, "document")
            for r in self.best(answer)
        ]
        return {"object": "rerank", "results": results, **envelope(answer), "created": int(time.time())}


class VllmRequest(StringsRequest):
    def answer(self, job: Job, answer: Answer) -> Any:
        results = [
            {
                "index": r.place,
                "document": {"text": job.documents[r.place].text, "multi_modal": None},  # it is always there
                "relevance_score": decimal(r.score),
            }
            for r in self.best(answer)
        ]
        return {"results": results, **envelope(answer)}


class VllmScoreRequest(Request):
    """One query, under any of the names that it goes by, and a text or several."""

    text_1: QueryText | Queries | None = None
    text_2: Text | Texts | None = None
    queries: QueryText | Queries | None = None
    documents: Text | Texts | None = None
    items: Text | Texts | None = None
    data_1: QueryText | Queries | None = None
    data_2: Text | Texts | None = None
    model: Text | None = None

    def job(self, store: str | None) -> Job:
        queries, documents = (
            [name for name in names if getattr(self, name) is not None]
            for names in (("text_1", "queries", "data_1"), ("text_2", "documents", "items", "data_2"))
        )
        if len(queries) != 1 or len(documents) != 1:
            raise InputError("give text_1 and text_2, queries and documents or items, or data_1 and data_2")
        (query, *others), texts = (_listed(getattr(self, name)) for name in (queries[0], documents[0]))
        if others:
            raise InputError(f"{queries[0]}: one query a request is taken here, not {1 + len(others)}")
        return Job(store, query, [asked(text, store) for text in texts])

    def answer(self, job: Job, answer: Answer) -> Any:
        scores = sorted(answer.results, key=lambda r: r.place)
        data = [{"index": r.place, "object": "score", "score": decimal(r.score)} for r in scores]
        return {"object": "list", "created": int(time.time()), "data": data, **envelope(answer)}


def _listed(texts: str | list[str]) -> list[str]:
    """Raises InputError where there is none."""
    if not texts and isinstance(texts, list):
        raise InputError("one of the lists is empty")
    return [texts] if isinstance(texts, str) else texts


def asked(document: str | DocumentIn, store: str | None) -> Asked:
    """Raises InputError for a document that is nowhere to be had."""
    if isinstance(document, str):
        return Asked(None, document) if store is None else Asked(document)
    if document.text is None and (store is None or document.id is None):
        raise InputError("documents: one has neither an id in a store nor a text")
    return Asked(document.id, document.text, document.first_stage_score)


def check_not_empty(query: str, texts: Sequence[str]) -> None:
    """As Text Embeddings Inference has it. Raises EmptyError."""
    if not query.strip() or not texts:
        raise EmptyError("query" if texts else "texts")


def tei(job: Job, results: Sequence[Result], return_text: bool) -> list[dict[str, Any]]:
    found = []
    for result in results:
        one = {"index": result.place, "score": decimal(result.score)}
        found.append(one | text_of(job, result, return_text, "text"))
    return found


def text_of(job: Job, result: Result, wanted: bool, name: str) -> dict[str, str]:
    """The text that came for a document, under this name, where it is wanted; an id is none."""
    text = job.documents[result.place].text
    return {name: text} if wanted and text is not None else {}


def rounded(timings_ms: Mapping[str, float]) -> dict[str, float]:
    return {stage: round(ms, 3) for stage, ms in timings_ms.items()}


def envelope(answer: Answer) -> dict[str, Any]:
    usage = {"prompt_tokens": answer.tokens, "total_tokens": answer.tokens}
    return {"id": new_id(), "model": answer.model, "usage": usage}


def new_id() -> str:
    return f"rr-{uuid.uuid4().hex}"
