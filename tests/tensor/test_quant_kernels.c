/* Quantised dot products. Every level must give the bits of the plain C, for every type, any number of columns and the most
 * extreme codes; the plain C must equal a double-precision dot of decoded weights with dequantised activations within float
 * rounding. AVX-512 is compiled here a second time over SIMDe when that is installed, so that machines without it test it too. */
#include "tensor/cpu/kern.h"
#include "tensor/cpu/q_layout.h"
#include "block_scales.h"
#if defined(__has_include) && __has_include(<simde/x86/avx512.h>)
#define SIMDE_ENABLE_NATIVE_ALIASES
#pragma GCC diagnostic ignored "-Wpsabi"
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#define MARU_EMULATE_AVX512
#define kern_q_avx512 kern_q_avx512_emulated
#include "../../src/tensor/cpu/q_avx512.c"
#undef kern_q_avx512
#endif
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdlib.h>
#include <cmocka.h>

static kern levels[CPU_LEVEL_COUNT + 1];
static const char *level_name[CPU_LEVEL_COUNT + 1];
static int n_levels;

static void add_level(const char *name, void (*fill)(kern *))
{
    if (n_levels) levels[n_levels] = levels[n_levels - 1];
    level_name[n_levels] = name;
    fill(levels + n_levels++);
}

static u32 bits_of(float f)
{
    u32 u;
    memcpy(&u, &f, 4);
    return u;
}
static bool same(float a, float b) { return bits_of(a) == bits_of(b) || (isnan(a) && isnan(b)); }

enum { RANDOM, SMALLEST, LARGEST, N_FILLS };
static void fill_weights(u8 *p, usize n, dtype t, int how, rng *r)
{
    usize block = (usize)dtype_table[t].bytes;
    for (usize at = 0; at < n; at += block) {
        fill_block(p + at, t, how == RANDOM ? -1 : how == SMALLEST ? 0 : 255, r);
        if (t == Q8_0 && how == SMALLEST)
            memset(p + at + 2, 0x80, 32); /* -128: outside what our encoder writes, not outside files */
        if (t == Q6_K && how != RANDOM) memset(p + at + 192, 0x80, 16);
        if (t == MXFP4 && how == LARGEST) memset(p + at + 1, 0x77, 16);
        if (t == MXFP4 && how == RANDOM && rng_u64(r) % 8 == 0) p[at] = (u8)(rng_u64(r) % 3); /* below the normal numbers */
    }
}
static void fill_row(float *x, i64 k, int how, rng *r)
{
    for (i64 i = 0; i < k; i++) {
        if (how == RANDOM)
            x[i] = rng_normal(r) * (i / 32 % 5 == 4 ? 0 : i / 32 % 3 ? 1.0f : 30.0f);
        else
            x[i] = how == SMALLEST ? -3.0f : 3.0f; /* quantises to -127 and 127 throughout */
    }
}

typedef struct {
    dtype t;
    i64 k;
    int cols;
    u8 *rows, *group, *xq;
    float *x, *y, *want;
} job;
static void job_make(job *j, dtype t, i64 k, int cols)
{
    *j = (job){t,
               k,
               cols,
               mem_alloc(dtype_row_bytes(t, k) * 8),
               mem_alloc(weight_bytes(t, LAYOUT_R8, k, 8)),
               mem_alloc(xq_bytes(k) * (usize)cols),
               mem_array(float, k *cols),
               mem_array(float, 16 * cols),
               mem_array(float, 16 * cols)};
}
static void job_free(job *j)
{
    mem_free(j->rows), mem_free(j->group), mem_free(j->xq), mem_free(j->x), mem_free(j->y), mem_free(j->want);
}
static void job_fill(job *j, int weights, int row, rng *r)
{
    fill_weights(j->rows, dtype_row_bytes(j->t, j->k) * 8, j->t, weights, r);
    weight_pack(j->t, LAYOUT_R8, j->k, 8, j->rows, j->group, 0, 1);
    for (int c = 0; c < j->cols; c++) {
        fill_row(j->x + c * j->k, j->k, c % 4 == 3 ? RANDOM : row, r);
        levels[0].quant(j->x + c * j->k, j->k, j->xq + xq_bytes(j->k) * (usize)c);
    }
}

/* y stride 11: what lies between must stay untouched */
static void compare_levels(const job *j)
{
    enum { STRIDE = 11 };
    levels[0].qdot[j->t](j->group, j->k, j->xq, xq_bytes(j->k), j->cols, j->want, STRIDE);
    for (int l = 1; l < n_levels; l++) {
        for (int i = 0; i < STRIDE * j->cols; i++) j->y[i] = 77;
        levels[l].qdot[j->t](j->group, j->k, j->xq, xq_bytes(j->k), j->cols, j->y, STRIDE);
        for (int c = 0; c < j->cols; c++)
            for (int r = 0; r < STRIDE && c * STRIDE + r < (j->cols - 1) * STRIDE + 8; r++) {
                float got = j->y[c * STRIDE + r];
                if (r >= 8 ? got != 77 : !same(got, j->want[c * STRIDE + r]))
                    fail_msg("%s %s k=%lld column %d of %d row %d: %.9g, expected %.9g", level_name[l], dtype_table[j->t].name,
                             (long long)j->k, c, j->cols, r, (double)got, r >= 8 ? 77 : (double)j->want[c * STRIDE + r]);
            }
    }
    float one[8]; /* a column alone gives what it gave among others */
    for (int l = 0; l < n_levels; l++)
        for (int c = 0; c < j->cols; c++) {
            levels[l].qdot[j->t](j->group, j->k, j->xq + xq_bytes(j->k) * (usize)c, 0, 1, one, 8);
            for (int r = 0; r < 8; r++) assert_true(same(one[r], j->want[c * STRIDE + r]));
        }
}

/* against double: sum of |terms| bounds the rounding of a chain of k/32 additions and a few products each */
static void compare_double(const job *j)
{
    float *w = mem_array(float, j->k * 8);
    weight_decode(j->t, LAYOUT_R8, j->k, j->group, 0, 8, w);
    for (int c = 0; c < j->cols; c++) {
        const void *x = j->xq + xq_bytes(j->k) * (usize)c;
        float one[8];
        levels[0].qdot[j->t](j->group, j->k, x, 0, 1, one, 8);
        for (int r = 0; r < 8; r++) {
            double sum = 0, size = 0;
            for (i64 i = 0; i < j->k; i++) {
                double term = (double)w[r * j->k + i] * xq_q(x)[i] * xq_d(x, j->k)[i / 32];
                sum += term, size += fabs(term);
            }
            if (j->t == Q4_K || j->t == Q4_1 || j->t == Q5_K || j->t == Q5_1 || j->t == Q2_K)
                size *= 40; /* code and minimum parts are larger than their difference */
            double limit = size * FLT_EPSILON * (4 + (double)j->k / 32);
            if (!(fabs(one[r] - sum) <= limit))
                fail_msg("%s k=%lld row %d: %.9g, in double %.9g, difference %.3g above %.3g", dtype_table[j->t].name,
                         (long long)j->k, r, (double)one[r], sum, fabs(one[r] - sum), limit);
        }
    }
    mem_free(w);
}

static void test_dots(void **state)
{
    (void)state;
    rng r;
    rng_seed(&r, 11);
    static const int widths[] = {1, 2, 3, 4, 5, 7, 8, 13, 16};
    for (int t = 0; t < DTYPE_COUNT; t++) {
        if (!weight_packs((dtype)t, LAYOUT_R8)) continue;
        assert_non_null(levels[0].qdot[t]);
        i64 block = dtype_table[t].block;
        const i64 lengths[] = {block, 3 * block, 256, 512, block == 32 ? 864 : 1280}; /* whole and broken chunks of 4 */
        for (usize l = 0; l < COUNT_OF(lengths); l++)
            for (usize c = 0; c < COUNT_OF(widths); c++)
                for (int how = 0; how < N_FILLS * N_FILLS; how++) {
                    job j;
                    job_make(&j, (dtype)t, lengths[l], widths[c]);
                    job_fill(&j, how / N_FILLS, how % N_FILLS, &r);
                    compare_levels(&j);
                    if (widths[c] < 4) compare_double(&j);
                    job_free(&j);
                }
    }
}

/* NaN or infinity in a row makes its outputs NaN on every level, and only its own */
static void test_not_numbers(void **state)
{
    (void)state;
    rng r;
    rng_seed(&r, 5);
    for (int t = 0; t < DTYPE_COUNT; t++) {
        if (!weight_packs((dtype)t, LAYOUT_R8)) continue;
        job j;
        job_make(&j, (dtype)t, 512, 6);
        job_fill(&j, RANDOM, RANDOM, &r);
        j.x[512 + 77] = NAN, j.x[3 * 512] = INFINITY, j.x[4 * 512 + 511] = -INFINITY;
        for (int c = 0; c < 6; c++) levels[0].quant(j.x + 512 * c, 512, j.xq + xq_bytes(512) * (usize)c);
        compare_levels(&j);
        for (int c = 0; c < 6; c++)
            for (int i = 0; i < 8; i++) assert_true(!!isnan(j.want[11 * c + i]) == (c == 1 || c == 3 || c == 4));
        job_free(&j);
    }
}

static void check_quant_row(const float *x, i64 k)
{
    u8 *want = mem_alloc(xq_bytes(k)), *got = mem_alloc(xq_bytes(k));
    memset(want, 0, xq_bytes(k)), memset(got, 0, xq_bytes(k));
    levels[0].quant(x, k, want);
    for (int l = 1; l < n_levels; l++) {
        levels[l].quant(x, k, got);
        assert_memory_equal(want, got, xq_bytes(k));
    }
    for (i64 b = 0; b < k / 32; b++) {
        float top = 0, d = xq_d(want, k)[b];
        i32 pair[4] = {0};
        for (int i = 0; i < 32; i++) top = fmaxf(top, fabsf(x[32 * b + i]));
        if (!isfinite(top * 0) || isnan(d)) {
            assert_true(isnan(d) && isnan(xq_s(want, k)[b]));
            for (int i = 0; i < 32; i++) assert_int_equal(xq_q(want)[32 * b + i], 0);
            continue;
        }
        assert_true(same(d, top / 127 < FLT_MIN ? 0 : top / 127));
        for (int i = 0; i < 32; i++) {
            i8 q = xq_q(want)[32 * b + i];
            assert_int_equal(q, d > 0 ? (int)roundf(x[32 * b + i] / d) : 0);
            assert_in_range(q + 127, 0, 254);
            pair[i / 16 * 2 + i % 4 / 2] += q;
        }
        for (int i = 0; i < 4; i++) assert_int_equal(xq_o6(want, k)[4 * b + i], 32 * pair[i]);
        for (int i = 0; i < 2; i++) assert_int_equal(xq_o5(want, k)[2 * b + i], 16 * (pair[i] + pair[i + 2]));
        assert_true(same(xq_s(want, k)[b], d * (float)(pair[0] + pair[1] + pair[2] + pair[3])));
    }
    mem_free(want), mem_free(got);
}
static void test_quant(void **state)
{
    (void)state;
    rng r;
    rng_seed(&r, 9);
    float x[256];
    for (int round = 0; round < 300; round++) {
        float scale = ldexpf(1, (int)(rng_u64(&r) % 250) - 140); /* into the subnormals and close to overflow */
        for (int i = 0; i < 256; i++) x[i] = rng_normal(&r) * scale;
        if (round % 3 == 0)
            for (int i = 0; i < 256; i++) x[i] = (float)((int)(rng_u64(&r) % 509) - 254) / 2 * (i / 32 % 2 ? 1 : 0.5f); /* ties */
        if (round % 3 == 0) x[0] = x[32] = x[64] = 127;
        check_quant_row(x, round % 2 ? 256 : 96);
    }
    for (int i = 0; i < 256; i++) x[i] = 0;
    check_quant_row(x, 256);
    for (int i = 0; i < 256; i++) x[i] = i % 2 ? -FLT_MAX : FLT_MAX;
    check_quant_row(x, 256);
    for (int i = 0; i < 256; i++) x[i] = i % 2 ? -FLT_MIN * 127 : FLT_MIN * 126; /* the border of what is kept */
    check_quant_row(x, 256);
    x[3] = NAN, x[40] = INFINITY, x[70] = -INFINITY, x[100] = -NAN;
    check_quant_row(x, 256);
}

int main(void)
{
    add_level("generic", kern_q_generic);
    if (cpu_best() >= CPU_AVX2) add_level("avx2", kern_q_avx2);
    if (cpu_best() >= CPU_AVX512) add_level("avx512", kern_q_avx512);
#ifdef MARU_EMULATE_AVX512
    add_level("avx512 emulated", kern_q_avx512_emulated);
#else
    print_message("AVX-512 is not emulated: simde/x86/avx512.h (Debian: libsimde-dev) is not installed\n");
#endif
    for (int i = 0; i < n_levels; i++) print_message("level %s\n", level_name[i]);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_quant), cmocka_unit_test(test_dots),
                                       cmocka_unit_test(test_not_numbers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
