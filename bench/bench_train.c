/* bench_train - float matrix products of training against the machine's float peak, all threads of the pool together.
 *
 *     bench_train [threads]
 *
 * Forward (y = w x in float arithmetic), MATMUL_X and MATMUL_W at projections of small and middling models; then the loss over a
 * vocabulary with its gradient, by LM_LOSS and by ops that hold all logits. Each number is the median of several runs of a plan
 * with this one op, its share the median of these runs' shares of the peak as it was measured right before each: others may use
 * the machine, and then slow both. Quantised weights are packed (LAYOUT_R8). */
#include "tensor/cpu/kern.h"
#include <stdlib.h>

enum { ROUNDS = 7 };
typedef struct {
    backend *be;
    workspace *ws;
    pool *threads;
} bench;
typedef struct {
    double gflops, share, ms; /* share of the peak */
    usize bytes;              /* of the plan */
} result;
typedef struct {
    dtype type;
    i64 k, n, m;
    float *x, *dy; /* [k,m], [n,m] */
    void *w;
} job;

static int by_value(const void *a, const void *b) { return *(const double *)a < *(const double *)b ? -1 : 1; }

static double median(double *t, int n)
{
    qsort(t, (usize)n, sizeof *t, by_value);
    return t[n / 2];
}

typedef struct {
    double work[256];
    float sink[256];
} rates;
static void rate_one(void *ctx, int thread, int n_threads)
{
    rates *r = ctx;
    (void)n_threads;
    r->work[thread] = kern_get(cpu_now())->rate_float(150000, &r->sink[thread]);
}
static double peak_now(const bench *b) /* GFLOP/s of all threads, some milliseconds */
{
    rates r = {.work = {0}};
    double start = clock_s(), work = 0;
    pool_run(b->threads, rate_one, &r);
    for (int i = 0; i < pool_threads(b->threads); i++) work += r.work[i];
    return work / (clock_s() - start) * 1e-9;
}

static err timed(const bench *b, graph *g, tensor *root, double flops, result *out)
{
    plan *p = NULL;
    double t[ROUNDS], share[ROUNDS];
    int n = 0;
    err bad = plan_new(&p, g, b->ws, &root, 1);
    if (!bad.code) bad = plan_run(p);
    for (double from = clock_s(); !bad.code && n < ROUNDS && (n < 3 || clock_s() - from < 2); n++) {
        double peak = peak_now(b), start = clock_s();
        bad = plan_run(p);
        t[n] = clock_s() - start;
        share[n] = flops / t[n] * 1e-9 / peak;
    }
    if (!bad.code) *out = (result){.ms = median(t, n) * 1e3, .share = median(share, n), .bytes = plan_bytes(p)};
    out->gflops = flops / out->ms * 1e-6;
    plan_free(p);
    return bad;
}

static tensor *floats(graph *g, i64 n0, i64 n1, float *data, const char *name)
{
    return weight(g, F32, LAYOUT_ROWS, (shape){{n0, n1}}, data, name);
}

static err product(const bench *b, const job *j, op_id op)
{
    graph *g = graph_new();
    if (!g) return err_new(ERR_NOMEM, "out of memory for a graph");
    graph_use_float(g);
    tensor *w = weight(g, j->type, j->type == F32 ? LAYOUT_ROWS : LAYOUT_R8, (shape){{j->k, j->n}}, j->w, "w");
    tensor *x = floats(g, j->k, j->m, j->x, "x"), *dy = floats(g, j->n, j->m, j->dy, "dy"), *y;
    switch (op) {
    case OP_MATMUL: y = matmul(g, x, w); break;
    case OP_MATMUL_X: y = node(g, op, (op_arg){{0}}, 2, (tensor *[]){dy, w}); break;
    default: y = node(g, op, (op_arg){.i = {1}}, 2, (tensor *[]){x, dy}); break;
    }
    result r;
    TRY(timed(b, g, y, 2.0 * (double)j->k * (double)j->n * (double)j->m, &r));
    printf("  %7.1f %3.0f%%", r.gflops, 100 * r.share);
    fflush(stdout);
    return OK;
}

static bool job_make(job *j, dtype type, i64 k, i64 n, i64 m)
{
    rng r;
    rng_seed(&r, 1);
    *j = (job){type, k, n, m, mem_array(float, k *m), mem_array(float, n *m), mem_zero(weight_bytes(type, LAYOUT_R8, k, n))};
    if (type == F32) mem_free(j->w), j->w = mem_array(float, k *n);
    u8 *rows = mem_zero(dtype_row_bytes(type, k) * 8);
    float *f = mem_array(float, k * 8);
    if (!j->x || !j->dy || !j->w || !rows || !f) {
        mem_free(rows), mem_free(f);
        return false;
    }
    for (i64 i = 0; i < k * m; i++) j->x[i] = i < 65536 ? rng_normal(&r) : j->x[i - 65536];
    for (i64 i = 0; i < n * m; i++) j->dy[i] = i < 65536 ? rng_normal(&r) : j->dy[i - 65536];
    for (i64 i = 0; i < k * 8; i++) f[i] = rng_normal(&r);
    dtype_table[type].encode(f, rows, k * 8);
    for (i64 i = 0; i < n; i += 8) {
        if (type == F32)
            memcpy((float *)j->w + i * k, f, sizeof *f * (usize)(k * i64_min(8, n - i)));
        else
            weight_pack(type, LAYOUT_R8, k, 8, rows, (u8 *)j->w + weight_bytes(type, LAYOUT_R8, k, 8) * (usize)(i / 8), 0, 1);
    }
    mem_free(rows), mem_free(f);
    return true;
}
static void job_free(job *j) { mem_free(j->x), mem_free(j->dy), mem_free(j->w); }

static err products(const bench *b)
{
    static const dtype types[] = {F32, Q8_0, Q4_K};
    static const i64 sizes[][2] = {{576, 1536}, {640, 2048}, {1536, 8960}}, columns[] = {32, 256, 1024};
    printf("%-5s %5s %5s %5s  %12s  %12s  %12s   GFLOP/s, share of the float peak\n", "type", "k", "n", "m", "forward",
           "MATMUL_X", "MATMUL_W");
    for (usize s = 0; s < COUNT_OF(sizes); s++)
        for (usize t = 0; t < COUNT_OF(types); t++)
            for (usize c = 0; c < COUNT_OF(columns); c++) {
                job j;
                if (sizes[s][0] % dtype_table[types[t]].block) continue;
                err bad = job_make(&j, types[t], sizes[s][0], sizes[s][1], columns[c]) ? OK : err_new(ERR_NOMEM, "out of memory");
                printf("%-5s %5lld %5lld %5lld", dtype_table[j.type].name, (long long)j.k, (long long)j.n, (long long)j.m);
                if (!bad.code) bad = product(b, &j, OP_MATMUL);
                if (!bad.code) bad = product(b, &j, OP_MATMUL_X);
                if (!bad.code && j.type == F32) bad = product(b, &j, OP_MATMUL_W);
                printf("\n");
                job_free(&j);
                TRY(bad);
            }
    return OK;
}

/* the head of a model with frozen packed weights: loss and dx, in one op and as matmul, xent and their gradients */
static err loss(const bench *b, const job *j, i32 *want, float *rate, i64 live, bool whole)
{
    graph *g = graph_new();
    if (!g) return err_new(ERR_NOMEM, "out of memory for a graph");
    graph_use_float(g);
    for (i64 i = 0; i < j->m; i++) want[i] = i % j->m < live ? (i32)(i * 7919 % j->n) : -1, rate[i] = 1;
    tensor *w = weight(g, j->type, LAYOUT_R8, (shape){{j->k, j->n}}, j->w, "w"), *x = param(g, (shape){{j->k, j->m}}, j->x, "x");
    tensor *ids = weight(g, I32, LAYOUT_ROWS, (shape){{j->m}}, want, "want"), *y;
    if (whole)
        y = sum_to(g, xent(g, matmul(g, x, w), ids), (shape){{1}});
    else
        y = lm_loss(g, x, w, ids, floats(g, j->m, 1, rate, "weight"), 0);
    graph_grad(g, y);
    result r;
    TRY(timed(b, g, y, 4.0 * (double)j->k * (double)j->n * (double)(whole ? j->m : live), &r));
    printf("  %-18s %5lld of %5lld rows  %8.1f ms  %7.1f %3.0f%%  %7.1f MB\n", whole ? "matmul, xent" : "lm_loss",
           (long long)live, (long long)j->m, r.ms, r.gflops, 100 * r.share, (double)r.bytes * 1e-6);
    fflush(stdout);
    return OK;
}

static err losses(const bench *b)
{
    static const i64 sizes[][3] = {{576, 49152, 1024}, {1536, 151936, 256}};
    for (usize s = 0; s < COUNT_OF(sizes); s++) {
        job j;
        i64 m = sizes[s][2];
        err bad = job_make(&j, Q8_0, sizes[s][0], sizes[s][1], m) ? OK : err_new(ERR_NOMEM, "out of memory");
        i32 *want = mem_array(i32, m);
        float *rate = mem_array(float, m);
        if (!want || !rate) bad = err_new(ERR_NOMEM, "out of memory");
        printf("head q8_0, k %lld, n %lld\n", (long long)j.k, (long long)j.n);
        if (!bad.code) bad = loss(b, &j, want, rate, m, true);
        if (!bad.code) bad = loss(b, &j, want, rate, m, false);
        if (!bad.code) bad = loss(b, &j, want, rate, m / 4, false);
        job_free(&j);
        mem_free(want), mem_free(rate);
        TRY(bad);
    }
    return OK;
}

int main(int argc, char **argv)
{
    bench b = {0};
    err bad = cpu_init();
    if (!bad.code) bad = pool_new(&b.threads, argc > 1 ? atoi(argv[1]) : 0);
    if (!bad.code) bad = backend_cpu(&b.be, b.threads);
    if (!bad.code) bad = workspace_new(&b.ws, b.be);
    if (!bad.code) {
        double peak[9];
        for (int i = 0; i < 9; i++) peak[i] = peak_now(&b);
        printf("%s, %d thread%s, float peak %.0f GFLOP/s\n", cpu_name(cpu_now()), pool_threads(b.threads),
               pool_threads(b.threads) > 1 ? "s" : "", median(peak, 9));
        bad = products(&b);
        if (!bad.code) bad = losses(&b);
    }
    if (bad.code) fprintf(stderr, "bench_train: %s\n", bad.what);
    workspace_free(b.ws);
    backend_close(b.be);
    pool_free(b.threads);
    return bad.code ? err_exit(bad.code) : 0;
}
