/* bench/bench_body.c - speed of the float kernels (src/tensor/cpu/body_*.c) on one thread, for each instruction set of this
 * machine: bytes in and out per second for rows that stay in cache, floating-point operations per second for dot, gemm and
 * attend beside the machine's own limit, a loop of independent multiplications and additions of the same width. */
#include "tensor/cpu/kern.h"
#include <math.h>
#include <stdlib.h>

typedef struct {
    const kern *k;
    i64 n;
    int kind, cols, n_q;
    dtype type;
    float *a, *b, *c, *y;
    u16 *h;
    i32 *pages;
} bench;

/* ---- the limit: six chains of multiplications beside six of additions, in registers of the level's width ------------------ */
#define PEAK(name, isa, width)                                                                                                   \
    __attribute__((target(isa), noinline)) static float name(i64 n)                                                              \
    {                                                                                                                            \
        typedef float vec __attribute__((vector_size(4 * width)));                                                               \
        vec c = (vec){0} + 1.0f, a = c, m0 = c, m1 = c, m2 = c, m3 = c, m4 = c, m5 = c;                                          \
        vec a0 = c, a1 = c, a2 = c, a3 = c, a4 = c, a5 = c;                                                                      \
        __asm__ volatile("" : "+x"(c), "+x"(a));                                                                                 \
        for (i64 i = 0; i < n; i++) {                                                                                            \
            m0 *= c, a0 += a, m1 *= c, a1 += a, m2 *= c, a2 += a, m3 *= c, a3 += a, m4 *= c, a4 += a, m5 *= c, a5 += a;          \
            __asm__ volatile("" : "+x"(m0), "+x"(m1), "+x"(m2), "+x"(a0), "+x"(a1), "+x"(a2));                                   \
            __asm__ volatile("" : "+x"(m3), "+x"(m4), "+x"(m5), "+x"(a3), "+x"(a4), "+x"(a5));                                   \
        }                                                                                                                        \
        return (m0 + m1 + m2 + m3 + m4 + m5 + a0 + a1 + a2 + a3 + a4 + a5)[0];                                                   \
    }
PEAK(peak_generic, "sse2", 4)
PEAK(peak_avx2, "avx2", 8)
PEAK(peak_avx512, "avx512f", 16)

static double peak_once(cpu_level level) /* GFLOP/s */
{
    static float (*const run[])(i64) = {peak_generic, peak_avx2, peak_avx512};
    const i64 n = 200000;
    volatile float sink;
    double start = clock_s();
    sink = run[level](n);
    (void)sink;
    return (double)n * 12 * (4 << level) / (clock_s() - start) * 1e-9;
}

/* ---- what is measured ---------------------------------------------------------------------------------------------------------
 */
static void run_add(bench *b) { b->k->add(b->y, b->a, b->b, b->n); }
static void run_axpy(bench *b) { b->k->axpy(b->y, b->a, 1e-9f, b->n); }
static void run_dot(bench *b) { b->y[0] = b->k->dot(b->a, b->b, b->n); }
static void run_norm(bench *b) { b->k->norm(b->y, b->a, b->b, NULL, b->n, b->kind, 1e-6f); }
static void run_act(bench *b) { b->k->act(b->y, b->a, b->n, b->kind); }
static void run_grad(bench *b) { b->k->act_grad(b->y, b->a, b->b, b->n, b->kind); }
static void run_glu(bench *b) { b->k->glu(b->y, b->a, b->b, b->n, b->kind); }
static void run_softmax(bench *b) { b->k->softmax(b->y, b->a, b->n); }
static void run_lse(bench *b) { b->y[0] = b->k->lse(b->a, b->n); }
static void run_rope(bench *b) { b->k->rope(b->y, b->a, b->b, b->c, (int)b->n, (int)b->n, b->kind); }
static void run_to_f16(bench *b) { b->k->to_f16(b->h, b->a, b->n); }
static void run_from_f16(bench *b) { b->k->from_f16(b->y, b->h, b->n); }
static void run_from_bf16(bench *b) { b->k->from_bf16(b->y, b->h, b->n); }
static void run_gemm(bench *b) { b->k->gemm(b->a, b->n, 8, b->b, b->n, b->cols, b->n, b->y, 8); }
static void run_attend(bench *b) /* n positions, hd 128 */
{
    usize one = b->type == F16 ? 2 : 4;
    attend_row a = {.q = b->b,
                    .k = (const u8 *)(b->type == F16 ? (void *)b->h : (void *)b->a),
                    .k_stride = 128 * one,
                    .v_stride = 128 * one,
                    .type = b->type,
                    .pages = b->pages,
                    .page = 64,
                    .first = 0,
                    .end = (i32)b->n,
                    .hd = 128,
                    .n_q = b->n_q,
                    .scale = 0.09f,
                    .y = b->y,
                    .score = b->c};
    a.v = a.k;
    b->k->attend(&a);
}

typedef struct {
    const char *name;
    void (*run)(bench *);
    i64 n;
    int kind, cols, n_q;
    dtype type;
    double bytes, flops; /* per call */
} row;
static const row rows[] = {
    {"add", run_add, 1536, 0, 0, 0, F32, 12 * 1536, 0},
    {"axpy", run_axpy, 1536, 0, 0, 0, F32, 12 * 1536, 0},
    {"norm rms", run_norm, 1536, NORM_RMS, 0, 0, F32, 12 * 1536, 0},
    {"norm layer", run_norm, 1536, NORM_LAYER, 0, 0, F32, 12 * 1536, 0},
    {"silu", run_act, 1536, ACT_SILU, 0, 0, F32, 8 * 1536, 0},
    {"gelu", run_act, 1536, ACT_GELU, 0, 0, F32, 8 * 1536, 0},
    {"gelu_tanh", run_act, 1536, ACT_GELU_TANH, 0, 0, F32, 8 * 1536, 0},
    {"tanh", run_act, 1536, ACT_TANH, 0, 0, F32, 8 * 1536, 0},
    {"silu grad", run_grad, 1536, ACT_SILU, 0, 0, F32, 12 * 1536, 0},
    {"glu silu", run_glu, 1536, ACT_SILU, 0, 0, F32, 12 * 1536, 0},
    {"softmax 2048", run_softmax, 2048, 0, 0, 0, F32, 8 * 2048, 0},
    {"lse 152k", run_lse, 151936, 0, 0, 0, F32, 4 * 151936, 0},
    {"rope halves", run_rope, 128, 1, 0, 0, F32, 12 * 128, 0},
    {"rope pairs", run_rope, 128, 0, 0, 0, F32, 12 * 128, 0},
    {"to f16", run_to_f16, 1536, 0, 0, 0, F32, 6 * 1536, 0},
    {"from f16", run_from_f16, 1536, 0, 0, 0, F32, 6 * 1536, 0},
    {"from bf16", run_from_bf16, 1536, 0, 0, 0, F32, 6 * 1536, 0},
    {"dot 1536", run_dot, 1536, 0, 0, 0, F32, 0, 2 * 1536},
    {"gemm k=1536 1 col", run_gemm, 1536, 0, 1, 0, F32, 0, 2.0 * 8 * 1536},
    {"gemm k=1536 4 col", run_gemm, 1536, 0, 4, 0, F32, 0, 2.0 * 8 * 4 * 1536},
    {"gemm k=1536 16 col", run_gemm, 1536, 0, 16, 0, F32, 0, 2.0 * 8 * 16 * 1536},
    {"gemm k=1536 128 col", run_gemm, 1536, 0, 128, 0, F32, 0, 2.0 * 8 * 128 * 1536},
    {"gemm k=576 128 col", run_gemm, 576, 0, 128, 0, F32, 0, 2.0 * 8 * 128 * 576},
    {"attend f16 6 heads x 2048", run_attend, 2048, 0, 0, 6, F16, 0, 4.0 * 6 * 2048 * 128},
    {"attend f32 6 heads x 2048", run_attend, 2048, 0, 0, 6, F32, 0, 4.0 * 6 * 2048 * 128},
    {"attend f16 1 head x 2048", run_attend, 2048, 0, 0, 1, F16, 0, 4.0 * 1 * 2048 * 128},
    {"attend f16 3 heads x 256", run_attend, 256, 0, 0, 3, F16, 0, 4.0 * 3 * 256 * 128},
    {"attend f16 8 heads x 64", run_attend, 64, 0, 0, 8, F16, 0, 4.0 * 8 * 64 * 128},
};

/* Seconds of one call: the best of 25 rounds of 3 ms, since others may use this machine too; the limit is measured between them.
 */
static double seconds(bench *b, void (*run)(bench *), double *limit)
{
    double best = 1e9;
    i64 calls = 1;
    *limit = 0;
    for (int round = 0; round < 25;) {
        double start = clock_s();
        for (i64 i = 0; i < calls; i++) run(b);
        double t = clock_s() - start;
        if (t < 0.0025) {
            calls = 1 + (i64)((double)calls * fmin(10, 0.003 / fmax(t, 1e-9)));
            continue;
        }
        best = fmin(best, t / (double)calls);
        *limit = fmax(*limit, peak_once(b->k->level));
        round++;
    }
    return best;
}

static void fill(kern *k, int level) /* AVX-512 code must not even be entered elsewhere */
{
    if (level == CPU_GENERIC) kern_body_rows_generic(k), kern_body_attend_generic(k), kern_body_gemm_generic(k);
    if (level == CPU_AVX2) kern_body_rows_avx2(k), kern_body_attend_avx2(k), kern_body_gemm_avx2(k);
    if (level == CPU_AVX512) kern_body_rows_avx512(k), kern_body_attend_avx512(k), kern_body_gemm_avx512(k);
}

int main(int argc, char **argv)
{
    const char *only = argc > 1 ? argv[1] : "";
    static kern k[CPU_LEVEL_COUNT];
    bench b = {.a = mem_array(float, 1 << 19),
               .b = mem_array(float, 1 << 19),
               .c = mem_array(float, 1 << 19),
               .y = mem_array(float, 1 << 19),
               .h = mem_array(u16, 1 << 19),
               .pages = mem_array(i32, 32)};
    if (!b.a || !b.b || !b.c || !b.y || !b.h || !b.pages) return 1;
    rng r;
    rng_seed(&r, 1);
    for (i64 i = 0; i < 1 << 19; i++)
        b.a[i] = rng_normal(&r), b.b[i] = rng_normal(&r), b.c[i] = rng_normal(&r), b.h[i] = f32_to_f16(b.a[i]);
    for (int i = 0; i < 32; i++) b.pages[i] = (i * 13 + 5) % 32;
    for (int level = 0; level <= (int)cpu_best(); level++) {
        printf("%s\n", cpu_name((cpu_level)level));
        k[level].level = (cpu_level)level;
        fill(&k[level], level);
        b.k = &k[level];
        for (usize i = 0; i < COUNT_OF(rows); i++) {
            const row *w = &rows[i];
            if (!strstr(w->name, only)) continue;
            b.n = w->n, b.kind = w->kind, b.cols = w->cols, b.n_q = w->n_q, b.type = w->type;
            double limit, t = seconds(&b, w->run, &limit);
            if (w->flops > 0)
                printf("  %-28s %9.2f us  %7.1f GFLOP/s  %3.0f %% of %.0f\n", w->name, t * 1e6, w->flops / t * 1e-9,
                       w->flops / t * 1e-7 / limit, limit);
            else
                printf("  %-28s %9.2f us  %7.1f GB/s\n", w->name, t * 1e6, w->bytes / t * 1e-9);
        }
    }
    mem_free(b.a), mem_free(b.b), mem_free(b.c), mem_free(b.y), mem_free(b.h), mem_free(b.pages);
    return 0;
}
