/* The filtered way, for AVX-512 with VNNI: which rows may be a token's best is found in whole numbers of 8 bits, four
 * times as fast as products in single precision, and only those are multiplied in single precision, which gives the
 * score. Nothing of the score is rounded to 8 bits.
 *
 * Let a row stand for d = f (s u + e): u whole steps of size s, at most 127 either way, e what they leave out, and f the
 * row's factor. Let a token be q = t v + r in the same way. Then
 *
 *     |q.d - (t f s) v.u| <= |q| f |e| + |r| f s |u|        (Cauchy and Schwarz, twice)
 *
 * with |e| <= s sqrt(dim) / 2 (and 2^-13 of that, for the roundings of s and of what is rounded to steps), or 0 for rows
 * that are stored in whole steps. v.u is exact. What is computed in single precision, in any order, differs from q.d by
 * less than dim 2^-24 |q| |d| (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1), and |d| is at most
 * f s (|u| + sqrt(dim) / 2); ROUNDING covers this, and the few roundings of the bound itself, more than twice. With
 * S the largest f s of a document's rows and N the largest f s |u|,
 *
 *     loss = S row_loss + N query_loss
 *
 * is a token's bound for all of them. A row whose product falls short of the greatest by more than twice that, or of the
 * best that is known by more than once that, is not better, nor as good.
 *
 * Numbers that are not finite, or so large or small that these products could be none, go the plain way. So do documents
 * of which too many rows are left to be multiplied, one by one, because they are few or like one another; that depends on
 * the query and the document alone, as a score must.
 */

#define FILTER_TARGET __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))
#define CHUNK 96     /* rows that are filtered together: what is kept of them fits the caches of a core */
#define ROUNDING(dim) (((dim) + 32) * 0x1p-23f)
#define LEFT 5       /* of how many products with 8 bits one may be left, at most, before the plain way is the faster */
#define FEWEST 8     /* rows */
#define NARROWEST 32 /* dimensions */
#define MOST 1e12f   /* beyond which a number is too large, and below whose inverse it is too small */

typedef struct {
    block_avx512 one;   /* a decoded row; its values are padded with zeros to `wide` */
    uint8_t *steps;     /* [CHUNK, wide], shifted by 128 */
    float *scales;      /* [CHUNK]: f s */
    float *products;    /* [CHUNK, GROUP] */
} Filter;

static size_t filter_scratch(const Work *w, const Query *q) {
    return q->wide * (sizeof(float) + CHUNK) + CHUNK * sizeof(float) * (1 + GROUP) + scratch_avx512(w);
}

/* The query in whole steps, and what they leave out; whether the filter can be used. */
static int filter_prepare(const Work *w, Query *q) {
    float root = sqrtf((float)w->dim);
    if (w->squared || w->dim < NARROWEST) return 0;
    if (!(q->along = zeros(q->padded * q->wide * sizeof(float))) || !(q->steps = zeros(q->padded * q->wide)) ||
        !(q->scales = zeros(q->padded * sizeof(float))) || !(q->shifts = zeros(q->padded * sizeof(int32_t))) ||
        !(q->row_loss = zeros(q->padded * sizeof(float))) || !(q->query_loss = zeros(q->padded * sizeof(float))))
        return 0;
    for (int64_t token = 0; token < w->tokens; token++) {
        const float *values = w->query + token * w->dim;
        float most = 0;
        for (int64_t k = 0; k < w->dim; k++) {
            if (!(fabsf(values[k]) < MOST)) return 0;
            most = fmaxf(most, fabsf(values[k]));
        }
        if (most < 1 / MOST) return 0;
        float scale = most / 127;
        double length = 0, left = 0;
        int32_t sum = 0;
        for (int64_t k = 0; k < w->dim; k++) {
            int32_t step = (int32_t)lrintf(values[k] / scale);
            double rest = (double)values[k] - (double)scale * step;
            q->along[token * q->wide + k] = values[k];
            q->steps[(k / 4 * q->padded + token) * 4 + k % 4] = step;
            sum += step, length += (double)values[k] * values[k], left += rest * rest;
        }
        float rounding = ROUNDING(w->dim) * (float)sqrt(length);
        q->scales[token] = scale;
        q->shifts[token] = -128 * sum;
        q->row_loss[token] = w->kind == INT8 ? 0 : root * (0.5001f * (float)sqrt(length) + rounding);
        q->query_loss[token] = 1.00001f * (float)sqrt(left) + rounding;
    }
    return 1;
}

/* A row in whole steps, shifted by 128, into `out` [wide]: its f s, or what is no number where the steps cannot be told;
 * and (f s |u|)^2 by `square`. */
FILTER_TARGET static inline __attribute__((always_inline)) float filter_row(
    const Work *w, const unsigned char *row, Filter *f, int64_t wide, uint8_t *out, float *square) {
    const __m512i shift = _mm512_set1_epi8((char)0x80);
    __m512i squares = _mm512_setzero_si512();
    float scale;
    if (w->kind == INT8) {
        memcpy(&scale, row + w->dim, 4);
        for (int64_t k = 0; k < wide; k += 64) {
            __mmask64 some = w->dim - k >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << (w->dim - k)) - 1;
            __m512i steps = _mm512_maskz_loadu_epi8(some, row + k), sizes = _mm512_abs_epi8(steps);
            if (_mm512_cmpeq_epi8_mask(steps, shift)) return NAN; /* -128, as no row is written */
            squares = _mm512_dpbusd_epi32(squares, sizes, sizes);
            _mm512_storeu_si512(out + k, _mm512_xor_si512(steps, shift));
        }
    } else {
        decode_avx512(w, row, &f->one, 0);
        const float *values = f->one.values;
        __m512i most = _mm512_setzero_si512(), size = _mm512_set1_epi32(0x7fffffff);
        for (int64_t k = 0; k < wide; k += 16) /* sizes as whole numbers: infinity is greater than all, NaN than that */
            most = _mm512_max_epi32(most, _mm512_and_si512(_mm512_loadu_si512(values + k), size));
        int32_t bits = _mm512_reduce_max_epi32(most);
        float greatest;
        memcpy(&greatest, &bits, 4);
        if (!(greatest < MOST && greatest > 1 / MOST)) return NAN;
        scale = greatest / 127 * f->one.factors[0];
        __m512 inverse = _mm512_set1_ps(127 / greatest);
        for (int64_t k = 0; k < wide; k += 64) {
            __m128i four[4];
            for (int i = 0; i < 4; i++)
                four[i] = _mm512_cvtepi32_epi8(
                    _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(values + k + 16 * i), inverse)));
            __m512i steps = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_set_m128i(four[1], four[0])),
                                               _mm256_set_m128i(four[3], four[2]), 1);
            __m512i sizes = _mm512_abs_epi8(steps);
            squares = _mm512_dpbusd_epi32(squares, sizes, sizes);
            _mm512_storeu_si512(out + k, _mm512_xor_si512(steps, shift));
        }
    }
    if (!(scale < MOST && scale > 1 / MOST)) return NAN;
    *square = scale * scale * (float)_mm512_reduce_add_epi32(squares);
    return scale;
}

/* Rows that will be read next, of which a few are fetched at a time: memory gives only so much at once. */
typedef struct {
    const unsigned char *next, *end;
} Ahead;

static inline void filter_fetch(Ahead *ahead) {
    for (int i = 0; i < 2 && ahead->next < ahead->end; i++, ahead->next += 64) __builtin_prefetch(ahead->next, 0, 2);
}

/* In place, which compilers do not see to where this many sums are kept. */
#define ADD_PRODUCTS(sum, unsigned_ones, signed_ones) \
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(unsigned_ones), "v"(signed_ones))

/* Products of ROWS rows with a GROUP of tokens, kept; and the greatest of each token. No part of what calls it, so that
 * nothing else is kept where the sums are. */
#define FILTER_BLOCK(ROWS)                                                                                             \
    FILTER_TARGET static __attribute__((noinline)) void filter_block_##ROWS(                                           \
        const Query *q, const Filter *f, int64_t row, int64_t token, int64_t dim, __m512 greatest[2], Ahead *ahead) {  \
        const int64_t wide = q->wide, across = 4 * q->padded;                                                          \
        const int8_t *query = q->steps + 4 * token;                                                                    \
        const uint8_t *steps = f->steps + row * wide, *end = steps + dim;                                              \
        __m512i sums[ROWS][2];                                                                                         \
        Ahead soon = *ahead;                                                                                           \
        _Pragma("GCC unroll 12") for (int r = 0; r < ROWS; r++) {                                                      \
            sums[r][0] = _mm512_loadu_si512(q->shifts + token);                                                        \
            sums[r][1] = _mm512_loadu_si512(q->shifts + token + 16);                                                   \
        }                                                                                                              \
        for (; steps < end; steps += 4, query += across) {                                                             \
            __m512i left = _mm512_loadu_si512(query), right = _mm512_loadu_si512(query + 64);                          \
            const uint8_t *at = steps;                                                                                 \
            filter_fetch(&soon);                                                                                       \
            _Pragma("GCC unroll 12") for (int r = 0; r < ROWS; r++) {                                                  \
                int32_t four;                                                                                          \
                memcpy(&four, at + r % 3 * wide, 4);                                                                   \
                if (r % 3 == 2) at += 3 * wide;                                                                        \
                __m512i value = _mm512_set1_epi32(four);                                                               \
                ADD_PRODUCTS(sums[r][0], value, left);                                                                 \
                ADD_PRODUCTS(sums[r][1], value, right);                                                                \
            }                                                                                                          \
        }                                                                                                              \
        *ahead = soon;                                                                                                 \
        const float *scales = f->scales + row;                                                                         \
        float *products = f->products + row * GROUP;                                                                   \
        __m512i found[2][ROWS]; /* sums are only kept in registers where no index into them varies */                  \
        _Pragma("GCC unroll 12") for (int r = 0; r < ROWS; r++) found[0][r] = sums[r][0], found[1][r] = sums[r][1];    \
        for (int half = 0; half < 2; half++) {                                                                         \
            __m512 scale = _mm512_loadu_ps(q->scales + token + 16 * half), most = greatest[half];                      \
            for (int r = 0; r < ROWS; r++) {                                                                           \
                __m512 product = _mm512_mul_ps(_mm512_cvtepi32_ps(found[half][r]),                                     \
                                               _mm512_mul_ps(scale, _mm512_set1_ps(scales[r])));                       \
                _mm512_storeu_ps(products + r * GROUP + 16 * half, product);                                           \
                most = _mm512_max_ps(most, product);                                                                   \
            }                                                                                                          \
            greatest[half] = most;                                                                                     \
        }                                                                                                              \
    }

FILTER_BLOCK(12)
FILTER_BLOCK(4)
FILTER_BLOCK(1)

FILTER_TARGET static inline float filter_dot(const float *left, const float *right, int64_t wide) {
    __m512 sums[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
    for (int64_t k = 0; k < wide; k += 64)
        for (int i = 0; i < 4; i++)
            sums[i] = _mm512_fmadd_ps(_mm512_loadu_ps(left + k + 16 * i), _mm512_loadu_ps(right + k + 16 * i), sums[i]);
    return _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3])));
}

/* Let `maxima` [padded] know the rows that may be the best of a GROUP of tokens; 0 where these are too many. */
FILTER_TARGET static __attribute__((noinline)) int filter_best(const Work *w, const Query *q, Filter *f,
                                                               const unsigned char *rows, int count, int64_t token,
                                                               float *maxima, const __m512 loss[2],
                                                               const __m512 greatest[2]) {
    int64_t tokens = w->tokens - token;
    uint32_t meant = tokens >= GROUP ? 0xffffffff : tokens > 0 ? (1u << tokens) - 1 : 0;
    int room = count * __builtin_popcount(meant) / LEFT + GROUP;
    __m512 least[2];
    for (int half = 0; half < 2; half++)
        least[half] = _mm512_max_ps(_mm512_sub_ps(_mm512_loadu_ps(maxima + token + 16 * half), loss[half]),
                                    _mm512_sub_ps(greatest[half], _mm512_add_ps(loss[half], loss[half])));
    for (int row = 0; row < count; row++) {
        const float *products = f->products + row * GROUP;
        uint32_t which = _mm512_cmp_ps_mask(_mm512_loadu_ps(products), least[0], _CMP_GE_OQ) |
                         (uint32_t)_mm512_cmp_ps_mask(_mm512_loadu_ps(products + 16), least[1], _CMP_GE_OQ) << 16;
        which &= meant;
        if (!which) continue;
        if ((room -= __builtin_popcount(which)) < 0) return 0;
        decode_avx512(w, rows + row * w->row_bytes, &f->one, 0);
        for (; which; which &= which - 1) {
            int64_t one = token + __builtin_ctz(which);
            float product = filter_dot(q->along + one * q->wide, f->one.values, q->wide) * f->one.factors[0];
            _mm_store_ss(maxima + one, _mm_max_ss(_mm_set_ss(product), _mm_load_ss(maxima + one)));
        }
    }
    return 1;
}

/* Let `maxima` [padded] know `count` rows; 0 where these have to go the plain way. */
FILTER_TARGET static int filter_chunk(const Work *w, const Query *q, Filter *f, const unsigned char *rows, int count,
                                      float *maxima, Ahead *ahead) {
    float scale = 0, square = 0;
    for (int r = 0; r < count; r++) {
        float one = 0;
        f->scales[r] = filter_row(w, rows + r * w->row_bytes, f, q->wide, f->steps + r * q->wide, &one);
        if (isnan(f->scales[r])) return 0;
        scale = f->scales[r] > scale ? f->scales[r] : scale;
        square = one > square ? one : square;
    }
    __m512 scales = _mm512_set1_ps(scale), norms = _mm512_set1_ps(sqrtf(square));
    for (int64_t token = 0; token < q->padded; token += GROUP) {
        __m512 greatest[2] = {_mm512_set1_ps(-INFINITY), _mm512_set1_ps(-INFINITY)};
        int row = 0;
        for (; row + 12 <= count; row += 12) filter_block_12(q, f, row, token, w->dim, greatest, ahead);
        for (; row + 4 <= count; row += 4) filter_block_4(q, f, row, token, w->dim, greatest, ahead);
        for (; row < count; row++) filter_block_1(q, f, row, token, w->dim, greatest, ahead);

        __m512 loss[2];
        for (int half = 0; half < 2; half++)
            loss[half] = _mm512_fmadd_ps(scales, _mm512_loadu_ps(q->row_loss + token + 16 * half),
                                         _mm512_mul_ps(norms, _mm512_loadu_ps(q->query_loss + token + 16 * half)));
        if (!filter_best(w, q, f, rows, count, token, maxima, loss, greatest)) return 0;
    }
    return 1;
}

/* As score_avx512. */
FILTER_TARGET static void filter_score(const Work *w, const Query *q, int64_t first, int64_t last, float *maxima,
                                       void *scratch) {
    memset(scratch, 0, filter_scratch(w, q));
    Filter f = {.one.values = scratch};
    f.steps = (uint8_t *)(f.one.values + q->wide);
    f.products = (float *)(f.steps + CHUNK * q->wide);
    f.scales = f.products + CHUNK * GROUP;
    void *plain = f.scales + CHUNK;
    for (int64_t document = first; document < last; document++, maxima += q->padded)
        for (int64_t row = 0, count; row < w->counts[document]; row += count) {
            int64_t left = w->counts[document] - row;
            count = left < CHUNK ? left : CHUNK;
            const unsigned char *rows = w->rows + (w->starts[document] + row) * w->row_bytes, *end = rows + count * w->row_bytes;
            Ahead ahead = {end, end};
            if (left > count)
                ahead.end = end + (left - count < CHUNK ? left - count : CHUNK) * w->row_bytes;
            else if (document + 1 < last) {
                ahead.next = w->rows + w->starts[document + 1] * w->row_bytes;
                ahead.end = ahead.next + (w->counts[document + 1] < CHUNK ? w->counts[document + 1] : CHUNK) * w->row_bytes;
            }
            if (w->counts[document] >= FEWEST && filter_chunk(w, q, &f, rows, count, maxima, &ahead)) continue;
            for (int64_t token = 0; token < q->padded; token++) maxima[token] = -INFINITY;
            score_avx512(w, q, document, document + 1, maxima, plain);
            break;
        }
}
