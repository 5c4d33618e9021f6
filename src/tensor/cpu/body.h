/* tensor/cpu/body.h - the vectors that body_*.c are written in, and float functions on them. One source, compiled once for each
 * instruction set. W is the width of that set's registers; whatever depends on the order of additions is written for 16 lanes
 * (LANES = 16 / W registers), so the results have the same bits everywhere: no fused multiply-add, no reciprocal estimates,
 * no reassociation. Why not one 64-byte vector type: gcc keeps such variables in memory where registers are shorter.
 * NaN goes through every function, its payload is not defined. */
#ifndef MARU_CPU_BODY_H
#define MARU_CPU_BODY_H
#include "tensor/cpu/kern.h"
#include <immintrin.h>
#include <math.h>

#define BODY_PASTE_(name, isa) name##_##isa
#define BODY_PASTE(name, isa) BODY_PASTE_(name, isa)
#define BODY(name) BODY_PASTE(name, ISA) /* kern_body_rows_avx2 */
#define INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED
#endif
#elif defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
#define SANITIZED
#endif
#ifdef SANITIZED /* speed does not matter, and checks on every unrolled access take minutes to compile */
#define UNROLLED(i, n) for (int i = 0; i < (n); i++)
#elif defined __clang__
#define UNROLLED(i, n) _Pragma("clang loop unroll(full)") for (int i = 0; i < (n); i++)
#else
#define UNROLLED(i, n) _Pragma("GCC unroll 16") for (int i = 0; i < (n); i++)
#endif

#if defined ISA_avx512
#define W 16
#define EVERY_OTHER(from)                                                                                                        \
    (from), (from) + 2, (from) + 4, (from) + 6, (from) + 8, (from) + 10, (from) + 12, (from) + 14, (from) + 16, (from) + 18,     \
        (from) + 20, (from) + 22, (from) + 24, (from) + 26, (from) + 28, (from) + 30
#define RIFFLE(from)                                                                                                             \
    (from), (from) + 16, (from) + 1, (from) + 17, (from) + 2, (from) + 18, (from) + 3, (from) + 19, (from) + 4, (from) + 20,     \
        (from) + 5, (from) + 21, (from) + 6, (from) + 22, (from) + 7, (from) + 23
#elif defined ISA_avx2
#define W 8
#define EVERY_OTHER(from) (from), (from) + 2, (from) + 4, (from) + 6, (from) + 8, (from) + 10, (from) + 12, (from) + 14
#define RIFFLE(from) (from), (from) + 8, (from) + 1, (from) + 9, (from) + 2, (from) + 10, (from) + 3, (from) + 11
#else
#define W 4
#define EVERY_OTHER(from) (from), (from) + 2, (from) + 4, (from) + 6
#define RIFFLE(from) (from), (from) + 4, (from) + 1, (from) + 5
#endif
#define LANES (16 / W)

typedef float vf __attribute__((vector_size(4 * W)));
typedef i32 vi __attribute__((vector_size(4 * W)));
typedef double vd __attribute__((vector_size(4 * W))); /* W / 2 doubles */
typedef float v4 __attribute__((vector_size(16)));
typedef float vf_any __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef float v4_any __attribute__((vector_size(16), aligned(4), may_alias));

INLINE vf load(const float *p) { return *(const vf_any *)p; }
#define HOLD(v) __asm__("" : "+v"(v)) /* in a register: gcc would rather load it again for every use */
INLINE void store(float *p, vf v) { *(vf_any *)p = v; }
INLINE vf all(float f) { return f - (vf){0}; }
INLINE vf pick(vi where, vf a, vf b) { return (vf)((where & (vi)a) | (~where & (vi)b)); }
INLINE vf absolute(vf x) { return (vf)((vi)x & 0x7fffffff); }
INLINE vf load_some(const float *p, i64 n) /* n < W; zeros behind */
{
    float t[W] = {0};
    for (i64 i = 0; i < n; i++) t[i] = p[i];
    return load(t);
}
INLINE void store_some(float *p, vf v, i64 n)
{
    float t[W];
    store(t, v);
    for (i64 i = 0; i < n; i++) p[i] = t[i];
}
/* n < 16; out of line, since it is rare and would be unrolled everywhere */
static __attribute__((noinline, unused)) void pad16(float t[16], const float *p, i64 n, float rest)
{
    for (i64 i = 0; i < 16; i++) t[i] = i < n ? p[i] : rest;
}

/* the greater; when one is NaN, b */
#if W == 16
INLINE vf greater(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE vf lesser(vf a, vf b) { return (vf)_mm512_min_ps((__m512)a, (__m512)b); }
INLINE vf root(vf x) { return (vf)_mm512_sqrt_ps((__m512)x); }
INLINE vd low_half(vf x) { return (vd)_mm512_cvtps_pd(_mm512_castps512_ps256((__m512)x)); }
INLINE vd high_half(vf x) { return (vd)_mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)x, 1)); }
INLINE v4 fold4(const vf s[LANES])
{
    __m256 t = _mm256_add_ps(_mm512_castps512_ps256((__m512)s[0]), _mm512_extractf32x8_ps((__m512)s[0], 1));
    return (v4)_mm_add_ps(_mm256_castps256_ps128(t), _mm256_extractf128_ps(t, 1));
}
#elif W == 8
INLINE vf greater(vf a, vf b) { return (vf)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE vf lesser(vf a, vf b) { return (vf)_mm256_min_ps((__m256)a, (__m256)b); }
INLINE vf root(vf x) { return (vf)_mm256_sqrt_ps((__m256)x); }
INLINE vd low_half(vf x) { return (vd)_mm256_cvtps_pd(_mm256_castps256_ps128((__m256)x)); }
INLINE vd high_half(vf x) { return (vd)_mm256_cvtps_pd(_mm256_extractf128_ps((__m256)x, 1)); }
INLINE v4 fold4(const vf s[LANES])
{
    __m256 t = (__m256)(s[0] + s[1]);
    return (v4)_mm_add_ps(_mm256_castps256_ps128(t), _mm256_extractf128_ps(t, 1));
}
#else
INLINE vf greater(vf a, vf b) { return (vf)_mm_max_ps((__m128)a, (__m128)b); }
INLINE vf lesser(vf a, vf b) { return (vf)_mm_min_ps((__m128)a, (__m128)b); }
INLINE vf root(vf x) { return (vf)_mm_sqrt_ps((__m128)x); }
INLINE vd low_half(vf x) { return (vd)_mm_cvtps_pd((__m128)x); }
INLINE vd high_half(vf x) { return (vd)_mm_cvtps_pd(_mm_movehl_ps((__m128)x, (__m128)x)); }
INLINE v4 fold4(const vf s[LANES]) { return (s[0] + s[2]) + (s[1] + s[3]); }
#endif

/* The fixed order of a sum of 16 floats: lanes i and i+8, then i and i+4, i and i+2, 0 and 1. fold4 makes the first two steps;
 * sum_4 finishes four sums at once. */
INLINE float sum_1(v4 a) { return (a[0] + a[2]) + (a[1] + a[3]); }
INLINE v4 sum_4(v4 a, v4 b, v4 c, v4 d)
{
    __m128 ab = _mm_add_ps(_mm_unpacklo_ps((__m128)a, (__m128)b), _mm_unpackhi_ps((__m128)a, (__m128)b)); /* a02 b02 a13 b13 */
    __m128 cd = _mm_add_ps(_mm_unpacklo_ps((__m128)c, (__m128)d), _mm_unpackhi_ps((__m128)c, (__m128)d));
    return (v4)_mm_add_ps(_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab));
}

/* s += a b, the last values padded with zeros; a row in pieces is the same sum if all pieces but the last are whole 16s */
INLINE void dot_add(vf s[LANES], const float *a, const float *b, i64 n)
{
    i64 i = 0;
    for (; i + 16 <= n; i += 16) { UNROLLED(j, LANES) s[j] += load(a + i + j * W) * load(b + i + j * W); }
    if (i < n) {
        float ta[16], tb[16];
        pad16(ta, a + i, n - i, 0), pad16(tb, b + i, n - i, 0);
        UNROLLED(j, LANES) s[j] += load(ta + j * W) * load(tb + j * W);
    }
}

/* Sums over a row that may be long run in 8 partial sums of doubles: lanes i and i+8 are added first, then to the partial sum. */
typedef struct {
    vd part[LANES];
} sum8;
typedef struct {
    vd half[2 * LANES];
} wide16;
INLINE wide16 widen(const vf x[LANES])
{
    wide16 w;
    UNROLLED(i, LANES) w.half[2 * i] = low_half(x[i]), w.half[2 * i + 1] = high_half(x[i]);
    return w;
}
INLINE void sum8_add(sum8 *s, wide16 w) { UNROLLED(i, LANES) s->part[i] += w.half[i] + w.half[i + LANES]; }
INLINE double sum8_total(const sum8 *s)
{
    double t[8];
    memcpy(t, s->part, sizeof t);
    return ((t[0] + t[4]) + (t[2] + t[6])) + ((t[1] + t[5]) + (t[3] + t[7]));
}

/* ---- functions; polynomials are minimax fits of relative error below 2e-8, in powers from low to high -------------------- */
/* e^x = 2^n e^r, |r| <= ln2/2. Relative error 1e-7 down to 2^-126, then gradual underflow to 0; overflow to infinity. */
INLINE vf v_exp(vf x)
{
    const float round = 0x1.8p23f; /* added and taken away: the nearest integer, in the low bits of the sum */
    x = lesser(all(89.0f), greater(all(-104.0f), x));
    vf t = x * 1.44269504f + round, n = t - round;
    vf r = (x - n * 0x1.63p-1f) + n * 2.12194440e-4f; /* ln 2 in two parts, the first exact times n */
    vf q = r * r, p = (r * 8.368992247e-3f + 4.166841507e-2f) + q * 1.381402719e-3f; /* in pairs: a shorter chain than Horner's */
    p = ((r * 1.666651815e-1f + 4.999999404e-1f) + q * p) * q + r + 1.0f;
    vi whole = (vi)t - 0x4b400000, half = whole >> 1; /* in two steps, so that 2^128 and 2^-149 are reached */
    return p * (vf)((half + 127) << 23) * (vf)((whole - half + 127) << 23);
}
INLINE vf v_sigmoid(vf x) { return 1.0f / (v_exp(-x) + 1.0f); }
/* an odd polynomial near 0, where 1 - 2 / (e^2x + 1) would cancel */
INLINE vf v_tanh(vf x)
{
    vf a = absolute(x), u = x * x;
    vf small =
        ((((u * -5.704987328e-3f + 2.063908800e-2f) * u - 5.373971537e-2f) * u + 1.333144158e-1f) * u - 3.333328068e-1f) * u * a +
        a;
    vf big = 1.0f - 2.0f / (v_exp(a + a) + 1.0f);
    return (vf)((vi)pick(a < 0.625f, small, big) | ((vi)x & (i32)0x80000000));
}
/* The normal distribution function (1 + erf(x / sqrt 2)) / 2. Its lower tail is e^(-x^2/2) R(|x|), with R(a) (a + 2.5) a
 * polynomial in (a - 2.5) / (a + 2.5): no cancellation on the negative side. gauss gets e^(-x^2/2). */
INLINE vf v_phi(vf x, vf *gauss)
{
    vf a = lesser(all(15.0f), absolute(x)), sq = a * a;
    vf h = (vf)((vi)a & (i32)0xfffff000), l = a - h; /* what rounding took from the square: */
    vf lost = ((h * h - sq) + (h + h) * l) + l * l;
    vf e = v_exp(sq * -0.5f), r = 1.0f / (a + 2.5f), q = 1.0f - 5.0f * r;
    e = e - e * (lost * 0.5f);
    vf p = (((q * -1.577023504e-4f - 3.116228618e-4f) * q + 6.844127201e-4f) * q + 2.523932839e-3f) * q - 1.600830117e-3f;
    p = ((((p * q - 1.638618484e-2f) * q + 9.235875681e-3f) * q + 1.319869757e-1f) * q - 4.336920083e-1f) * q + 7.066566348e-1f;
    vf tail = e * (r * p);
    *gauss = e;
    return pick(x > 0.0f, 1.0f - tail, tail);
}

/* ---- 16-bit floats ----------------------------------------------------------------------------------------------------- */
#if W == 16
INLINE vf load_half(const u16 *p) { return (vf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p)); }
INLINE void store_half(u16 *p, vf x) { _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtps_ph((__m512)x, 0)); }
#elif W == 8
INLINE vf load_half(const u16 *p) { return (vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p)); }
INLINE void store_half(u16 *p, vf x) { _mm_storeu_si128((__m128i *)(void *)p, _mm256_cvtps_ph((__m256)x, 0)); }
#else
/* as the conversion instructions do it: nearest even, NaN made quiet */
INLINE vf load_half(const u16 *p)
{
    vi h = (vi)_mm_unpacklo_epi16(_mm_loadl_epi64((const __m128i *)(const void *)p), _mm_setzero_si128());
    vi rest = h & 0x7fff, wide = (vi)((vf)(rest << 13) * 0x1p112f); /* exact, subnormals too */
    vi odd = (rest > 0x7bff) & 0x7f800000, quiet = (rest > 0x7c00) & 0x400000;
    return (vf)(wide | odd | quiet | ((h & 0x8000) << 16));
}
INLINE void store_half(u16 *p, vf x)
{
    vi u = (vi)x, a = u & 0x7fffffff, sign = (u >> 16) & 0x8000;
    vi usual = (a + 0xfff + ((a >> 13) & 1) - (112 << 23)) >> 13;
    vi tiny = (vi)((vf)a + 0.5f) - 0x3f000000; /* the addition rounds to multiples of 2^-24 */
    vf h = pick(a < 0x38800000, (vf)tiny, (vf)usual);
    h = pick(a >= 0x47800000, (vf)((vi){0} + 0x7c00), h);
    h = pick(a > 0x7f800000, (vf)(0x7e00 | ((a >> 13) & 0x3ff)), h);
    vi out = (((vi)h | sign) << 16) >> 16; /* sign-extended: packing saturates */
    _mm_storel_epi64((__m128i *)(void *)p, _mm_packs_epi32((__m128i)out, (__m128i)out));
}
#endif
INLINE void half_to_float(float *y, const u16 *x, i64 n)
{
    i64 i = 0;
    for (; i + W <= n; i += W) store(y + i, load_half(x + i));
    if (i == n) return;
    u16 t[W] = {0};
    for (i64 j = i; j < n; j++) t[j - i] = x[j];
    store_some(y + i, load_half(t), n - i);
}

/* ---- softmax, shared by rows and attention ------------------------------------------------------------------------------- */
INLINE float row_max(const float *x, i64 n) /* NaN is passed over; -inf when empty */
{
    vf m = all(-INFINITY);
    i64 i = 0;
    for (; i + W <= n; i += W) m = greater(load(x + i), m);
    float top = -INFINITY;
    for (int j = 0; j < W; j++) top = m[j] > top ? m[j] : top;
    for (; i < n; i++) top = x[i] > top ? x[i] : top;
    return top;
}
/* y = e^(x - shift) unless y is NULL; returns the sum */
INLINE double row_exp(float *y, const float *x, float shift, i64 n)
{
    sum8 s = {0};
    vf e[LANES];
    i64 i = 0;
    for (; i + 16 <= n; i += 16) {
        UNROLLED(j, LANES) e[j] = v_exp(load(x + i + j * W) - shift);
        if (y) { UNROLLED(j, LANES) store(y + i + j * W, e[j]); }
        sum8_add(&s, widen(e));
    }
    if (i < n) {
        float t[16];
        pad16(t, x + i, n - i, -INFINITY);
        UNROLLED(j, LANES) e[j] = v_exp(load(t + j * W) - shift), store(t + j * W, e[j]);
        for (i64 j = 0; y && j < n - i; j++) y[i + j] = t[j];
        sum8_add(&s, widen(e));
    }
    return sum8_total(&s);
}
/* an infinite maximum is not subtracted: infinity and -infinity come out as themselves */
INLINE float row_shift(const float *x, i64 n)
{
    float top = row_max(x, n);
    return top - top == 0 ? top : 0;
}

/* ---- matrix product of the same instruction set, body_gemm.c; the contract stands in kern.h -------------------------------- */
void BODY(body_gemm)(const float *w, i64 w_stride, int n_rows, const float *x, i64 x_stride, int n_cols, i64 k, float *y,
                     i64 y_stride);
#endif
