/* tensor/cpu/body_encode.c - rows of floats into 16-bit floats, blocks of 32 values (Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, IQ4_NL,
 * MXFP4) and IQ4_XS, to the byte as ggml's published quantisers do it when compiled without contraction. Compiled for each
 * instruction set, the same bytes everywhere. Without importances the scale comes from the extremes of a block, with them from a
 * search (fit.h), W blocks side by side. The scale is rounded to 16 bits after the codes were made with the unrounded one: so the
 * definition has it. */
#include <float.h>
#include "tensor/cpu/fit.h"

#define ARGS const float *x, const float *importance, i64 k, void *dst

/* ---- pieces -----------------------------------------------------------------------------------------------------------------
 */
INLINE vi whole(vf x) { return __builtin_convertvector(x, vi); } /* towards zero */
INLINE vi at_most(vi x, int top) { return (vi)pick(x > top, (vf)((vi){0} + top), (vf)x); }
/* 32 integers to their low bytes */
INLINE void bytes_out(void *to, const vi q[Q32 / W])
{
#if W == 16
    for (int i = 0; i < 2; i++) _mm_storeu_si128((__m128i *)to + i, _mm512_cvtepi32_epi8((__m512i)q[i]));
#elif W == 8
    vi low[4];
    UNROLLED(i, 4) low[i] = q[i] & 255;
    __m256i half = _mm256_packs_epi32((__m256i)low[0], (__m256i)low[1]),
            rest = _mm256_packs_epi32((__m256i)low[2], (__m256i)low[3]);
    __m256i bytes = _mm256_packus_epi16(half, rest); /* by fours: 0 2 4 6 1 3 5 7 */
    _mm256_storeu_si256(to, _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
#else
    for (int i = 0; i < 2; i++) {
        vi low[4];
        for (int j = 0; j < 4; j++) low[j] = q[4 * i + j] & 255;
        __m128i half = _mm_packs_epi32((__m128i)low[0], (__m128i)low[1]),
                rest = _mm_packs_epi32((__m128i)low[2], (__m128i)low[3]);
        _mm_storeu_si128((__m128i *)to + i, _mm_packus_epi16(half, rest));
    }
#endif
}
/* codes below 16: value i below, value i + 16 above. As codes_put_nibbles, but gcc would take registers apart for that */
INLINE void nibbles_out(u8 to[16], const u8 codes[Q32])
{
    __m128i low = _mm_loadu_si128((const __m128i *)(const void *)codes),
            high = _mm_loadu_si128((const __m128i *)(const void *)codes + 1);
    _mm_storeu_si128((__m128i *)(void *)to, _mm_or_si128(low, _mm_slli_epi16(high, 4)));
}
INLINE float greatest(vf v) /* of the lanes */
{
    float t[W];
    store(t, v);
    for (int half = W / 2; half; half /= 2)
        for (int i = 0; i < half; i++) t[i] = t[i] > t[i + half] ? t[i] : t[i + half];
    return t[0];
}
INLINE float largest_size(const float *x)
{
    vf m = all(0);
    for (int i = 0; i < Q32; i += W) m = greater(absolute(load(x + i)), m);
    return greatest(m);
}
INLINE float extreme_of(const float *x) /* the first of the largest magnitude, with its sign */
{
    float top = largest_size(x);
    vi plus = {0}, minus = {0};
    for (int i = 0; i < Q32; i += W) plus |= load(x + i) == top, minus |= load(x + i) == -top;
    if (top == 0 || !any(minus)) return top;
    for (int i = 0; any(plus) && i < Q32; i++)
        if (fabsf(x[i]) == top) return x[i];
    return -top;
}
INLINE void range_of(const float *x, float *lo, float *hi)
{
    vf a = load(x), b = a;
    for (int i = W; i < Q32; i += W) a = lesser(load(x + i), a), b = greater(load(x + i), b);
    *lo = -greatest(-a), *hi = greatest(b);
}
/* trunc((x - from) * by + shift), at most top */
INLINE void codes_cut(u8 codes[Q32], const float *x, float from, float by, float shift, int top)
{
    vi q[Q32 / W];
    UNROLLED(i, Q32 / W) q[i] = at_most(whole((load(x + i * W) - from) * by + shift), top);
    bytes_out(codes, q);
}
/* of a search: nearest((x - from) * by) in lo..hi, counted from lo; zeros where the search found nothing */
INLINE void codes_found(u8 codes[Q32], const float *x, float from, float by, float lo, float hi)
{
    vi q[Q32 / W];
    UNROLLED(i, Q32 / W) q[i] = whole(clamp(round_even(by * (load(x + i * W) - from)), lo, hi) - lo) & (by == 0 ? 0 : -1);
    bytes_out(codes, q);
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
        for (int l = 0; l < lanes; l++, b += block_bytes) put(b, x + Q32 * l, (found){f.scale[l], f.low[l], f.by[l], f.from[l]});
    }
}

static void encode_f16(ARGS)
{
    (void)importance;
    u8 *out = dst;
    for (; k >= W; k -= W, x += W, out += 2 * W) {
        u16 half[W];
        store_half(half, load(x));
        memcpy(out, half, sizeof half);
    }
    for (i64 i = 0; i < k; i++) half_put(out + 2 * i, f32_to_f16(x[i]));
}
static void encode_bf16(ARGS)
{
    (void)importance;
    u8 *out = dst;
    for (; k >= 16; k -= 16, x += 16, out += 32) {
        u16 half[16];
        i32 wide[16];
        for (int i = 0; i < 16; i += W) {
            vi u = (vi)load(x + i), odd = u & 0x7fffffff;
            vi near = u + 0x7fff + (u >> 16 & 1), quiet = u | 0x400000;
            u = (vi)pick(odd > 0x7f800000, (vf)quiet, (vf)near) >> 16;
            memcpy(wide + i, &u, sizeof u);
        }
        for (int i = 0; i < 16; i++) half[i] = (u16)wide[i];
        memcpy(out, half, sizeof half);
    }
    for (i64 i = 0; i < k; i++) half_put(out + 2 * i, f32_to_bf16(x[i]));
}

/* ---- the formats ------------------------------------------------------------------------------------------------------------
 */
static void encode_q8_0(ARGS)
{
    (void)importance;
    for (block_q8_0 *b = dst; k > 0; b++, x += Q32, k -= Q32) {
        float d = largest_size(x) / 127, by = d > FLT_MIN ? 1 / d : 0; /* below it the scale is zero as a half, and 1/d may be infinite */
        vi q[Q32 / W];
        half_put(b->d, f32_to_f16(d));
        UNROLLED(i, Q32 / W)
        { /* halves away from zero */
            vf t = load(x + i * W) * by, rest = t - to_float(whole(t));
            q[i] = whole(t) - (rest >= 0.5f) + (rest <= -0.5f);
        }
        bytes_out(b->q, q);
    }
}
static void put_q4_0(void *to, const float *x, found f)
{
    block_q4_0 *b = to;
    u8 codes[Q32];
    half_put(b->d, f32_to_f16(f.scale));
    codes_found(codes, x, 0, f.by, -8, 7);
    nibbles_out(b->q, codes);
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
        nibbles_out(b->q, codes);
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
    nibbles_out(b->q, codes);
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
        nibbles_out(b->q, codes);
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

/* ---- tables ------------------------------------------------------------------------------------------------------------------
 */
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
INLINE void codes_levels(u8 to[16], const float *x, float scale)
{
    u8 codes[Q32];
    vi q[Q32 / W];
    float by = scale != 0 ? 1 / scale : 0;
    UNROLLED(i, Q32 / W) q[i] = level_code(by * load(x + i * W));
    bytes_out(codes, q);
    nibbles_out(to, codes);
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
            search_levels(x + Q32 * j, importance ? importance + Q32 * j : NULL, square + j, (int)i64_min(W, 8 * n - j),
                          scale + j);
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
        vi q[Q32 / W];
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
            q[i / W] = whole(code);
        }
        bytes_out(codes, q);
        nibbles_out(b->q, codes);
    }
}

void BODY(kern_body_encode)(kern *k)
{
    k->encode[F16] = encode_f16, k->encode[BF16] = encode_bf16;
    k->encode[Q8_0] = encode_q8_0, k->encode[Q4_0] = encode_q4_0, k->encode[Q4_1] = encode_q4_1;
    k->encode[Q5_0] = encode_q5_0, k->encode[Q5_1] = encode_q5_1, k->encode[MXFP4] = encode_mxfp4;
    k->encode[IQ4_NL] = encode_iq4_nl, k->encode[IQ4_XS] = encode_iq4_xs;
    BODY(kern_body_encode_k)(k);
}
