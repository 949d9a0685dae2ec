/* MaxSim straight from a store's rows: decoded a few rows at a time into the first cache, never copied as a whole.
 *
 * Two ways lead to the same numbers, up to the order in which products are summed. The plain one (maxsim_isa.h, compiled
 * once for each instruction set; which one runs is chosen when the program does) multiplies all rows with all tokens of
 * the query in single precision. The other (maxsim_filter.h) finds out first, in whole numbers of 8 bits and with a
 * bound on what these leave out, which rows may be a token's best, and multiplies only those.
 *
 * A document is scored by itself: its score depends, to the bit, neither on its neighbours nor on the number of threads.
 */

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { FLOAT32, FLOAT16, INT8, CODES }; /* how a row holds its vector */

#define AT_ONCE 16 /* documents that a thread takes from those left */
#define GROUP 32   /* tokens that rows are multiplied with at once; the query is filled up to a multiple with zeros */

typedef struct {
    int64_t dim, tokens;
    const float *query; /* [tokens, dim] */
    int32_t kind;
    int32_t squared; /* minus the squared distance, not the product */
    int32_t mean;    /* of the tokens' maxima, not their sum */
    int32_t plain;   /* without the filter */
    const unsigned char *rows; /* [.., row_bytes], of which documents are ranges */
    int64_t row_bytes;
    const float *weights; /* CODES: [256, 8 / bits], what each byte stands for */
    int32_t bits;
    int32_t unit_length;    /* decoded vectors are brought to length 1 */
    const float *centroids; /* [count, dim], whose number a row begins with; or NULL, and a row ends with its scale */
    int64_t centroid_count;
    int64_t documents;
    const int64_t *starts, *counts; /* [documents], in rows */
    double *scores;                 /* [documents]: NaN where a row is not finite, minus infinity without rows */
} Work;

/* The query as the ways read it. */
typedef struct {
    int64_t padded; /* tokens, up to a multiple of GROUP */
    int64_t wide;   /* dim, up to a multiple of 64 */
    float *across;  /* [dim, padded] */
    double squares; /* the sum of all tokens' squared lengths */
    float *along;   /* [padded, wide], for the filter; NULL where it does not pay or cannot tell */
    int8_t *steps;  /* [wide / 4, padded, 4]: the query in whole steps, four dimensions of a token together */
    float *scales;  /* [padded], of one step each */
    int32_t *shifts; /* [padded]: what products begin with, since rows are shifted by 128 */
    float *row_loss, *query_loss; /* [padded]: see maxsim_filter.h */
} Query;

#define CONCAT_(a, b) a##_##b
#define CONCAT(a, b) CONCAT_(a, b)
#define NAME(x) CONCAT(x, ISA)

/* Have the row at a place be fetched, and go on to the next one. */
static inline void fetch(const Work *w, int64_t *document, int64_t *row, int64_t last) {
    while (*document < last && *row == w->counts[*document]) ++*document, *row = 0;
    if (*document == last) return;
    const unsigned char *from = w->rows + (w->starts[*document] + *row) * w->row_bytes;
    for (int64_t at = 0; at < w->row_bytes; at += 64) __builtin_prefetch(from + at);
    ++*row;
}

/* Memory that begins where a vector may; or NULL. */
static void *zeros(size_t bytes) {
    void *found = NULL;
    if (posix_memalign(&found, 64, bytes + 64)) return NULL;
    return memset(found, 0, bytes);
}

/* For any machine: 16 bytes are NEON's vectors and SSE2's. */
#define ISA any
#define LANES 4
#define ROWS 6
#define TARGET
#include "maxsim_isa.h"

#if defined(__x86_64__)
#define ISA avx2
#define LANES 8
#define ROWS 6
#define TARGET __attribute__((target("avx2,fma,f16c")))
#include "maxsim_isa.h"

#define ISA avx512
#define LANES 16
#define ROWS 12
#define TARGET __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))
#include "maxsim_isa.h"
#include "maxsim_filter.h"
#endif

typedef struct {
    const Work *work;
    const Query *query;
    void (*score)(const Work *, const Query *, int64_t, int64_t, float *, void *);
    size_t scratch;
    atomic_llong *next;
} Job;

/* GOMP_parallel, as GCC calls it where a parallel region begins: a function, what it is given, threads, flags. */
typedef void OpenMP(void (*)(void *), void *, unsigned, unsigned);

/* The score that a document's maxima [padded] give. */
static double summed(const Work *w, const Query *q, const float *maxima) {
    double sum = 0;
    for (int64_t token = 0; token < w->tokens; token++) sum += maxima[token];
    if (w->squared) sum -= q->squares; /* -|q - d|^2 = 2 qd - |d|^2 - |q|^2, the last of them here */
    return w->mean ? sum / w->tokens : sum;
}

/* Score documents until none is left, beside others that do the same. */
static void run(void *given) {
    Job *job = given;
    const Work *w = job->work;
    void *scratch = NULL;
    int64_t size = AT_ONCE * job->query->padded;
    if (posix_memalign(&scratch, 64, size * sizeof(float) + job->scratch)) return;
    float *maxima = scratch;
    for (;;) {
        int64_t first = atomic_fetch_add(job->next, AT_ONCE);
        if (first >= w->documents) break;
        int64_t last = first + AT_ONCE < w->documents ? first + AT_ONCE : w->documents;
        for (int64_t i = 0; i < size; i++) maxima[i] = -INFINITY;
        job->score(w, job->query, first, last, maxima, maxima + size);
        for (int64_t document = first; document < last; document++)
            w->scores[document] = summed(w, job->query, maxima + (document - first) * job->query->padded);
    }
    free(scratch);
}

static void *run_thread(void *job) {
    run(job);
    return NULL;
}

/* `run` in so many threads: those of OpenMP, or new ones. */
static void run_in(Job *job, int threads, OpenMP *openmp) {
    if (openmp && threads > 1) {
        openmp(run, job, threads, 0);
        return;
    }
    pthread_t others[256];
    int started = 0;
    while (started < threads - 1 && started < 256 && !pthread_create(&others[started], NULL, run_thread, job)) started++;
    run(job);
    for (int i = 0; i < started; i++) pthread_join(others[i], NULL);
}

/* The query in the forms that are read; whether there was memory for it. */
static int prepare(const Work *w, Query *q) {
    q->padded = (w->tokens + GROUP - 1) / GROUP * GROUP;
    if (!q->padded) q->padded = GROUP;
    q->wide = (w->dim + 63) / 64 * 64;
    if (!(q->across = zeros(w->dim * q->padded * sizeof(float)))) return 0;
    for (int64_t token = 0; token < w->tokens; token++)
        for (int64_t k = 0; k < w->dim; k++) {
            float value = w->query[token * w->dim + k];
            q->across[k * q->padded + token] = value;
            q->squares += (double)value * value;
        }
    return 1;
}

static void release(Query *q) {
    free(q->across), free(q->along), free(q->steps), free(q->scales);
    free(q->shifts), free(q->row_loss), free(q->query_loss);
}

/* The instruction sets of this machine, best first. */
const char *maxsim_isas(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    int avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                 __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                 __builtin_cpu_supports("avx512vnni");
    return avx512 ? "avx512 avx2 any" : avx2 ? "avx2 any" : "any";
#else
    return "any";
#endif
}

/* Fill in the scores of all documents, in `threads` threads, of `openmp` where it is not NULL. 0; 1 for want of memory;
 * 2 for an unknown name. */
int maxsim_scores(const Work *work, const char *isa, int threads, OpenMP *openmp) {
    atomic_llong next = 0;
    Query query = {0};
    Job job = {work, &query, NULL, 0, &next};
    if (!prepare(work, &query)) return 1;
    if (!strcmp(isa, "any")) job.score = score_any, job.scratch = scratch_any(work);
#if defined(__x86_64__)
    if (!strcmp(isa, "avx2")) job.score = score_avx2, job.scratch = scratch_avx2(work);
    if (!strcmp(isa, "avx512")) {
        job.score = score_avx512, job.scratch = scratch_avx512(work);
        if (!work->plain && filter_prepare(work, &query))
            job.score = filter_score, job.scratch = filter_scratch(work, &query);
    }
#endif
    if (job.score) run_in(&job, threads, openmp);
    release(&query);
    /* what one thread had no memory for, another has done, unless none had */
    return job.score ? atomic_load(&next) < work->documents : 2;
}
