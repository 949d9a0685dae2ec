"""Scores of a store's documents by id: their vectors read, and MaxSim taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from colbert_rerank.checkpoints.spec import EncoderSpec
from colbert_rerank.depth import deviation, surely_below
from colbert_rerank.device_rows import Rows
from colbert_rerank.errors import NonFiniteError
from colbert_rerank.maxsim import scores_of
from colbert_rerank.report import Report
from colbert_rerank.store import Gathered, Store
from colbert_rerank.store.codecs import encode
from colbert_rerank.store.rows import DocumentRows

# Between documents whose scores are of different kinds: the printed precision tells them apart.
UNSCORED_STEP = 0.001


class Scores(NamedTuple):
    """Scores [n], minus infinity where there are no vectors, and whether none of the store's sketches is in them."""

    values: npt.NDArray[np.float64]
    exact: npt.NDArray[np.bool_]


class Scorer:
    """A store, its ``rows``, and the device that scores them. Its times go to ``report``."""

    def __init__(self, store: Store, rows: Rows, device: str, spec: EncoderSpec, report: Report) -> None:
        self.store = store
        self._rows = rows
        self._device = device
        self._similarity = spec.similarity
        self._aggregation = spec.aggregation
        self._report = report

    def expect(self, ids: Sequence[str], *, sketches: bool) -> None:
        """These documents are scored next: what takes time before that is begun."""
        self._rows.expect(ids, sketches=sketches)

    def read(self, ids: Sequence[str], *, sketches: bool = False, stage: str = "") -> DocumentRows:
        """The vectors of documents by id, or their sketches, where they lie, or where they are scored.

        ``stage`` tells its time from others of the same query in the report. Raises StoreCorruptError.
        """
        with self._report.timed(f"gather{' sketches' if sketches else stage}"):
            docs = self._rows.read(ids, sketches=sketches)
        self._report.hot, self._report.read = self._rows.hot()
        return docs

    def scores(
        self,
        Q: npt.NDArray[np.float32],
        ids: Sequence[str],
        docs: DocumentRows | None = None,
        *,
        sketches: bool = False,
        stage: str = "",
    ) -> npt.NDArray[np.float64]:
        """Scores [n] of documents by id with a query [Lq, d]; minus infinity where there are no vectors.

        ``docs`` are those documents, where they were `read` before. Raises NonFiniteError and StoreCorruptError.
        """
        docs = self.read(ids, sketches=sketches, stage=stage) if docs is None else docs
        with self._report.timed(f"score{' sketches' if sketches else stage}"):
            scores = np.full(len(ids), -np.inf)
            scores[docs.found] = self._maxsim(Q, docs, [i for i, f in zip(ids, docs.found, strict=True) if f])
        return scores

    def cascade(
        self,
        Q: npt.NDArray[np.float32],
        ids: Sequence[str],
        rescore: int,
        docs: DocumentRows | None = None,
    ) -> Scores:
        """Scores [n] by sketches, but of the best ``rescore`` by their vectors; the others stand below these.

        ``docs`` are the sketches, where they were `read` before.
        """
        scores = self.scores(Q, ids, docs, sketches=True)
        best = np.argsort(-scores, kind="stable")[:rescore]
        return _above(scores, best, self.scores(Q, [ids[i] for i in best.tolist()]))

    def exact_top(
        self, Q: npt.NDArray[np.float32], ids: Sequence[str], top: int, docs: DocumentRows | None = None
    ) -> Scores:
        """Scores [n] whose first ``top``, as they are printed, are those of `scores`; `depth` has the proof.

        All have one by their sketches. The best ``top`` of these are scored by their vectors, and then the others that
        may yet be among the first; the rest stand below them, in the order of their sketches. For models whose
        similarity is the cosine. ``docs`` are the sketches, where they were `read` before.
        """
        scores = self.scores(Q, ids, docs, sketches=True)
        with self._report.timed("bound"):
            errors = self.store.sketch_errors(ids)
            errors[np.isneginf(scores)] = 0  # where there are no rows, none is off
            highest = scores + deviation(Q, errors, self._aggregation)
        best = np.argsort(-scores, kind="stable")[:top]
        exact = self.scores(Q, [ids[i] for i in best.tolist()], stage=" best")
        needed = np.isfinite(scores) & ~(highest < surely_below(float(exact.min())))
        needed[best] = False
        others = np.flatnonzero(needed)
        exact = np.append(exact, self.scores(Q, [ids[i] for i in others.tolist()]))
        best = np.append(best, others)
        self._report.skipped += int(np.isfinite(np.delete(scores, best)).sum())
        return _above(scores, best, exact)

    def of_vectors(self, Q: npt.NDArray[np.float32], doc_id: str, vectors: npt.NDArray[np.floating]) -> float:
        """The score of a document that is not stored, as if it were."""
        rows = encode(self.store.codec, vectors)
        one = Gathered(np.ones(1, dtype=bool), rows, np.array([0, len(rows)]), self.store.codec)
        return float(self._maxsim(Q, one, [doc_id])[0])

    def _maxsim(self, Q: npt.NDArray[np.float32], docs: DocumentRows, ids: Sequence[str]) -> npt.NDArray[np.float64]:
        scores = scores_of(Q, docs, self._device, self._similarity, self._aggregation)
        bad = ~np.isfinite(scores) & (docs.counts > 0)  # a document without rows scores minus infinity
        if bad.any():
            raise NonFiniteError(f"document {ids[int(np.argmax(bad))]!r}: its vectors hold NaN or infinity")
        return scores


def _above(scores: npt.NDArray[np.float64], best: npt.NDArray[np.int64], exact: npt.NDArray[np.float64]) -> Scores:
    """``scores`` with the ``exact`` ones of the ``best``, and all others moved below these, if they are not."""
    final = scores.copy()
    final[best] = exact
    others = np.isfinite(scores)
    others[best] = False
    if others.any():
        overlap = scores[others].max() + UNSCORED_STEP - exact[np.isfinite(exact)].min()
        final[others] -= max(0.0, overlap)
    return Scores(final, ~others)
