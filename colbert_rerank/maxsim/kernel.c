/* MaxSim straight from a store's rows: decoded a few rows at a time into the first cache, never copied as a whole.
 *
 * A block of ROWS decoded rows meets all tokens of the query, which lie side by side in the lanes of vectors: so a
 * maximum over rows is taken lane by lane, and a block may hold rows of several documents. Products of one row and one
 * token are summed over the dimensions in their order, whatever else is in the block: a document's score depends, to
 * the bit, neither on its neighbours nor on the number of threads.
 *
 * kernel_isa.h is compiled once for each instruction set; which one runs is chosen when the program does.
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
#define AHEAD 24  /* rows */
#define GROUP 32   /* tokens that a block is multiplied with at once; the query is filled up to a multiple with zeros */

typedef struct {
    int64_t dim, tokens; /* tokens: a multiple of GROUP */
    const float *query;  /* [dim, tokens] */
    const int16_t *steps; /* the same in whole steps, pairs of dimensions together: [(dim + 1) / 2, tokens, 2]; or NULL */
    const float *scales; /* [tokens], of one step each */
    int32_t kind;
    int32_t squared;        /* minus the squared distance, up to that of the query from the origin, not the product */
    const unsigned char *rows; /* [.., row_bytes], of which documents are ranges */
    int64_t row_bytes;
    const float *weights;   /* CODES: [256, 8 / bits], what each byte stands for */
    int32_t bits;
    int32_t unit_length;    /* decoded vectors are brought to length 1 */
    const float *centroids; /* [count, dim], whose number a row begins with; or NULL, and a row ends with its scale */
    int64_t centroid_count;
    int64_t documents;
    const int64_t *starts, *counts; /* [documents], in rows */
    float *maxima;                  /* [documents, tokens]: minus infinity at first; NaN where a row is not finite */
} Work;

typedef struct {
    const Work *work;
    void (*score)(const Work *, int64_t, int64_t, void *);
    size_t scratch;
    atomic_llong *next;
} Job;

#define CONCAT_(a, b) a##_##b
#define CONCAT(a, b) CONCAT_(a, b)
#define NAME(x) CONCAT(x, ISA)

/* For any machine: 16 bytes are NEON's vectors and SSE2's. */
#define ISA any
#define LANES 4
#define ROWS 6
#define TARGET
#include "kernel_isa.h"

#if defined(__x86_64__)
#define ISA avx2
#define LANES 8
#define ROWS 6
#define TARGET __attribute__((target("avx2,fma,f16c")))
#include "kernel_isa.h"

#define ISA avx512
#define LANES 16
#define ROWS 12
#define TARGET __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))
#include "kernel_isa.h"
#endif

static void *run(void *given) {
    Job *job = given;
    void *scratch = NULL;
    if (posix_memalign(&scratch, 64, job->scratch)) return given;
    for (;;) {
        int64_t first = atomic_fetch_add(job->next, AT_ONCE);
        if (first >= job->work->documents) break;
        int64_t last = first + AT_ONCE < job->work->documents ? first + AT_ONCE : job->work->documents;
        job->score(job->work, first, last, scratch);
    }
    free(scratch);
    return NULL;
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

int64_t maxsim_work_bytes(void) { return sizeof(Work); }

/* Fill in the maxima of all documents, in `threads` threads. 0; 1 for want of memory; 2 for an unknown name. */
int maxsim_scores(const Work *work, const char *isa, int threads) {
    atomic_llong next = 0;
    Job job = {work, NULL, 0, &next};
    if (!strcmp(isa, "any")) job.score = score_any, job.scratch = scratch_any(work);
#if defined(__x86_64__)
    if (!strcmp(isa, "avx2")) job.score = score_avx2, job.scratch = scratch_avx2(work);
    if (!strcmp(isa, "avx512")) job.score = score_avx512, job.scratch = scratch_avx512(work);
#endif
    if (!job.score) return 2;
    pthread_t others[256];
    int started = 0, failed = 0;
    while (started < threads - 1 && started < 256 && !pthread_create(&others[started], NULL, run, &job)) started++;
    failed |= run(&job) != NULL;
    for (int i = 0; i < started; i++) {
        void *one;
        pthread_join(others[i], &one);
        failed |= one != NULL;
    }
    /* what one thread had no memory for, another has done, unless none had */
    return failed && atomic_load(&next) < work->documents;
}
