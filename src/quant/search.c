/* quant/search.c - the same formats, better filled: codes and scales of a row chosen for the least weighted error.
 *
 * Whatever is tried, the block that weight_encode makes is one of the candidates, and a candidate replaces it only if the decoder
 * gives less error: so the result is never worse, whatever the format. Two kinds of candidates:
 *   other importances: the published encoders are asked again with weights that pull their search elsewhere;
 *   scales by least squares: with codes fixed, a block is linear in its one or two half-float scales (x = d a - m b), so the best
 *   ones have a closed form; a and b come from the decoder itself, given scales of one and zero. For blocks of 32 the codes are then
 *   chosen anew for the new scale, in turns (Lloyd's algorithm), from several starts.
 * Wanted: what does not show in size is free quality (ik_llama.cpp, pull request 295, has the idea of maximising the fit). */
#include "quant/inside.h"
#include <math.h>

/* where a block keeps its half-float scales; min -1: it has one only */
static const struct {
    dtype type;
    int scale, min;
} layouts[] = {{Q4_0, 0, -1}, {Q4_1, 0, 2}, {Q5_0, 0, -1}, {Q5_1, 0, 2}, {Q8_0, 0, -1}, {IQ4_NL, 0, -1}, {IQ4_XS, 0, -1}, {Q4_K, 0, 2}, {Q5_K, 0, 2}, {Q6_K, 208, -1}, {Q3_K, 108, -1}, {Q2_K, 80, 82}};

enum { MOST = 256, BYTES = 256 };

typedef struct {
    dtype type;
    int n, bytes, scale, min;
    const float *x, *w; /* [n]; w NULL: ones */
} block;

static double error_of(const block *b, const float *y)
{
    double e = 0;
    for (int i = 0; i < b->n; i++) {
        double d = (double)b->x[i] - (double)y[i];
        e += (b->w ? (double)b->w[i] : 1) * d * d;
    }
    return e;
}

static double error_in(const block *b, const u8 *code)
{
    float y[MOST];
    dtype_table[b->type].decode(code, y, b->n);
    return error_of(b, y);
}

static void set_half(u8 *code, int at, float v)
{
    u16 h = f32_to_f16(v);
    memcpy(code + at, &h, 2);
}

/* codes stay, scales move: the closed form, then the neighbours of its rounding */
static bool refit(const block *b, u8 *code, double *error)
{
    float a[MOST], m[MOST];
    u8 probe[BYTES];
    double aa = 0, am = 0, mm = 0, ax = 0, mx = 0, d, q = 0;
    memcpy(probe, code, (usize)b->bytes);
    set_half(probe, b->scale, 1);
    if (b->min >= 0) set_half(probe, b->min, 0);
    dtype_table[b->type].decode(probe, a, b->n);
    if (b->min >= 0) {
        set_half(probe, b->scale, 0);
        set_half(probe, b->min, 1);
        dtype_table[b->type].decode(probe, m, b->n);
    }
    for (int i = 0; i < b->n; i++) {
        double w = b->w ? (double)b->w[i] : 1, x = (double)b->x[i];
        aa += w * (double)a[i] * (double)a[i], ax += w * (double)a[i] * x;
        if (b->min >= 0) am += w * (double)a[i] * (double)m[i], mm += w * (double)m[i] * (double)m[i], mx += w * (double)m[i] * x;
    }
    if (!(aa > 0)) return false;
    double det = aa * mm - am * am;
    if (b->min >= 0 && mm > 0 && det > 1e-9 * aa * mm) d = (ax * mm - mx * am) / det, q = (mx * aa - ax * am) / det;
    else d = ax / aa;
    if (!(fabs(d) < 60000) || !(fabs(q) < 60000)) return false;
    memcpy(probe, code, (usize)b->bytes);
    set_half(probe, b->scale, (float)d);
    if (b->min >= 0) set_half(probe, b->min, (float)q);
    double e = error_in(b, probe);
    if (!(e < *error)) return false;
    memcpy(code, probe, (usize)b->bytes);
    *error = e;
    return true;
}

/* ---- blocks of 32: codes too ---------------------------------------------------------------------------------------------------- */
static const i8 nl_levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
static const i8 fp_levels[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/* the level nearest to v: the code of it */
static int nearest(dtype t, float v)
{
    const i8 *table = t == IQ4_NL ? nl_levels : fp_levels;
    int low = t == Q4_0 ? -8 : t == Q5_0 ? -16 : t == Q8_0 ? -127 : 0, high = t == Q4_0 ? 7 : t == Q5_0 ? 15 : t == Q8_0 ? 127 : t == Q4_1 ? 15 : 31;
    if (t != IQ4_NL && t != MXFP4) {
        int q = (int)lrintf(v < (float)low ? (float)low : v > (float)high ? (float)high : v);
        return q;
    }
    int best = 0;
    for (int i = 1; i < 16; i++)
        if (fabsf((float)table[i] - v) < fabsf((float)table[best] - v)) best = i;
    return best;
}

static void put_codes(dtype t, const int *q, u8 *code)
{
    int bias = t == Q4_0 ? 8 : t == Q5_0 ? 16 : 0, head = t == MXFP4 ? 1 : t == Q4_1 || t == Q5_1 ? 4 : 2;
    u32 high = 0;
    if (t == Q8_0) {
        for (int i = 0; i < 32; i++) code[2 + i] = (u8)(i8)q[i];
        return;
    }
    u8 *nibbles = code + head + (t == Q5_0 || t == Q5_1 ? 4 : 0);
    for (int i = 0; i < 16; i++) {
        int a = q[i] + bias, b = q[i + 16] + bias;
        nibbles[i] = (u8)((a & 15) | (b & 15) << 4);
        high |= (u32)(a >> 4 & 1) << i | (u32)(b >> 4 & 1) << (i + 16);
    }
    if (t == Q5_0 || t == Q5_1) memcpy(code + head, &high, 4);
}

static void recode(const block *b, float d, float m, u8 *code)
{
    int q[32];
    float by = d ? 1 / d : 0;
    for (int i = 0; i < 32; i++) q[i] = nearest(b->type, (b->x[i] - m) * by);
    if (b->min >= 0) set_half(code, b->min, m);
    set_half(code, b->scale, d);
    put_codes(b->type, q, code);
}

/* in turns: codes for these scales, scales for these codes */
static void settle(const block *b, float d, float m, u8 *best, double *least)
{
    u8 code[BYTES];
    recode(b, d, m, code);
    double e = error_in(b, code);
    for (int turn = 0; turn < 4; turn++) {
        bool moved = refit(b, code, &e);
        if (e < *least) memcpy(best, code, (usize)b->bytes), *least = e;
        if (!moved) return;
        u16 h, l = 0;
        memcpy(&h, code + b->scale, 2);
        if (b->min >= 0) memcpy(&l, code + b->min, 2);
        recode(b, f16_to_f32(h), f16_to_f32(l), code);
        e = error_in(b, code);
        if (e < *least) memcpy(best, code, (usize)b->bytes), *least = e;
    }
}

static void starts_of(const block *b, u8 *best, double *least)
{
    float low = b->x[0], high = b->x[0], most;
    for (int i = 1; i < 32; i++) low = fminf(low, b->x[i]), high = fmaxf(high, b->x[i]);
    most = -low > high ? low : high; /* with its sign */
    if (most == 0 && low == high) return;
    if (b->min >= 0) {
        float steps = b->type == Q4_1 ? 15 : 31;
        for (int i = -2; i <= 4; i++)
            for (int k = 0; k <= 4; k++) {
                float cut = (high - low) / steps * 0.25f * (float)k;
                settle(b, (high - low - 2 * cut) / (steps + 0.4f * (float)i), low + cut, best, least);
            }
        return;
    }
    float span = b->type == Q4_0 ? -8 : b->type == Q5_0 ? -16 : b->type == Q8_0 ? 127 : -127;
    float each = b->type == Q4_0 ? 0.2f : b->type == IQ4_NL ? 2.5f : 0.25f;
    for (int i = -8; i <= 8; i++) {
        float s = span + each * (float)i;
        settle(b, most / s, 0, best, least);
        if (b->type != Q8_0) settle(b, -most / s, 0, best, least);
    }
}

/* the exponent is a byte, halves and doubles only: three of them, codes for each */
static void exponents(const block *b, u8 *best, double *least)
{
    u8 code[BYTES];
    int q[32];
    for (int e = (int)best[0] - 1, last = e + 2; e <= last; e++) {
        if (e < 1 || e > 254) continue;
        float d = ldexpf(1, e - 127 - 1);
        if (!(d > 0)) continue;
        for (int i = 0; i < 32; i++) q[i] = nearest(MXFP4, b->x[i] / d);
        code[0] = (u8)e;
        put_codes(MXFP4, q, code);
        double error = error_in(b, code);
        if (error < *least) memcpy(best, code, (usize)b->bytes), *least = error;
    }
}

/* ---- a row -------------------------------------------------------------------------------------------------------------------------- */
/* what the encoder is asked to care for, instead of w: its k-th idea */
static bool idea(int k, i64 n, const float *x, const float *w, float *out)
{
    float mean = 0;
    for (i64 i = 0; i < n; i++) mean += x[i] * x[i] / (float)n;
    for (i64 i = 0; i < n; i++) {
        float own = w ? w[i] : 1, size = sqrtf(mean + x[i] * x[i]);
        switch (k) {
        case 0: out[i] = own; break;
        case 1: out[i] = size > 0 ? own / size : own; break; /* the encoders multiply by this */
        case 2: out[i] = sqrtf(own); break;
        default: return false;
        }
    }
    return true;
}

err quant_search(dtype t, i64 k, const float *src, const float *weight, void *dst, float *scratch)
{
    int known = -1;
    u8 *out = dst, *other = (u8 *)(scratch + k);
    TRY(weight_encode(t, k, 1, src, weight, dst));
    if (!dtype_table[t].quantised) return OK;
    for (int i = 0; i < (int)COUNT_OF(layouts); i++)
        if (layouts[i].type == t) known = i;
    block b = {.type = t, .n = dtype_table[t].block, .bytes = dtype_table[t].bytes, .scale = -1, .min = -1};
    if (known >= 0) b.scale = layouts[known].scale, b.min = layouts[known].min;
    for (int round = -1; round < 3; round++) {
        if (round >= 0) {
            if (t == MXFP4 || t == Q8_0 || !idea(round, k, src, weight, scratch)) break;
            TRY(weight_encode(t, k, 1, src, scratch, other));
        }
        for (i64 at = 0; at < k; at += b.n) {
            u8 *best = out + at / b.n * b.bytes, *code = round < 0 ? best : other + at / b.n * b.bytes;
            b.x = src + at, b.w = weight ? weight + at : NULL;
            double least = error_in(&b, best), e = round < 0 ? least : error_in(&b, code);
            while (b.scale >= 0 && refit(&b, code, &e)) {}
            if (code != best && e < least) memcpy(best, code, (usize)b.bytes), least = e;
            if (round >= 0 || b.n > 32) continue;
            if (t == MXFP4) exponents(&b, best, &e);
            else starts_of(&b, best, &e);
        }
    }
    return OK;
}
