/* tensor/cpu/body_values.c - rows of blocks as files have them, to floats: what the codes of block.h mean, compiled for each
 * instruction set, the same bits everywhere. weight.c says the same of one row of a packed group in plain loops; compilers make
 * poor vectors of those, and a row is decoded for every error that is measured. And what a row loses by such a journey: sums of
 * squares in the order of 16 lanes. */
#include "tensor/block.h"
#include "tensor/cpu/body.h"

typedef u8 bytes16 __attribute__((vector_size(16), aligned(1), may_alias));

/* ---- codes to floats --------------------------------------------------------------------------------------------------------
 */
INLINE vi widened(const u8 *p)
{
#if W == 16
    return (vi)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
#elif W == 8
    return (vi)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p));
#else
    i32 four;
    memcpy(&four, p, 4);
    __m128i zero = _mm_setzero_si128();
    return (vi)_mm_unpacklo_epi16(_mm_unpacklo_epi8(_mm_cvtsi32_si128(four), zero), zero);
#endif
}
INLINE void out_offset(const u8 *codes, int n, float d, int offset, float *dst)
{
    for (int i = 0; i < n; i += W) store(dst + i, d * __builtin_convertvector(widened(codes + i) - offset, vf));
}
INLINE void out_plus(const u8 *codes, int n, float d, float m, float *dst)
{
    for (int i = 0; i < n; i += W) store(dst + i, d * __builtin_convertvector(widened(codes + i), vf) + m);
}

/* ---- bytes to codes ----------------------------------------------------------------------------------------------------------
 */
INLINE bytes16 at(const u8 *p) { return *(const bytes16 *)p; }
INLINE void put(u8 *p, bytes16 v) { *(bytes16 *)p = v; }
INLINE void nibbles(const u8 q[16], u8 codes[32]) { put(codes, at(q) & 15), put(codes + 16, at(q) >> 4); }
INLINE void fives(const u8 q[16], const u8 high[4], u8 codes[32])
{
    typedef u64 pair __attribute__((vector_size(16)));
    const bytes16 bit = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    nibbles(q, codes);
    for (int h = 0; h < 2; h++) {
        bytes16 spread = (bytes16)((pair){high[2 * h], high[2 * h + 1]} * 0x0101010101010101u);
        put(codes + 16 * h, at(codes + 16 * h) | ((bytes16)((spread & bit) == bit) & 16));
    }
}
INLINE void lines(const u8 q[128], u8 codes[256]) /* 32 bytes for each 64 values */
{
    for (int c = 0; c < 4; c++)
        for (int i = 0; i < 32; i += 16)
            put(codes + 64 * c + i, at(q + 32 * c + i) & 15), put(codes + 64 * c + 32 + i, at(q + 32 * c + i) >> 4);
}
INLINE void twos(const u8 q[64], u8 codes[256]) /* 32 bytes for each 128 */
{
    for (int h = 0; h < 2; h++)
        for (int i = 0; i < 32; i += 16) {
            bytes16 v = at(q + 32 * h + i);
            u8 *to = codes + 128 * h + i;
            put(to, v & 3), put(to + 32, v >> 2 & 3), put(to + 64, v >> 4 & 3), put(to + 96, v >> 6);
        }
}
INLINE void one_more(const u8 high[32], u8 codes[256], int place) /* bit j of high[i] is bit `place` of value 32 j + i */
{
    for (int i = 0; i < 32; i += 16) {
        bytes16 v = at(high + i);
        UNROLLED(j, 8) put(codes + 32 * j + i, at(codes + 32 * j + i) | (v >> j & 1) << place);
    }
}
INLINE void sixes(const block_q6_k *b, u8 codes[256])
{
    for (int h = 0; h < 2; h++)
        for (int i = 0; i < 32; i += 16) {
            bytes16 a = at(b->low + 64 * h + i), c = at(b->low + 64 * h + 32 + i), e = at(b->high + 32 * h + i);
            u8 *to = codes + 128 * h + i;
            put(to, (a & 15) | (e & 3) << 4), put(to + 32, (c & 15) | (e >> 2 & 3) << 4);
            put(to + 64, a >> 4 | (e >> 4 & 3) << 4), put(to + 96, c >> 4 | e >> 6 << 4);
        }
}
/* nibbles become what a table says, counted from its lowest */
INLINE void levels(const u8 q[16], const i8 level[16], int lowest, u8 codes[32])
{
    u8 table[16];
    nibbles(q, codes);
    for (int i = 0; i < 16; i++) table[i] = (u8)(level[i] - lowest);
#ifdef __SSSE3__
    for (int i = 0; i < 32; i += 16) put(codes + i, (bytes16)_mm_shuffle_epi8((__m128i)at(table), (__m128i)at(codes + i)));
#else
    for (int i = 0; i < 32; i++) codes[i] = table[codes[i]];
#endif
}

/* ---- the formats --------------------------------------------------------------------------------------------------------------
 */
INLINE float half(const u8 b[2])
{
#if W >= 8
    return _cvtsh_ss(half_get(b));
#else
    return f16_to_f32(half_get(b));
#endif
}
static void decode_q8_0(const void *src, float *dst, i64 n)
{
    u8 codes[Q32];
    for (const block_q8_0 *b = src; n > 0; b++, dst += Q32, n -= Q32) {
        for (int i = 0; i < Q32; i += 16) put(codes + i, at((const u8 *)b->q + i) ^ 0x80);
        out_offset(codes, Q32, half(b->d), 128, dst);
    }
}
static void decode_q4_0(const void *src, float *dst, i64 n)
{
    u8 codes[Q32];
    for (const block_q4_0 *b = src; n > 0; b++, dst += Q32, n -= Q32) {
        nibbles(b->q, codes);
        out_offset(codes, Q32, half(b->d), 8, dst);
    }
}
static void decode_q4_1(const void *src, float *dst, i64 n)
{
    u8 codes[Q32];
    for (const block_q4_1 *b = src; n > 0; b++, dst += Q32, n -= Q32) {
        nibbles(b->q, codes);
        out_plus(codes, Q32, half(b->d), half(b->m), dst);
    }
}
static void decode_q5_0(const void *src, float *dst, i64 n)
{
    u8 codes[Q32];
    for (const block_q5_0 *b = src; n > 0; b++, dst += Q32, n -= Q32) {
        fives(b->q, b->high, codes);
        out_offset(codes, Q32, half(b->d), 16, dst);
    }
}
static void decode_q5_1(const void *src, float *dst, i64 n)
{
    u8 codes[Q32];
    for (const block_q5_1 *b = src; n > 0; b++, dst += Q32, n -= Q32) {
        fives(b->q, b->high, codes);
        out_plus(codes, Q32, half(b->d), half(b->m), dst);
    }
}
static void decode_iq4_nl(const void *src, float *dst, i64 n)
{
    u8 codes[Q32];
    for (const block_iq4_nl *b = src; n > 0; b++, dst += Q32, n -= Q32) {
        levels(b->q, level_iq4, -127, codes);
        out_offset(codes, Q32, half(b->d), 127, dst);
    }
}
static void decode_mxfp4(const void *src, float *dst, i64 n)
{
    u8 codes[Q32];
    for (const block_mxfp4 *b = src; n > 0; b++, dst += Q32, n -= Q32) {
        levels(b->q, level_mxfp4, -12, codes);
        out_offset(codes, Q32, mxfp4_scale(b->e), 12, dst);
    }
}
static void decode_iq4_xs(const void *src, float *dst, i64 n)
{
    u8 codes[Q32];
    for (const block_iq4_xs *b = src; n > 0; b++, dst += QK, n -= QK) {
        float d = half(b->d);
        u8 sc[8];
        scales_get_iq4_xs(b, sc);
        for (int j = 0; j < 8; j++) {
            levels(b->q[j], level_iq4, -127, codes);
            out_offset(codes, Q32, d * (float)(sc[j] - 32), 127, dst + Q32 * j);
        }
    }
}
/* eight lines of a superblock: scales and minima */
INLINE void out_lines(const u8 codes[256], const u8 scales[12], float d, float dmin, float *dst)
{
    u8 sc[8], mn[8];
    scales_get_q4_k(scales, sc, mn);
    for (int j = 0; j < 8; j++) out_plus(codes + 32 * j, 32, d * (float)sc[j], -(dmin * (float)mn[j]), dst + 32 * j);
}
static void decode_q4_k(const void *src, float *dst, i64 n)
{
    u8 codes[QK];
    for (const block_q4_k *b = src; n > 0; b++, dst += QK, n -= QK) {
        lines(b->q, codes);
        out_lines(codes, b->scales, half(b->d), half(b->dmin), dst);
    }
}
static void decode_q5_k(const void *src, float *dst, i64 n)
{
    u8 codes[QK];
    for (const block_q5_k *b = src; n > 0; b++, dst += QK, n -= QK) {
        lines(b->q, codes);
        one_more(b->high, codes, 4);
        out_lines(codes, b->scales, half(b->d), half(b->dmin), dst);
    }
}
static void decode_q3_k(const void *src, float *dst, i64 n)
{
    u8 codes[QK];
    for (const block_q3_k *b = src; n > 0; b++, dst += QK, n -= QK) {
        float d = half(b->d);
        u8 sc[16];
        twos(b->low, codes);
        one_more(b->high, codes, 2);
        scales_get_q3_k(b->scales, sc);
        for (int j = 0; j < 16; j++) out_offset(codes + 16 * j, 16, d * (float)(sc[j] - 32), 4, dst + 16 * j);
    }
}
static void decode_q2_k(const void *src, float *dst, i64 n)
{
    u8 codes[QK];
    for (const block_q2_k *b = src; n > 0; b++, dst += QK, n -= QK) {
        float d = half(b->d), dmin = half(b->dmin);
        twos(b->q, codes);
        for (int j = 0; j < 16; j++)
            out_plus(codes + 16 * j, 16, d * (float)(b->scales[j] & 15), -(dmin * (float)(b->scales[j] >> 4)), dst + 16 * j);
    }
}
static void decode_q6_k(const void *src, float *dst, i64 n)
{
    u8 codes[QK];
    for (const block_q6_k *b = src; n > 0; b++, dst += QK, n -= QK) {
        float d = half(b->d);
        sixes(b, codes);
        for (int j = 0; j < 16; j++) out_offset(codes + 16 * j, 16, d * (float)b->scales[j], 32, dst + 16 * j);
    }
}

/* ---- errors --------------------------------------------------------------------------------------------------------------- */
enum { CHUNK = 256 }; /* values whose squares are added as floats; chunks are added as doubles */

/* error, power, and both weighted */
INLINE void squares(vf s[4][LANES], const float *x, const float *y, const float *w)
{
    UNROLLED(j, LANES)
    {
        vf a = load(x + j * W), d = a - load(y + j * W), d2 = d * d, a2 = a * a;
        s[0][j] += d2, s[1][j] += a2;
        if (w) s[2][j] += load(w + j * W) * d2, s[3][j] += load(w + j * W) * a2;
    }
}
INLINE void error_of(const float *x, const float *y, const float *w, i64 n, double out[4])
{
    sum8 total[4] = {{{{0}}}};
    for (i64 from = 0; from < n; from += CHUNK) {
        vf s[4][LANES] = {{{0}}};
        i64 to = i64_min(n, from + CHUNK), i = from;
        for (; i + 16 <= to; i += 16) squares(s, x + i, y + i, w ? w + i : NULL);
        if (i < to) {
            float a[16], b[16], c[16];
            pad16(a, x + i, to - i, 0), pad16(b, y + i, to - i, 0);
            if (w) pad16(c, w + i, to - i, 0);
            squares(s, a, b, w ? c : NULL);
        }
        UNROLLED(j, 4) sum8_add(&total[j], widen(s[j]));
    }
    for (int j = 0; j < 4; j++) out[j] += sum8_total(&total[j]);
}
static void error_row(const float *x, const float *y, const float *w, i64 n, double out[4])
{
    if (w)
        error_of(x, y, w, n, out);
    else
        error_of(x, y, NULL, n, out);
}

void BODY(kern_body_values)(kern *k)
{
    k->decode[Q8_0] = decode_q8_0, k->decode[Q4_0] = decode_q4_0, k->decode[Q4_1] = decode_q4_1;
    k->decode[Q5_0] = decode_q5_0, k->decode[Q5_1] = decode_q5_1, k->decode[Q6_K] = decode_q6_k;
    k->decode[Q5_K] = decode_q5_k, k->decode[Q4_K] = decode_q4_k, k->decode[Q3_K] = decode_q3_k;
    k->decode[Q2_K] = decode_q2_k, k->decode[IQ4_NL] = decode_iq4_nl, k->decode[IQ4_XS] = decode_iq4_xs;
    k->decode[MXFP4] = decode_mxfp4;
    k->error = error_row;
}
