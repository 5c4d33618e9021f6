/* tests/tensor/test_body.c - float kernels (src/tensor/cpu/body_*.c) against double-precision libm, and the same bits on every
 * instruction set of this machine. Lengths 0..67 cover every tail; a guard value behind each result catches writes past it. */
#include "tensor/cpu/kern.h"
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdlib.h>
#include <cmocka.h>

#define GUARD 12345.678f
static kern levels[CPU_LEVEL_COUNT];
static int n_levels;
static rng dice;

static void make_levels(void)
{
    kern_body_rows_generic(&levels[0]), kern_body_attend_generic(&levels[0]), kern_body_gemm_generic(&levels[0]);
    n_levels = 1 + (int)cpu_best();
    if (n_levels > CPU_AVX2) kern_body_rows_avx2(&levels[1]), kern_body_attend_avx2(&levels[1]), kern_body_gemm_avx2(&levels[1]);
    if (n_levels > CPU_AVX512)
        kern_body_rows_avx512(&levels[2]), kern_body_attend_avx512(&levels[2]), kern_body_gemm_avx512(&levels[2]);
    for (int i = 0; i < n_levels; i++) levels[i].level = (cpu_level)i;
    rng_seed(&dice, 20240521);
}

/* ---- helpers ---------------------------------------------------------------------------------------------------------- */
static float *floats(i64 n) /* n floats and a guard */
{
    float *p = mem_alloc((usize)(n + 1) * sizeof *p);
    assert_non_null(p);
    for (i64 i = 0; i <= n; i++) p[i] = GUARD;
    return p;
}
static float *normals(i64 n, float by)
{
    float *p = floats(n);
    for (i64 i = 0; i < n; i++) p[i] = rng_normal(&dice) * by;
    return p;
}
static u32 bits(float f)
{
    u32 u;
    memcpy(&u, &f, sizeof u);
    return u;
}
static float from_bits(u32 u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}
static void same_bits(const float *a, const float *b, i64 n, const char *what, int level) /* all NaNs count as one */
{
    for (i64 i = 0; i < n; i++)
        if (bits(a[i]) != bits(b[i]) && !(isnan(a[i]) && isnan(b[i])))
            fail_msg("%s: element %d of %d is %.9g at level %s, %.9g at generic", what, (int)i, (int)n, (double)b[i],
                     cpu_name((cpu_level)level), (double)a[i]);
}
/* |got - want| <= rel |want| + abs; infinities and NaN must agree, except that a value past FLT_MAX may be infinite */
static void is_near(float got, double want, double rel, double abs, const char *what, double at)
{
    if (isnan(want) && isnan(got)) return;
    if (isinf(got) && fabs(want) >= (double)FLT_MAX * (1 - rel) && (got > 0) == (want > 0)) return;
    if (!(fabs((double)got - want) <= rel * fabs(want) + abs))
        fail_msg("%s(%.9g) = %.9g, expected %.9g +- %.1e relative, %.1e absolute", what, at, (double)got, want, rel, abs);
}

/* inputs of elementwise functions: edges, then random of every size */
static const float edges[] = {0.0f,     -0.0f,  1.0f,     -1.0f,     0x1p-149f, -0x1p-149f, 0x1p-126f, -0x1p-126f, 1e-30f,
                              -1e-30f,  1e-8f,  -1e-8f,   1e-4f,     -1e-4f,    0.6249999f, 0.625f,    -0.625f,    0.34657f,
                              0.34658f, 10.0f,  -10.0f,   14.9f,     -14.9f,    15.1f,      -15.1f,    60.0f,      -60.0f,
                              87.3f,    -87.3f, 88.7228f, -88.7228f, 88.7229f,  -88.7229f,  103.9f,    -103.9f,    104.1f,
                              -104.1f,  200.0f, -200.0f,  1e10f,     -1e10f,    1e20f,      -1e20f,    3e38f,      -3e38f};
#define N_SWEEP 20000
static float *sweep(float limit)
{
    float *x = floats(N_SWEEP);
    int n_edges = (int)COUNT_OF(edges);
    for (int i = 0; i < N_SWEEP; i++) {
        if (i < n_edges)
            x[i] = edges[i];
        else if (i % 2)
            x[i] = (float)((rng_unit(&dice) * 2 - 1) * 20);
        else
            x[i] = (float)(exp2(rng_unit(&dice) * 60 - 40) * (rng_unit(&dice) < 0.5 ? -1 : 1));
        if (fabsf(x[i]) > limit) x[i] = copysignf(limit, x[i]);
    }
    return x;
}

/* ---- arithmetic: exactly the scalar expression, all lengths, in place ---------------------------------------------------- */
static void check_arithmetic(const kern *k, i64 n, const float *a, const float *b)
{
    float *y = floats(n), s = 0.37f;
    k->add(y, a, b, n);
    for (i64 i = 0; i < n; i++) assert_true(bits(y[i]) == bits(a[i] + b[i]));
    k->mul(y, a, b, n);
    for (i64 i = 0; i < n; i++) assert_true(bits(y[i]) == bits(a[i] * b[i]));
    k->scale(y, a, s, n);
    for (i64 i = 0; i < n; i++) assert_true(bits(y[i]) == bits(a[i] * s));
    memcpy(y, b, (usize)n * sizeof *y);
    k->axpy(y, a, s, n);
    for (i64 i = 0; i < n; i++) {
        volatile float product = a[i] * s; /* rounded, not fused */
        assert_true(bits(y[i]) == bits(b[i] + product));
    }
    k->add(y, y, y, n);
    k->scale(y, y, 0.5f, n);
    for (i64 i = 0; i < n; i++) {
        volatile float product = a[i] * s;
        assert_true(bits(y[i]) == bits(b[i] + product));
    }
    assert_true(y[n] == GUARD);
    mem_free(y);
}
static void test_arithmetic(void **state)
{
    (void)state;
    for (int l = 0; l < n_levels; l++)
        for (i64 n = 0; n <= 67; n++) {
            float *a = normals(n, 3), *b = normals(n, 1);
            check_arithmetic(&levels[l], n, a, b);
            mem_free(a), mem_free(b);
        }
}

/* ---- activations ---------------------------------------------------------------------------------------------------------- */
#define GELU_C 0.7978845608028654 /* sqrt(2 / pi) */
static double logistic(double x) { return 1 / (1 + exp(-x)); }
static double phi(double x) { return 0.5 * erfc(-x / sqrt(2)); }
static double act_true(double x, int kind)
{
    switch (kind) {
    case ACT_SILU: return x * logistic(x);
    case ACT_GELU: return x * phi(x);
    case ACT_GELU_TANH: return x * logistic(2 * GELU_C * (x + 0.044715 * x * x * x));
    case ACT_RELU: return x > 0 ? x : 0;
    case ACT_TANH: return tanh(x);
    default: return logistic(x);
    }
}
static double act_slope(double x, int kind)
{
    double s, c;
    switch (kind) {
    case ACT_SILU: s = logistic(x); return s + x * s * logistic(-x);
    case ACT_GELU: return phi(x) + x * exp(-x * x / 2) / sqrt(2 * M_PI);
    case ACT_GELU_TANH:
        if (fabs(x) > 50) return x > 0;
        s = 2 * GELU_C * (x + 0.044715 * x * x * x);
        return logistic(s) + x * logistic(s) * logistic(-s) * 2 * GELU_C * (1 + 3 * 0.044715 * x * x);
    case ACT_RELU: return x > 0;
    case ACT_TANH: c = cosh(x); return 1 / (c * c);
    default: return logistic(x) * logistic(-x);
    }
}
static const char *const act_names[] = {"silu", "gelu", "gelu_tanh", "relu", "tanh", "sigmoid"};
/* relative error; gelu_tanh's follows that of its cube, which is the argument of exp. Absolute: where e^-x of silu overflows */
static double act_rel(double x, int kind)
{
    if (kind == ACT_GELU_TANH) return 4e-7 + 2e-7 * fmin(90, fabs(2 * GELU_C * (x + 0.044715 * x * x * x)));
    return kind == ACT_RELU ? 0 : kind == ACT_GELU ? 5e-7 : 3e-7;
}
static void act_near(float y, float x, int kind)
{
    is_near(y, act_true((double)x, kind), act_rel((double)x, kind), 3e-37, act_names[kind], (double)x);
}

static void test_act(void **state)
{
    (void)state;
    for (int kind = ACT_SILU; kind <= ACT_SIGMOID; kind++) {
        float *x = sweep(kind == ACT_GELU_TANH ? 1e10f : 3e38f), *y = floats(N_SWEEP), *z = floats(N_SWEEP);
        levels[0].act(y, x, N_SWEEP, kind);
        for (int i = 0; i < N_SWEEP; i++) act_near(y[i], x[i], kind);
        for (int l = 0; l < n_levels; l++) {
            levels[l].act(z, x, N_SWEEP, kind);
            same_bits(y, z, N_SWEEP, act_names[kind], l);
            memcpy(z, x, N_SWEEP * sizeof *z);
            levels[l].act(z, z, N_SWEEP, kind);
            same_bits(y, z, N_SWEEP, act_names[kind], l);
            assert_true(z[N_SWEEP] == GUARD);
        }
        mem_free(x), mem_free(y), mem_free(z);
    }
}
static void test_act_tails_and_glu(void **state)
{
    (void)state;
    for (int kind = ACT_SILU; kind <= ACT_SIGMOID; kind++)
        for (i64 n = 0; n <= 67; n++) {
            float *x = normals(n, 3), *up = normals(n, 1), *y = floats(n), *z = floats(n);
            for (int l = 0; l < n_levels; l++) {
                levels[l].act(y, x, n, kind);
                levels[l].glu(z, x, up, n, kind);
                for (i64 i = 0; i < n; i++) {
                    act_near(y[i], x[i], kind);
                    assert_true(bits(z[i]) == bits(y[i] * up[i]));
                }
                assert_true(y[n] == GUARD && z[n] == GUARD);
            }
            mem_free(x), mem_free(up), mem_free(y), mem_free(z);
        }
}
static void test_act_special(void **state)
{
    (void)state;
    float x[3] = {INFINITY, -INFINITY, NAN}, y[3];
    for (int l = 0; l < n_levels; l++) {
        const kern *k = &levels[l];
        k->act(y, x, 3, ACT_TANH);
        assert_true(y[0] == 1 && y[1] == -1 && isnan(y[2]));
        k->act(y, x, 3, ACT_SIGMOID);
        assert_true(y[0] == 1 && y[1] == 0 && isnan(y[2]));
        k->act(y, x, 3, ACT_RELU);
        assert_true(isinf(y[0]) && y[1] == 0 && isnan(y[2]));
        for (int kind = ACT_SILU; kind <= ACT_GELU_TANH; kind++) {
            k->act(y, x, 3, kind);
            assert_true(isinf(y[0]) && y[0] > 0 && isnan(y[2]));
        }
    }
}
static void test_act_grad(void **state)
{
    (void)state;
    for (int kind = ACT_SILU; kind <= ACT_SIGMOID; kind++) {
        float *x = sweep(3e38f), *dy = normals(N_SWEEP, 1), *y = floats(N_SWEEP), *z = floats(N_SWEEP);
        levels[0].act_grad(y, x, dy, N_SWEEP, kind);
        for (int i = 0; i < N_SWEEP; i++) {
            double d = (double)dy[i], want = d * act_slope((double)x[i], kind);
            if (!isfinite(want)) want = 0;
            is_near(y[i], want, 4e-7, 2e-7 * fabs(d), act_names[kind], (double)x[i]);
        }
        for (int l = 0; l < n_levels; l++) {
            levels[l].act_grad(z, x, dy, N_SWEEP - 3, kind);
            same_bits(y, z, N_SWEEP - 3, act_names[kind], l);
            assert_true(z[N_SWEEP - 3] == GUARD);
        }
        mem_free(x), mem_free(dy), mem_free(y), mem_free(z);
    }
}

/* ---- sums over rows ---------------------------------------------------------------------------------------------------------
 */
static void test_dot(void **state)
{
    (void)state;
    for (i64 n = 0; n <= 2000; n += n < 67 ? 1 : 161) {
        float *a = normals(n, 1), *b = normals(n, 1);
        double want = 0, size = 0;
        for (i64 i = 0; i < n; i++) want += (double)a[i] * (double)b[i], size += fabs((double)a[i] * (double)b[i]);
        float first = levels[0].dot(a, b, n);
        is_near(first, want, 0, size * 3e-7 + 1e-38, "dot", (double)n);
        for (int l = 1; l < n_levels; l++) {
            float y = levels[l].dot(a, b, n);
            same_bits(&first, &y, 1, "dot", l);
        }
        mem_free(a), mem_free(b);
    }
}

static void norm_true(double *y, const float *x, const float *w, const float *b, i64 n, int kind, double eps)
{
    double mean = 0, sq = 0;
    for (i64 i = 0; kind == NORM_LAYER && i < n; i++) mean += (double)x[i] / (double)n;
    for (i64 i = 0; i < n; i++) sq += ((double)x[i] - mean) * ((double)x[i] - mean);
    for (i64 i = 0; i < n; i++) {
        double v = (double)x[i] - mean;
        v = kind == NORM_L2 ? v / fmax(sqrt(sq), eps) : v / sqrt(sq / (double)n + eps);
        if (w) v *= (double)w[i];
        y[i] = v + (b ? (double)b[i] : 0);
    }
}
static void check_norm(i64 n, int kind, float by, float shift, bool with_w, bool with_b)
{
    float *x = normals(n, by), *w = with_w ? normals(n, 1) : NULL, *b = with_b ? normals(n, 1) : NULL, *y = floats(n),
          *z = floats(n);
    double *want = mem_array(double, n + 1);
    for (i64 i = 0; i < n; i++) x[i] += shift;
    norm_true(want, x, w, b, n, kind, (double)1e-6f);
    levels[0].norm(y, x, w, b, n, kind, 1e-6f);
    for (i64 i = 0; i < n; i++) {
        double product = want[i] - (b ? (double)b[i] : 0); /* the last addition may cancel */
        is_near(y[i], want[i], 1.5e-7, 4e-7 * fabs(product) + 1e-38,
                kind == NORM_RMS     ? "rms"
                : kind == NORM_LAYER ? "layer"
                                     : "l2",
                (double)x[i]);
    }
    for (int l = 0; l < n_levels; l++) {
        memcpy(z, x, (usize)n * sizeof *z);
        levels[l].norm(z, z, w, b, n, kind, 1e-6f);
        same_bits(y, z, n, "norm", l);
        assert_true(z[n] == GUARD);
    }
    mem_free(x), mem_free(w), mem_free(b), mem_free(y), mem_free(z), mem_free(want);
}
static void test_norm(void **state)
{
    (void)state;
    for (int kind = NORM_RMS; kind <= NORM_L2; kind++)
        for (i64 n = 0; n <= 1600; n += n < 67 ? 1 : 511) {
            if (n != 1 || kind != NORM_LAYER) check_norm(n, kind, 1, 0, true, kind == NORM_LAYER);
            if (n > 4) check_norm(n, kind, 1e-3f, 0, false, false);
        }
    check_norm(768, NORM_RMS, 1e30f, 0, true, false); /* squares overflow a float, and vanish in it */
    check_norm(768, NORM_RMS, 1e-25f, 0, true, false);
    check_norm(768, NORM_L2, 1e30f, 0, false, false);
    check_norm(768, NORM_L2, 1e-25f, 0, false, false);
    check_norm(768, NORM_LAYER, 1e-2f, 1000, true, true); /* a mean far from zero */
    float zero[20] = {0}, y[20];
    for (int l = 0; l < n_levels; l++)
        for (int kind = NORM_RMS; kind <= NORM_L2; kind++) {
            levels[l].norm(y, zero, NULL, NULL, 20, kind, 1e-12f);
            for (int i = 0; i < 20; i++) assert_true(y[i] == 0);
            if (kind != NORM_L2) continue;
            levels[l].norm(y, zero, NULL, NULL, 20, kind, 0);
            for (int i = 0; i < 20; i++) assert_true(y[i] == 0);
        }
}

static double lse_true(const float *x, i64 n)
{
    double top = -INFINITY, sum = 0;
    for (i64 i = 0; i < n; i++) top = fmax(top, (double)x[i]);
    for (i64 i = 0; i < n; i++) sum += exp((double)x[i] - top);
    return n ? top + log(sum) : -INFINITY;
}
static void check_softmax(float *x, i64 n)
{
    float *y = floats(n), *z = floats(n), lse = levels[0].lse(x, n);
    double want = lse_true(x, n), sum = 0;
    if (n)
        is_near(lse, want, 1e-7, 1e-7, "lse", (double)n);
    else
        assert_true(isinf(lse) && lse < 0);
    levels[0].softmax(y, x, n);
    for (i64 i = 0; i < n; i++) {
        double rounding = isinf(x[i]) ? 0 : 6e-8 * fabs((double)x[i] - want); /* of x - max */
        is_near(y[i], exp((double)x[i] - want), 3e-7 + rounding, 1.5e-38, "softmax", (double)x[i]);
        sum += (double)y[i];
    }
    if (n) is_near((float)sum, 1, 3e-7, 0, "sum of softmax", (double)n);
    for (int l = 0; l < n_levels; l++) {
        float other = levels[l].lse(x, n);
        same_bits(&lse, &other, 1, "lse", l);
        memcpy(z, x, (usize)n * sizeof *z);
        levels[l].softmax(z, z, n);
        same_bits(y, z, n, "softmax", l);
        assert_true(z[n] == GUARD);
    }
    mem_free(y), mem_free(z);
}
static void test_softmax(void **state)
{
    (void)state;
    for (i64 n = 0; n <= 67; n++) {
        float *x = normals(n, 4);
        check_softmax(x, n);
        for (i64 i = 0; i < n; i++) x[i] += 1e4f;
        check_softmax(x, n);
        for (i64 i = 1; i < n; i += 2) x[i] = -INFINITY;
        check_softmax(x, n);
        mem_free(x);
    }
    float *x = normals(151936, 3);
    check_softmax(x, 151936);
    for (i64 i = 0; i < 151936; i++) x[i] = 1.25f;
    check_softmax(x, 151936);
    mem_free(x);
    float odd[3] = {1, NAN, -INFINITY}, none[2] = {-INFINITY, -INFINITY}, y[3];
    for (int l = 0; l < n_levels; l++) {
        levels[l].softmax(y, odd, 3);
        assert_true(isnan(y[0]) && isnan(y[1]) && isnan(levels[l].lse(odd, 3)));
        assert_true(isinf(levels[l].lse(none, 2)) && levels[l].lse(none, 2) < 0);
    }
}

/* ---- rotation
 * ------------------------------------------------------------------------------------------------------------------ */
static void check_rope(int dims, int hd, bool neox)
{
    float *x = normals(hd, 1), *c = floats(dims / 2), *s = floats(dims / 2), *y = floats(hd);
    for (int i = 0; i < dims / 2; i++) c[i] = cosf((float)i), s[i] = sinf((float)i);
    for (int l = 0; l < n_levels; l++)
        for (int in_place = 0; in_place < 2; in_place++) {
            if (in_place) memcpy(y, x, (usize)hd * sizeof *y);
            levels[l].rope(y, in_place ? y : x, c, s, dims, hd, neox);
            for (int i = 0; i < dims / 2; i++) {
                int a = neox ? i : 2 * i, b = neox ? i + dims / 2 : 2 * i + 1;
                volatile float ac = x[a] * c[i], bs = x[b] * s[i], as = x[a] * s[i], bc = x[b] * c[i];
                assert_true(bits(y[a]) == bits(ac - bs) && bits(y[b]) == bits(as + bc));
            }
            for (int i = dims; i < hd; i++) assert_true(bits(y[i]) == bits(x[i]));
            assert_true(y[hd] == GUARD);
        }
    mem_free(x), mem_free(c), mem_free(s), mem_free(y);
}
static void test_rope(void **state)
{
    (void)state;
    for (int dims = 0; dims <= 68; dims += 2)
        for (int more = 0; more <= 20; more += 5) check_rope(dims, dims + more, false), check_rope(dims, dims + more, true);
    check_rope(128, 128, true), check_rope(256, 256, false);
}

/* ---- 16-bit floats
 * --------------------------------------------------------------------------------------------------------------- */
static void test_from_16(void **state)
{
    (void)state;
    u16 *h = mem_alloc(65536 * sizeof *h);
    float *y = floats(65536);
    for (int i = 0; i < 65536; i++) h[i] = (u16)i;
    for (int l = 0; l < n_levels; l++) {
        levels[l].from_f16(y, h, 65536);
        for (int i = 0; i < 65536; i++) {
            float want = f16_to_f32((u16)i);
            u32 quiet = isnan(want) ? 0x400000 : 0;
            if (bits(y[i]) != (bits(want) | quiet))
                fail_msg("f16 %04x is %08x at level %d", (unsigned)i, (unsigned)bits(y[i]), l);
        }
        levels[l].from_bf16(y, h, 65536);
        for (int i = 0; i < 65536; i++) assert_true(bits(y[i]) == (u32)i << 16);
        for (i64 n = 0; n <= 67; n++) {
            y[n] = GUARD;
            levels[l].from_f16(y, h + 15000, n);
            for (i64 i = 0; i < n; i++) assert_true(y[i] == f16_to_f32((u16)(15000 + i)));
            assert_true(y[n] == GUARD);
        }
    }
    mem_free(h), mem_free(y);
}
static void test_to_f16(void **state)
{
    (void)state;
    enum { N = 200000 };
    float *x = floats(N);
    u16 *h = mem_alloc((N + 1) * sizeof *h);
    for (int i = 0; i < N; i++) x[i] = from_bits((u32)rng_u64(&dice));
    for (int i = 0; i < 65536; i++) { /* every half way between two neighbours, and one step beside it */
        float a = f16_to_f32((u16)i), b = f16_to_f32((u16)(i + 1));
        x[i] = from_bits(bits((a + b) * 0.5f) + (u32)(i % 3) - 1);
    }
    for (int i = 0; i < (int)COUNT_OF(edges); i++) x[70000 + i] = edges[i];
    x[80000] = 65504, x[80001] = 65519.996f, x[80002] = 65520, x[80003] = -65536, x[80004] = INFINITY, x[80005] = NAN;
    for (int l = 0; l < n_levels; l++) {
        levels[l].to_f16(h, x, N);
        for (int i = 0; i < N; i++)
            if (h[i] != f32_to_f16(x[i])) fail_msg("%08x became f16 %04x at level %d", (unsigned)bits(x[i]), (unsigned)h[i], l);
        for (i64 n = 0; n <= 67; n++) {
            h[n] = 0xabcd;
            levels[l].to_f16(h, x + 100000, n);
            for (i64 i = 0; i < n; i++) assert_int_equal(h[i], f32_to_f16(x[100000 + i]));
            assert_int_equal(h[n], 0xabcd);
        }
    }
    mem_free(x), mem_free(h);
}

/* ---- matrix product
 * -------------------------------------------------------------------------------------------------------------- */
static void check_gemm(int rows, int cols, i64 k)
{
    i64 ws = k + 3, xs = k + 5, ys = rows + 2;
    float *w = normals(ws * rows, 1), *x = normals(xs * cols, 1), *y = floats(ys * cols), *z = floats(ys * cols);
    levels[0].gemm(w, ws, rows, x, xs, cols, k, y, ys);
    for (int c = 0; c < cols; c++)
        for (int r = 0; r < rows; r++) {
            double want = 0, size = 0;
            for (i64 i = 0; i < k; i++) {
                double one = (double)w[r * ws + i] * (double)x[c * xs + i];
                want += one, size += fabs(one);
            }
            is_near(y[c * ys + r], want, 0, size * 3e-7 + 1e-38, "gemm", (double)k);
            float alone = levels[0].dot(w + r * ws, x + c * xs, k); /* the same sums in the same order, wherever in a tile */
            same_bits(&alone, &y[c * ys + r], 1, "gemm beside dot", 0);
        }
    for (int l = 1; l < n_levels; l++) {
        levels[l].gemm(w, ws, rows, x, xs, cols, k, z, ys);
        same_bits(y, z, ys * cols, "gemm", l); /* the gaps between columns too: both still hold the guard */
        assert_true(z[rows] == GUARD && z[ys * cols] == GUARD);
    }
    assert_true(y[rows] == GUARD && y[ys * cols] == GUARD);
    mem_free(w), mem_free(x), mem_free(y), mem_free(z);
}
static void test_gemm(void **state)
{
    (void)state;
    for (int rows = 1; rows <= 9; rows++)
        for (int cols = 1; cols <= 9; cols++) check_gemm(rows, cols, 37), check_gemm(rows, cols, 64);
    for (i64 k = 0; k <= 67; k++) check_gemm(3, 4, k);
    check_gemm(8, 13, 1536), check_gemm(16, 1, 1100);
}

/* ---- attention
 * ------------------------------------------------------------------------------------------------------------------- */
typedef struct {
    int hd, n_q, page, n_pages; /* the cache has twice as many */
    dtype type;
    i32 first, end;
    float softcap;
} attend_case;
typedef struct {
    u8 *k, *v;
    usize stride;
    i32 *pages;
} cache;

static cache cache_make(const attend_case *c, const float *k, const float *v, bool in_order) /* k, v [hd, positions] */
{
    usize one = c->type == F16 ? 2 : 4;
    int n = c->page * c->n_pages;
    cache m = {.stride = one * (usize)(c->hd + 7)};
    m.k = mem_zero(m.stride * (usize)n * 2), m.v = mem_zero(m.stride * (usize)n * 2),
    m.pages = mem_alloc(sizeof *m.pages * (usize)c->n_pages);
    assert_true(m.k && m.v && m.pages);
    for (int i = 0; i < c->n_pages; i++) { /* in order, or scattered over twice the room, each page once */
        m.pages[i] = in_order ? i : (i32)(rng_u64(&dice) % (u64)(2 * c->n_pages));
        for (int j = 0; j < i; j++)
            if (m.pages[i] == m.pages[j]) m.pages[i] = (i32)(rng_u64(&dice) % (u64)(2 * c->n_pages)), j = -1;
    }
    for (i64 p = 0; p < n; p++) {
        usize slot = (usize)(m.pages[p / c->page] * c->page + p % c->page);
        for (int d = 0; d < c->hd; d++) {
            u16 hk = f32_to_f16(k[p * c->hd + d]), hv = f32_to_f16(v[p * c->hd + d]);
            memcpy(m.k + slot * m.stride + one * (usize)d, c->type == F16 ? (void *)&hk : (void *)&k[p * c->hd + d], one);
            memcpy(m.v + slot * m.stride + one * (usize)d, c->type == F16 ? (void *)&hv : (void *)&v[p * c->hd + d], one);
        }
    }
    return m;
}
static void cache_free(cache m) { mem_free(m.k), mem_free(m.v), mem_free(m.pages); }

static void attend_true(const attend_case *c, const float *q, const float *k, const float *v, float scale, double *y, double *lse)
{
    double *s = mem_array(double, c->end - c->first), sum = 0, top = -INFINITY;
    for (int d = 0; d < c->hd; d++) y[d] = 0;
    for (i64 p = c->first; p < c->end; p++) {
        double dot = 0;
        for (int d = 0; d < c->hd; d++) dot += (double)q[d] * (double)k[p * c->hd + d];
        dot *= (double)scale;
        if (c->softcap > 0) dot = (double)c->softcap * tanh(dot / (double)c->softcap);
        s[p - c->first] = dot, top = fmax(top, dot);
    }
    for (i64 p = c->first; p < c->end; p++) sum += exp(s[p - c->first] - top);
    for (i64 p = c->first; p < c->end; p++)
        for (int d = 0; d < c->hd; d++) y[d] += exp(s[p - c->first] - top) / sum * (double)v[p * c->hd + d];
    *lse = top + log(sum);
    mem_free(s);
}

static void attend_with(const kern *kn, const attend_case *c, const cache *m, const float *q, float scale, bool paged, float *y,
                        float *lse)
{
    int n = c->end - c->first;
    float *score = floats((n + 15) / 16 * 16 * c->n_q);
    attend_row a = {.q = q,
                    .k = m->k,
                    .v = m->v,
                    .k_stride = m->stride,
                    .v_stride = m->stride,
                    .type = c->type,
                    .pages = paged ? m->pages : NULL,
                    .page = c->page,
                    .first = c->first,
                    .end = c->end,
                    .hd = c->hd,
                    .n_q = c->n_q,
                    .scale = scale,
                    .softcap = c->softcap,
                    .y = y,
                    .lse = lse,
                    .score = score};
    kn->attend(&a);
    assert_true(score[(n + 15) / 16 * 16 * c->n_q] == GUARD);
    mem_free(score);
}

static void check_attend(attend_case c)
{
    i64 n = (i64)c.page * c.n_pages, size = (i64)c.hd * c.n_q;
    float *q = normals(size, 1), *k = normals(n * c.hd, 1), *v = normals(n * c.hd, 1);
    float *y = floats(size), *z = floats(size), *lse = floats(c.n_q), *other = floats(c.n_q), scale = 1.5f / sqrtf((float)c.hd);
    double *want = mem_array(double, c.hd), want_lse;
    for (i64 i = 0; c.type == F16 && i < n * c.hd; i++) k[i] = f16_to_f32(f32_to_f16(k[i])), v[i] = f16_to_f32(f32_to_f16(v[i]));
    cache flat = cache_make(&c, k, v, true), spread = cache_make(&c, k, v, false);
    attend_with(&levels[0], &c, &flat, q, scale, false, y, lse);
    for (int h = 0; h < c.n_q; h++) {
        attend_true(&c, q + h * c.hd, k, v, scale, want, &want_lse);
        is_near(lse[h], want_lse, 1e-6, 2e-6, "attend lse", (double)(c.end - c.first));
        for (int d = 0; d < c.hd; d++) is_near(y[h * c.hd + d], want[d], 0, 3e-6, "attend", (double)d);
    }
    assert_true(y[size] == GUARD && lse[c.n_q] == GUARD);
    for (int l = 0; l < n_levels; l++)
        for (int paged = 0; paged < 2; paged++) {
            attend_with(&levels[l], &c, paged ? &spread : &flat, q, scale, paged, z, other);
            same_bits(y, z, size + 1, paged ? "attend over scattered pages" : "attend", l);
            same_bits(lse, other, c.n_q + 1, "lse", l);
            attend_case one = c;
            one.n_q = 1; /* a head alone, and without lse */
            attend_with(&levels[l], &one, &spread, q + (c.n_q - 1) * c.hd, scale, true, z, NULL);
            same_bits(y + (c.n_q - 1) * c.hd, z, c.hd, "one head of attend", l);
        }
    cache_free(flat), cache_free(spread);
    mem_free(q), mem_free(k), mem_free(v), mem_free(y), mem_free(z), mem_free(lse), mem_free(other), mem_free(want);
}
static void test_attend(void **state)
{
    (void)state;
    static const int hds[] = {1, 15, 16, 20, 64, 80, 128, 256, 300};
    for (int i = 0; i < (int)COUNT_OF(hds); i++)
        for (int t = 0; t < 2; t++) {
            check_attend((attend_case){hds[i], 1 + i % 9, 16, 4, t ? F16 : F32, 0, 1 + 7 * i, 0});
            check_attend((attend_case){hds[i], 3, 7, 9, t ? F16 : F32, 5, 60, t ? 20.0f : 0});
        }
    for (int n_q = 1; n_q <= 17; n_q++) check_attend((attend_case){64, n_q, 32, 3, F16, 10, 90, 0});
    for (i32 end = 1; end <= 40; end++) check_attend((attend_case){16, 2, 8, 5, F32, 0, end, 0});
    check_attend((attend_case){128, 6, 64, 20, F16, 37, 1200, 0});
    check_attend((attend_case){5000, 2, 4, 2, F16, 1, 7, 0});
}
/* training: rows together and each alone, every level; more heads than a block has; true to what softmax is */
static void test_attend_train(void **state)
{
    (void)state;
    static const struct {
        int hd, n_q, rows;
        i32 first, end; /* of the first row; each later one sees 0 to 3 more */
        float softcap;
    } all[] = {{64, 3, 16, 0, 1, 0},   {64, 3, 13, 5, 200, 0}, {16, 1, 7, 3, 62, 0}, {128, 2, 20, 0, 30, 0},
               {256, 4, 12, 2, 90, 20}, {64, 100, 1, 0, 77, 0}, {32, 1, 1, 0, 1, 5}};
    for (usize i = 0; i < COUNT_OF(all); i++) {
        const int hd = all[i].hd, n_q = all[i].n_q, rows = all[i].rows;
        attend_case c = {hd, n_q, 1, 400, F32, all[i].first, all[i].end, all[i].softcap};
        i64 size = (i64)hd * n_q;
        float *q = normals(size * rows, 1), *k = normals(400 * hd, 1), *v = normals(400 * hd, 1), scale = 1.5f / sqrtf((float)hd);
        float *y = floats(size * rows), *z = floats(size * rows), *lse = floats(n_q * rows), *other = floats(n_q * rows), *first = floats(size * rows);
        double *want = mem_array(double, hd), want_lse;
        i32 ends[20];
        cache m = cache_make(&c, k, v, true);
        for (int r = 0; r < rows; r++) ends[r] = r ? ends[r - 1] + (i32)(rng_u64(&dice) % 4) : c.end;
        for (int l = 0; l < n_levels; l++) {
            i64 most = ends[rows - 1] - c.first;
            float *score = floats((most + 15) / 16 * 16 * n_q * rows);
            attend_row a = {.q = q, .k = m.k, .v = m.v, .k_stride = m.stride, .v_stride = m.stride, .type = F32, .first = c.first,
                            .end = ends[rows - 1], .hd = hd, .n_q = n_q, .scale = scale, .softcap = c.softcap, .y = y, .lse = lse,
                            .score = score, .n_rows = rows, .ends = ends, .train = true};
            levels[l].attend(&a);
            assert_true(score[(most + 15) / 16 * 16 * n_q * rows] == GUARD);
            for (int r = 0; r < rows; r++) {
                attend_row one = a;
                one.q += r * size, one.y = z + r * size, one.lse = other + r * n_q, one.n_rows = r % 2, one.end = ends[r];
                one.ends = &ends[r];
                levels[l].attend(&one);
            }
            same_bits(y, z, size * rows + 1, "rows of training's attention", l);
            same_bits(lse, other, n_q * rows + 1, "their lse", l);
            if (l) same_bits(first, y, size * rows, "training's attention", l);
            memcpy(first, y, sizeof *y * (usize)(size * rows));
            mem_free(score);
        }
        for (int r = 0; r < rows; r++)
            for (int h = 0; h < n_q; h++) {
                attend_case row = c;
                row.end = ends[r];
                attend_true(&row, q + r * size + h * hd, k, v, scale, want, &want_lse);
                is_near(lse[r * n_q + h], want_lse, 1e-6, 2e-6, "lse of training", (double)row.end);
                for (int d = 0; d < hd; d++) is_near(y[r * size + h * hd + d], want[d], 0, 3e-6, "training's attention", (double)d);
            }
        cache_free(m);
        mem_free(q), mem_free(k), mem_free(v), mem_free(y), mem_free(z), mem_free(lse), mem_free(other), mem_free(want), mem_free(first);
    }
}
static void test_attend_nothing(void **state)
{
    (void)state;
    attend_case c = {20, 3, 8, 2, F32, 4, 4, 0};
    cache m = {NULL, NULL, 80, NULL};
    for (int l = 0; l < n_levels; l++) {
        float *q = normals(60, 1), *y = floats(60), *lse = floats(3);
        attend_with(&levels[l], &c, &m, q, 1, false, y, lse);
        for (int i = 0; i < 60; i++) assert_true(y[i] == 0);
        assert_true(lse[0] == 0 && lse[2] == 0 && lse[3] == GUARD && y[60] == GUARD);
        mem_free(q), mem_free(y), mem_free(lse);
    }
}

int main(void)
{
    make_levels();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arithmetic),  cmocka_unit_test(test_act),           cmocka_unit_test(test_act_tails_and_glu),
        cmocka_unit_test(test_act_special), cmocka_unit_test(test_act_grad),      cmocka_unit_test(test_dot),
        cmocka_unit_test(test_norm),        cmocka_unit_test(test_softmax),       cmocka_unit_test(test_rope),
        cmocka_unit_test(test_from_16),     cmocka_unit_test(test_to_f16),        cmocka_unit_test(test_gemm),
        cmocka_unit_test(test_attend),      cmocka_unit_test(test_attend_train),  cmocka_unit_test(test_attend_nothing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
