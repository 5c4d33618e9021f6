/* tensor/cpu/limits.c - measures the machine's ceilings with all threads of a pool at once; the best of several rounds, since
 * anything else that runs can only lower them. */
#include "tensor/cpu/cpu.h"

enum { ROUNDS = 5 };
#define READ_BYTES ((usize)96 << 20) /* per thread: far beyond any cache */

typedef struct {
    pool        *p;
    const kern  *k;
    float       *memory;
    double       seconds[3], work[3];       /* of one round, thread 0's clock between barriers */
    float        sink[256];
} rates;

static void one_round(void *ctx, int thread, int n_threads)
{
    rates  *r = ctx;
    double  start = 0, work = 0;
    usize   each = READ_BYTES / sizeof(float);
    for (int kind = 0; kind < 3; kind++) {
        pool_barrier(r->p, thread);
        if (thread == 0) start = clock_s();
        if (kind == 0) work = (double)READ_BYTES, r->sink[thread] = r->k->read_all(r->memory + each * (usize)thread, (i64)each);
        else if (kind == 1) work = r->k->rate_int8(2000000, &r->sink[thread]);
        else work = r->k->rate_float(1500000, &r->sink[thread]);
        pool_barrier(r->p, thread);
        if (thread == 0) r->seconds[kind] = clock_s() - start, r->work[kind] = work * n_threads;
    }
}

void machine_measure(pool *p, machine_limits *out)
{
    rates r = {.p = p, .k = kern_get(cpu_now())};
    usize n = READ_BYTES * (usize)pool_threads(p);
    *out = (machine_limits){0};
    if (pool_threads(p) > (int)COUNT_OF(r.sink) || !(r.memory = mem_alloc(n))) return;
    memset(r.memory, 0, n);
    for (int i = 0; i < ROUNDS; i++) {
        pool_run(p, one_round, &r);
        double *best[] = {&out->read_gbps, &out->int8_gops, &out->f32_gflops};
        for (int k = 0; k < 3; k++)
            if (r.work[k] / r.seconds[k] / 1e9 > *best[k]) *best[k] = r.work[k] / r.seconds[k] / 1e9;
    }
    mem_free(r.memory);
}
