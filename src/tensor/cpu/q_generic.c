/* tensor/cpu/q_generic.c - 8-bit activations and quantised dot products in plain C: the meaning of q_avx2.c and q_avx512.c, and
 * what machines without them run. q_layout.h states the layouts and the order of every float operation; the vector files must
 * match these functions bit by bit. Codes of a block are unpacked once for all columns; y accumulates in memory, block after
 * block, which rounds exactly as a register would. Compiled without contraction, like everything that adds floats here. */
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
static void unpack_bits(const u8 bits[32], u8 w[8][32])
{
    for (int q = 0; q < 8; q++)
        for (int i = 0; i < 32; i++) w[q][i] |= (u8)((bits[i] >> q & 1) << 4);
}
static void unpack_pairs(const u8 pairs[2][32], u8 w[8][32])
{
    for (int q = 0; q < 8; q++)
        for (int i = 0; i < 32; i++) w[q][i] |= (u8)((pairs[q / 4][i] >> 2 * (q % 4) & 3) << 4);
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
        unpack_bits(v->bits, w);
        add_block(w, d, 16, b, k, xq, xq_stride, n_cols, y, y_stride);
    }
}

static void dot_q4_1(ARGS)
{
    const u8 *g = group;
    u8 w[8][32];
    float d[8], m[8];
    i32 sum[8];
    clear(y, y_stride, n_cols);
    for (i64 b = 0; b < k / 32; b++) {
        halves(g + r8_scales(Q4_1, b), d);
        halves(g + r8_scales(Q4_1, b) + 16, m);
        unpack_nibbles((const u8(*)[32])(g + r8_values(Q4_1, b)), w);
        for (int c = 0; c < n_cols; c++) {
            const void *x = column(xq, xq_stride, c);
            float dx = xq_d(x, k)[b], s = xq_s(x, k)[b], *out = y + c * y_stride;
            dot_codes(w, xq_q(x) + 32 * b, 0, 8, sum);
            for (int r = 0; r < 8; r++) out[r] += d[r] * dx * (float)sum[r] + m[r] * s;
        }
    }
}

static void scales_q4_k(const r8_q4_k *v, u8 sc[8][8], u8 mn[8][8]) /* [sub-block][row] */
{
    for (int r = 0; r < 8; r++)
        for (int j = 0; j < 4; j++) {
            u32 w0 = v->scales[0][r] >> 8 * j & 255, w1 = v->scales[1][r] >> 8 * j & 255, w2 = v->scales[2][r] >> 8 * j & 255;
            sc[j][r] = w0 & 63, sc[j + 4][r] = (u8)((w2 & 15) | w0 >> 6 << 4);
            mn[j][r] = w1 & 63, mn[j + 4][r] = (u8)(w2 >> 4 | w1 >> 6 << 4);
        }
}

static void dot_q4_k(ARGS)
{
    u8 w[8][8][32], sc[8][8], mn[8][8]; /* w [sub-block][quad][row, 4] */
    float d[8], dmin[8];
    i32 sum[8];
    clear(y, y_stride, n_cols);
    for (i64 b = 0; b < k / 256; b++) {
        const r8_q4_k *v = (const r8_q4_k *)((const u8 *)group + r8_values(Q4_K, b));
        halves(v->d, d), halves(v->dmin, dmin);
        scales_q4_k(v, sc, mn);
        for (int j = 0; j < 8; j++) unpack_nibbles(v->nibbles[j], w[j]);
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
}

static void dot_q6_k(ARGS)
{
    const u8 *g = group;
    u8 w[8][8][32]; /* [block of 32][quad][row, 4] */
    float d[8];
    i32 even[8], odd[8];
    clear(y, y_stride, n_cols);
    for (i64 b = 0; b < k / 256; b++) {
        const r8_q6_k *v = (const r8_q6_k *)(g + r8_values(Q6_K, b));
        halves(g + r8_scales(Q6_K, b), d);
        for (int j = 0; j < 8; j++) unpack_nibbles(v->block[j].nibbles, w[j]), unpack_pairs(v->block[j].pairs, w[j]);
        for (int c = 0; c < n_cols; c++) {
            const void *x = column(xq, xq_stride, c);
            const float *dx = xq_d(x, k) + 8 * b;
            const i16 *o = xq_o6(x, k) + 32 * b;
            float a[8] = {0}, *out = y + c * y_stride;
            for (int j = 0; j < 8; j++) {
                const i8 *q = xq_q(x) + 256 * b + 32 * j;
                dot_codes(w[j], q, 0, 4, even);
                dot_codes(w[j], q, 4, 8, odd);
                for (int r = 0; r < 8; r++) {
                    const i8 *sc = v->scales[j / 2][r] + j % 2 * 2;
                    i32 sum = sc[0] * (even[r] - o[4 * j] - o[4 * j + 1]) + sc[1] * (odd[r] - o[4 * j + 2] - o[4 * j + 3]);
                    a[r] += dx[j] * (float)sum;
                }
            }
            for (int r = 0; r < 8; r++) out[r] += d[r] * a[r];
        }
    }
}

void kern_q_generic(kern *t)
{
    t->quant = quant;
    t->qdot[Q8_0] = dot_q8_0, t->qdot[Q4_0] = dot_q4_0, t->qdot[Q4_1] = dot_q4_1;
    t->qdot[Q5_0] = dot_q5_0, t->qdot[Q4_K] = dot_q4_k, t->qdot[Q6_K] = dot_q6_k;
}
