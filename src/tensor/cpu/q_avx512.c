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

INLINE void tile_q5_0(TILE_ARGS)
{
    TILE_START;
    for (i64 b = 0; b < k / 32; b++) {
        const r8_q5_0 *w = (const r8_q5_0 *)(g + r8_values(Q5_0, b));
        __m256i acc[TILE], bits = load(w->bits);
        if (first) ahead(g + AHEAD + 176 * b, 176);
        for (int c = 0; c < n; c++) acc[c] = offset(x[c] + at.o5 + 4 * b);
        for (int p = 0; p < 4; p++) {
            __m256i v = load(w->nibbles[p]);
            quad(_mm256_or_si256(low4(v), mask8(_mm256_slli_epi16(bits, 4 - p), 16)), x, 32 * b + 4 * p, acc, n);
            quad(_mm256_or_si256(high4(v), mask8(_mm256_srli_epi16(bits, p), 16)), x, 32 * b + 16 + 4 * p, acc, n);
        }
        __m256 d = halves(g + r8_scales(Q5_0, b));
        for (int c = 0; c < n; c++) sum[c] += d * all(x[c] + at.d + 4 * b) * real(acc[c]);
    }
    TILE_END;
}

INLINE void tile_q4_k(TILE_ARGS)
{
    const r8_q4_k *w = (const r8_q4_k *)g;
    TILE_START;
    for (i64 b = 0; b < k / 256; b++, w++) {
        __m256i w0 = load(w->scales[0]), w1 = load(w->scales[1]), w2 = load(w->scales[2]);
        __m256i sc[2] = {mask8(w0, 63), _mm256_or_si256(low4(w2), mask8(_mm256_srli_epi16(w0, 2), 48))};
        __m256i mn[2] = {mask8(w1, 63), _mm256_or_si256(high4(w2), mask8(_mm256_srli_epi16(w1, 2), 48))};
        __m256 a[TILE], m[TILE];
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
DOT(q4_k) DOT(q6_k)

    void kern_q_avx512(kern *t)
{
    t->qdot[Q8_0] = dot_q8_0, t->qdot[Q4_0] = dot_q4_0, t->qdot[Q4_1] = dot_q4_1;
    t->qdot[Q5_0] = dot_q5_0, t->qdot[Q4_K] = dot_q4_k, t->qdot[Q6_K] = dot_q6_k;
}
