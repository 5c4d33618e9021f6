/* tensor/cpu/q_layout.h - LAYOUT_R8 byte by byte, and the arithmetic that every level of q_*.c must reproduce to the last bit.
 *
 * Eight rows are interleaved so that one 32-bit lane of a 256-bit vector is one row. A "quad" is 4 consecutive values of k; a
 * 32-byte vector holds one quad of each of the 8 rows: byte 4*row + i is value 4*quad + i. A block of 32 values is 8 quads.
 *   nibbles   u8 [4 pairs][8 rows][4]: vector p holds quad p in the low and quad p+4 in the high nibbles: one `and`, one shift
 *   bits      u8 [8 rows][4]: bit q of byte i is bit 4 of value 4*q + i
 *   bit pairs u8 [2 halves][8 rows][4]: bits 2t,2t+1 of byte i of half h are bits 4,5 of value 4*(4*h + t) + i
 *   bytes     u8 [8 quads][8 rows][4]
 * Q3_K's and Q2_K's low bits are bit pairs of bits 0,1, and Q3_K's `bits` bit 2. Codes of tables are nibbles.
 * A group is one stream of chunks of 4 blocks (Q6_K: superblocks): first the scales of the four (a cache line or two), then
 * their values; the last chunk may have fewer values, never fewer scales. So no 32-byte load crosses a cache line when groups
 * start on one (their size is a multiple of 64), and addresses grow as k does. (Scales of the whole row in front of all values
 * gave two streams: one column then reached 80..90 % of plain reading instead of all of it.)
 *
 *   type   file  here (bits per weight, k = 1536)   scales of a block, values of a block
 *   Q8_0   8.50  8.50     u16 d[8], i8 bytes (q itself)
 *   Q4_0   4.50  4.50     u16 d[8], nibbles
 *   Q4_1   5.00  5.00     u16 d[8], m[8], nibbles
 *   Q5_0   5.50  5.50     u16 d[8], nibbles, bits
 *   Q4_K   4.50  4.50     nothing, r8_q4_k: the file's 12 scale bytes stay packed, as three words of a lane
 *   Q6_K   6.56  6.58     u16 d[8], r8_q6_k
 *   Q5_1   6.00  6.00     u16 d[8], m[8], nibbles, bits
 *   Q5_K   5.50  5.50     nothing, r8_q5_k: scale bytes as in Q4_K
 *   Q3_K   3.44  3.46     u16 d[8], r8_q3_k: scale bytes as in the file
 *   Q2_K   2.63  2.63     nothing, r8_q2_k
 *   IQ4_NL 4.50  4.50     u16 d[8], nibbles
 *   IQ4_XS 4.25  4.25     nothing, r8_iq4_xs
 *   MXFP4  4.25  4.25     u8 e[8], nibbles
 *
 * Arithmetic. x is a row of kern.h's 8-bit activations: dx_j, s_j and q. All integer sums are exact; every float operation
 * below is one IEEE single operation, rounded on its own, in this order; y starts at +0.
 *   quant   per block: m = the largest |x|. If m is infinite or any x is NaN: d = s = NaN and q = 0, so that the outputs are
 *           NaN too. If d = m/127 is below FLT_MIN: d = s = 0 and q = 0. Else t = x/d, q = t rounded half away from zero
 *           (|q| <= 127), s = d * (float)sum(q).
 *   Q8_0    y = y + (d*dx) * (float)(sum w*q)
 *   Q4_0    y = y + (d*dx) * (float)(sum code*q - 8*sum q)
 *   Q5_0    y = y + (d*dx) * (float)(sum code*q - 16*sum q)
 *   Q4_1, Q5_1:
 *           y = y + ((d*dx) * (float)(sum code*q) + m*s)
 *   Q4_K, Q5_K:
 *           a = m = 0; for j in 0..7: a = a + dx_j * (float)(sc_j * sum_j code*q), m = m + (float)mn_j * s_j;
 *           then y = y + (d*a - dmin*m)
 *   Q6_K    a = 0; for j in 0..7: a = a + dx_j * (float)(sc_2j * sum_16 (code-32)*q + sc_2j+1 * sum_16 (code-32)*q);
 *           then y = y + d*a
 *   Q3_K    the same with sc - 32 and code - 4
 *   Q2_K    a = m = 0; for j in 0..7: a = a + dx_j * (float)(sc_2j * sum_16 code*q + sc_2j+1 * sum_16 code*q),
 *           m = m + dx_j * (float)(32 * (mn_2j * sum_16 q + mn_2j+1 * sum_16 q)); then y = y + (d*a - (dmin/32)*m)
 *   IQ4_NL, MXFP4:
 *           y = y + (d*dx) * (float)(sum level*q), d of MXFP4 the power of two
 *   IQ4_XS  a = 0; for j in 0..7: a = a + dx_j * (float)((sc_j - 32) * sum_j level*q); then y = y + d*a
 * The largest |integer| that becomes a float is 128*32*127*32 = 16,646,144 < 2^24: all conversions are exact. */
#ifndef MARU_CPU_Q_LAYOUT_H
#define MARU_CPU_Q_LAYOUT_H
#include "tensor/tensor.h"

typedef struct {
    u16 d[8], dmin[8];
    u32 scales[3][8]; /* word w of row r: file bytes 4w..4w+3 */
    u8 nibbles[8][4][32];
} r8_q4_k;
typedef struct {
    i8 scales[4][8][4]; /* [word][row][byte]: scale 4*word + byte */
    struct {
        u8 nibbles[4][32], pairs[2][32];
    } block[8];
} r8_q6_k;
typedef struct {
    u16 d[8], dmin[8];
    u32 scales[3][8];
    struct {
        u8 nibbles[4][32], bits[32];
    } block[8];
} r8_q5_k;
typedef struct {
    u32 scales[3][8];
    struct {
        u8 pairs[2][32], bits[32];
    } block[8];
} r8_q3_k;
typedef struct {
    u16 d[8], dmin[8];
    u8 scales[4][8][4]; /* scale below, minimum above */
    u8 pairs[8][2][32];
} r8_q2_k;
typedef struct {
    u16 d[8], scales_high[8];
    u32 scales_low[8];
    u8 nibbles[8][4][32];
} r8_iq4_xs;
_Static_assert(sizeof(r8_q5_k) == 1408 && sizeof(r8_q3_k) == 864 && sizeof(r8_q2_k) == 672 && sizeof(r8_iq4_xs) == 1088,
               "half cache lines at least");
_Static_assert(sizeof(r8_q4_k) == 1152 && sizeof(r8_q6_k) == 1664, "whole cache lines");
typedef struct {
    u8 nibbles[4][32], bits[32];
} r8_q5_0;

static inline usize r8_scale_bytes(dtype t) /* of a block, 8 rows */
{
    switch (t) {
    case Q4_K:
    case Q5_K:
    case Q2_K:
    case IQ4_XS: return 0;
    case MXFP4: return 8;
    case Q4_1:
    case Q5_1: return 32;
    default: return 16;
    }
}
static inline usize r8_value_bytes(dtype t)
{
    switch (t) {
    case Q8_0: return 256;
    case Q4_0:
    case Q4_1:
    case IQ4_NL:
    case MXFP4: return 128;
    case Q5_0:
    case Q5_1: return sizeof(r8_q5_0);
    case Q4_K: return sizeof(r8_q4_k);
    case Q6_K: return sizeof(r8_q6_k);
    case Q5_K: return sizeof(r8_q5_k);
    case Q3_K: return sizeof(r8_q3_k);
    case Q2_K: return sizeof(r8_q2_k);
    case IQ4_XS: return sizeof(r8_iq4_xs);
    default: return 0;
    }
}
/* offsets in the group of block i's scales and values */
static inline usize r8_chunk(dtype t, i64 i) { return (usize)i / 4 * 4 * (r8_scale_bytes(t) + r8_value_bytes(t)); }
static inline usize r8_scales(dtype t, i64 i) { return r8_chunk(t, i) + (usize)i % 4 * r8_scale_bytes(t); }
static inline usize r8_values(dtype t, i64 i)
{
    return r8_chunk(t, i) + 4 * r8_scale_bytes(t) + (usize)i % 4 * r8_value_bytes(t);
}
static inline usize r8_group_bytes(dtype t, i64 k)
{
    i64 n = k / dtype_table[t].block;
    return ((n % 4 ? r8_values(t, n) : r8_chunk(t, n)) + 63) / 64 * 64;
}
#endif
