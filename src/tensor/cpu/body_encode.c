/* tensor/cpu/body_encode.c - rows of floats into blocks of 32 values (Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, IQ4_NL, MXFP4) and IQ4_XS, to
 * the byte as ggml's published quantisers do it when compiled without contraction. Compiled for each instruction set, the same
 * bytes everywhere. Without importances the scale comes from the extremes of a block, with them from a search (fit.h), W blocks
 * side by side. The scale is rounded to 16 bits after the codes were made with the unrounded one: so the definition has it. */
#include "tensor/cpu/fit.h"

#define ARGS const float *x, const float *importance, i64 k, void *dst

/* ---- pieces ----------------------------------------------------------------------------------------------------------------- */
INLINE vi whole(vf x) { return __builtin_convertvector(x, vi); } /* towards zero */
INLINE vi at_most(vi x, int top) { return (vi)pick(x > top, (vf)((vi){0} + top), (vf)x); }
INLINE void codes_out(u8 *codes, const i32 *wide)
{
    for (int i = 0; i < Q32; i++) codes[i] = (u8)wide[i];
}
INLINE float largest_size(const float *x)
{
    vf m = all(0);
    for (int i = 0; i < Q32; i += W) m = greater(absolute(load(x + i)), m);
    float top = 0;
    for (int i = 0; i < W; i++) top = m[i] > top ? m[i] : top;
    return top;
}
INLINE float extreme_of(const float *x) /* the first of the largest magnitude, with its sign */
{
    float top = largest_size(x);
    for (int i = 0; i < Q32; i++)
        if (fabsf(x[i]) == top) return x[i];
    return 0;
}
INLINE void range_of(const float *x, float *lo, float *hi)
{
    vf a = load(x), b = a;
    for (int i = W; i < Q32; i += W) a = lesser(load(x + i), a), b = greater(load(x + i), b);
    *lo = a[0], *hi = b[0];
    for (int i = 1; i < W; i++) *lo = a[i] < *lo ? a[i] : *lo, *hi = b[i] > *hi ? b[i] : *hi;
}
/* trunc((x - from) * by + shift), at most top */
INLINE void codes_cut(u8 codes[Q32], const float *x, float from, float by, float shift, int top)
{
    i32 wide[Q32];
    for (int i = 0; i < Q32; i += W) {
        vi q = at_most(whole((load(x + i) - from) * by + shift), top);
        memcpy(wide + i, &q, sizeof q);
    }
    codes_out(codes, wide);
}
/* of a search: nearest((x - from) * by) in lo..hi, counted from lo; zeros where the search found nothing */
INLINE void codes_found(u8 codes[Q32], const float *x, float from, float by, float lo, float hi)
{
    i32 wide[Q32];
    for (int i = 0; i < Q32; i += W) {
        vi q = whole(clamp(round_even(by * (load(x + i) - from)), lo, hi) - lo) & (by == 0 ? 0 : -1);
        memcpy(wide + i, &q, sizeof q);
    }
    codes_out(codes, wide);
}

/* importance * sqrt(a measure of the neighbourhood's square + x^2), W blocks side by side */
INLINE void weigh(vf *w, const vf *x, const float *importance, vf square, int lanes)
{
    side_by_side(w, importance, Q32, lanes);
    for (int i = 0; i < Q32; i++) w[i] = w[i] * root(square + x[i] * x[i]);
}
static float mean_square(const float *x, i64 k)
{
    float sum = 0;
    for (i64 i = 0; i < k; i++) sum += x[i] * x[i];
    return sum / (float)k;
}

/* what a search found for one block: x ~ scale * q - low */
typedef struct {
    float scale, low, by, from;
} found;
/* a row with importances: W blocks side by side, then `put` for each. line: with a minimum, codes 0..top; else -top..top-1 */
INLINE void search_row(const float *x, const float *importance, i64 k, u8 *b, usize block_bytes, float top, bool line,
                       void (*put)(void *block, const float *x, found f))
{
    float square = mean_square(x, k);
    for (i64 n = k / Q32; n > 0; n -= W, x += Q32 * W, importance += Q32 * W) {
        vf v[Q32], w[Q32];
        int lanes = (int)i64_min(n, W);
        side_by_side(v, x, Q32, lanes);
        weigh(w, v, importance, all(square), lanes);
        fit f = line ? fit_line(v, w, Q32, top, -0.9f, 0.05f, 36, false) : fit_scale(v, w, Q32, top);
        for (int l = 0; l < lanes; l++, b += block_bytes)
            put(b, x + Q32 * l, (found){f.scale[l], f.low[l], f.by[l], f.from[l]});
    }
}

/* ---- the formats ------------------------------------------------------------------------------------------------------------ */
static void encode_q8_0(ARGS)
{
    (void)importance;
    for (block_q8_0 *b = dst; k > 0; b++, x += Q32, k -= Q32) {
        float d = largest_size(x) / 127, by = d != 0 ? 1 / d : 0;
        i32 wide[Q32];
        half_put(b->d, f32_to_f16(d));
        for (int i = 0; i < Q32; i += W) { /* halves away from zero */
            vf t = load(x + i) * by;
            vi q = whole(t);
            vf rest = t - to_float(q);
            q = q - (rest >= 0.5f) + (rest <= -0.5f);
            memcpy(wide + i, &q, sizeof q);
        }
        for (int i = 0; i < Q32; i++) b->q[i] = (i8)wide[i];
    }
}
static void put_q4_0(void *to, const float *x, found f)
{
    block_q4_0 *b = to;
    u8 codes[Q32];
    half_put(b->d, f32_to_f16(f.scale));
    codes_found(codes, x, 0, f.by, -8, 7);
    codes_put_nibbles(b->q, codes);
}
static void encode_q4_0(ARGS)
{
    u8 codes[Q32];
    if (importance) {
        search_row(x, importance, k, dst, sizeof(block_q4_0), 8, false, put_q4_0);
        return;
    }
    for (block_q4_0 *b = dst; k > 0; b++, x += Q32, k -= Q32) {
        float d = extreme_of(x) / -8;
        half_put(b->d, f32_to_f16(d));
        codes_cut(codes, x, 0, d != 0 ? 1 / d : 0, 8.5f, 15);
        codes_put_nibbles(b->q, codes);
    }
}
static void put_q5_0(void *to, const float *x, found f)
{
    block_q5_0 *b = to;
    u8 codes[Q32];
    half_put(b->d, f32_to_f16(f.scale));
    codes_found(codes, x, 0, f.by, -16, 15);
    codes_put_fives(b->q, b->high, codes);
}
static void encode_q5_0(ARGS)
{
    u8 codes[Q32];
    if (importance) {
        search_row(x, importance, k, dst, sizeof(block_q5_0), 16, false, put_q5_0);
        return;
    }
    for (block_q5_0 *b = dst; k > 0; b++, x += Q32, k -= Q32) {
        float d = extreme_of(x) / -16;
        half_put(b->d, f32_to_f16(d));
        codes_cut(codes, x, 0, d != 0 ? 1 / d : 0, 16.5f, 31);
        codes_put_fives(b->q, b->high, codes);
    }
}
static void put_q4_1(void *to, const float *x, found f)
{
    block_q4_1 *b = to;
    u8 codes[Q32];
    half_put(b->d, f32_to_f16(f.scale)), half_put(b->m, f32_to_f16(-f.low));
    codes_found(codes, x, f.from, f.by, 0, 15);
    codes_put_nibbles(b->q, codes);
}
static void encode_q4_1(ARGS)
{
    u8 codes[Q32];
    if (importance) {
        search_row(x, importance, k, dst, sizeof(block_q4_1), 15, true, put_q4_1);
        return;
    }
    for (block_q4_1 *b = dst; k > 0; b++, x += Q32, k -= Q32) {
        float lo, hi;
        range_of(x, &lo, &hi);
        float d = (hi - lo) / 15;
        half_put(b->d, f32_to_f16(d)), half_put(b->m, f32_to_f16(lo));
        codes_cut(codes, x, lo, d != 0 ? 1 / d : 0, 0.5f, 15);
        codes_put_nibbles(b->q, codes);
    }
}
static void put_q5_1(void *to, const float *x, found f)
{
    block_q5_1 *b = to;
    u8 codes[Q32];
    half_put(b->d, f32_to_f16(f.scale)), half_put(b->m, f32_to_f16(-f.low));
    codes_found(codes, x, f.from, f.by, 0, 31);
    codes_put_fives(b->q, b->high, codes);
}
static void encode_q5_1(ARGS)
{
    u8 codes[Q32];
    if (importance) {
        search_row(x, importance, k, dst, sizeof(block_q5_1), 31, true, put_q5_1);
        return;
    }
    for (block_q5_1 *b = dst; k > 0; b++, x += Q32, k -= Q32) {
        float lo, hi;
        range_of(x, &lo, &hi);
        float d = (hi - lo) / 31;
        half_put(b->d, f32_to_f16(d)), half_put(b->m, f32_to_f16(lo));
        codes_cut(codes, x, lo, d != 0 ? 1 / d : 0, 0.5f, 31);
        codes_put_fives(b->q, b->high, codes);
    }
}

/* ---- tables ------------------------------------------------------------------------------------------------------------------ */
/* scales of n <= W sub-blocks of 32; square: of each, what weighs beside x^2 */
INLINE void search_levels(const float *x, const float *importance, const float *square, int lanes, float *scale)
{
    vf v[Q32], w[Q32];
    side_by_side(v, x, Q32, lanes);
    if (importance)
        weigh(w, v, importance, load(square), lanes);
    else
        for (int i = 0; i < Q32; i++) w[i] = v[i] * v[i];
    store(scale, fit_levels(v, w, Q32));
}
INLINE void codes_levels(u8 q[16], const float *x, float scale)
{
    u8 codes[Q32];
    i32 wide[Q32];
    float by = scale != 0 ? 1 / scale : 0;
    for (int i = 0; i < Q32; i += W) {
        vi c = level_code(by * load(x + i));
        memcpy(wide + i, &c, sizeof c);
    }
    codes_out(codes, wide);
    codes_put_nibbles(q, codes);
}
static void encode_iq4_nl(ARGS)
{
    block_iq4_nl *b = dst;
    for (i64 n = k / Q32; n > 0; n -= W, x += Q32 * W) {
        int lanes = (int)i64_min(n, W);
        float square[W] = {0}, scale[W];
        for (int l = 0; importance && l < lanes; l++) {
            for (int i = 0; i < Q32; i++) square[l] += x[Q32 * l + i] * x[Q32 * l + i];
            square[l] *= 2.0f / Q32;
        }
        search_levels(x, importance, square, lanes, scale);
        for (int l = 0; l < lanes; l++, b++) {
            half_put(b->d, f32_to_f16(scale[l]));
            codes_levels(b->q, x + Q32 * l, scale[l]);
        }
        if (importance) importance += Q32 * W;
    }
}
static void put_iq4_xs(block_iq4_xs *b, const float *x, const float scale[8])
{
    float top = 0;
    u8 sc[8];
    for (int j = 0; j < 8; j++)
        if (fabsf(scale[j]) > fabsf(top)) top = scale[j];
    float d = -top / 32, by = d != 0 ? 1 / d : 0;
    half_put(b->d, f32_to_f16(d));
    for (int j = 0; j < 8; j++) {
        int s = (int)lrintf(by * scale[j]);
        s = s < -32 ? -32 : s > 31 ? 31 : s;
        sc[j] = (u8)(s + 32);
        codes_levels(b->q[j], x + Q32 * j, d * (float)s);
    }
    scales_put_iq4_xs(b, sc);
}
static void encode_iq4_xs(ARGS) /* two superblocks at a time: 16 sub-blocks are lanes of every level */
{
    block_iq4_xs *b = dst;
    for (; k > 0; k -= 2 * QK, x += 2 * QK) {
        int n = k > QK ? 2 : 1;
        float square[16] = {0}, scale[16];
        for (int s = 0; importance && s < n; s++) {
            float sum = 0;
            for (int i = 0; i < QK; i++) sum += x[QK * s + i] * x[QK * s + i];
            for (int j = 0; j < 8; j++) square[8 * s + j] = sum * (2.0f / QK);
        }
        for (int j = 0; j < 8 * n; j += W)
            search_levels(x + Q32 * j, importance ? importance + Q32 * j : NULL, square + j, (int)i64_min(W, 8 * n - j), scale + j);
        for (int s = 0; s < n; s++) put_iq4_xs(b++, x + QK * s, scale + 8 * s);
        if (importance) importance += 2 * QK;
    }
}

static void encode_mxfp4(ARGS)
{
    static const float level[16] = {LEVELS_MXFP4};
    (void)importance;
    for (block_mxfp4 *b = dst; k > 0; b++, x += Q32, k -= Q32) {
        float top = largest_size(x), e = top > 0 ? floorf(log2f(top)) - 2 + 127 : 0;
        u8 codes[Q32];
        i32 wide[Q32];
        b->e = (u8)(e > 0 ? e < 254 ? e : 254 : 0);
        float d = mxfp4_scale(b->e);
        for (int i = 0; i < Q32; i += W) { /* the nearest, of equals the first; code 8 is -0 and never nearer than 0 */
            vf v = load(x + i), best = absolute(level[0] * d - v), code = all(0);
            UNROLLED(c, 16)
            {
                vf error = absolute(level[c] * d - v);
                vi better = error < best;
                best = lesser(error, best), code = pick(better, all((float)c), code);
            }
            vi c = whole(code);
            memcpy(wide + i, &c, sizeof c);
        }
        codes_out(codes, wide);
        codes_put_nibbles(b->q, codes);
    }
}

void BODY(kern_body_encode)(kern *k)
{
    k->encode[Q8_0] = encode_q8_0, k->encode[Q4_0] = encode_q4_0, k->encode[Q4_1] = encode_q4_1;
    k->encode[Q5_0] = encode_q5_0, k->encode[Q5_1] = encode_q5_1, k->encode[MXFP4] = encode_mxfp4;
    k->encode[IQ4_NL] = encode_iq4_nl, k->encode[IQ4_XS] = encode_iq4_xs;
    BODY(kern_body_encode_k)(k);
}
