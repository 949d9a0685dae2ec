/* Centroid interaction: documents scored by their tokens' nearest centroids, which a table has multiplied with the query.
 *
 * A token of a document is the number of a centroid, and the table holds a byte for each centroid and token of the query.
 * What a token of the query finds best is a maximum of bytes, for 32 of them at once, and a document's score the sum.
 */

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define TOKENS 32 /* of a query, taken together: the table has a multiple of them */

typedef struct {
    int64_t tokens;       /* of the query, filled up with zeros to a multiple of TOKENS */
    const uint8_t *table; /* [centroids, tokens] */
    const uint16_t *codes;
    int64_t documents;
    const int64_t *starts, *counts; /* [documents], in codes */
    int32_t *scores;                /* [documents] */
} Scan;

typedef uint8_t half __attribute__((vector_size(TOKENS / 2)));

/* Element by element the greater one. */
static inline half greater(half a, half b) {
#if defined(__x86_64__)
    return (half)_mm_max_epu8((__m128i)a, (__m128i)b);
#else
    half mask = (half)(a > b);
    return (a & mask) | (b & ~mask);
#endif
}

static int32_t best_any(const Scan *s, const uint16_t *codes, int64_t count, int64_t token) {
    half a = {0}, b = {0}, row;
    for (int64_t i = 0; i < count; i++) {
        const uint8_t *from = s->table + codes[i] * s->tokens + token;
        memcpy(&row, from, sizeof row), a = greater(a, row);
        memcpy(&row, from + sizeof row, sizeof row), b = greater(b, row);
    }
    int32_t sum = 0;
    for (int i = 0; i < TOKENS / 2; i++) sum += a[i] + b[i];
    return sum;
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static int32_t best_avx2(const Scan *s, const uint16_t *codes, int64_t count, int64_t token) {
    __m256i a = _mm256_setzero_si256(), b = a, zero = a; /* two, as each waits for the one before */
    const uint8_t *table = s->table + token;
    int64_t i = 0;
    for (; i + 2 <= count; i += 2) {
        a = _mm256_max_epu8(a, _mm256_loadu_si256((const void *)(table + codes[i] * s->tokens)));
        b = _mm256_max_epu8(b, _mm256_loadu_si256((const void *)(table + codes[i + 1] * s->tokens)));
    }
    if (i < count) a = _mm256_max_epu8(a, _mm256_loadu_si256((const void *)(table + codes[i] * s->tokens)));
    a = _mm256_sad_epu8(_mm256_max_epu8(a, b), zero);
    return _mm256_extract_epi64(a, 0) + _mm256_extract_epi64(a, 1) + _mm256_extract_epi64(a, 2) + _mm256_extract_epi64(a, 3);
}
#endif

/* Fill in the scores of all documents; `any` leaves out what only this machine may have. */
void interaction_scores(const Scan *s, int any) {
    int32_t (*best)(const Scan *, const uint16_t *, int64_t, int64_t) = best_any;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!any && __builtin_cpu_supports("avx2")) best = best_avx2;
#endif
    for (int64_t document = 0; document < s->documents; document++) {
        int32_t sum = 0;
        for (int64_t token = 0; token < s->tokens; token += TOKENS)
            sum += best(s, s->codes + s->starts[document], s->counts[document], token);
        s->scores[document] = sum;
    }
}
