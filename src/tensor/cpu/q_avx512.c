/* tensor/cpu/q_avx512.c - quantised dot products with AVX-512 VNNI: q_generic.c with eight rows in the lanes of one vector.
 * q_layout.h states layouts and arithmetic; every function here gives the same bits as the plain C. Activations are made by
 * the level below (q_avx2.c).
 *
 * The step is vpdpbusd on 256 bits: four unsigned codes times four signed activations, added to a 32-bit lane, exactly and
 * without saturation; the activations come from memory, broadcast by the load or by the instruction itself. Not on 512 bits:
 * two quads in a vector need a permutation for each pair of activations and, before every float operation, a shuffle to add
 * the halves; on Intel's cores these share one port with half of the products, and Zen 4 splits the vector anyway. Operations
 * for 32 values, 8 rows, one column of Q4_K: 14 in this form, 16 in the other (counted; no such machine was at hand to time).
 * What AVX-512 adds to AVX2 here is the instruction, its broadcast and 32 registers. Offsets of codes are the accumulators' first
 * value. Scales multiply as floats: products and sums of integers below 2^24 are exact, so the order of q_layout.h is kept to the
 * bit. MARU_EMULATE_AVX512 (tests only) compiles this file over SIMDe on any machine. */
#include "tensor/block.h"
#include "tensor/cpu/kern.h"
#include "tensor/cpu/q_layout.h"
#ifndef MARU_EMULATE_AVX512
#include <immintrin.h>
#define INLINE static inline __attribute__((always_inline))
#define PIN(v) __asm__("" : "+v"(v)) /* keeps compilers from reordering sums into more registers than there are */
#else
#define INLINE static inline
#define PIN(v) (void)0
#endif

#define TILE 4
#define AHEAD 2048

INLINE __m256i load(const void *p) { return _mm256_loadu_si256(p); }
INLINE __m256 halves(const void *h) { return _mm256_cvtph_ps(_mm_loadu_si128(h)); }
INLINE __m256i four(const void *p) /* 4 bytes in every lane */
{
    i32 v;
    memcpy(&v, p, 4);
    return _mm256_set1_epi32(v);
}
INLINE __m256 all(const void *f)
{
    float v;
    memcpy(&v, f, 4);
    return _mm256_set1_ps(v);
}
INLINE __m256 real(__m256i v) { return _mm256_cvtepi32_ps(v); }
INLINE __m256i mask8(__m256i v, int m) { return _mm256_and_si256(v, _mm256_set1_epi8((char)m)); }
INLINE __m256i low4(__m256i v) { return mask8(v, 15); }
INLINE __m256i high4(__m256i v) { return mask8(_mm256_srli_epi16(v, 4), 15); }
INLINE __m256 byte_of(__m256i v, int b) { return real(_mm256_and_si256(_mm256_srli_epi32(v, 8 * b), _mm256_set1_epi32(255))); }
INLINE __m256 signed_byte_of(__m256i v, int b) { return real(_mm256_srai_epi32(_mm256_slli_epi32(v, 24 - 8 * b), 24)); }
INLINE void ahead(const u8 *p, const int bytes)
{
    for (int i = 0; i < bytes; i += 64) _mm_prefetch((const char *)p + i, _MM_HINT_T0);
}
/* -16 or -32 times the sum of some activations, from their pair of 16-bit sums (kern.h) */
INLINE __m256i offset(const void *pair) { return _mm256_madd_epi16(four(pair), _mm256_set1_epi16(-1)); }

/* columns are addressed as base + offset, the offset shared: 16 integer registers do not hold four pointers for each of four */
typedef struct {
    usize d, s, o6, o5; /* where these parts of an activation row begin */
} parts;
INLINE parts parts_of(const u8 *x, i64 k)
{
    return (parts){(usize)((const u8 *)xq_d(x, k) - x), (usize)((const u8 *)xq_s(x, k) - x), (usize)((const u8 *)xq_o6(x, k) - x),
                   (usize)((const u8 *)xq_o5(x, k) - x)};
}

/* one quad of codes against n columns, `at` values into their rows */
INLINE void quad(__m256i codes, const u8 *const x[], i64 at, __m256i acc[], const int n)
{
    for (int c = 0; c < n; c++) {
        acc[c] = _mm256_dpbusd_epi32(acc[c], codes, four(x[c] + at));
        PIN(acc[c]);
    }
}
INLINE void nibbles(const u8 v[4][32], const u8 *const x[], i64 at, __m256i acc[], const int n)
{
    for (int p = 0; p < 4; p++) {
        __m256i w = load(v[p]);
        quad(low4(w), x, at + 4 * p, acc, n);
        quad(high4(w), x, at + 16 + 4 * p, acc, n);
    }
}

/* a whole group against n columns. first: weights come from memory, not from the cache */
#define TILE_ARGS const u8 *g, i64 k, const void *xq, usize stride, float *y, i64 y_stride, const int n, const bool first
#define TILE_START                                                                                                               \
    const u8 *x[TILE];                                                                                                           \
    __m256 sum[TILE];                                                                                                            \
    const parts at = parts_of(xq, k);                                                                                            \
    for (int c = 0; c < n; c++) x[c] = (const u8 *)xq + stride * (usize)c;                                                       \
    for (int c = 0; c < n; c++) sum[c] = _mm256_setzero_ps()
#define TILE_END                                                                                                                 \
    for (int c = 0; c < n; c++) _mm256_storeu_ps(y + c * y_stride, sum[c])

INLINE void tile_q8_0(TILE_ARGS)
{
    TILE_START;
    for (i64 b = 0; b < k / 32; b++) {
        const u8 *w = g + r8_values(Q8_0, b), *scales = g + r8_scales(Q8_0, b);
        __m256i acc[TILE], top = _mm256_set1_epi8((char)0x80);
        if (first) ahead(g + AHEAD + 272 * b, 272);
        for (int c = 0; c < n; c++) acc[c] = _mm256_slli_epi32(offset(x[c] + at.o5 + 4 * b), 3); /* codes are w + 128 */
        for (int p = 0; p < 8; p++) quad(_mm256_xor_si256(load(w + 32 * p), top), x, 32 * b + 4 * p, acc, n);
        __m256 d = halves(scales);
        for (int c = 0; c < n; c++) sum[c] += d * all(x[c] + at.d + 4 * b) * real(acc[c]);
    }
    TILE_END;
}

INLINE void tile_q4_0(TILE_ARGS)
{
    TILE_START;
    for (i64 b = 0; b < k / 32; b++) {
        const u8 *w = g + r8_values(Q4_0, b), *scales = g + r8_scales(Q4_0, b);
        __m256i acc[TILE];
        if (first) ahead(g + AHEAD + 144 * b, 144);
        for (int c = 0; c < n; c++) acc[c] = _mm256_srai_epi32(offset(x[c] + at.o5 + 4 * b), 1);
        nibbles((const u8(*)[32])w, x, 32 * b, acc, n);
        __m256 d = halves(scales);
        for (int c = 0; c < n; c++) sum[c] += d * all(x[c] + at.d + 4 * b) * real(acc[c]);
    }
    TILE_END;
}

INLINE void tile_q4_1(TILE_ARGS)
{
    TILE_START;
    for (i64 b = 0; b < k / 32; b++) {
        const u8 *w = g + r8_values(Q4_1, b), *scales = g + r8_scales(Q4_1, b);
        __m256i acc[TILE];
        if (first) ahead(g + AHEAD + 160 * b, 160);
        for (int c = 0; c < n; c++) acc[c] = _mm256_setzero_si256();
        nibbles((const u8(*)[32])w, x, 32 * b, acc, n);
        __m256 d = halves(scales), m = halves(scales + 16);
        for (int c = 0; c < n; c++) sum[c] += d * all(x[c] + at.d + 4 * b) * real(acc[c]) + m * all(x[c] + at.s + 4 * b);
    }
    TILE_END;
}

INLINE void fives(const u8 v[4][32], const u8 more[32], const u8 *const x[], i64 at, __m256i acc[], const int n)
{
    __m256i bits = load(more);
    for (int p = 0; p < 4; p++) {
        __m256i w = load(v[p]);
        quad(_mm256_or_si256(low4(w), mask8(_mm256_slli_epi16(bits, 4 - p), 16)), x, at + 4 * p, acc, n);
        quad(_mm256_or_si256(high4(w), mask8(_mm256_srli_epi16(bits, p), 16)), x, at + 16 + 4 * p, acc, n);
    }
}
INLINE void tile_q5_0(TILE_ARGS)
{
    TILE_START;
    for (i64 b = 0; b < k / 32; b++) {
        const r8_q5_0 *w = (const r8_q5_0 *)(g + r8_values(Q5_0, b));
        __m256i acc[TILE];
        if (first) ahead(g + AHEAD + 176 * b, 176);
        for (int c = 0; c < n; c++) acc[c] = offset(x[c] + at.o5 + 4 * b);
        fives(w->nibbles, w->bits, x, 32 * b, acc, n);
        __m256 d = halves(g + r8_scales(Q5_0, b));
        for (int c = 0; c < n; c++) sum[c] += d * all(x[c] + at.d + 4 * b) * real(acc[c]);
    }
    TILE_END;
}
INLINE void tile_q5_1(TILE_ARGS)
{
    TILE_START;
    for (i64 b = 0; b < k / 32; b++) {
        const r8_q5_0 *w = (const r8_q5_0 *)(g + r8_values(Q5_1, b));
        __m256i acc[TILE];
        if (first) ahead(g + AHEAD + 192 * b, 192);
        for (int c = 0; c < n; c++) acc[c] = _mm256_setzero_si256();
        fives(w->nibbles, w->bits, x, 32 * b, acc, n);
        __m256 d = halves(g + r8_scales(Q5_1, b)), m = halves(g + r8_scales(Q5_1, b) + 16);
        for (int c = 0; c < n; c++) sum[c] += d * all(x[c] + at.d + 4 * b) * real(acc[c]) + m * all(x[c] + at.s + 4 * b);
    }
    TILE_END;
}

/* scales and minima of Q4_K and Q5_K: bytes, four sub-blocks in a vector */
INLINE void scales_lines(const u32 words[3][8], __m256i sc[2], __m256i mn[2])
{
    __m256i w0 = load(words[0]), w1 = load(words[1]), w2 = load(words[2]);
    sc[0] = mask8(w0, 63), sc[1] = _mm256_or_si256(low4(w2), mask8(_mm256_srli_epi16(w0, 2), 48));
    mn[0] = mask8(w1, 63), mn[1] = _mm256_or_si256(high4(w2), mask8(_mm256_srli_epi16(w1, 2), 48));
}
INLINE void tile_q4_k(TILE_ARGS)
{
    const r8_q4_k *w = (const r8_q4_k *)g;
    TILE_START;
    for (i64 b = 0; b < k / 256; b++, w++) {
        __m256i sc[2], mn[2];
        __m256 a[TILE], m[TILE];
        scales_lines(w->scales, sc, mn);
        for (int c = 0; c < n; c++) a[c] = m[c] = _mm256_setzero_ps();
        for (int j = 0; j < 8; j++) {
            __m256i acc[TILE];
            __m256 scale = byte_of(sc[j / 4], j % 4), low = byte_of(mn[j / 4], j % 4);
            if (first) ahead(g + AHEAD + 1152 * b + 144 * j, 144);
            for (int c = 0; c < n; c++) acc[c] = _mm256_setzero_si256();
            nibbles(w->nibbles[j], x, 256 * b + 32 * j, acc, n);
            for (int c = 0; c < n; c++) {
                a[c] += all(x[c] + at.d + 32 * b + 4 * j) * (scale * real(acc[c]));
                m[c] += low * all(x[c] + at.s + 32 * b + 4 * j);
            }
        }
        __m256 d = halves(w->d), dmin = halves(w->dmin);
        for (int c = 0; c < n; c++) sum[c] += d * a[c] - dmin * m[c];
    }
    TILE_END;
}
INLINE void tile_q5_k(TILE_ARGS)
{
    const r8_q5_k *w = (const r8_q5_k *)g;
    TILE_START;
    for (i64 b = 0; b < k / 256; b++, w++) {
        __m256i sc[2], mn[2];
        __m256 a[TILE], m[TILE];
        scales_lines(w->scales, sc, mn);
        for (int c = 0; c < n; c++) a[c] = m[c] = _mm256_setzero_ps();
        for (int j = 0; j < 8; j++) {
            __m256i acc[TILE];
            __m256 scale = byte_of(sc[j / 4], j % 4), low = byte_of(mn[j / 4], j % 4);
            if (first) ahead(g + AHEAD + 1408 * b + 176 * j, 176);
            for (int c = 0; c < n; c++) acc[c] = _mm256_setzero_si256();
            fives(w->block[j].nibbles, w->block[j].bits, x, 256 * b + 32 * j, acc, n);
            for (int c = 0; c < n; c++) {
                a[c] += all(x[c] + at.d + 32 * b + 4 * j) * (scale * real(acc[c]));
                m[c] += low * all(x[c] + at.s + 32 * b + 4 * j);
            }
        }
        __m256 d = halves(w->d), dmin = halves(w->dmin);
        for (int c = 0; c < n; c++) sum[c] += d * a[c] - dmin * m[c];
    }
    TILE_END;
}

/* acc = sums of (code - 32) * q over the quads of half h */
INLINE void half_q6_k(const u8 v[4][32], const u8 pairs[32], const u8 *const x[], i64 at, usize o6, __m256i acc[], const int h,
                      const int n)
{
    __m256i p = load(pairs);
    for (int c = 0; c < n; c++) acc[c] = offset(x[c] + o6 + 4 * h);
    for (int t = 0; t < 4; t++) {
        __m256i top = t < 2 ? _mm256_slli_epi16(p, 4 - 2 * t) : _mm256_srli_epi16(p, 2 * t - 4), w = load(v[t]);
        quad(_mm256_or_si256(h ? high4(w) : low4(w), mask8(top, 48)), x, at + 16 * h + 4 * t, acc, n);
    }
}
INLINE void tile_q6_k(TILE_ARGS)
{
    TILE_START;
    for (i64 b = 0; b < k / 256; b++) {
        const r8_q6_k *w = (const r8_q6_k *)(g + r8_values(Q6_K, b));
        __m256 a[TILE];
        for (int c = 0; c < n; c++) a[c] = _mm256_setzero_ps();
        for (int j = 0; j < 8; j++) {
            __m256i even[TILE], odd[TILE], sc = load(w->scales[j / 2]);
            __m256 scale = signed_byte_of(sc, j % 2 * 2), scale_odd = signed_byte_of(sc, j % 2 * 2 + 1);
            i64 q = 256 * b + 32 * j;
            usize o6 = at.o6 + 64 * (usize)b + 8 * (usize)j;
            if (first) ahead(g + AHEAD + 1680 * b + 210 * j, 210);
            half_q6_k(w->block[j].nibbles, w->block[j].pairs[0], x, q, o6, even, 0, n);
            half_q6_k(w->block[j].nibbles, w->block[j].pairs[1], x, q, o6, odd, 1, n);
            for (int c = 0; c < n; c++)
                a[c] += all(x[c] + at.d + 32 * b + 4 * j) * (scale * real(even[c]) + scale_odd * real(odd[c]));
        }
        __m256 d = halves(g + r8_scales(Q6_K, b));
        for (int c = 0; c < n; c++) sum[c] += d * a[c];
    }
    TILE_END;
}

/* ---- few bits: Q3_K, Q2_K ---------------------------------------------------------------------------------------------------
 */
INLINE __m256i code2(__m256i pairs, const int t) { return mask8(_mm256_srli_epi16(pairs, 2 * t), 3); }
INLINE __m256i code3(__m256i pairs, __m256i bits, const int q)
{
    return _mm256_or_si256(code2(pairs, q % 4),
                           mask8(q < 2 ? _mm256_slli_epi16(bits, 2 - q) : _mm256_srli_epi16(bits, q - 2), 4));
}
INLINE void scales_q3_k(const u32 words[3][8], __m256i sc[4]) /* less 32, signed */
{
    __m256i w0 = load(words[0]), w1 = load(words[1]), w2 = load(words[2]), middle = _mm256_set1_epi8(32);
    sc[0] = _mm256_or_si256(low4(w0), mask8(_mm256_slli_epi16(w2, 4), 48));
    sc[1] = _mm256_or_si256(low4(w1), mask8(_mm256_slli_epi16(w2, 2), 48));
    sc[2] = _mm256_or_si256(high4(w0), mask8(w2, 48));
    sc[3] = _mm256_or_si256(high4(w1), mask8(_mm256_srli_epi16(w2, 2), 48));
    for (int i = 0; i < 4; i++) sc[i] = _mm256_sub_epi8(sc[i], middle);
}
INLINE void tile_q3_k(TILE_ARGS)
{
    TILE_START;
    for (i64 b = 0; b < k / 256; b++) {
        const r8_q3_k *w = (const r8_q3_k *)(g + r8_values(Q3_K, b));
        __m256i sc[4];
        __m256 a[TILE];
        scales_q3_k(w->scales, sc);
        for (int c = 0; c < n; c++) a[c] = _mm256_setzero_ps();
#pragma GCC unroll 2
        for (int j = 0; j < 8; j++) {
            __m256i half[2][TILE], bits = load(w->block[j].bits);
            i64 q = 256 * b + 32 * j;
            if (first) ahead(g + AHEAD + 880 * b + 110 * j, 110);
#pragma GCC unroll 2
            for (int h = 0; h < 2; h++) {
                __m256i pairs = load(w->block[j].pairs[h]);
                for (int c = 0; c < n; c++) /* an eighth of 32 times the sum */
                    half[h][c] = _mm256_srai_epi32(offset(x[c] + at.o6 + 64 * (usize)b + 8 * (usize)j + 4 * (usize)h), 3);
#pragma GCC unroll 4
                for (int t = 0; t < 4; t++) quad(code3(pairs, bits, 4 * h + t), x, q + 16 * h + 4 * t, half[h], n);
            }
            __m256 scale = signed_byte_of(sc[j / 2], j % 2 * 2), scale_odd = signed_byte_of(sc[j / 2], j % 2 * 2 + 1);
            for (int c = 0; c < n; c++)
                a[c] += all(x[c] + at.d + 32 * b + 4 * j) * (scale * real(half[0][c]) + scale_odd * real(half[1][c]));
        }
        __m256 d = halves(g + r8_scales(Q3_K, b));
        for (int c = 0; c < n; c++) sum[c] += d * a[c];
    }
    TILE_END;
}
INLINE void tile_q2_k(TILE_ARGS)
{
    const r8_q2_k *w = (const r8_q2_k *)g;
    TILE_START;
    for (i64 b = 0; b < k / 256; b++, w++) {
        __m256 a[TILE], m[TILE];
        for (int c = 0; c < n; c++) a[c] = m[c] = _mm256_setzero_ps();
#pragma GCC unroll 2
        for (int j = 0; j < 8; j++) {
            __m256i half[2][TILE], both = load(w->scales[j / 2]);
            __m256 scale[2], low[2];
            i64 q = 256 * b + 32 * j;
            if (first) ahead(g + AHEAD + 672 * b + 84 * j, 84);
#pragma GCC unroll 2
            for (int h = 0; h < 2; h++) {
                __m256i pairs = load(w->pairs[j][h]);
                scale[h] = byte_of(low4(both), j % 2 * 2 + h), low[h] = byte_of(high4(both), j % 2 * 2 + h);
                for (int c = 0; c < n; c++) half[h][c] = _mm256_setzero_si256();
#pragma GCC unroll 4
                for (int t = 0; t < 4; t++) quad(code2(pairs, t), x, q + 16 * h + 4 * t, half[h], n);
            }
            for (int c = 0; c < n; c++) { /* integers below 2^24 throughout */
                const u8 *sums = x[c] + at.o6 + 64 * (usize)b + 8 * (usize)j;
                __m256 dx = all(x[c] + at.d + 32 * b + 4 * j);
                a[c] += dx * (scale[0] * real(half[0][c]) + scale[1] * real(half[1][c]));
                m[c] += dx * (low[0] * -real(offset(sums)) + low[1] * -real(offset(sums + 4)));
            }
        }
        __m256 d = halves(w->d), dmin = halves(w->dmin) * _mm256_set1_ps(0.03125f);
        for (int c = 0; c < n; c++) sum[c] += d * a[c] - dmin * m[c];
    }
    TILE_END;
}

/* ---- tables: IQ4_NL, IQ4_XS, MXFP4; levels are counted from -128 or -12 so that they are unsigned ----------------------------
 */
#define TWICE(...)                                                                                                               \
    {                                                                                                                            \
        __VA_ARGS__, __VA_ARGS__                                                                                                 \
    }
static const u8 iq4_twice[32] __attribute__((aligned(32))) =
    TWICE(1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241);
static const u8 mxfp4_twice[32] __attribute__((aligned(32))) = TWICE(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0);
INLINE void table_quads(const u8 table[32], const u8 v[4][32], const u8 *const x[], i64 at, __m256i acc[], const int n)
{
    __m256i t = load(table);
    for (int p = 0; p < 4; p++) {
        __m256i w = load(v[p]);
        quad(_mm256_shuffle_epi8(t, low4(w)), x, at + 4 * p, acc, n);
        quad(_mm256_shuffle_epi8(t, high4(w)), x, at + 16 + 4 * p, acc, n);
    }
}
INLINE void tile_iq4_nl(TILE_ARGS)
{
    TILE_START;
    for (i64 b = 0; b < k / 32; b++) {
        __m256i acc[TILE];
        if (first) ahead(g + AHEAD + 144 * b, 144);
        for (int c = 0; c < n; c++) acc[c] = _mm256_slli_epi32(offset(x[c] + at.o5 + 4 * b), 3);
        table_quads(iq4_twice, (const u8(*)[32])(g + r8_values(IQ4_NL, b)), x, 32 * b, acc, n);
        __m256 d = halves(g + r8_scales(IQ4_NL, b));
        for (int c = 0; c < n; c++) sum[c] += d * all(x[c] + at.d + 4 * b) * real(acc[c]);
    }
    TILE_END;
}
INLINE void tile_iq4_xs(TILE_ARGS)
{
    const r8_iq4_xs *w = (const r8_iq4_xs *)g;
    TILE_START;
    for (i64 b = 0; b < k / 256; b++, w++) {
        __m256i low = load(w->scales_low), high = _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)w->scales_high));
        __m256 a[TILE];
        for (int c = 0; c < n; c++) a[c] = _mm256_setzero_ps();
        for (int j = 0; j < 8; j++) {
            __m256i acc[TILE];
            if (first) ahead(g + AHEAD + 1088 * b + 136 * j, 136);
            __m256i sc = _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi32(15)),
                                         _mm256_slli_epi32(_mm256_and_si256(high, _mm256_set1_epi32(3)), 4));
            __m256 scale = real(_mm256_sub_epi32(sc, _mm256_set1_epi32(32)));
            low = _mm256_srli_epi32(low, 4), high = _mm256_srli_epi32(high, 2);
            for (int c = 0; c < n; c++) acc[c] = _mm256_slli_epi32(offset(x[c] + at.o5 + 32 * b + 4 * j), 3);
            table_quads(iq4_twice, w->nibbles[j], x, 256 * b + 32 * j, acc, n);
            for (int c = 0; c < n; c++) a[c] += all(x[c] + at.d + 32 * b + 4 * j) * (scale * real(acc[c]));
        }
        __m256 d = halves(w->d);
        for (int c = 0; c < n; c++) sum[c] += d * a[c];
    }
    TILE_END;
}
INLINE __m256 powers(const void *e) /* 2^(e - 128) */
{
    __m256i v = _mm256_cvtepu8_epi32(_mm_loadl_epi64(e)), one = _mm256_set1_epi32(1);
    __m256i tiny = _mm256_sllv_epi32(_mm256_set1_epi32(0x00200000), v), usual = _mm256_slli_epi32(_mm256_sub_epi32(v, one), 23);
    return _mm256_castsi256_ps(_mm256_blendv_epi8(tiny, usual, _mm256_cmpgt_epi32(v, one)));
}
INLINE void tile_mxfp4(TILE_ARGS)
{
    TILE_START;
    for (i64 b = 0; b < k / 32; b++) {
        __m256i acc[TILE];
        if (first) ahead(g + AHEAD + 136 * b, 136);
        for (int c = 0; c < n; c++) { /* three quarters of 16 times the sum */
            __m256i less = offset(x[c] + at.o5 + 4 * b);
            acc[c] = _mm256_sub_epi32(less, _mm256_srai_epi32(less, 2));
        }
        table_quads(mxfp4_twice, (const u8(*)[32])(g + r8_values(MXFP4, b)), x, 32 * b, acc, n);
        __m256 d = powers(g + r8_scales(MXFP4, b));
        for (int c = 0; c < n; c++) sum[c] += d * all(x[c] + at.d + 4 * b) * real(acc[c]);
    }
    TILE_END;
}

#define DOT(type)                                                                                                                \
    static void dot_##type(const void *group, i64 k, const void *xq, usize stride, int n_cols, float *y, i64 y_stride)           \
    {                                                                                                                            \
        const u8 *g = group, *x = xq;                                                                                            \
        int c = 0;                                                                                                               \
        if (n_cols >= TILE) tile_##type(g, k, x, stride, y, y_stride, TILE, true), c = TILE;                                     \
        for (; c + TILE <= n_cols; c += TILE)                                                                                    \
            tile_##type(g, k, x + stride * (usize)c, stride, y + c * y_stride, y_stride, TILE, false);                           \
        x += stride * (usize)c, y += c * y_stride;                                                                               \
        switch (n_cols - c) {                                                                                                    \
        case 1: tile_##type(g, k, x, stride, y, y_stride, 1, true); break;                                                       \
        case 2: tile_##type(g, k, x, stride, y, y_stride, 2, true); break;                                                       \
        case 3: tile_##type(g, k, x, stride, y, y_stride, 3, true); break;                                                       \
        }                                                                                                                        \
    }
DOT(q8_0)
DOT(q4_0)
DOT(q4_1)
DOT(q5_0)
DOT(q4_k)
DOT(q6_k)
DOT(q5_1)
DOT(q5_k)
DOT(q3_k)
DOT(q2_k)
DOT(iq4_nl)
DOT(iq4_xs)
DOT(mxfp4)

void kern_q_avx512(kern *t)
{
    t->qdot[Q8_0] = dot_q8_0, t->qdot[Q4_0] = dot_q4_0, t->qdot[Q4_1] = dot_q4_1;
    t->qdot[Q5_0] = dot_q5_0, t->qdot[Q4_K] = dot_q4_k, t->qdot[Q6_K] = dot_q6_k;
    t->qdot[Q5_1] = dot_q5_1, t->qdot[Q5_K] = dot_q5_k, t->qdot[Q3_K] = dot_q3_k, t->qdot[Q2_K] = dot_q2_k;
    t->qdot[IQ4_NL] = dot_iq4_nl, t->qdot[IQ4_XS] = dot_iq4_xs, t->qdot[MXFP4] = dot_mxfp4;
}
