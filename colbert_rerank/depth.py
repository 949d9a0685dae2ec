"""Adaptive depth: which exact scores are needed to know the first n places, where all documents have one by sketches.

Let a document's rows stand for v_1 .. v_T and its sketches for s_1 .. s_T, with |v_t - s_t| <= e for all t: its stored
error. For a vector q of the query |q.v_t - q.s_t| <= |q| e (Cauchy-Schwarz); so the maxima over t, too, differ by no
more than |q| e, and summed over the query

    |exact score - score by sketches| <= e sum |q|.

Both are computed in float32. With u = 2^-24 and gamma_k = k u / (1 - k u), an inner product of d numbers is then off by
no more than gamma_d |q||x|, whatever the order of its sums, fused or not (Higham, Accuracy and Stability of Numerical
Algorithms, 2nd ed., 2002, section 3.1), and gamma_j + gamma_k <= gamma_(j + k) (lemma 3.3 there). A row x may have a
factor, at worst one by its own length: d roundings of the sum of squares, 4 u of the root (2 ulp, as on CUDA), 1 of the
product. That makes gamma_(2 d + 5); and e was measured with rows whose own factors were rounded, gamma_(d + 5) more:

    |exact score - score by sketches| <= sum |q| (e + gamma_(4 d + 16) (|v| + |s|)), with |s| <= |v| + e.

The d + 6 that are too many are more than the lengths of q take, the sums over the query in float64, and on a GPU what
two halves leave out of a query, 2^-22 of it (`maxsim.gpu_kernel`). A mean over the query is off by the same, divided by
the number of its tokens.

Let tau be the least of any n exact scores. A document that is printed with less than tau is not among the first n, and
ties with none of them. Printing rounds to float32 and then to six decimals, and turns no order round: what is below
tau - 4 u |tau| - 10^-6 is printed as less, and so is a document of which even the score by sketches, with all that it
may be off, is below that.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# |v|, at most. Where the similarity is the cosine, vectors have length 1, and means of them less; twice that leaves
# room for what codecs make of them.
LONGEST = 2.0

_ROUNDOFF = 2.0**-24  # of float32: u
_DECIMAL = 1e-6  # of a printed score


def deviation(
    query: npt.NDArray[np.float32], errors: npt.NDArray[np.float64], aggregation: str = "sum"
) -> npt.NDArray[np.float64]:
    """How far the exact scores with a query [Lq, d] are from those by sketches, at most, [n].

    ``errors`` [n] are the stored ones of the documents' sketches, infinity where unknown; of vectors not longer than
    `LONGEST`.
    """
    length, dim = query.shape
    k = (4 * dim + 16) * _ROUNDOFF
    rounding = k / (1 - k) * (2 * LONGEST + errors)
    lengths = float(np.linalg.norm(query.astype(np.float64), axis=1).sum())
    return lengths / (length if aggregation == "mean" else 1) * (errors + rounding)


def surely_below(score: float) -> float:
    """Scores below this are printed as less than ``score``, and not as the same."""
    return score - 4 * _ROUNDOFF * abs(score) - _DECIMAL
