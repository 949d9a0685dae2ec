/* The plain way, for one instruction set: ISA, LANES numbers in a vector, ROWS rows in a block, TARGET for the compiler.
 *
 * A block of ROWS decoded rows meets all tokens of the query, which lie side by side in the lanes of vectors: so a
 * maximum over rows is taken lane by lane, and a block may hold rows of several documents. Products of one row and one
 * token are summed over the dimensions in their order, whatever else is in the block.
 */

_Static_assert(GROUP % (2 * LANES) == 0, "a block is multiplied with 2 LANES tokens at once");

typedef float NAME(floats) __attribute__((vector_size(4 * LANES)));
typedef int32_t NAME(ints) __attribute__((vector_size(4 * LANES)));
#define FLOATS NAME(floats)
#define INTS NAME(ints)

typedef struct {
    float *values;            /* [ROWS, dim] */
    float factors[ROWS];      /* a row's products are multiplied with */
    float squares[ROWS];      /* the squared length of a row, factor included */
    int64_t owners[ROWS];     /* whose row it is: the number of the document among those at hand */
} NAME(block);

#define AHEAD_ROWS 24 /* how far ahead rows are fetched */

static size_t NAME(scratch)(const Work *w) { return ROWS * w->dim * sizeof(float); }

TARGET static inline FLOATS NAME(load)(const float *from) {
    FLOATS found;
    memcpy(&found, from, sizeof found);
    return found;
}

TARGET static inline void NAME(half)(const uint16_t *row, float *out, int64_t dim) {
    int64_t k = 0;
#if LANES == 16
    for (; k + 16 <= dim; k += 16) _mm512_storeu_ps(out + k, _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(row + k))));
#elif LANES == 8
    for (; k + 8 <= dim; k += 8) _mm256_storeu_ps(out + k, _mm256_cvtph_ps(_mm_loadu_si128((const void *)(row + k))));
#endif
    for (; k < dim; k++) { /* exponent and fraction in their new places, and 2^112 for the difference of the biases */
        uint32_t bits = (uint32_t)(row[k] & 0x7fff) << 13, power = 0x77800000, sign = (uint32_t)(row[k] & 0x8000) << 16;
        float number, scale;
        memcpy(&number, &bits, 4);
        memcpy(&scale, &power, 4);
        number *= scale;
        if ((row[k] & 0x7c00) == 0x7c00) number = row[k] & 0x3ff ? NAN : INFINITY;
        memcpy(&bits, &number, 4);
        bits |= sign;
        memcpy(out + k, &bits, 4);
    }
}

TARGET static inline void NAME(codes)(const Work *w, const unsigned char *packed, float *out) {
    int each = 8 / w->bits;
    const float *weights = w->weights;
    int64_t k = 0;
    if (each == 8)
        for (; k + 8 <= w->dim; k += 8) memcpy(out + k, weights + 8 * *packed++, 32);
    else if (each == 4)
        for (; k + 4 <= w->dim; k += 4) memcpy(out + k, weights + 4 * *packed++, 16);
    else
        for (; k + 2 <= w->dim; k += 2) memcpy(out + k, weights + 2 * *packed++, 8);
    for (int i = 0; k < w->dim; k++, i++) out[k] = weights[each * *packed + i];
}

/* A row as numbers, up to its factor. */
TARGET static inline __attribute__((always_inline)) void NAME(decode)(const Work *w, const unsigned char *row, NAME(block) * block, int r) {
    const int64_t dim = w->dim;
    float *restrict out = block->values + r * dim;
    block->factors[r] = 1;
    if (w->kind == FLOAT32) {
        memcpy(out, row, 4 * w->dim);
    } else if (w->kind == FLOAT16) {
        NAME(half)((const uint16_t *)row, out, w->dim);
    } else if (w->kind == INT8) {
        const signed char *steps = (const signed char *)row;
        memcpy(&block->factors[r], row + w->dim, 4);
        for (int64_t k = 0; k < dim; k++) out[k] = steps[k];
    } else if (!w->centroids) {
        NAME(codes)(w, row, out);
        memcpy(&block->factors[r], row + w->row_bytes - 4, 4);
    } else {
        int64_t number = row[0] | row[1] << 8;
        NAME(codes)(w, row + 2, out);
        const float *centroid = w->centroids + (number < w->centroid_count ? number : 0) * w->dim;
        for (int64_t k = 0; k < w->dim; k++) out[k] += centroid[k];
        if (number >= w->centroid_count) block->factors[r] = NAN; /* no row that was ever written */
    }
    if (w->squared || w->unit_length) {
        float lanes[16] = {0}, square = 0;
        for (int64_t k = 0; k < w->dim; k++) lanes[k % 16] += out[k] * out[k];
        for (int i = 0; i < 16; i++) square += lanes[i];
        if (w->unit_length) block->factors[r] /= sqrtf(square > 1e-24f ? square : 1e-24f);
        block->squares[r] = square * block->factors[r] * block->factors[r];
    }
}

/* Let the maxima of the documents know the products of a block with the tokens from `token` on, 2 LANES of them. */
TARGET static inline void NAME(fold)(const Work *w, const NAME(block) * block, int rows, float *maxima, int64_t padded,
                                     FLOATS sums[ROWS][2]) {
    for (int half = 0; half < 2; half++) {
        float *place = maxima + half * LANES;
        for (int r = 0; r < rows;) {
            int64_t owner = block->owners[r];
            FLOATS best = NAME(load)(place + owner * padded);
            for (; r < rows && block->owners[r] == owner; r++) {
                FLOATS product = sums[r][half] * block->factors[r];
                if (w->squared) product = 2 * product - block->squares[r];
                INTS greater = product > best; /* where either is NaN, the best stays as it was */
                best = (FLOATS)(((INTS)product & greater) | ((INTS)best & ~greater));
                best += product * 0; /* and is NaN from now on, if the product is not finite */
            }
            memcpy(place + owner * padded, &best, sizeof best);
        }
    }
}

TARGET static void NAME(products)(const Work *w, const Query *q, const NAME(block) * block, int rows, int64_t token,
                                  float *maxima) {
    FLOATS sums[ROWS][2];
    for (int r = 0; r < ROWS; r++) sums[r][0] = sums[r][1] = (FLOATS){0};
    const float *query = q->across + token, *values = block->values;
    int64_t dim = w->dim;
    for (int64_t k = 0; k < dim; k++, query += q->padded) {
        FLOATS left = NAME(load)(query), right = NAME(load)(query + LANES);
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; r++) {
            FLOATS value = (FLOATS){0} + values[r * dim + k];
            sums[r][0] += value * left;
            sums[r][1] += value * right;
        }
    }
    NAME(fold)(w, block, rows, maxima + token, q->padded, sums);
}

/* Fill in the maxima [last - first, padded], which are minus infinity before. */
TARGET static void NAME(score)(const Work *w, const Query *q, int64_t first, int64_t last, float *maxima, void *scratch) {
    NAME(block) block;
    block.values = scratch;
    memset(scratch, 0, NAME(scratch)(w));
    int64_t document = first, row = 0;
    int64_t ahead = first, ahead_row = 0;
    for (int i = 0; i < AHEAD_ROWS; i++) fetch(w, &ahead, &ahead_row, last);
    while (document < last) {
        int rows = 0;
        while (rows < ROWS && document < last) {
            if (row == w->counts[document]) {
                document++, row = 0;
                continue;
            }
            fetch(w, &ahead, &ahead_row, last);
            block.owners[rows] = document - first;
            NAME(decode)(w, w->rows + (w->starts[document] + row) * w->row_bytes, &block, rows);
            rows++, row++;
        }
        for (int64_t token = 0; rows && token < q->padded; token += 2 * LANES)
            NAME(products)(w, q, &block, rows, token, maxima);
    }
}

#undef FLOATS
#undef INTS
#undef AHEAD_ROWS
#undef ISA
#undef LANES
#undef ROWS
#undef TARGET
