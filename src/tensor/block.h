/* tensor/block.h - the quantised blocks as files have them (ggml's published layouts), as structs with accessors to codes.
 *
 * Why: decoding (dtype.c) and interleaving (weight.c) need the same bits; both go through "codes", the unsigned integers of
 * a block in order of k, so that each layout, and what its codes mean as floats, is written down exactly once, here. Not for
 * other folders. Scales are little endian IEEE halves and are read by memcpy: a mapped file promises no alignment beyond what it
 * happens to have. */
#ifndef MARU_TENSOR_BLOCK_H
#define MARU_TENSOR_BLOCK_H
#include "tensor/tensor.h"

enum { Q32 = 32, QK = 256 }; /* values of a block, of a superblock */
typedef struct {
    u8 d[2];
    i8 q[32];
} block_q8_0; /* w = d * q */
typedef struct {
    u8 d[2];
    u8 q[16];
} block_q4_0; /* w = d * (code - 8) */
typedef struct {
    u8 d[2], m[2];
    u8 q[16];
} block_q4_1; /* w = d * code + m */
typedef struct {
    u8 d[2];
    u8 high[4];
    u8 q[16];
} block_q5_0; /* w = d * (code - 16) */
typedef struct {
    u8 d[2], dmin[2];
    u8 scales[12];
    u8 q[128];
} block_q4_k; /* w = d*sc * code - dmin*mn, 8 sub-blocks of 32 */
typedef struct {
    u8 low[128], high[64];
    i8 scales[16];
    u8 d[2];
} block_q6_k; /* w = d*sc * (code - 32), 16 sub-blocks of 16 */
typedef struct {
    u8 d[2], m[2];
    u8 high[4];
    u8 q[16];
} block_q5_1; /* w = d * code + m */
typedef struct {
    u8 d[2], dmin[2];
    u8 scales[12];
    u8 high[32];
    u8 q[128];
} block_q5_k; /* w = d*sc * code - dmin*mn, 8 sub-blocks of 32 */
typedef struct {
    u8 high[32], low[64];
    u8 scales[12];
    u8 d[2];
} block_q3_k; /* w = d*(sc - 32) * (code - 4), 16 sub-blocks of 16 */
typedef struct {
    u8 scales[16];
    u8 q[64];
    u8 d[2], dmin[2];
} block_q2_k; /* w = d*sc * code - dmin*mn, 16 sub-blocks of 16 */
typedef struct {
    u8 d[2];
    u8 q[16];
} block_iq4_nl; /* w = d * level_iq4[code] */
typedef struct {
    u8 d[2];
    u8 scales_high[2], scales_low[4];
    u8 q[8][16];
} block_iq4_xs; /* w = d*(sc - 32) * level_iq4[code], 8 sub-blocks of 32 */
typedef struct {
    u8 e;
    u8 q[16];
} block_mxfp4; /* w = 2^(e - 128) * level_mxfp4[code] */
_Static_assert(sizeof(block_q5_1) == 24 && sizeof(block_q5_k) == 176 && sizeof(block_q3_k) == 110 && sizeof(block_q2_k) == 84 &&
                   sizeof(block_iq4_nl) == 18 && sizeof(block_iq4_xs) == 136 && sizeof(block_mxfp4) == 17,
               "file blocks have no padding");
_Static_assert(sizeof(block_q8_0) == 34 && sizeof(block_q4_0) == 18 && sizeof(block_q4_1) == 20 && sizeof(block_q5_0) == 22 &&
                   sizeof(block_q4_k) == 144 && sizeof(block_q6_k) == 210,
               "file blocks have no padding");

/* what the codes of tables mean: IQ4's levels are closer near zero, where weights are; MXFP4's are twice E2M1's numbers */
#define LEVELS_IQ4 -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113
#define LEVELS_MXFP4 0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12
static const i8 level_iq4[16] = {LEVELS_IQ4}, level_mxfp4[16] = {LEVELS_MXFP4};

static inline u16 half_get(const u8 b[2]) { return (u16)(b[0] | b[1] << 8); }
static inline void half_put(u8 b[2], u16 h) { b[0] = (u8)h, b[1] = (u8)(h >> 8); }

/* 16 bytes of nibbles: value i below, value i + 16 above */
static inline void codes_get_nibbles(const u8 q[16], u8 codes[32])
{
    for (int i = 0; i < 16; i++) codes[i] = q[i] & 15, codes[i + 16] = q[i] >> 4;
}
static inline void codes_put_nibbles(u8 q[16], const u8 codes[32])
{
    for (int i = 0; i < 16; i++) q[i] = (u8)((codes[i] & 15) | codes[i + 16] << 4);
}

/* bit i of 32 is bit 4 of value i */
static inline void codes_get_fives(const u8 q[16], const u8 high[4], u8 codes[32])
{
#define FIFTH(n)                                                                                                                 \
    {                                                                                                                            \
        (n & 1) << 4, (n >> 1 & 1) << 4, (n >> 2 & 1) << 4, n >> 3 << 4                                                          \
    }
    static const u8 fifth[16][4] = {FIFTH(0), FIFTH(1), FIFTH(2),  FIFTH(3),  FIFTH(4),  FIFTH(5),  FIFTH(6),  FIFTH(7),
                                    FIFTH(8), FIFTH(9), FIFTH(10), FIFTH(11), FIFTH(12), FIFTH(13), FIFTH(14), FIFTH(15)};
#undef FIFTH
    codes_get_nibbles(q, codes);
    for (int i = 0; i < 8; i++) { /* four at a time: one by one this was the slowest decoder by far */
        u32 w, top;
        memcpy(&w, codes + 4 * i, 4);
        memcpy(&top, fifth[high[i / 2] >> 4 * (i % 2) & 15], 4);
        w |= top;
        memcpy(codes + 4 * i, &w, 4);
    }
}
static inline void codes_put_fives(u8 q[16], u8 high[4], const u8 codes[32])
{
    codes_put_nibbles(q, codes);
    for (int i = 0; i < 4; i++) { /* bit 4 of byte j becomes bit j of the topmost byte */
        u64 w;
        memcpy(&w, codes + 8 * i, 8);
        high[i] = (u8)((w >> 4 & 0x0101010101010101u) * 0x0102040810204080u >> 56);
    }
}

/* 32 bytes for each 64 values: value i below, value i + 32 above */
static inline void codes_get_pairs_of_32(const u8 q[128], u8 codes[256])
{
    for (int c = 0; c < 4; c++)
        for (int i = 0; i < 32; i++) {
            u8 both = q[32 * c + i];
            codes[64 * c + i] = both & 15, codes[64 * c + 32 + i] = both >> 4;
        }
}
static inline void codes_put_pairs_of_32(u8 q[128], const u8 codes[256])
{
    for (int c = 0; c < 4; c++)
        for (int i = 0; i < 32; i++) q[32 * c + i] = (u8)((codes[64 * c + i] & 15) | codes[64 * c + 32 + i] << 4);
}
/* and bit 4 of value 32 * j + i in bit j of high[i] */
static inline void codes_get_q5_k(const block_q5_k *b, u8 codes[256])
{
    codes_get_pairs_of_32(b->q, codes);
    for (int j = 0; j < 8; j++)
        for (int i = 0; i < 32; i++) codes[32 * j + i] |= (u8)((b->high[i] >> j & 1) << 4);
}
static inline void codes_put_q5_k(block_q5_k *b, const u8 codes[256])
{
    codes_put_pairs_of_32(b->q, codes);
    memset(b->high, 0, sizeof b->high);
    for (int j = 0; j < 8; j++)
        for (int i = 0; i < 32; i++) b->high[i] |= (u8)((codes[32 * j + i] >> 4) << j);
}
/* 32 bytes of bit pairs for each 128 values: i, i + 32, i + 64, i + 96 */
static inline void codes_get_twos(const u8 q[64], u8 codes[256])
{
    for (int j = 0; j < 8; j++)
        for (int i = 0; i < 32; i++) codes[32 * j + i] = q[j / 4 * 32 + i] >> 2 * (j % 4) & 3;
}
static inline void codes_put_twos(u8 q[64], const u8 codes[256])
{
    memset(q, 0, 64);
    for (int j = 0; j < 8; j++)
        for (int i = 0; i < 32; i++) q[j / 4 * 32 + i] |= (u8)((codes[32 * j + i] & 3) << 2 * (j % 4));
}
/* and bit 2 of value 32 * j + i in bit j of high[i] */
static inline void codes_get_q3_k(const block_q3_k *b, u8 codes[256])
{
    codes_get_twos(b->low, codes);
    for (int j = 0; j < 8; j++)
        for (int i = 0; i < 32; i++) codes[32 * j + i] |= (u8)((b->high[i] >> j & 1) << 2);
}
static inline void codes_put_q3_k(block_q3_k *b, const u8 codes[256])
{
    codes_put_twos(b->low, codes);
    memset(b->high, 0, sizeof b->high);
    for (int j = 0; j < 8; j++)
        for (int i = 0; i < 32; i++) b->high[i] |= (u8)((codes[32 * j + i] >> 2) << j);
}
/* 16 six-bit numbers in 12 bytes: number j has its low nibble in byte j % 8 and its top bits in byte 8 + j % 4 */
static inline void scales_get_q3_k(const u8 p[12], u8 sc[16])
{
    for (int j = 0; j < 16; j++) sc[j] = (u8)((p[j % 8] >> j / 8 * 4 & 15) | (p[8 + j % 4] >> j / 4 * 2 & 3) << 4);
}
static inline void scales_put_q3_k(u8 p[12], const u8 sc[16])
{
    memset(p, 0, 12);
    for (int j = 0; j < 16; j++) p[j % 8] |= (u8)((sc[j] & 15) << j / 8 * 4), p[8 + j % 4] |= (u8)(sc[j] >> 4 << j / 4 * 2);
}
/* 8 six-bit numbers: nibbles, and top bits apart */
static inline void scales_get_iq4_xs(const block_iq4_xs *b, u8 sc[8])
{
    for (int j = 0; j < 8; j++)
        sc[j] = (u8)((b->scales_low[j / 2] >> j % 2 * 4 & 15) | (half_get(b->scales_high) >> 2 * j & 3) << 4);
}
static inline void scales_put_iq4_xs(block_iq4_xs *b, const u8 sc[8])
{
    u16 high = 0;
    memset(b->scales_low, 0, sizeof b->scales_low);
    for (int j = 0; j < 8; j++) b->scales_low[j / 2] |= (u8)((sc[j] & 15) << j % 2 * 4), high |= (u16)((sc[j] >> 4) << 2 * j);
    half_put(b->scales_high, high);
}
/* 16 six-bit numbers in 12 bytes: scales and minima 0..3 in the low six bits of bytes 0..3 and 4..7, their upper two bits and
 * bytes 8..11 (nibbles) hold numbers 4..7 */
static inline void scales_get_q4_k(const u8 p[12], u8 sc[8], u8 mn[8])
{
    for (int j = 0; j < 4; j++) {
        sc[j] = p[j] & 63, mn[j] = p[j + 4] & 63;
        sc[j + 4] = (u8)((p[j + 8] & 15) | p[j] >> 6 << 4);
        mn[j + 4] = (u8)(p[j + 8] >> 4 | p[j + 4] >> 6 << 4);
    }
}
static inline void scales_put_q4_k(u8 p[12], const u8 sc[8], const u8 mn[8])
{
    for (int j = 0; j < 4; j++) {
        p[j] = (u8)(sc[j] | sc[j + 4] >> 4 << 6), p[j + 4] = (u8)(mn[j] | mn[j + 4] >> 4 << 6);
        p[j + 8] = (u8)((sc[j + 4] & 15) | (mn[j + 4] & 15) << 4);
    }
}

/* each half of 128 values: 64 bytes of nibbles (value i below, i + 64 above), 32 bytes of bit pairs (i, i+32, i+64, i+96) */
static inline void codes_get_q6_k(const block_q6_k *b, u8 codes[256])
{
    for (int h = 0; h < 2; h++)
        for (int i = 0; i < 32; i++) {
            u8 a = b->low[64 * h + i], c = b->low[64 * h + 32 + i], e = b->high[32 * h + i], *o = codes + 128 * h + i;
            o[0] = (u8)((a & 15) | (e & 3) << 4), o[32] = (u8)((c & 15) | (e >> 2 & 3) << 4);
            o[64] = (u8)(a >> 4 | (e >> 4 & 3) << 4), o[96] = (u8)(c >> 4 | e >> 6 << 4);
        }
}
static inline void codes_put_q6_k(block_q6_k *b, const u8 codes[256])
{
    for (int h = 0; h < 2; h++)
        for (int i = 0; i < 32; i++) {
            const u8 *o = codes + 128 * h + i;
            b->low[64 * h + i] = (u8)((o[0] & 15) | (o[64] & 15) << 4);
            b->low[64 * h + 32 + i] = (u8)((o[32] & 15) | (o[96] & 15) << 4);
            b->high[32 * h + i] = (u8)(o[0] >> 4 | o[32] >> 4 << 2 | o[64] >> 4 << 4 | o[96] >> 4 << 6);
        }
}

/* codes to values: the float32 operations that every decoder must share to the bit */
static inline void values_offset(const u8 *codes, int n, float d, int offset, float *dst)
{
    for (int i = 0; i < n; i++) dst[i] = d * (float)(codes[i] - offset);
}
static inline void values_signed(const i8 *q, int n, float d, float *dst)
{
    i16 wide[QK]; /* gcc 12 makes vectors of two conversions, but not of one over three widths */
    for (int i = 0; i < n; i++) wide[i] = q[i];
    for (int i = 0; i < n; i++) dst[i] = d * (float)wide[i];
}
static inline void values_plus(const u8 *codes, int n, float d, float m, float *dst)
{
    for (int i = 0; i < n; i++) dst[i] = d * (float)codes[i] + m;
}
static inline void values_levels(const u8 *codes, int n, float d, const i8 level[16], float *dst)
{
    for (int i = 0; i < n; i++) dst[i] = d * (float)level[codes[i]];
}
static inline float mxfp4_scale(u8 e) /* 2^(e - 128): half of what E8M0 says, for the levels are doubled */
{
    union {
        u32 u;
        float f;
    } x = {e < 2 ? 0x00200000u << e : (u32)(e - 1) << 23};
    return x.f;
}
static inline void values_q3_k(const u8 codes[256], const u8 scales[12], float d, float *dst)
{
    u8 sc[16];
    scales_get_q3_k(scales, sc);
    for (int j = 0; j < 16; j++) values_offset(codes + 16 * j, 16, d * (float)(sc[j] - 32), 4, dst + 16 * j);
}
static inline void values_q2_k(const u8 codes[256], const u8 scales[16], float d, float dmin, float *dst)
{
    for (int j = 0; j < 16; j++)
        values_plus(codes + 16 * j, 16, d * (float)(scales[j] & 15), -(dmin * (float)(scales[j] >> 4)), dst + 16 * j);
}
static inline void values_q4_k(const u8 codes[256], const u8 scales[12], float d, float dmin, float *dst)
{
    u8 sc[8], mn[8];
    scales_get_q4_k(scales, sc, mn);
    for (int j = 0; j < 8; j++) values_plus(codes + 32 * j, 32, d * (float)sc[j], -(dmin * (float)mn[j]), dst + 32 * j);
}
static inline void values_q6_k(const u8 codes[256], const i8 scales[16], float d, float *dst)
{
    for (int j = 0; j < 16; j++) values_offset(codes + 16 * j, 16, d * (float)scales[j], 32, dst + 16 * j);
}
#endif
