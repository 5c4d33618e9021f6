/* tensor/cpu/body_decode.c - a packed group of 8 rows (LAYOUT_R8, q_layout.h) as floats, for training's products. weight.c
 * decodes the same row by row and gathers each row's codes from all over the group; here codes of all eight rows are taken apart
 * together, where they lie, and each row's values leave in one stream: several times as fast, which training pays twice for every
 * weight and step. The same float operations in the same order, so the same values to the bit. */
#include "tensor/block.h"
#include "tensor/cpu/body.h"
#include "tensor/cpu/q_layout.h"

typedef u8 codes8[8][32]; /* [quad][4 * row + i]: value 4 * quad + i of the row, unsigned */
typedef u8 bytes16 __attribute__((vector_size(16), aligned(1), may_alias));

/* quads [from, to) of 8 rows: dst[row] = scale (code - offset) + add */
INLINE void rows_out(const codes8 codes, int from, int to, int offset, const float scale[8], const float *add, float *dst,
                     i64 stride)
{
    for (int row = 0; row < 8; row++) {
        v4 s = scale[row] - (v4){0}, a = add ? add[row] - (v4){0} : (v4){0};
        for (int q = from; q < to; q++) {
            i32 four;
            memcpy(&four, codes[q] + 4 * row, 4);
            __m128i wide = _mm_cvtsi32_si128(four);
#ifdef __SSE4_1__
            wide = _mm_cvtepu8_epi32(wide);
#else
            wide = _mm_unpacklo_epi16(_mm_unpacklo_epi8(wide, _mm_setzero_si128()), _mm_setzero_si128());
#endif
            v4 v = s * (v4)_mm_cvtepi32_ps(_mm_sub_epi32(wide, _mm_set1_epi32(offset)));
            if (add) v = v + a;
            _mm_storeu_ps(dst + row * stride + 4 * q, (__m128)v);
        }
    }
}

INLINE void nibbles(codes8 codes, const u8 v[4][32])
{
    for (int p = 0; p < 4; p++)
        for (int i = 0; i < 32; i += 16) {
            bytes16 both = *(const bytes16 *)(v[p] + i);
            *(bytes16 *)(codes[p] + i) = both & 15;
            *(bytes16 *)(codes[p + 4] + i) = both >> 4;
        }
}

INLINE void more_bits(u8 code[32], const u8 from[32], int shift, int mask, int at)
{
    for (int i = 0; i < 32; i += 16) *(bytes16 *)(code + i) |= (*(const bytes16 *)(from + i) >> (u8)shift & (u8)mask) << (u8)at;
}
/* codes become what a table says, counted from its lowest: u8 again */
INLINE void look_up(codes8 codes, const i8 level[16], int lowest)
{
    u8 table[16];
    for (int i = 0; i < 16; i++) table[i] = (u8)(level[i] - lowest);
#ifdef __SSSE3__
    __m128i t = _mm_loadu_si128((const __m128i *)(const void *)table);
    for (int i = 0; i < 256; i += 16) {
        __m128i *p = (__m128i *)(void *)(codes[0] + i);
        _mm_storeu_si128(p, _mm_shuffle_epi8(t, _mm_loadu_si128(p)));
    }
#else
    for (int i = 0; i < 256; i++) codes[0][i] = table[codes[0][i]];
#endif
}

static void scales_of(dtype t, const u8 *group, i64 i, float *scale, int n)
{
    half_to_float(scale, (const u16 *)(const void *)(group + r8_scales(t, i)), n);
}

static void decode_q8_0(const void *group, i64 k_from, i64 n, float *dst, i64 stride)
{
    for (i64 i = k_from / Q32, end = (k_from + n) / Q32; i < end; i++, dst += Q32) {
        const u8 *v = (const u8 *)group + r8_values(Q8_0, i);
        codes8 codes;
        float scale[8];
        scales_of(Q8_0, group, i, scale, 8);
        for (int j = 0; j < 256; j += 16) *(bytes16 *)(codes[0] + j) = *(const bytes16 *)(v + j) ^ 0x80;
        rows_out((const u8(*)[32])codes, 0, 8, 128, scale, NULL, dst, stride);
    }
}
static void decode_q4_0(const void *group, i64 k_from, i64 n, float *dst, i64 stride)
{
    for (i64 i = k_from / Q32, end = (k_from + n) / Q32; i < end; i++, dst += Q32) {
        codes8 codes;
        float scale[8];
        scales_of(Q4_0, group, i, scale, 8);
        nibbles(codes, (const u8(*)[32])((const u8 *)group + r8_values(Q4_0, i)));
        rows_out((const u8(*)[32])codes, 0, 8, 8, scale, NULL, dst, stride);
    }
}
static void decode_q4_1(const void *group, i64 k_from, i64 n, float *dst, i64 stride)
{
    for (i64 i = k_from / Q32, end = (k_from + n) / Q32; i < end; i++, dst += Q32) {
        codes8 codes;
        float scale[16]; /* then the eight minima */
        scales_of(Q4_1, group, i, scale, 16);
        nibbles(codes, (const u8(*)[32])((const u8 *)group + r8_values(Q4_1, i)));
        rows_out((const u8(*)[32])codes, 0, 8, 0, scale, scale + 8, dst, stride);
    }
}
static void decode_q5_0(const void *group, i64 k_from, i64 n, float *dst, i64 stride)
{
    for (i64 i = k_from / Q32, end = (k_from + n) / Q32; i < end; i++, dst += Q32) {
        const r8_q5_0 *v = (const r8_q5_0 *)(const void *)((const u8 *)group + r8_values(Q5_0, i));
        codes8 codes;
        float scale[8];
        scales_of(Q5_0, group, i, scale, 8);
        nibbles(codes, v->nibbles);
        UNROLLED(q, 8) more_bits(codes[q], v->bits, q, 1, 4);
        rows_out((const u8(*)[32])codes, 0, 8, 16, scale, NULL, dst, stride);
    }
}
static void decode_q5_1(const void *group, i64 k_from, i64 n, float *dst, i64 stride)
{
    for (i64 i = k_from / Q32, end = (k_from + n) / Q32; i < end; i++, dst += Q32) {
        const r8_q5_0 *v = (const r8_q5_0 *)(const void *)((const u8 *)group + r8_values(Q5_1, i));
        codes8 codes;
        float scale[16]; /* then the eight minima */
        scales_of(Q5_1, group, i, scale, 16);
        nibbles(codes, v->nibbles);
        UNROLLED(q, 8) more_bits(codes[q], v->bits, q, 1, 4);
        rows_out((const u8(*)[32])codes, 0, 8, 0, scale, scale + 8, dst, stride);
    }
}
static void decode_iq4_nl(const void *group, i64 k_from, i64 n, float *dst, i64 stride)
{
    for (i64 i = k_from / Q32, end = (k_from + n) / Q32; i < end; i++, dst += Q32) {
        codes8 codes;
        float scale[8];
        scales_of(IQ4_NL, group, i, scale, 8);
        nibbles(codes, (const u8(*)[32])((const u8 *)group + r8_values(IQ4_NL, i)));
        look_up(codes, level_iq4, -127);
        rows_out((const u8(*)[32])codes, 0, 8, 127, scale, NULL, dst, stride);
    }
}
static void decode_mxfp4(const void *group, i64 k_from, i64 n, float *dst, i64 stride)
{
    for (i64 i = k_from / Q32, end = (k_from + n) / Q32; i < end; i++, dst += Q32) {
        codes8 codes;
        float scale[8];
        for (int row = 0; row < 8; row++) scale[row] = mxfp4_scale(((const u8 *)group)[r8_scales(MXFP4, i) + (usize)row]);
        nibbles(codes, (const u8(*)[32])((const u8 *)group + r8_values(MXFP4, i)));
        look_up(codes, level_mxfp4, -12);
        rows_out((const u8(*)[32])codes, 0, 8, 12, scale, NULL, dst, stride);
    }
}
static void decode_iq4_xs(const void *group, i64 k_from, i64 n, float *dst, i64 stride)
{
    for (i64 i = k_from / QK, end = (k_from + n) / QK; i < end; i++, dst += QK) {
        const r8_iq4_xs *v = (const r8_iq4_xs *)(const void *)((const u8 *)group + r8_values(IQ4_XS, i));
        float d[8], scale[8];
        half_to_float(d, v->d, 8);
        for (int j = 0; j < 8; j++) {
            codes8 codes;
            for (int row = 0; row < 8; row++) {
                int sc = (int)(v->scales_low[row] >> 4 * j & 15) | (v->scales_high[row] >> 2 * j & 3) << 4;
                scale[row] = d[row] * (float)(sc - 32);
            }
            nibbles(codes, v->nibbles[j]);
            look_up(codes, level_iq4, -127);
            rows_out((const u8(*)[32])codes, 0, 8, 127, scale, NULL, dst + 32 * j, stride);
        }
    }
}

/* of Q4_K and Q5_K: what a code of each sub-block and row is multiplied with, what is added */
INLINE void scales_lines(const u16 halves_d[8], const u16 halves_m[8], const u32 words[3][8], float scale[8][8], float add[8][8])
{
    float d[16]; /* d, then dmin */
    half_to_float(d, halves_d, 8), half_to_float(d + 8, halves_m, 8);
    for (int row = 0; row < 8; row++) {
        u8 packed[12], sc[8], mn[8];
        for (int w = 0; w < 3; w++) memcpy(packed + 4 * w, &words[w][row], 4);
        scales_get_q4_k(packed, sc, mn);
        for (int j = 0; j < 8; j++) scale[j][row] = d[row] * (float)sc[j], add[j][row] = -(d[8 + row] * (float)mn[j]);
    }
}
static void decode_q4_k(const void *group, i64 k_from, i64 n, float *dst, i64 stride)
{
    for (i64 i = k_from / QK, end = (k_from + n) / QK; i < end; i++, dst += QK) {
        const r8_q4_k *v = (const r8_q4_k *)(const void *)((const u8 *)group + r8_values(Q4_K, i));
        float scale[8][8], add[8][8]; /* [sub-block][row] */
        scales_lines(v->d, v->dmin, v->scales, scale, add);
        for (int j = 0; j < 8; j++) {
            codes8 codes;
            nibbles(codes, v->nibbles[j]);
            rows_out((const u8(*)[32])codes, 0, 8, 0, scale[j], add[j], dst + 32 * j, stride);
        }
    }
}
static void decode_q5_k(const void *group, i64 k_from, i64 n, float *dst, i64 stride)
{
    for (i64 i = k_from / QK, end = (k_from + n) / QK; i < end; i++, dst += QK) {
        const r8_q5_k *v = (const r8_q5_k *)(const void *)((const u8 *)group + r8_values(Q5_K, i));
        float scale[8][8], add[8][8];
        scales_lines(v->d, v->dmin, v->scales, scale, add);
        for (int j = 0; j < 8; j++) {
            codes8 codes;
            nibbles(codes, v->block[j].nibbles);
            UNROLLED(q, 8) more_bits(codes[q], v->block[j].bits, q, 1, 4);
            rows_out((const u8(*)[32])codes, 0, 8, 0, scale[j], add[j], dst + 32 * j, stride);
        }
    }
}
static void decode_q3_k(const void *group, i64 k_from, i64 n, float *dst, i64 stride)
{
    for (i64 i = k_from / QK, end = (k_from + n) / QK; i < end; i++, dst += QK) {
        const r8_q3_k *v = (const r8_q3_k *)(const void *)((const u8 *)group + r8_values(Q3_K, i));
        float d[8], scale[16][8];
        scales_of(Q3_K, group, i, d, 8);
        for (int row = 0; row < 8; row++) {
            u8 packed[12], sc[16];
            for (int w = 0; w < 3; w++) memcpy(packed + 4 * w, &v->scales[w][row], 4);
            scales_get_q3_k(packed, sc);
            for (int j = 0; j < 16; j++) scale[j][row] = d[row] * (float)(sc[j] - 32);
        }
        for (int j = 0; j < 8; j++) {
            codes8 codes = {{0}};
            UNROLLED(q, 8)
            {
                more_bits(codes[q], v->block[j].pairs[q / 4], 2 * (q % 4), 3, 0);
                more_bits(codes[q], v->block[j].bits, q, 1, 2);
            }
            for (int h = 0; h < 2; h++)
                rows_out((const u8(*)[32])codes, 4 * h, 4 * h + 4, 4, scale[2 * j + h], NULL, dst + 32 * j, stride);
        }
    }
}
static void decode_q2_k(const void *group, i64 k_from, i64 n, float *dst, i64 stride)
{
    for (i64 i = k_from / QK, end = (k_from + n) / QK; i < end; i++, dst += QK) {
        const r8_q2_k *v = (const r8_q2_k *)(const void *)((const u8 *)group + r8_values(Q2_K, i));
        float d[16], scale[8], add[8];
        half_to_float(d, v->d, 8), half_to_float(d + 8, v->dmin, 8);
        for (int j = 0; j < 8; j++) {
            codes8 codes = {{0}};
            UNROLLED(q, 8) more_bits(codes[q], v->pairs[j][q / 4], 2 * (q % 4), 3, 0);
            for (int h = 0; h < 2; h++) {
                int at = 2 * j + h;
                for (int row = 0; row < 8; row++) {
                    u8 both = v->scales[at / 4][row][at % 4];
                    scale[row] = d[row] * (float)(both & 15), add[row] = -(d[8 + row] * (float)(both >> 4));
                }
                rows_out((const u8(*)[32])codes, 4 * h, 4 * h + 4, 0, scale, add, dst + 32 * j, stride);
            }
        }
    }
}
static void decode_q6_k(const void *group, i64 k_from, i64 n, float *dst, i64 stride)
{
    for (i64 i = k_from / QK, end = (k_from + n) / QK; i < end; i++, dst += QK) {
        const r8_q6_k *v = (const r8_q6_k *)(const void *)((const u8 *)group + r8_values(Q6_K, i));
        float d[8], scale[8];
        scales_of(Q6_K, group, i, d, 8);
        for (int j = 0; j < 8; j++) {
            codes8 codes;
            nibbles(codes, v->block[j].nibbles);
            UNROLLED(q, 8) more_bits(codes[q], v->block[j].pairs[q / 4], 2 * (q % 4), 3, 4);
            for (int h = 0; h < 2; h++) {
                int at = 2 * j + h;
                for (int row = 0; row < 8; row++) scale[row] = d[row] * (float)v->scales[at / 4][row][at % 4];
                rows_out((const u8(*)[32])codes, 4 * h, 4 * h + 4, 32, scale, NULL, dst + 32 * j, stride);
            }
        }
    }
}

void BODY(kern_body_decode)(kern *k)
{
    k->decode8[Q8_0] = decode_q8_0, k->decode8[Q4_0] = decode_q4_0, k->decode8[Q4_1] = decode_q4_1;
    k->decode8[Q5_0] = decode_q5_0, k->decode8[Q4_K] = decode_q4_k, k->decode8[Q6_K] = decode_q6_k;
    k->decode8[Q5_1] = decode_q5_1, k->decode8[Q5_K] = decode_q5_k, k->decode8[Q3_K] = decode_q3_k;
    k->decode8[Q2_K] = decode_q2_k, k->decode8[IQ4_NL] = decode_iq4_nl, k->decode8[IQ4_XS] = decode_iq4_xs;
    k->decode8[MXFP4] = decode_mxfp4;
}
