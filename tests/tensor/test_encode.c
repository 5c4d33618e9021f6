/* Writing block formats. The bytes must be those that ggml's quantisers write when compiled without contraction: hashes of
 * 64 rows of 4096 values, with importances and without, were made with ggml itself on two compilers and instruction sets; every
 * level here must reproduce them. Then what the hashes cannot show: rows of odd lengths, zeros, values that are no numbers. */
#include "tensor/cpu/kern.h"
#include <math.h>
#include <setjmp.h>
#include <stdlib.h>
#include <cmocka.h>

enum { K = 4096, ROWS = 64 };
static kern levels[CPU_LEVEL_COUNT];
static int n_levels;
static float *values, *weights; /* [K, ROWS], [K] */

static u64 fnv(const void *p, usize n)
{
    u64 h = 1469598103934665603u;
    for (usize i = 0; i < n; i++) h = (h ^ ((const u8 *)p)[i]) * 1099511628211u;
    return h;
}
static u64 xorshift(u64 *s)
{
    *s ^= *s << 13, *s ^= *s >> 7, *s ^= *s << 17;
    return *s;
}
static void make_input(void)
{
    u64 s = 88172645463325252u;
    values = mem_array(float, K *ROWS), weights = mem_array(float, K);
    for (i64 i = 0; i < K * ROWS; i++) {
        i64 sum = -((i64)4 << 23);
        for (int j = 0; j < 4; j++) sum += (i64)(xorshift(&s) >> 40);
        values[i] = (float)sum * 0x1p-29f;
    }
    for (i64 i = 0; i < K; i++) weights[i] = (float)((xorshift(&s) >> 40) + 1) * 0x1p-24f;
}

static const struct {
    dtype t;
    u64 plain, weighted;
} golden[] = {
    {Q4_0, 0x7b0bc87bfed577e6, 0xd9db72ad4fa2c3f3},   {Q4_1, 0x201ec71e09379f13, 0xd6191814d8f78382},
    {Q5_0, 0x84852ebf96c4a5c5, 0x2f36f93291406e7e},   {Q5_1, 0x6c2066934f6b1695, 0xf0527c7ca1917676},
    {Q8_0, 0xacb54c952e02500b, 0xacb54c952e02500b},   {MXFP4, 0xc873ca192d65b208, 0xc873ca192d65b208},
    {Q2_K, 0xed65a466fdd22cd5, 0x0adf9d72cb437342},   {Q3_K, 0x44602279f73f9d21, 0x2231e73785698570},
    {Q4_K, 0x031bb508f8947739, 0x176e01287d7f0ef7},   {Q5_K, 0xcba15a068cff722a, 0xc646ff73bc0fef34},
    {Q6_K, 0xcbe7885fc81afe08, 0x668ff9d2eb30f51c},   {IQ4_NL, 0xb5a0bfc0a9405094, 0x57df8720248b867a},
    {IQ4_XS, 0xe8bf6bdfbfe22608, 0xfe616bd928852e1b},
};

static void test_golden(void **state)
{
    (void)state;
    assert_int_equal(fnv(values, sizeof(float) * K * ROWS), 0x7d6bae7cd794115f);
    assert_int_equal(fnv(weights, sizeof(float) * K), 0x0a243111e0d90fe0);
    u8 *out = mem_alloc(dtype_row_bytes(Q8_0, K) * ROWS);
    int bad = 0;
    for (usize g = 0; g < COUNT_OF(golden); g++)
        for (int l = 0; l < n_levels; l++)
            for (int weighted = 0; weighted < 2; weighted++) {
                dtype t = golden[g].t;
                usize row = dtype_row_bytes(t, K);
                for (i64 r = 0; r < ROWS; r++)
                    levels[l].encode[t](values + K * r, weighted ? weights : NULL, K, out + row * (usize)r);
                u64 h = fnv(out, row * ROWS), want = weighted ? golden[g].weighted : golden[g].plain;
                if (h == want) continue;
                print_error("%s %s%s: %016llx, expected %016llx\n", dtype_table[t].name, cpu_name((cpu_level)l),
                            weighted ? " with importances" : "", (unsigned long long)h, (unsigned long long)want);
                bad++;
            }
    mem_free(out);
    assert_int_equal(bad, 0);
}

/* rows shorter than what goes side by side, and not a multiple of it: every level as the plain one, and a row as its blocks */
static void test_lengths(void **state)
{
    (void)state;
    u8 want[4096], got[4096];
    for (usize g = 0; g < COUNT_OF(golden); g++) {
        dtype t = golden[g].t;
        for (i64 k = dtype_table[t].block; k <= 11 * dtype_table[t].block && k <= 2816; k += dtype_table[t].block)
            for (int weighted = 0; weighted < 2; weighted++) {
                const float *w = weighted ? weights : NULL;
                usize n = dtype_row_bytes(t, k);
                levels[0].encode[t](values + k, w, k, want);
                for (int l = 1; l < n_levels; l++) {
                    memset(got, 0x5a, sizeof got);
                    levels[l].encode[t](values + k, w, k, got);
                    assert_memory_equal(want, got, n);
                    assert_int_equal(got[n], 0x5a);
                }
                if (weighted) continue; /* with importances the whole row's mean square counts */
                assert_int_equal(weight_encode(t, dtype_table[t].block, k / dtype_table[t].block, values + k, NULL, got).code,
                                 ERR_OK);
                assert_memory_equal(want, got, n);
            }
    }
}

/* zeros, lone values, huge and tiny ones, importances of zero; what is no number may give any block, but ends */
static void test_edges(void **state)
{
    (void)state;
    static const float numbers[] = {0, 1, -1, 1e-20f, 3e38f, -3e38f, 1e-42f, 65504, NAN, INFINITY, -INFINITY};
    float x[512], w[512], y[512];
    u8 want[2048], got[2048];
    for (usize g = 0; g < COUNT_OF(golden); g++)
        for (usize i = 0; i < COUNT_OF(numbers); i++)
            for (int how = 0; how < 8; how++) {
                dtype t = golden[g].t;
                for (int j = 0; j < 512; j++) {
                    x[j] = how & 1 ? numbers[i] : j % 7 == 3 ? numbers[i] : how & 4 ? 0 : values[j];
                    w[j] = how & 4 ? 0 : weights[j];
                }
                for (int l = 0; l < n_levels; l++) {
                    levels[l].encode[t](x, how & 2 ? w : NULL, 512, l ? got : want);
                    if (l && isfinite(numbers[i]) && fabsf(numbers[i]) < 1e30f)
                        assert_memory_equal(want, got, dtype_row_bytes(t, 512));
                }
                dtype_table[t].decode(want, y, 512);
                if (numbers[i] == 0 && how & 1)
                    for (int j = 0; j < 512; j++) assert_true(y[j] == 0);
            }
}

static void test_refused(void **state)
{
    (void)state;
    u8 out[512];
    assert_int_equal(weight_encode(Q4_K, 128, 1, values, NULL, out).code, ERR_INPUT);
    assert_int_equal(weight_encode(Q8_0, 33, 1, values, NULL, out).code, ERR_INPUT);
    assert_int_equal(weight_encode(I32, 32, 1, values, NULL, out).code, ERR_INPUT);
    assert_int_equal(weight_encode(DTYPE_COUNT, 32, 1, values, NULL, out).code, ERR_INPUT);
    assert_int_equal(weight_encode(F16, 5, 2, values, weights, out).code, ERR_OK);
    for (int i = 0; i < 10; i++) assert_int_equal(out[2 * i] | out[2 * i + 1] << 8, f32_to_f16(values[i]));
    assert_int_equal(weight_encode(BF16, 19, 1, values, weights, out).code, ERR_OK);
    for (int i = 0; i < 19; i++) assert_int_equal(out[2 * i] | out[2 * i + 1] << 8, f32_to_bf16(values[i]));
}

int main(void)
{
    kern_body_encode_generic(&levels[0]);
    n_levels = 1 + (int)cpu_best();
    if (n_levels > CPU_AVX2) kern_body_encode_avx2(&levels[1]);
    if (n_levels > CPU_AVX512) kern_body_encode_avx512(&levels[2]);
    make_input();
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_golden), cmocka_unit_test(test_lengths),
                                       cmocka_unit_test(test_edges), cmocka_unit_test(test_refused)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    mem_free(values), mem_free(weights);
    return failed;
}
