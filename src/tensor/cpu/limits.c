/* tensor/cpu/limits.c - measures the machine's ceilings with all threads of a pool at once; the best of several rounds, since
 * anything else that runs can only lower them. */
#include "tensor/cpu/cpu.h"

enum { ROUNDS = 5 };
#define READ_BYTES ((usize)96 << 20) /* per thread: far beyond any cache; of many threads together ALL_BYTES will do */
#define ALL_BYTES ((usize)3 << 30)

typedef struct {
    pool *p;
    const kern *k;
    float *memory;
    usize each;                 /* bytes that a thread reads */
    double seconds[3], work[3]; /* of one round, thread 0's clock between barriers */
    float sink[256];
} rates;

static void one_round(void *ctx, int thread, int n_threads)
{
    rates *r = ctx;
    double start = 0, work = 0;
    float *mine = r->memory + r->each / sizeof(float) * (usize)thread;
    if (!r->seconds[0]) memset(mine, 0, r->each); /* by its reader, so that it lies near him */
    for (int kind = 0; kind < 3; kind++) {
        pool_barrier(r->p, thread);
        if (thread == 0) start = clock_s();
        if (kind == 0)
            work = (double)r->each, r->sink[thread] = r->k->read_all(mine, (i64)(r->each / sizeof(float)));
        else if (kind == 1)
            work = r->k->rate_int8(2000000, &r->sink[thread]);
        else
            work = r->k->rate_float(1500000, &r->sink[thread]);
        pool_barrier(r->p, thread);
        if (thread == 0) r->seconds[kind] = clock_s() - start, r->work[kind] = work * n_threads;
    }
}

void machine_measure(pool *p, machine_limits *out)
{
    rates r = {.p = p, .k = kern_get(cpu_now())};
    usize n = (usize)pool_threads(p);
    r.each = n * READ_BYTES > ALL_BYTES ? ALL_BYTES / n / 4096 * 4096 : READ_BYTES;
    *out = (machine_limits){0};
    if (pool_threads(p) > (int)COUNT_OF(r.sink) || !(r.memory = mem_alloc(n * r.each))) return;
    for (int i = 0; i < ROUNDS; i++) {
        pool_run(p, one_round, &r);
        double *best[] = {&out->read_gbps, &out->int8_gops, &out->f32_gflops};
        for (int k = 0; k < 3; k++)
            if (r.work[k] / r.seconds[k] / 1e9 > *best[k]) *best[k] = r.work[k] / r.seconds[k] / 1e9;
    }
    mem_free(r.memory);
}
