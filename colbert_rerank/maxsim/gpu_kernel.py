"""The kernel of MaxSim on a GPU, in Triton: one program for each pair of a query and a document. `gpu` launches it.

A program reads its document's rows where they lie, `ROWS` at a time, decodes them in registers, and folds their
products with `TOKENS` of the query's tokens into these tokens' maxima. Tiles have one shape whatever is scored, and a
maximum is exact in any order, so a document's score does not depend, to the bit, on what it is scored with.

Rows that half precision holds exactly (float16, int8, binary) are multiplied in it. The query is not rounded to it:
each token is scaled by a power of two, so that its greatest number lies between 2^14 and 2^15, and split into two
halves, the rounded number and what that leaves out. Their products are exact, and are summed in single precision. What
is lost of a number is 2^-22 of it, or 2^-39 of the token's greatest, whichever is more: no more than the sum loses.
Rows of float32, and residuals once they are decoded, are split likewise, by Triton ("tf32x3"): into two parts of 11
bits, of which all products count but that of the two lesser ones, so that 2^-22 of a product is lost; TF32 alone would
lose 2^-11. Products of single precision ("ieee") take no tensor core, spill registers, and need more shared memory.
"""

from __future__ import annotations

import triton
import triton.language as tl

TOKENS = 32
ROWS = 64


@triton.jit
def maxsim_kernel(
    scores,  # [pairs] float64: the sum of the maxima
    rows,  # [.., width] of a store
    starts,  # [pairs]: the first row of the document
    counts,  # [pairs]
    owners,  # [pairs]: the number of the query
    bounds,  # [queries + 1]: its first token, and that of the next
    query,  # [tokens of all queries, dim] float32, or the halves that are the greater part
    rest,  # [tokens of all queries, dim]: the other halves; not read where queries are float32
    units,  # [tokens of all queries]: what the halves are multiples of
    weights,  # [2^bits] of a residual codec
    centroids,  # [centroid_count, dim]
    centroid_count,
    dim: tl.constexpr,
    width: tl.constexpr,
    kind: tl.constexpr,  # float16, float32, int8, binary or residual
    bits: tl.constexpr,
    unit_length: tl.constexpr,
    squared: tl.constexpr,  # 2 qd - |d|^2 in place of qd
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    DIMS: tl.constexpr,  # that are multiplied at once
):
    pair = tl.program_id(0)
    start = tl.load(starts + pair)
    count = tl.load(counts + pair).to(tl.int32)
    owner = tl.load(owners + pair)
    begin = tl.load(bounds + owner).to(tl.int32)
    end = tl.load(bounds + owner + 1).to(tl.int32)
    score = tl.full([], 0.0, tl.float64)
    for token in range(begin, end, TOKENS):
        tokens = token + tl.arange(0, TOKENS)
        asked = tokens < end
        best = tl.full([TOKENS], float("-inf"), tl.float32)
        spoilt = tl.full([TOKENS], 0.0, tl.float32)  # NaN once a product is not finite, which a maximum would pass over
        if kind != "float32" and kind != "residual":
            unit = tl.load(units + tokens, mask=asked, other=0.0)
        for row in range(0, count, ROWS):
            inside = row + tl.arange(0, ROWS) < count
            at = rows + (start + row + tl.arange(0, ROWS)) * width
            products = tl.full([ROWS, TOKENS], 0.0, tl.float32)
            squares = tl.full([ROWS], 0.0, tl.float32)
            for first in range(0, dim, DIMS):
                D = _vectors(at, inside, first, weights, centroids, centroid_count, dim, width, kind, bits, ROWS, DIMS)
                dims = first + tl.arange(0, DIMS)
                where = tokens.to(tl.int64)[None, :] * dim + dims[:, None]
                there = asked[None, :] & (dims < dim)[:, None]
                if kind == "float32" or kind == "residual":
                    Q = tl.load(query + where, mask=there, other=0.0)
                    products = tl.dot(D, Q, products, input_precision="tf32x3")
                else:
                    R = tl.load(rest + where, mask=there, other=0.0)
                    Q = tl.load(query + where, mask=there, other=0.0)
                    products = tl.dot(D, R, products)
                    products = tl.dot(D, Q, products)
                if squared or unit_length:
                    squares += tl.sum(D.to(tl.float32) * D.to(tl.float32), axis=1)
            if kind != "float32" and kind != "residual":
                products *= unit[None, :]
            if kind == "int8" or kind == "binary":
                factor = _float32(at + (width - 4), inside)
            elif unit_length:
                factor = tl.rsqrt(tl.maximum(squares, 1e-24))
            else:
                factor = tl.full([ROWS], 1.0, tl.float32)
            if kind == "residual":  # of a damaged store, which may name a centroid that is not there
                factor = tl.where(_uint16(at, inside) < centroid_count, factor, float("nan"))
            products *= factor[:, None]
            if squared:
                products = 2 * products - (squares * factor * factor)[:, None]
            bad = tl.where(tl.abs(products) < float("inf"), 0.0, float("nan"))
            spoilt += tl.sum(tl.where(inside[:, None], bad, 0.0), axis=0)
            best = tl.maximum(best, tl.max(tl.where(inside[:, None], products, float("-inf")), axis=0))
        score += tl.sum(tl.where(asked, best + spoilt, 0.0).to(tl.float64), axis=0)
    tl.store(scores + pair, score)


@triton.jit
def _vectors(
    at,
    inside,
    first,
    weights,
    centroids,
    centroid_count,
    dim: tl.constexpr,
    width: tl.constexpr,
    kind: tl.constexpr,
    bits: tl.constexpr,
    ROWS: tl.constexpr,
    DIMS: tl.constexpr,
):
    """Dimensions ``first`` to ``first + DIMS`` of the vectors of a tile's rows [ROWS], up to their factors."""
    dims = first + tl.arange(0, DIMS)
    there = inside[:, None] & (dims < dim)[None, :]
    if kind == "float16" or kind == "float32":
        vectors = tl.load(at[:, None] + dims[None, :], mask=there, other=0.0)
    elif kind == "int8":
        steps = tl.load(at[:, None] + dims[None, :], mask=there, other=0)
        vectors = steps.to(tl.int8, bitcast=True).to(tl.float16)
    elif kind == "binary":
        signs = 2 * _codes(at, inside, first, width - 4, 1, ROWS, DIMS) - 1
        vectors = tl.where(there, signs, 0).to(tl.float16)
    else:
        codes = _codes(at + 2, inside, first, width - 2, bits, ROWS, DIMS)
        number = _uint16(at, inside)
        known = there & (number < centroid_count)[:, None]
        centroid = tl.load(centroids + number[:, None] * dim + dims[None, :], mask=known, other=0.0)
        vectors = tl.where(there, centroid + tl.load(weights + codes), 0.0)
    return vectors


@triton.jit
def _codes(
    at,
    inside,
    first,
    size: tl.constexpr,
    bits: tl.constexpr,
    ROWS: tl.constexpr,
    DIMS: tl.constexpr,
):
    """Codes [ROWS, DIMS] of ``bits`` bits from ``size`` bytes, the first in the highest bits of a byte."""
    places = first * bits // 8 + tl.arange(0, DIMS * bits // 8)
    packed = tl.load(at[:, None] + places[None, :], mask=inside[:, None] & (places < size)[None, :], other=0)
    shifts = 8 - bits - bits * tl.arange(0, 8 // bits)
    codes = (packed.to(tl.int32)[:, :, None] >> shifts[None, None, :]) & ((1 << bits) - 1)
    return tl.reshape(codes, (ROWS, DIMS))


@triton.jit
def _float32(at, inside):
    """Numbers whose four bytes begin anywhere."""
    return ((_uint16(at + 2, inside) << 16) | _uint16(at, inside)).to(tl.float32, bitcast=True)


@triton.jit
def _uint16(at, inside):
    low = tl.load(at, mask=inside, other=0).to(tl.int32)
    return (tl.load(at + 1, mask=inside, other=0).to(tl.int32) << 8) | low
