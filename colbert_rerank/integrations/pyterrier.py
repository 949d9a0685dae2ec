"""Two scorers for PyTerrier: by ``docno``, from a store, and by a text in the frame. Neither needs Java."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from colbert_rerank.errors import InputError, MissingDependencyError
from colbert_rerank.integrations.pairing import checked_ids, first_stage_scores, reranked
from colbert_rerank.rerank import Reranker
from colbert_rerank.types import ScoredDoc

try:
    import pandas as pd
    import pyterrier as pt
except ModuleNotFoundError as error:
    raise MissingDependencyError("transformers for PyTerrier", "colbert-rerank[pyterrier]") from error


class _Scorer(pt.Transformer, ABC):
    """Gives the rows of a frame of results a new ``score`` and ``rank``, query by query, best first.

    All other columns stay; the index is a new one. First-stage order is that of the ``score`` that came, if one did,
    and of the rows where it is the same. What was not scored for want of vectors is counted in ``reranker.report``.
    """

    def __init__(self, reranker: Reranker, text_attr: str = "text") -> None:
        self.reranker = reranker
        self.text_attr = text_attr

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.reranker.store.folder)!r})"

    @property
    @abstractmethod
    def _needed(self) -> list[str]:
        """The columns beside ``qid`` and ``docno``."""

    @abstractmethod
    def _ranked(
        self, query: str, rows: pd.DataFrame, ids: Sequence[str], scores: Sequence[float] | None
    ) -> Iterable[ScoredDoc]:
        """The ``rows`` of one query, in first-stage order, by their ids."""

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """``inp`` itself is left as it is.

        Raises pt.validate.InputValidationError where columns are missing, and InputError for a ``docno`` that is
        missing, no string, or given twice to a query, and where a ``qid`` is missing or has more than one query.
        """
        pt.validate.result_frame(inp, extra_columns=self._needed)
        if inp["qid"].isna().any():
            raise InputError("a row of the frame has no qid")
        places: list[int] = []
        scores: list[float] = []
        for qid, rows in inp.assign(_place=range(len(inp))).groupby("qid", sort=False):
            try:
                for place, score in self._of_query(rows):
                    places.append(place)
                    scores.append(score)
            except InputError as error:
                raise InputError(str(error), where=f"qid {qid!r}") from error
        kept = [column for column in inp.columns if column not in ("score", "rank")]
        found = inp[kept].iloc[places].reset_index(drop=True)
        return pt.model.add_ranks(found.assign(score=pd.Series(scores, dtype="float64")))

    def _of_query(self, rows: pd.DataFrame) -> list[tuple[int, float]]:
        """Where the rows stood that stay, best first, and their scores."""
        query, *others = rows["query"].unique().tolist()
        if others:
            raise InputError(f"it has more than one query: {query!r:.100} and {others[0]!r:.100}")
        scores = None
        if "score" in rows.columns:
            rows = rows.sort_values("score", ascending=False, kind="stable")
            scores = rows["score"].astype("float64").tolist()
        ids = checked_ids(rows["docno"].tolist())
        place_of = dict(zip(ids, rows["_place"].tolist(), strict=True))
        return [(place_of[d.doc_id], d.score) for d in self._ranked(query, rows, ids, scores)]


class ColbertStoreScorer(_Scorer):
    """Scores documents by the vectors that a store has under their ``docno``, as ``reranker`` is set to.

    What becomes of one without vectors is its ``missing``; under "encode" the column ``text_attr`` is encoded, where
    there is one.
    """

    @property
    def _needed(self) -> list[str]:
        return ["query"]

    def _ranked(
        self, query: str, rows: pd.DataFrame, ids: Sequence[str], scores: Sequence[float] | None
    ) -> Iterable[ScoredDoc]:
        texts = None
        if self.text_attr in rows.columns:
            texts = [text if isinstance(text, str) else None for text in rows[self.text_attr].tolist()]
        return (document for _, document in reranked(self.reranker, query, ids, ids, scores=scores, texts=texts))


class ColbertTextScorer(_Scorer):
    """Scores documents by the column ``text_attr``, encoded now, with the scores they would have if they were stored.

    Of ``reranker`` it takes the checkpoint, the way its store encodes and keeps documents, ``interpolate`` and, for
    rows whose text is empty, ``missing``.
    """

    @property
    def _needed(self) -> list[str]:
        return ["query", self.text_attr]

    def _ranked(
        self, query: str, rows: pd.DataFrame, ids: Sequence[str], scores: Sequence[float] | None
    ) -> Iterable[ScoredDoc]:
        candidates = [*zip(ids, first_stage_scores(self.reranker, ids, scores), strict=True)]
        return self.reranker.rerank_texts(query, candidates, rows[self.text_attr].tolist())
