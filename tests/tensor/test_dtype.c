/* Block formats: decoded floats against the python package gguf (dtype_golden.h), half conversions against every bit pattern,
 * encoders against their own error bounds, and LAYOUT_R8 as a loss-free rearrangement. */
#include "tensor/tensor.h"
#include "tensor/cpu/kern.h"
#include "tensor/cpu/q_layout.h"
#include "block_scales.h"
#include "dtype_golden.h"
#include <math.h>
#include <setjmp.h>
#include <stdlib.h>
#include <cmocka.h>

static u32 bits_of(float f)
{
    u32 u;
    memcpy(&u, &f, 4);
    return u;
}
static float float_of(u32 u)
{
    float f;
    memcpy(&f, &u, 4);
    return f;
}

static void golden(dtype t, const u8 *in, usize in_len, const u32 *want, usize n)
{
    float got[1024];
    assert_true(n <= COUNT_OF(got));
    assert_int_equal(in_len, dtype_row_bytes(t, (i64)n));
    dtype_table[t].decode(in, got, (i64)n);
    for (usize i = 0; i < n; i++)
        if (bits_of(got[i]) != want[i])
            fail_msg("%s %s value %zu: %08x, expected %08x", cpu_name(cpu_now()), dtype_table[t].name, i, bits_of(got[i]),
                     want[i]);
}
static void golden_all(void)
{
#define GOLDEN(t) golden(t, golden_##t##_in, sizeof golden_##t##_in, golden_##t##_out, COUNT_OF(golden_##t##_out))
    GOLDEN(Q8_0), GOLDEN(Q4_0), GOLDEN(Q4_1), GOLDEN(Q5_0), GOLDEN(Q4_K), GOLDEN(Q6_K), GOLDEN(F16), GOLDEN(BF16);
    GOLDEN(Q5_1), GOLDEN(Q5_K), GOLDEN(Q3_K), GOLDEN(Q2_K), GOLDEN(IQ4_NL), GOLDEN(IQ4_XS), GOLDEN(MXFP4);
}
static void test_golden(void **state)
{
    (void)state;
    for (int level = CPU_GENERIC; level <= (int)cpu_best(); level++) {
        cpu_force((cpu_level)level, false);
        golden_all();
    }
    cpu_force(cpu_best(), false);
}

/* what a row lost: near the sums of doubles, of one value of bits on every level; a part that is not 16 too */
static void test_loss(void **state)
{
    (void)state;
    enum { N = 1000 };
    float x[N], y[N], w[N];
    rng r;
    rng_seed(&r, 9);
    for (int i = 0; i < N; i++) x[i] = rng_normal(&r), y[i] = x[i] + 0.01f * rng_normal(&r), w[i] = (float)rng_unit(&r);
    for (i64 n = 0; n <= N; n += n < 40 ? 1 : 137) {
        double want[4] = {0};
        weight_loss first = {0};
        for (i64 i = 0; i < n; i++) {
            double d = (double)x[i] - (double)y[i], a = (double)x[i];
            want[0] += d * d, want[1] += a * a, want[2] += (double)w[i] * d * d, want[3] += (double)w[i] * a * a;
        }
        for (int level = CPU_GENERIC; level <= (int)cpu_best(); level++) {
            weight_loss s = {.error = 1}, plain = {0};
            cpu_force((cpu_level)level, false);
            weight_loss_add(n, x, y, w, &s);
            weight_loss_add(n, x, y, NULL, &plain);
            double got[4] = {s.error - 1, s.power, s.weighted_error, s.weighted_power};
            for (int i = 0; i < 4; i++)
                if (!(fabs(got[i] - want[i]) <= 1e-5 * want[i] + 1e-12))
                    fail_msg("%d of %d values: %g, expected %g", i, (int)n, got[i], want[i]);
            assert_true(plain.power == s.power && plain.weighted_power == 0 && fabs(plain.error - got[0]) < 1e-12);
            if (level == CPU_GENERIC) first = s;
            assert_memory_equal(&first, &s, sizeof s);
        }
    }
    cpu_force(cpu_best(), false);
    weight_loss bad = {0};
    y[3] = NAN;
    weight_loss_add(20, x, y, NULL, &bad);
    assert_true(isnan(bad.error) && isfinite(bad.power));
}

static double half_value(u16 h) /* by definition */
{
    int e = h >> 10 & 31, m = h & 1023;
    double v = e == 0 ? ldexp(m, -24) : ldexp(1024 + m, e - 25);
    return h & 0x8000 ? -v : v;
}
static void test_half_all(void **state)
{
    (void)state;
    for (u32 h = 0; h < 0x10000; h++) {
        float f = f16_to_f32((u16)h);
        if ((h & 0x7c00) != 0x7c00) {
            assert_true((double)f == half_value((u16)h) && !!signbit(f) == (h >> 15));
            assert_int_equal(f32_to_f16(f), h);
        } else if (h & 0x3ff) {
            assert_true(isnan(f));
            assert_true((f32_to_f16(f) & 0x7c00) == 0x7c00 && (f32_to_f16(f) & 0x3ff));
        } else {
            assert_true(isinf(f) && !!signbit(f) == (h >> 15));
            assert_int_equal(f32_to_f16(f), h);
        }
    }
}
/* between neighbours: nearest, ties to the even one */
static void test_half_rounding(void **state)
{
    (void)state;
    for (u32 h = 0; h < 0x7bff; h++) {
        double lo = half_value((u16)h), hi = half_value((u16)(h + 1));
        float mid = (float)((lo + hi) / 2);
        u16 even = (u16)(h & 1 ? h + 1 : h);
        assert_int_equal(f32_to_f16(mid), even);
        assert_int_equal(f32_to_f16(-mid), even | 0x8000);
        assert_int_equal(f32_to_f16(nextafterf(mid, 0)), h);
        assert_int_equal(f32_to_f16(nextafterf(mid, INFINITY)), h + 1);
    }
    assert_int_equal(f32_to_f16(65519.996f), 0x7bff);
    assert_int_equal(f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(f32_to_f16(3e38f), 0x7c00);
    assert_int_equal(f32_to_f16(1e-30f), 0);
    assert_int_equal(f32_to_f16(-1e-45f), 0x8000);
    assert_int_equal(f32_to_bf16(float_of(0x3f808000)), 0x3f80); /* tie to even */
    assert_int_equal(f32_to_bf16(float_of(0x3f818000)), 0x3f82);
    assert_int_equal(f32_to_bf16(float_of(0x3f808001)), 0x3f81);
    assert_int_equal(f32_to_bf16(float_of(0x7f7fffff)), 0x7f80);
    assert_true(isnan(bf16_to_f32(f32_to_bf16(float_of(0x7f800001)))));
    assert_int_equal(f32_to_bf16(-INFINITY), 0xff80);
}

static void test_table(void **state)
{
    (void)state;
    for (int t = 0; t < DTYPE_COUNT; t++) {
        const dtype_info *d = &dtype_table[t];
        assert_non_null(d->name);
        assert_non_null(d->decode);
        assert_true((d->encode != NULL) == (t != I32));
        if (d->gguf >= 0) assert_int_equal(dtype_of_gguf((u32)d->gguf), t);
        assert_true(weight_packs((dtype)t, LAYOUT_ROWS));
        assert_true(weight_packs((dtype)t, LAYOUT_R8) == (kern_get(CPU_GENERIC)->qdot[t] != NULL));
    }
    assert_int_equal(dtype_of_gguf(16), DTYPE_COUNT); /* IQ2_XXS: not ours */
    assert_int_equal(dtype_of_gguf(0xffffffff), DTYPE_COUNT);
    assert_false(weight_packs(DTYPE_COUNT, LAYOUT_R8));
}

/* error of encode then decode, in units of the range of a block; normal values */
static void test_encode(void **state)
{
    (void)state;
    /* worst: half a step, or a whole one where the positive end is cut off (q5_0, q4_0); rms: a step / sqrt(12) and a little */
    static const struct {
        dtype t;
        double worst, rms;
    } want[] = {
        {F32, 0, 0},
        {F64, 0, 0},
        {F16, 5e-4, 2e-4},
        {BF16, 4e-3, 1e-3},
        {Q8_0, 4.5e-3, 2.4e-3},
        {Q6_K, 4e-2, 1e-2},
        {Q5_0, 6.3e-2, 1.9e-2},
        {Q4_1, 6.7e-2, 4e-2},
        {Q4_0, 0.126, 4.2e-2},
        {Q4_K, 9e-2, 4.2e-2},
        {Q5_1, 3.4e-2, 2e-2},
        {Q5_K, 6e-2, 2.1e-2},
        {Q3_K, 0.26, 9e-2},
        {Q2_K, 0.5, 0.18},
        {IQ4_NL, 0.16, 5e-2},
        {IQ4_XS, 0.2, 5e-2},
        {MXFP4, 0.26, 9e-2},
    };
    enum { N = 256 * 40 };
    static float x[N], y[N];
    static u8 b[N * 8];
    rng r;
    rng_seed(&r, 7);
    for (int i = 0; i < N; i++) x[i] = rng_normal(&r) * (i % 512 < 256 ? 0.02f : 3.0f);
    for (usize w = 0; w < COUNT_OF(want); w++) {
        const dtype_info *d = &dtype_table[want[w].t];
        d->encode(x, b, N);
        d->decode(b, y, N);
        double worst = 0, sq = 0;
        for (int at = 0; at < N; at += 32) {
            double top = 0;
            for (int i = at; i < at + 32; i++) top = fmax(top, fabs((double)x[i]));
            for (int i = at; i < at + 32; i++) {
                double e = fabs((double)y[i] - x[i]) / top;
                worst = fmax(worst, e), sq += e * e;
            }
        }
        if (worst > want[w].worst || sqrt(sq / N) > want[w].rms)
            fail_msg("%s: worst %.4f of the block's maximum (limit %.4f), rms %.4f (limit %.4f)", d->name, worst, want[w].worst,
                     sqrt(sq / N), want[w].rms);
    }
}

/* what a block can hold exactly must come back exactly; nothing may crash on values that are no numbers */
static void test_encode_edges(void **state)
{
    (void)state;
    float x[256], y[256];
    u8 b[2048];
    for (int t = 0; t < DTYPE_COUNT; t++) {
        const dtype_info *d = &dtype_table[t];
        if (!d->encode) continue;
        memset(x, 0, sizeof x);
        memset(b, 0xff, sizeof b);
        d->encode(x, b, 256);
        d->decode(b, y, 256);
        for (int i = 0; i < 256; i++) assert_true(y[i] == 0);
        const float bad[] = {NAN, INFINITY, -INFINITY, 3e38f, -3e38f, 1e-42f};
        for (usize k = 0; k < COUNT_OF(bad); k++) {
            for (int i = 0; i < 256; i++) x[i] = i % 7 ? (float)i : bad[k];
            d->encode(x, b, 256);
            d->decode(b, y, 256);
        }
    }
    for (int i = 0; i < 256; i++) x[i] = (float)(i % 32 % 16 - 8);
    dtype_table[Q4_0].encode(x, b, 256);
    dtype_table[Q4_0].decode(b, y, 256);
    assert_memory_equal(x, y, sizeof x);
    for (int i = 0; i < 256; i++) x[i] = (float)(i % 32 - 16);
    dtype_table[Q5_0].encode(x, b, 256);
    dtype_table[Q5_0].decode(b, y, 256);
    assert_memory_equal(x, y, sizeof x);
}

/* ---- layouts ----------------------------------------------------------------------------------------------------------------
 */
static void fill_random(u8 *p, usize n, rng *r, dtype t) /* any bits, but finite scales */
{
    for (usize at = 0; at < n; at += (usize)dtype_table[t].bytes) fill_block(p + at, t, -1, r);
}
static void round_trip(dtype t, i64 k, i64 n, rng *r)
{
    usize rows_len = weight_bytes(t, LAYOUT_ROWS, k, n), len = weight_bytes(t, LAYOUT_R8, k, n);
    i64 groups = (n + 7) / 8;
    u8 *rows = mem_alloc(rows_len), *packed = mem_alloc(len + 1), *parts = mem_alloc(len);
    float *want = mem_array(float, k *n), *got = mem_array(float, k *groups * 8);
    fill_random(rows, rows_len, r, t);
    packed[len] = 0x5a;
    memset(packed, 0xee, len), memset(parts, 0xee, len);
    weight_pack(t, LAYOUT_R8, k, n, rows, packed, 0, groups);
    assert_int_equal(packed[len], 0x5a);
    for (i64 g = groups - 1; g >= 0; g--) weight_pack(t, LAYOUT_R8, k, n, rows, parts, g, g + 1); /* any order, any split */
    assert_memory_equal(packed, parts, len);
    weight_decode(t, LAYOUT_ROWS, k, rows, 0, n, want);
    weight_decode(t, LAYOUT_R8, k, packed, 0, groups * 8, got);
    assert_memory_equal(want, got, sizeof(float) * (usize)(k * n));
    for (i64 i = k * n; i < k * groups * 8; i++) assert_int_equal(bits_of(got[i]) & 0x7fffffff, 0); /* padding rows */
    i64 row = n / 2, count = n - row;
    weight_decode(t, LAYOUT_R8, k, packed, row, count, got);
    assert_memory_equal(want + k * row, got, sizeof(float) * (usize)(k * count));
    weight_decode(t, LAYOUT_ROWS, k, rows, row, count, got);
    assert_memory_equal(want + k * row, got, sizeof(float) * (usize)(k * count));
    assert_int_equal(weight_bytes(t, LAYOUT_R8, k, n), weight_bytes(t, LAYOUT_R8, k, 8) * (usize)groups); /* groups are equal */
    assert_true(weight_bytes(t, LAYOUT_R8, k, 8) % 64 == 0);
    mem_free(rows), mem_free(packed), mem_free(parts), mem_free(want), mem_free(got);
}
static void test_layouts(void **state)
{
    (void)state;
    rng r;
    rng_seed(&r, 3);
    for (int t = 0; t < DTYPE_COUNT; t++) {
        if (!weight_packs((dtype)t, LAYOUT_R8)) continue;
        i64 block = dtype_table[t].block;
        for (i64 n = 1; n <= 19; n += n < 10 ? 1 : 3) round_trip((dtype)t, block * 3, n, &r);
        round_trip((dtype)t, block, 8, &r);
        round_trip((dtype)t, 1536, 24, &r);
        double bits = 8.0 * (double)weight_bytes((dtype)t, LAYOUT_R8, 1536, 64) / (1536 * 64);
        double file = 8.0 * dtype_table[t].bytes / (double)block;
        if (bits > file * 1.01) fail_msg("%s takes %.3f bits per weight, %.3f in the file", dtype_table[t].name, bits, file);
    }
}
static void test_rows_pack_is_copy(void **state)
{
    (void)state;
    u8 in[96], out[96];
    for (int i = 0; i < 96; i++) in[i] = (u8)i;
    memset(out, 0xcc, sizeof out);
    weight_pack(F16, LAYOUT_ROWS, 4, 12, in, out, 1, 2); /* rows 8..11 */
    for (int i = 0; i < 96; i++) assert_int_equal(out[i], i < 64 ? 0xcc : i);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),        cmocka_unit_test(test_loss),    cmocka_unit_test(test_half_all),
        cmocka_unit_test(test_half_rounding), cmocka_unit_test(test_table),   cmocka_unit_test(test_encode),
        cmocka_unit_test(test_encode_edges),  cmocka_unit_test(test_layouts), cmocka_unit_test(test_rows_pack_is_copy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
