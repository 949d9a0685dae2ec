"""The re-ranker: candidates, their stored token vectors, one order.

Scores are rounded once, to `DECIMALS`, before anything is sorted, so that every front that prints them prints the order
they have; ties go by document id descending, as trec_eval reads a run.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from colbert_rerank import identity
from colbert_rerank.binding import check_origin
from colbert_rerank.candidates.vectors import VectorCandidates
from colbert_rerank.encoder import Encoder, QueryVectors
from colbert_rerank.errors import CheckpointError, InputError, MissingVectorsError, UsageError
from colbert_rerank.pipeline import ahead
from colbert_rerank.report import Report
from colbert_rerank.request import check_candidates, check_text, check_texts, named, request
from colbert_rerank.residency import Resident, place
from colbert_rerank.scoring import UNSCORED_STEP, Scorer, Scores
from colbert_rerank.store import Store
from colbert_rerank.store.rows import DocumentRows
from colbert_rerank.types import Candidates, Document, Query, ScoredDoc

DECIMALS = 6
# Below the lowest scored document, in first-stage order: finite, and apart at the printed precision.
UNSCORED_GAP = 1.0
# Queries whose candidates wait to be re-ranked: as many as travel to OpenSearch in one request, so that the next is
# answered while these are scored. A thousand candidates weigh about 200 KB.
SEARCHED_AHEAD = 16
# Queries whose vectors are read from the disk, and on a GPU copied, tens of megabytes each, before they are scored.
GATHERED_AHEAD = 2

Missing = Literal["first_stage", "encode", "drop", "error"]
Fetch = Callable[[Sequence[str]], Iterable[Document]]


class Ranking(NamedTuple):
    """One query's documents before and after, each best first."""

    query: Query
    first_stage: list[ScoredDoc]
    ranked: list[ScoredDoc]


class Reranker:
    """A store and the encoder it was made with.

    ``missing`` says what becomes of a candidate without vectors: "first_stage" puts it after all scored ones, in
    first-stage order; "encode" encodes its text now (needs ``fetch``); "drop" leaves it out; "error" raises
    MissingVectorsError. ``interpolate`` a ranks by a z(first stage) + (1 - a) z(MaxSim) over the scored candidates.
    ``rescore`` n is a cascade: all are scored by the store's sketches, and the best n again by its vectors; the others
    stand below them, in the order of their sketches. ``exact_top`` n is one whose first n documents, with their scores,
    are those of scoring all by the vectors: those are scored again that the sketches do not rule out. It needs a model
    whose similarity is the cosine.

    On a GPU, ``resident`` says where the store's rows are kept: "gpu", "pinned" memory of the host, or "mmap"; "auto"
    is the first of them that they fit. ``memory_budget`` bounds the bytes of either memory (see `residency`); what was
    chosen is in ``residence``.
    """

    def __init__(
        self,
        store: Store,
        encoder: Encoder,
        *,
        missing: Missing = "first_stage",
        interpolate: float | None = None,
        rescore: int | None = None,
        exact_top: int | None = None,
        resident: Resident = "auto",
        memory_budget: int | None = None,
    ) -> None:
        if missing not in get_args(Missing):
            raise UsageError(f"missing={missing!r}: expected one of {', '.join(get_args(Missing))}")
        if interpolate is not None and not 0 <= interpolate <= 1:
            raise UsageError(f"interpolate={interpolate}: expected 0 (MaxSim alone) to 1 (first stage alone)")
        for name, depth in (("rescore", rescore), ("exact_top", exact_top)):
            if depth is None:
                continue
            if store.sketch_codec is None:
                has = f"{store.folder} has none; `store compact --sketches CODEC` makes them"
                raise UsageError(f"{name}={depth}: a cascade begins with sketches, and {has}")
            if depth < 1:
                raise UsageError(f"{name}={depth}: expected 1 or more")
            if interpolate is not None:
                raise UsageError(
                    f"{name} and interpolate: scores of sketches and of vectors have no common scale to mix"
                )
        if rescore is not None and exact_top is not None:
            raise UsageError("rescore and exact_top: each says how many are scored again; choose one of them")
        if exact_top is not None and (similarity := encoder.checkpoint.spec.similarity) != "cosine":
            raise UsageError(
                f"exact_top={exact_top}: of the similarity {similarity!r} it is not known how far sketches may be off, "
                "only of the cosine; use rescore"
            )
        identity.check(
            store.folder,
            "model",
            store.manifest.query_identity,
            identity.query_identity(encoder.checkpoint),
            f"Search with what it was made with ({identity.described(store.manifest)}), or ingest again",
        )
        self.store = store
        self.encoder = encoder
        self.missing: Missing = missing
        self.interpolate = interpolate
        self.rescore = rescore
        self.exact_top = exact_top
        if missing == "encode":
            self._check_can_encode("missing='encode'")
        self.report = Report()
        device = str(encoder.device)
        rows, self.residence = place(store, device, resident, memory_budget)
        self._scorer = Scorer(store, rows, device, encoder.checkpoint.spec, self.report)

    @staticmethod
    def open(
        store: str | Path,
        model: str | None = None,
        *,
        base: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        query_backend: str = "torch",
        **options: Any,
    ) -> Reranker:
        """Open the store in a folder with the checkpoint it was made with.

        ``model`` says where that is now, and ``base`` where the model of its tokenizer is, if it has none of its own.
        ``device``, ``dtype`` and ``query_backend`` are those of `Encoder.load`, all other ``options`` those of
        `Reranker`.

        Raises StoreError, CheckpointError, and StoreMismatchError where the two do not belong together.
        """
        opened = Store.open(store)
        encoder = encoder_of(opened, model, base=base, device=device, dtype=dtype, query_backend=query_backend)
        return Reranker(opened, encoder, **options)

    def rerank(
        self, query: str, candidates: Sequence[tuple[str, float]], *, fetch: Fetch | None = None
    ) -> list[ScoredDoc]:
        """Order ``candidates``, (document id, first-stage score) in first-stage order, by MaxSim with ``query``.

        Returns them best first, with finite scores; of those with ``scored`` false only the place means anything.
        That they come from the index the store was made from is for the caller to know (`check_origin` compares the
        two). Raises InputError for an empty query, and for a candidate that is given twice or is no such pair.
        """
        asked, first_stage = request(query, candidates)
        with self.report.clocked():
            return self._rank(asked, first_stage, fetch)

    def rerank_texts(
        self, query: str, candidates: Sequence[tuple[str, float]], texts: Sequence[str]
    ) -> list[ScoredDoc]:
        """`rerank` by ``texts`` [n] that come along: each candidate scored as if it were stored with its text.

        A text is all that is encoded of a document, whatever fields the store's documents have. What cannot be encoded,
        an empty text, is a candidate without vectors: left out under "drop", an error under "error", and after all
        others otherwise. Raises also UsageError and StoreMismatchError where texts are not what the store is made of.
        """
        self._check_can_encode("rerank_texts")
        asked, first_stage = request(query, candidates)
        check_texts(asked, first_stage, texts)
        field = self.store.manifest.recipe.fields[0]
        given = [Document(c.doc_id, {field: text}) for c, text in zip(first_stage, texts, strict=True)]
        with self.report.clocked():
            return self._rank(asked, first_stage, lambda _: given, stored=False)

    def run(
        self, queries: Sequence[Query], candidates: Candidates, k: int, *, allow_other_index: bool = False
    ) -> Generator[Ranking, None, None]:
        """Re-rank the first stage's top ``k`` of each query, in order: as `rerank` does, one after the other.

        Meanwhile one thread asks the first stage for the next ones, `SEARCHED_AHEAD` of them and what it gives at once
        beside them, and another reads the vectors of the next `GATHERED_AHEAD`. They end when this iterator does, or is
        closed.

        Raises as `rerank` does, and StoreMismatchError, before anything is searched, where the candidates come from
        another index than the store was made from; ``allow_other_index`` accepts a reindexed copy (`check_origin`).
        """
        check_origin(self.store, candidates, allow_other_index=allow_other_index)
        for query in queries:
            check_text(query)
        # Encoding and scoring take turns in the caller's thread: on a CPU each of them has all cores. A forward
        # pass is of one query: up to 32 gave the same bits on the CPU tried, and took less time each, but matrix
        # libraries pick their kernels by shape and by CPU, and no score may depend on what else was asked.
        found = ahead(self._first_stages(queries, candidates, k), SEARCHED_AHEAD, "candidates")
        gathered = ahead(self._gathered(queries, found), GATHERED_AHEAD, "gather")
        with self.report.clocked(), closing(gathered):
            for query, (first_stage, docs) in zip(queries, gathered, strict=True):
                encoded = candidates.take_vectors(query) if isinstance(candidates, VectorCandidates) else None
                ranked = self._rank(query, first_stage, candidates.fetch, docs, encoded=encoded)
                yield Ranking(query, first_stage, ranked)

    def _first_stages(
        self, queries: Sequence[Query], candidates: Candidates, k: int
    ) -> Generator[list[ScoredDoc], None, None]:
        found = candidates.search(queries, k)
        for query in queries:
            with self.report.timed("candidates"):
                first_stage = next(found, None)
            if first_stage is None:
                raise InputError(f"{named(query)}: the first stage ended before it, without an answer for it")
            yield first_stage
        if next(found, None) is not None:
            raise InputError(f"the first stage gave more answers than the {len(queries)} queries that it was asked")

    @property
    def _begins_with_sketches(self) -> bool:
        return self.rescore is not None or self.exact_top is not None

    def _gathered(
        self, queries: Sequence[Query], found: Generator[list[ScoredDoc], None, None]
    ) -> Generator[tuple[list[ScoredDoc], DocumentRows | None], None, None]:
        """Each query's candidates, and of these the vectors, or the sketches, that are scored first."""
        with closing(found):
            for query, first_stage in zip(queries, found, strict=True):
                check_candidates(query, first_stage)
                ids = [c.doc_id for c in first_stage]
                yield first_stage, self._scorer.read(ids, sketches=self._begins_with_sketches) if ids else None

    def _rank(
        self,
        query: Query,
        first_stage: Sequence[ScoredDoc],
        fetch: Fetch | None,
        docs: DocumentRows | None = None,
        *,
        stored: bool = True,
        encoded: QueryVectors | None = None,
    ) -> list[ScoredDoc]:
        """``docs`` are the rows that are scored first, where they were read before; not ``stored``: there are none.

        ``encoded`` is the query, where the first stage has encoded it already.
        """
        ids = [c.doc_id for c in first_stage]
        self.report.queries += 1
        self.report.candidates += len(ids)
        if not ids:
            self.report.empty += 1
            return []
        if docs is None and stored:
            self._scorer.expect(ids, sketches=self._begins_with_sketches)  # read aside, while the query is encoded
        if encoded is None:
            with self.report.timed("encode"):
                encoded = self.encoder.encode_query(query.text)
        Q = encoded.vectors
        self.report.truncated_queries += encoded.truncated > 0
        scores = self._scores(Q, ids, docs) if stored else _none(len(ids))
        unscored = np.flatnonzero(np.isneginf(scores.values))
        if unscored.size:
            self._supply(Q, query, ids, unscored, scores.values, fetch, encode=not stored or self.missing == "encode")
        with self.report.timed("order"):
            return self._order(query, first_stage, scores)

    def score(self, Q: npt.NDArray[np.float32], doc_ids: Sequence[str]) -> npt.NDArray[np.float64]:
        """Scores [n] of stored documents with a query's vectors [Lq, d]; minus infinity where there are none.

        Raises NonFiniteError and StoreCorruptError.
        """
        return self._scorer.scores(Q, doc_ids)

    def score_texts(self, Q: npt.NDArray[np.float32], texts: Sequence[str]) -> npt.NDArray[np.float64]:
        """Scores [n] of documents that are encoded now, as if they were stored.

        Raises UsageError and StoreMismatchError where texts are not what the store is made of.
        """
        self._check_can_encode("score_texts")
        with self.report.timed("encode_missing"):
            encoded = self._encoded(texts)
        return np.array([self._scorer.of_vectors(Q, "", vectors) for vectors in encoded])

    def _scores(self, Q: npt.NDArray[np.float32], ids: Sequence[str], docs: DocumentRows | None) -> Scores:
        if self.rescore is not None:
            return self._scorer.cascade(Q, ids, self.rescore, docs)
        if self.exact_top is not None:
            return self._scorer.exact_top(Q, ids, self.exact_top, docs)
        return Scores(self._scorer.scores(Q, ids, docs), np.ones(len(ids), dtype=bool))

    def _supply(
        self,
        Q: npt.NDArray[np.float32],
        query: Query,
        ids: Sequence[str],
        unscored: npt.NDArray[np.int64],
        scores: npt.NDArray[np.float64],
        fetch: Fetch | None,
        *,
        encode: bool,
    ) -> None:
        """Encode candidates without vectors, or do as ``missing`` says; fills in ``scores`` where they are encoded."""
        if encode:
            if fetch is None:
                raise UsageError("missing='encode' needs the candidates' texts: pass fetch, or choose another policy")
            with self.report.timed("encode_missing"):
                encoded = self._encode(fetch([ids[i] for i in unscored.tolist()]))
            for i in unscored.tolist():
                if ids[i] in encoded:
                    scores[i] = self._scorer.of_vectors(Q, ids[i], encoded[ids[i]])
            self.report.missing["encoded"] += int(np.isfinite(scores[unscored]).sum())
        names = [ids[i] for i in np.flatnonzero(np.isneginf(scores)).tolist()]
        if names and self.missing == "error":
            raise MissingVectorsError(
                f"{named(query)}: {len(names)} of {len(ids)} candidates have no vectors in "
                f"{self.store.folder}{' and no text' if encode else ''}, among them {names[:3]}. "
                "Ingest them, or choose another --missing"
            )
        self.report.missing["dropped" if self.missing == "drop" else "first_stage"] += len(names)

    def _check_can_encode(self, why: str) -> None:
        """That other documents can be encoded as the store's were. Raises UsageError and StoreMismatchError."""
        if self.store.manifest.recipe.pages:
            raise UsageError(f"{why}: the store is of page images, which an index cannot give back")
        identity.check(
            self.store.folder,
            "way of making texts",
            self.store.manifest.document_identity,
            identity.document_identity(self.encoder.checkpoint, self.store.manifest.recipe),
            f"To encode more documents, encode with what it was made with ({identity.described(self.store.manifest)})",
        )

    def _encode(self, documents: Iterable[Document]) -> dict[str, npt.NDArray[np.floating]]:
        """Vectors as the store would hold them, for the documents that have text."""
        recipe = self.store.manifest.recipe
        texts = {d.doc_id: text for d in documents if (text := recipe.text(d.fields))}
        return dict(zip(texts, self._encoded(list(texts.values())), strict=True))

    def _encoded(self, texts: Sequence[str]) -> list[npt.NDArray[np.floating]]:
        recipe, dtype = self.store.manifest.recipe, self.store.manifest.vector_dtype
        tokens = self.encoder.tokenize_documents(texts, stride=recipe.stride)
        return self.encoder.encode_tokens(tokens, dtype, pool_factor=recipe.pool_factor)

    def _order(self, query: Query, first_stage: Sequence[ScoredDoc], scores: Scores) -> list[ScoredDoc]:
        scored = np.flatnonzero(np.isfinite(scores.values))
        self.report.scored += scored.size
        final = scores.values[scored]
        if self.interpolate is not None and scored.size:
            stage = np.array([first_stage[i].score for i in scored.tolist()], dtype=np.float64)
            final = self.interpolate * _z(stage) + (1 - self.interpolate) * _z(final)
        ids = [first_stage[i].doc_id for i in scored.tolist()]
        best_first = sorted(zip(rounded_scores(final).tolist(), ids, strict=True), reverse=True)
        rough = {first_stage[i].doc_id for i in np.flatnonzero(~scores.exact).tolist()}
        ranked = [ScoredDoc(query.query_id, i, score, exact=i not in rough) for score, i in best_first]
        if self.missing != "drop":
            lowest = ranked[-1].score if ranked else 0.0
            left = np.flatnonzero(~np.isfinite(scores.values)).tolist()
            for position, score in zip(left, unscored_scores(lowest, len(left)), strict=True):
                ranked.append(ScoredDoc(query.query_id, first_stage[position].doc_id, score, scored=False))
        return ranked


def encoder_of(
    store: Store,
    model: str | None = None,
    *,
    base: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    query_backend: str = "torch",
) -> Encoder:
    """The encoder that a store was made with; ``model`` and ``base`` say where they are now. Raises CheckpointError."""
    name, choices = identity.made_with(store.manifest)
    if base is not None:
        choices = replace(choices, base=base)
    try:
        return Encoder.load(model or name, device=device, dtype=dtype, choices=choices, query_backend=query_backend)
    except CheckpointError as error:
        if model and (base or not choices.base):
            raise
        where = "--model" if not choices.base else f"--model, and where its base {choices.base!r} is with --base"
        raise CheckpointError(
            f"{store.folder}: it was made with the model {name!r}. {error}. Where it is now, say with {where}"
        ) from None


def rounded_score(score: float) -> float:
    """A score as it is sorted and printed: of single precision, which is all that trec_eval keeps, to six decimals.

    Of two scores that trec_eval would take for equal, none is printed as the greater.
    """
    return round(float(np.float32(score)), DECIMALS) + 0.0  # + 0.0: no minus zero


def rounded_scores(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """`rounded_score` of each [n], and the same to the bit.

    A number of 24 bits times 10^6, which is 5^6 times a power of two, has 38: it is exact, so the only roundings are
    to a whole number, a half to the even one as `round` does, and of the quotient.
    """
    tenth = 10.0**DECIMALS
    found: npt.NDArray[np.float64] = np.rint(scores.astype(np.float32).astype(np.float64) * tenth) / tenth + 0.0
    return found


def unscored_scores(lowest: float, count: int) -> list[float]:
    """What keeps ``count`` documents without scores in their places, below the ``lowest`` that was scored."""
    return [rounded_score(lowest - UNSCORED_GAP - i * UNSCORED_STEP) for i in range(count)]


def _none(count: int) -> Scores:
    """Of documents without vectors."""
    return Scores(np.full(count, -np.inf), np.ones(count, dtype=bool))


def _z(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Values less their mean, in standard deviations; all 0 where they do not differ."""
    # the mean of equal values may miss them by a rounding, and then their deviation is not 0
    spread = float(values.std()) if np.ptp(values) > 0 else 0.0
    return (values - values.mean()) / spread if spread > 0 else np.zeros_like(values)
