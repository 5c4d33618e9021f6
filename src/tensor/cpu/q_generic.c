/* tensor/cpu/q_generic.c - 8-bit activations and quantised dot products in plain C: the meaning of q_avx2.c and q_avx512.c, and
 * what machines without them run. q_layout.h states the layouts and the order of every float operation; the vector files must
 * match these functions bit by bit. Codes of a block are unpacked once for all columns; y accumulates in memory, block after
 * block, which rounds exactly as a register would. Compiled without contraction, like everything that adds floats here. */
#include "tensor/block.h"
#include "tensor/cpu/kern.h"
#include "tensor/cpu/q_layout.h"
#include <float.h>
#include <math.h>

/* ---- activations ---------------------------------------------------------------------------------------------------------- */
static void quant_block(const float *x, i8 *q, float *d, float *s, i16 o6[4], i16 o5[2])
{
    float m;
    u32 top = 0; /* largest bit pattern without sign: orders NaN over infinity over numbers */
    for (int i = 0; i < 32; i++) {
        u32 u;
        memcpy(&u, x + i, 4);
        u &= 0x7fffffff;
        if (u > top) top = u;
    }
    memcpy(&m, &top, 4);
    *d = m / 127;
    if (top >= 0x7f800000)
        *d = NAN;
    else if (*d < FLT_MIN)
        *d = 0;
    i32 pair[4] = {0}; /* [half][k%4 / 2] */
    for (int i = 0; i < 32; i++) {
        float t = *d > 0 ? x[i] / *d : 0, rest = t - (float)(int)t;
        q[i] = (i8)((int)t + (rest >= 0.5f) - (rest <= -0.5f));
        pair[i / 16 * 2 + i % 4 / 2] += q[i];
    }
    *s = *d * (float)(pair[0] + pair[1] + pair[2] + pair[3]);
    for (int i = 0; i < 4; i++) o6[i] = (i16)(32 * pair[i]);
    for (int i = 0; i < 2; i++) o5[i] = (i16)(16 * (pair[i] + pair[i + 2]));
}

static void quant(const float *x, i64 k, void *xq)
{
    i8 *q = xq;
    float *d = (float *)((u8 *)xq + xq_pad(k)), *s = d + k / 32;
    i16 *o6 = (i16 *)(s + k / 32), *o5 = o6 + k / 32 * 4;
    for (i64 b = 0; b < k / 32; b++) quant_block(x + 32 * b, q + 32 * b, d + b, s + b, o6 + 4 * b, o5 + 2 * b);
    memset(q + k, 0, xq_pad(k) - (usize)k);
}

/* ---- unpacking: vectors of a block -> codes [8 quads][8 rows][4] ------------------------------------------------------------
 */
static void unpack_nibbles(const u8 v[4][32], u8 w[8][32])
{
    for (int p = 0; p < 4; p++)
        for (int i = 0; i < 32; i++) w[p][i] = v[p][i] & 15, w[p + 4][i] = v[p][i] >> 4;
}
static void unpack_bits(const u8 bits[32], u8 w[8][32], int at)
{
    for (int q = 0; q < 8; q++)
        for (int i = 0; i < 32; i++) w[q][i] |= (u8)((bits[i] >> q & 1) << at);
}
static void unpack_pairs(const u8 pairs[2][32], u8 w[8][32], int at)
{
    for (int q = 0; q < 8; q++)
        for (int i = 0; i < 32; i++) w[q][i] |= (u8)((pairs[q / 4][i] >> 2 * (q % 4) & 3) << at);
}

/* sums of codes * q over quads from..to, for 8 rows */
static void dot_codes(const u8 w[8][32], const i8 *q, int from, int to, i32 sum[8])
{
    memset(sum, 0, 8 * sizeof *sum);
    for (int j = from; j < to; j++)
        for (int r = 0; r < 8; r++)
            for (int i = 0; i < 4; i++) sum[r] += w[j][4 * r + i] * q[4 * j + i];
}

/* ---- one group of 8 rows against n_cols columns ------------------------------------------------------------------------------
 */
#define ARGS const void *group, i64 k, const void *xq, usize xq_stride, int n_cols, float *y, i64 y_stride
static const void *column(const void *xq, usize stride, int c) { return (const u8 *)xq + stride * (usize)c; }
static void clear(float *y, i64 y_stride, int n_cols)
{
    for (int c = 0; c < n_cols; c++) memset(y + c * y_stride, 0, 8 * sizeof *y);
}
static void halves(const void *h, float f[8])
{
    for (int r = 0; r < 8; r++) f[r] = f16_to_f32(((const u16 *)h)[r]);
}

static void dot_q8_0(ARGS)
{
    const u8 *g = group;
    float d[8];
    clear(y, y_stride, n_cols);
    for (i64 b = 0; b < k / 32; b++) {
        const i8 *v = (const i8 *)g + r8_values(Q8_0, b);
        halves(g + r8_scales(Q8_0, b), d);
        for (int c = 0; c < n_cols; c++) {
            const void *x = column(xq, xq_stride, c);
            const i8 *q = xq_q(x) + 32 * b;
            float dx = xq_d(x, k)[b], *out = y + c * y_stride;
            for (int r = 0; r < 8; r++) {
                i32 sum = 0;
                for (int i = 0; i < 32; i++) sum += v[i / 4 * 32 + 4 * r + i % 4] * q[i];
                out[r] += d[r] * dx * (float)sum;
            }
        }
    }
}

/* codes of one block less a fixed offset */
static void add_block(const u8 w[8][32], const float d[8], int offset, i64 b, i64 k, const void *xq, usize xq_stride, int n_cols,
                      float *y, i64 y_stride)
{
    i32 sum[8];
    for (int c = 0; c < n_cols; c++) {
        const void *x = column(xq, xq_stride, c);
        const i16 *o = xq_o5(x, k) + 2 * b;
        float dx = xq_d(x, k)[b], *out = y + c * y_stride;
        dot_codes(w, xq_q(x) + 32 * b, 0, 8, sum);
        for (int r = 0; r < 8; r++) out[r] += d[r] * dx * (float)(sum[r] - (o[0] + o[1]) / 16 * offset);
    }
}

static void dot_q4_0(ARGS)
{
    const u8 *g = group;
    u8 w[8][32];
    float d[8];
    clear(y, y_stride, n_cols);
    for (i64 b = 0; b < k / 32; b++) {
        halves(g + r8_scales(Q4_0, b), d);
        unpack_nibbles((const u8(*)[32])(g + r8_values(Q4_0, b)), w);
        add_block(w, d, 8, b, k, xq, xq_stride, n_cols, y, y_stride);
    }
}

static void dot_q5_0(ARGS)
{
    const u8 *g = group;
    u8 w[8][32];
    float d[8];
    clear(y, y_stride, n_cols);
    for (i64 b = 0; b < k / 32; b++) {
        const r8_q5_0 *v = (const r8_q5_0 *)(g + r8_values(Q5_0, b));
        halves(g + r8_scales(Q5_0, b), d);
        unpack_nibbles(v->nibbles, w);
        unpack_bits(v->bits, w, 4);
        add_block(w, d, 16, b, k, xq, xq_stride, n_cols, y, y_stride);
    }
}

/* codes of one block and a minimum */
static void add_block_min(const u8 w[8][32], const float d[8], const float low[8], i64 b, i64 k, const void *xq, usize xq_stride,
                          int n_cols, float *y, i64 y_stride)
{
    i32 sum[8];
    for (int c = 0; c < n_cols; c++) {
        const void *x = column(xq, xq_stride, c);
        float dx = xq_d(x, k)[b], s = xq_s(x, k)[b], *out = y + c * y_stride;
        dot_codes(w, xq_q(x) + 32 * b, 0, 8, sum);
        for (int r = 0; r < 8; r++) out[r] += d[r] * dx * (float)sum[r] + low[r] * s;
    }
}
static void dot_q4_1(ARGS)
{
    const u8 *g = group;
    u8 w[8][32];
    float d[8], m[8];
    clear(y, y_stride, n_cols);
    for (i64 b = 0; b < k / 32; b++) {
        halves(g + r8_scales(Q4_1, b), d);
        halves(g + r8_scales(Q4_1, b) + 16, m);
        unpack_nibbles((const u8(*)[32])(g + r8_values(Q4_1, b)), w);
        add_block_min(w, d, m, b, k, xq, xq_stride, n_cols, y, y_stride);
    }
}
static void dot_q5_1(ARGS)
{
    const u8 *g = group;
    u8 w[8][32];
    float d[8], m[8];
    clear(y, y_stride, n_cols);
    for (i64 b = 0; b < k / 32; b++) {
        const r8_q5_0 *v = (const r8_q5_0 *)(g + r8_values(Q5_1, b));
        halves(g + r8_scales(Q5_1, b), d);
        halves(g + r8_scales(Q5_1, b) + 16, m);
        unpack_nibbles(v->nibbles, w);
        unpack_bits(v->bits, w, 4);
        add_block_min(w, d, m, b, k, xq, xq_stride, n_cols, y, y_stride);
    }
}

/* levels of one block: signed values in place of codes */
static void add_block_levels(const u8 v[4][32], const i8 level[16], const float d[8], i64 b, i64 k, const void *xq,
                             usize xq_stride, int n_cols, float *y, i64 y_stride)
{
    u8 w[8][32];
    unpack_nibbles(v, w);
    for (int c = 0; c < n_cols; c++) {
        const void *x = column(xq, xq_stride, c);
        const i8 *q = xq_q(x) + 32 * b;
        float dx = xq_d(x, k)[b], *out = y + c * y_stride;
        for (int r = 0; r < 8; r++) {
            i32 sum = 0;
            for (int i = 0; i < 32; i++) sum += level[w[i / 4][4 * r + i % 4]] * q[i];
            out[r] += d[r] * dx * (float)sum;
        }
    }
}
static void dot_iq4_nl(ARGS)
{
    const u8 *g = group;
    float d[8];
    clear(y, y_stride, n_cols);
    for (i64 b = 0; b < k / 32; b++) {
        halves(g + r8_scales(IQ4_NL, b), d);
        add_block_levels((const u8(*)[32])(g + r8_values(IQ4_NL, b)), level_iq4, d, b, k, xq, xq_stride, n_cols, y, y_stride);
    }
}
static void dot_mxfp4(ARGS)
{
    const u8 *g = group;
    float d[8];
    clear(y, y_stride, n_cols);
    for (i64 b = 0; b < k / 32; b++) {
        for (int r = 0; r < 8; r++) d[r] = mxfp4_scale(g[r8_scales(MXFP4, b) + (usize)r]);
        add_block_levels((const u8(*)[32])(g + r8_values(MXFP4, b)), level_mxfp4, d, b, k, xq, xq_stride, n_cols, y, y_stride);
    }
}
static void dot_iq4_xs(ARGS)
{
    u8 w[8][32];
    float d[8];
    clear(y, y_stride, n_cols);
    for (i64 b = 0; b < k / 256; b++) {
        const r8_iq4_xs *v = (const r8_iq4_xs *)((const u8 *)group + r8_values(IQ4_XS, b));
        halves(v->d, d);
        for (int c = 0; c < n_cols; c++) {
            const void *x = column(xq, xq_stride, c);
            float a[8] = {0}, *out = y + c * y_stride;
            for (int j = 0; j < 8; j++) {
                const i8 *q = xq_q(x) + 256 * b + 32 * j;
                unpack_nibbles(v->nibbles[j], w);
                for (int r = 0; r < 8; r++) {
                    i32 sum = 0, sc = (i32)(v->scales_low[r] >> 4 * j & 15) | (v->scales_high[r] >> 2 * j & 3) << 4;
                    for (int i = 0; i < 32; i++) sum += level_iq4[w[i / 4][4 * r + i % 4]] * q[i];
                    a[r] += xq_d(x, k)[8 * b + j] * (float)((sc - 32) * sum);
                }
            }
            for (int r = 0; r < 8; r++) out[r] += d[r] * a[r];
        }
    }
}

static void scales_q4_k(const u32 scales[3][8], u8 sc[8][8], u8 mn[8][8]) /* [sub-block][row] */
{
    for (int r = 0; r < 8; r++)
        for (int j = 0; j < 4; j++) {
            u32 w0 = scales[0][r] >> 8 * j & 255, w1 = scales[1][r] >> 8 * j & 255, w2 = scales[2][r] >> 8 * j & 255;
            sc[j][r] = w0 & 63, sc[j + 4][r] = (u8)((w2 & 15) | w0 >> 6 << 4);
            mn[j][r] = w1 & 63, mn[j + 4][r] = (u8)(w2 >> 4 | w1 >> 6 << 4);
        }
}

/* a superblock of Q4_K or Q5_K. w [sub-block][quad][row, 4] */
static void add_super(const u8 w[8][8][32], const u16 halves_d[8], const u16 halves_m[8], const u32 scales[3][8], i64 b, i64 k,
                      const void *xq, usize xq_stride, int n_cols, float *y, i64 y_stride)
{
    u8 sc[8][8], mn[8][8];
    float d[8], dmin[8];
    i32 sum[8];
    halves(halves_d, d), halves(halves_m, dmin);
    scales_q4_k(scales, sc, mn);
    for (int c = 0; c < n_cols; c++) {
        const void *x = column(xq, xq_stride, c);
        const float *dx = xq_d(x, k) + 8 * b, *s = xq_s(x, k) + 8 * b;
        float a[8] = {0}, m[8] = {0}, *out = y + c * y_stride;
        for (int j = 0; j < 8; j++) {
            dot_codes(w[j], xq_q(x) + 256 * b + 32 * j, 0, 8, sum);
            for (int r = 0; r < 8; r++) a[r] += dx[j] * (float)(sc[j][r] * sum[r]), m[r] += (float)mn[j][r] * s[j];
        }
        for (int r = 0; r < 8; r++) out[r] += d[r] * a[r] - dmin[r] * m[r];
    }
}
static void dot_q4_k(ARGS)
{
    u8 w[8][8][32];
    clear(y, y_stride, n_cols);
    for (i64 b = 0; b < k / 256; b++) {
        const r8_q4_k *v = (const r8_q4_k *)((const u8 *)group + r8_values(Q4_K, b));
        for (int j = 0; j < 8; j++) unpack_nibbles(v->nibbles[j], w[j]);
        add_super((const u8(*)[8][32])w, v->d, v->dmin, v->scales, b, k, xq, xq_stride, n_cols, y, y_stride);
    }
}
static void dot_q5_k(ARGS)
{
    u8 w[8][8][32];
    clear(y, y_stride, n_cols);
    for (i64 b = 0; b < k / 256; b++) {
        const r8_q5_k *v = (const r8_q5_k *)((const u8 *)group + r8_values(Q5_K, b));
        for (int j = 0; j < 8; j++) unpack_nibbles(v->block[j].nibbles, w[j]), unpack_bits(v->block[j].bits, w[j], 4);
        add_super((const u8(*)[8][32])w, v->d, v->dmin, v->scales, b, k, xq, xq_stride, n_cols, y, y_stride);
    }
}

/* a superblock of Q6_K or Q3_K: signed scales of 16 values, codes less `offset`. w [block of 32][quad][row, 4], sc [row][16] */
static void add_super_16(const u8 w[8][8][32], const float d[8], const i8 sc[8][16], int offset, i64 b, i64 k, const void *xq,
                         usize xq_stride, int n_cols, float *y, i64 y_stride)
{
    i32 even[8], odd[8];
    for (int c = 0; c < n_cols; c++) {
        const void *x = column(xq, xq_stride, c);
        const float *dx = xq_d(x, k) + 8 * b;
        const i16 *o = xq_o6(x, k) + 32 * b;
        float a[8] = {0}, *out = y + c * y_stride;
        for (int j = 0; j < 8; j++) {
            const i8 *q = xq_q(x) + 256 * b + 32 * j;
            i32 less = (o[4 * j] + o[4 * j + 1]) / 32 * offset, less_odd = (o[4 * j + 2] + o[4 * j + 3]) / 32 * offset;
            dot_codes(w[j], q, 0, 4, even);
            dot_codes(w[j], q, 4, 8, odd);
            for (int r = 0; r < 8; r++)
                a[r] += dx[j] * (float)(sc[r][2 * j] * (even[r] - less) + sc[r][2 * j + 1] * (odd[r] - less_odd));
        }
        for (int r = 0; r < 8; r++) out[r] += d[r] * a[r];
    }
}
static void dot_q6_k(ARGS)
{
    const u8 *g = group;
    u8 w[8][8][32];
    i8 sc[8][16];
    float d[8];
    clear(y, y_stride, n_cols);
    for (i64 b = 0; b < k / 256; b++) {
        const r8_q6_k *v = (const r8_q6_k *)(g + r8_values(Q6_K, b));
        halves(g + r8_scales(Q6_K, b), d);
        for (int j = 0; j < 8; j++) unpack_nibbles(v->block[j].nibbles, w[j]), unpack_pairs(v->block[j].pairs, w[j], 4);
        for (int i = 0; i < 128; i++) sc[i / 16][i % 16] = v->scales[i % 16 / 4][i / 16][i % 4];
        add_super_16((const u8(*)[8][32])w, d, (const i8(*)[16])sc, 32, b, k, xq, xq_stride, n_cols, y, y_stride);
    }
}
static void dot_q3_k(ARGS)
{
    const u8 *g = group;
    u8 w[8][8][32], packed[12], wide[16];
    i8 sc[8][16];
    float d[8];
    clear(y, y_stride, n_cols);
    for (i64 b = 0; b < k / 256; b++) {
        const r8_q3_k *v = (const r8_q3_k *)(g + r8_values(Q3_K, b));
        halves(g + r8_scales(Q3_K, b), d);
        memset(w, 0, sizeof w);
        for (int j = 0; j < 8; j++) unpack_pairs(v->block[j].pairs, w[j], 0), unpack_bits(v->block[j].bits, w[j], 2);
        for (int r = 0; r < 8; r++) {
            for (int i = 0; i < 3; i++) memcpy(packed + 4 * i, &v->scales[i][r], 4);
            scales_get_q3_k(packed, wide);
            for (int i = 0; i < 16; i++) sc[r][i] = (i8)(wide[i] - 32);
        }
        add_super_16((const u8(*)[8][32])w, d, (const i8(*)[16])sc, 4, b, k, xq, xq_stride, n_cols, y, y_stride);
    }
}

static void dot_q2_k(ARGS)
{
    const u8 *g = group;
    u8 w[8][8][32];
    float d[8], dmin[8];
    i32 even[8], odd[8];
    clear(y, y_stride, n_cols);
    for (i64 b = 0; b < k / 256; b++) {
        const r8_q2_k *v = (const r8_q2_k *)(g + r8_values(Q2_K, b));
        halves(v->d, d), halves(v->dmin, dmin);
        memset(w, 0, sizeof w);
        for (int j = 0; j < 8; j++) unpack_pairs(v->pairs[j], w[j], 0);
        for (int c = 0; c < n_cols; c++) {
            const void *x = column(xq, xq_stride, c);
            const float *dx = xq_d(x, k) + 8 * b;
            const i16 *o = xq_o6(x, k) + 32 * b;
            float a[8] = {0}, m[8] = {0}, *out = y + c * y_stride;
            for (int j = 0; j < 8; j++) {
                const i8 *q = xq_q(x) + 256 * b + 32 * j;
                dot_codes(w[j], q, 0, 4, even);
                dot_codes(w[j], q, 4, 8, odd);
                for (int r = 0; r < 8; r++) {
                    const u8 *sc = v->scales[j / 2][r] + j % 2 * 2;
                    a[r] += dx[j] * (float)((sc[0] & 15) * even[r] + (sc[1] & 15) * odd[r]);
                    m[r] +=
                        dx[j] * (float)((sc[0] >> 4) * (o[4 * j] + o[4 * j + 1]) + (sc[1] >> 4) * (o[4 * j + 2] + o[4 * j + 3]));
                }
            }
            for (int r = 0; r < 8; r++) out[r] += d[r] * a[r] - dmin[r] * 0.03125f * m[r];
        }
    }
}

void kern_q_generic(kern *t)
{
    t->quant = quant;
    t->qdot[Q8_0] = dot_q8_0, t->qdot[Q4_0] = dot_q4_0, t->qdot[Q4_1] = dot_q4_1;
    t->qdot[Q5_0] = dot_q5_0, t->qdot[Q4_K] = dot_q4_k, t->qdot[Q6_K] = dot_q6_k;
    t->qdot[Q5_1] = dot_q5_1, t->qdot[Q5_K] = dot_q5_k, t->qdot[Q3_K] = dot_q3_k, t->qdot[Q2_K] = dot_q2_k;
    t->qdot[IQ4_NL] = dot_iq4_nl, t->qdot[IQ4_XS] = dot_iq4_xs, t->qdot[MXFP4] = dot_mxfp4;
}
