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

INLINE void more_bits(u8 code[32], const u8 from[32], int shift, int mask)
{
    for (int i = 0; i < 32; i += 16) *(bytes16 *)(code + i) |= (*(const bytes16 *)(from + i) >> (u8)shift & (u8)mask) << 4;
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
        UNROLLED(q, 8) more_bits(codes[q], v->bits, q, 1);
        rows_out((const u8(*)[32])codes, 0, 8, 16, scale, NULL, dst, stride);
    }
}
static void decode_q4_k(const void *group, i64 k_from, i64 n, float *dst, i64 stride)
{
    for (i64 i = k_from / QK, end = (k_from + n) / QK; i < end; i++, dst += QK) {
        const r8_q4_k *v = (const r8_q4_k *)(const void *)((const u8 *)group + r8_values(Q4_K, i));
        float d[16], scale[8][8], add[8][8]; /* d, then dmin; [sub-block][row] */
        half_to_float(d, v->d, 8), half_to_float(d + 8, v->dmin, 8);
        for (int row = 0; row < 8; row++) {
            u8 packed[12], sc[8], mn[8];
            for (int w = 0; w < 3; w++) memcpy(packed + 4 * w, &v->scales[w][row], 4);
            scales_get_q4_k(packed, sc, mn);
            for (int j = 0; j < 8; j++) scale[j][row] = d[row] * (float)sc[j], add[j][row] = -(d[8 + row] * (float)mn[j]);
        }
        for (int j = 0; j < 8; j++) {
            codes8 codes;
            nibbles(codes, v->nibbles[j]);
            rows_out((const u8(*)[32])codes, 0, 8, 0, scale[j], add[j], dst + 32 * j, stride);
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
            UNROLLED(q, 8) more_bits(codes[q], v->block[j].pairs[q / 4], 2 * (q % 4), 3);
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
}
