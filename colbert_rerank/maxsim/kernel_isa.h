/* The kernel for one instruction set: ISA, LANES numbers in a vector, ROWS rows in a block, TARGET for the compiler. */

_Static_assert(GROUP % (2 * LANES) == 0, "a block is multiplied with 2 LANES tokens at once");

typedef float NAME(floats) __attribute__((vector_size(4 * LANES)));
typedef int32_t NAME(ints) __attribute__((vector_size(4 * LANES)));
#define FLOATS NAME(floats)
#define INTS NAME(ints)

typedef struct {
    float *values;            /* [ROWS, dim] */
    int16_t *steps;           /* [ROWS, dim, filled up to an even number], of int8 rows */
    float factors[ROWS];      /* a row's products are multiplied with */
    float squares[ROWS];      /* the squared length of a row, factor included */
    int64_t owners[ROWS];     /* the document of each row */
} NAME(block);

static int64_t NAME(even)(int64_t dim) { return dim + dim % 2; }

static size_t NAME(scratch)(const Work *w) { return ROWS * NAME(even)(w->dim) * (sizeof(float) + sizeof(int16_t)); }

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
TARGET static inline void NAME(decode)(const Work *w, const unsigned char *row, NAME(block) * block, int r) {
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
        if (w->steps) {
            int16_t *restrict wide = block->steps + r * NAME(even)(dim);
            for (int64_t k = 0; k < dim; k++) wide[k] = steps[k];
        }
        if (!w->steps || w->squared)
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
TARGET static inline void NAME(fold)(const Work *w, const NAME(block) * block, int rows, int64_t token, FLOATS sums[ROWS][2]) {
    for (int half = 0; half < 2; half++) {
        float *place = w->maxima + token + half * LANES;
        for (int r = 0; r < rows;) {
            int64_t owner = block->owners[r];
            FLOATS best = NAME(load)(place + owner * w->tokens);
            for (; r < rows && block->owners[r] == owner; r++) {
                FLOATS product = sums[r][half] * block->factors[r];
                if (w->squared) product = 2 * product - block->squares[r];
                INTS greater = product > best; /* where either is NaN, the best stays as it was */
                best = (FLOATS)(((INTS)product & greater) | ((INTS)best & ~greater));
                best += product * 0; /* and is NaN from now on, if the product is not finite */
            }
            memcpy(place + owner * w->tokens, &best, sizeof best);
        }
    }
}

TARGET static void NAME(products)(const Work *w, const NAME(block) * block, int rows, int64_t token) {
    FLOATS sums[ROWS][2];
    for (int r = 0; r < ROWS; r++) sums[r][0] = sums[r][1] = (FLOATS){0};
    const float *query = w->query + token, *values = block->values;
    int64_t dim = w->dim;
    for (int64_t k = 0; k < dim; k++, query += w->tokens) {
        FLOATS left = NAME(load)(query), right = NAME(load)(query + LANES);
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; r++) {
            FLOATS value = (FLOATS){0} + values[r * dim + k];
            sums[r][0] += value * left;
            sums[r][1] += value * right;
        }
    }
    NAME(fold)(w, block, rows, token, sums);
}

/* The same in whole numbers, which are summed without any error: at most 2^15 x 2^7 in each of the dimensions. */
TARGET static void NAME(whole_products)(const Work *w, const NAME(block) * block, int rows, int64_t token) {
    INTS sums[ROWS][2];
    FLOATS found[ROWS][2];
    for (int r = 0; r < ROWS; r++) sums[r][0] = sums[r][1] = (INTS){0};
    int64_t pairs = NAME(even)(w->dim) / 2;
    const int16_t *query = w->steps + 2 * token;
    const int16_t *steps = block->steps;
    for (int64_t k = 0; k < pairs; k++, query += 2 * w->tokens) {
#if LANES == 4
        for (int r = 0; r < ROWS; r++)
            for (int i = 0; i < 2 * LANES; i++)
                sums[r][i / LANES][i % LANES] +=
                    steps[2 * (r * pairs + k)] * query[2 * i] + steps[2 * (r * pairs + k) + 1] * query[2 * i + 1];
#else
        INTS left, right;
        memcpy(&left, query, sizeof left);
        memcpy(&right, query + 2 * LANES, sizeof right);
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; r++) {
            int32_t pair;
            memcpy(&pair, steps + 2 * (r * pairs + k), 4);
            INTS value = (INTS){0} + pair;
#if LANES == 16
            sums[r][0] = (INTS)_mm512_dpwssd_epi32((__m512i)sums[r][0], (__m512i)value, (__m512i)left);
            sums[r][1] = (INTS)_mm512_dpwssd_epi32((__m512i)sums[r][1], (__m512i)value, (__m512i)right);
#else
            sums[r][0] += (INTS)_mm256_madd_epi16((__m256i)value, (__m256i)left);
            sums[r][1] += (INTS)_mm256_madd_epi16((__m256i)value, (__m256i)right);
#endif
        }
#endif
    }
    for (int r = 0; r < ROWS; r++)
        for (int half = 0; half < 2; half++)
            found[r][half] = __builtin_convertvector(sums[r][half], FLOATS) * NAME(load)(w->scales + token + half * LANES);
    NAME(fold)(w, block, rows, token, found);
}

/* Have the row at a place be fetched, and go on to the next one. */
static inline void NAME(fetch)(const Work *w, int64_t *document, int64_t *row, int64_t last) {
    while (*document < last && *row == w->counts[*document]) ++*document, *row = 0;
    if (*document == last) return;
    const unsigned char *from = w->rows + (w->starts[*document] + *row) * w->row_bytes;
    for (int64_t at = 0; at < w->row_bytes; at += 64) __builtin_prefetch(from + at);
    ++*row;
}

TARGET static void NAME(score)(const Work *w, int64_t first, int64_t last, void *scratch) {
    NAME(block) block;
    block.values = scratch;
    block.steps = (int16_t *)(block.values + ROWS * NAME(even)(w->dim));
    memset(scratch, 0, NAME(scratch)(w));
    int64_t document = first, row = 0;
    int64_t ahead = first, ahead_row = 0; /* the row to be fetched from memory, AHEAD before it is read */
    for (int i = 0; i < AHEAD; i++) NAME(fetch)(w, &ahead, &ahead_row, last);
    while (document < last) {
        int rows = 0;
        while (rows < ROWS && document < last) {
            if (row == w->counts[document]) {
                document++, row = 0;
                continue;
            }
            const unsigned char *from = w->rows + (w->starts[document] + row) * w->row_bytes;
            NAME(fetch)(w, &ahead, &ahead_row, last);
            block.owners[rows] = document;
            NAME(decode)(w, from, &block, rows);
            rows++, row++;
        }
        if (!rows) break;
        for (int64_t token = 0; token < w->tokens; token += 2 * LANES)
            if (w->steps && w->kind == INT8)
                NAME(whole_products)(w, &block, rows, token);
            else
                NAME(products)(w, &block, rows, token);
    }
}

#undef FLOATS
#undef INTS
#undef ISA
#undef LANES
#undef ROWS
#undef TARGET
