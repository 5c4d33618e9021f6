/* tensor/cpu/body_encode_k.c - rows of floats into superblocks of 256 values (Q2_K .. Q6_K), to the byte as ggml's published
 * quantisers do it when compiled without contraction; the same bytes at every level.
 *
 * A superblock is made in three steps: each sub-block finds its own scale and minimum (fit.h, W sub-blocks side by side); these
 * are written as small integers times one scale of the superblock; then codes are rounded again to what decoders will read. The
 * codes of the first step remain only where that scale became 0. PART superblocks go together, so that what is searched once
 * in a superblock is done for several side by side too. */
#include "tensor/cpu/fit.h"

enum { PART = W < 8 ? W : 8, SUBS = 16 * PART };
typedef struct { /* [PART][8 or 16 sub-blocks] */
    float scale[SUBS + W], low[SUBS + W], by[SUBS + W], from[SUBS + W], weight[SUBS + W];
    float moved[QK * PART + 16 * W]; /* Q3_K without importances: codes, [sub-blocks / W][16][W] */
} fits;

#define ARGS const float *x, const float *importance, i64 k, void *dst
/* the superblocks of a row, PART at a time; n is how many there are */
#define EACH_PART(type)                                                                                                          \
    block_##type *b = dst;                                                                                                       \
    int n = (int)i64_min(k / QK, PART);                                                                                          \
    for (; k > 0; k -= QK * n, x += QK * n, importance += importance ? QK * n : 0, n = (int)i64_min(k / QK, PART))

INLINE float code_limit(float x, float lo, float hi) { return x > lo ? x < hi ? x : hi : lo; }
INLINE int round_in(float x, float lo, float hi) { return (int)code_limit((x + 0x1.8p23f) - 0x1.8p23f, lo, hi); }

/* sums of squares of n <= PART superblocks, side by side for speed alone */
INLINE void squares(const float *x, int n, float *sum)
{
    for (int s = 0; s < PART; s++) sum[s] = 0;
    for (int i = 0; i < QK; i++)
        for (int s = 0; s < n; s++) sum[s] += x[QK * s + i] * x[QK * s + i];
}
INLINE void put_fit(fits *p, int at, fit f)
{
    store(p->scale + at, f.scale), store(p->low + at, f.low), store(p->by + at, f.by), store(p->from + at, f.from);
    store(p->weight + at, f.weight);
}

/* how weights of the fit come about */
typedef enum { BY_SIZE /* |x| */, BY_MEAN /* |x| + root mean square of the sub-block */, BY_IMPORTANCE } weighing;
INLINE void weights(vf *w, const vf *v, int n, weighing how, const float *importance, vf square, int lanes)
{
    if (how == BY_IMPORTANCE) {
        side_by_side(w, importance, n, lanes);
        for (int i = 0; i < n; i++) w[i] = w[i] * root(square + v[i] * v[i]);
        return;
    }
    vf sum = all(0);
    for (int i = 0; how == BY_MEAN && i < n; i++) sum += v[i] * v[i];
    vf mean = root(sum / (float)n);
    for (int i = 0; i < n; i++) w[i] = how == BY_MEAN ? mean + absolute(v[i]) : absolute(v[i]);
}
/* lanes of `square`: that of each sub-block's superblock */
INLINE vf square_of(const float *square, int sub, int subs)
{
    float t[W];
    for (int l = 0; l < W; l++) t[l] = (sub + l) / subs < PART ? square[(sub + l) / subs] : 0;
    return load(t);
}

/* ---- scale and minimum: Q2_K, Q4_K, Q5_K --------------------------------------------------------------------------------------
 */
/* sub-blocks of `each` values of n superblocks */
INLINE void fit_lines(fits *p, const float *x, const float *importance, int n, int each, float top, weighing how, float first,
                      float step, int steps, float square_by)
{
    float square[PART] = {0};
    if (importance) squares(x, n, square);
    for (int s = 0; s < PART; s++) square[s] = square_by * square[s] / QK;
    for (int at = 0, end = n * QK / each; at < end; at += W) {
        vf v[32], w[32];
        int lanes = end - at < W ? end - at : W;
        side_by_side(v, x + each * at, each, lanes);
        weights(w, v, each, how, importance ? importance + each * at : NULL, square_of(square, at, QK / each), lanes);
        put_fit(p, at, fit_line(v, w, each, top, first, step, steps, how == BY_SIZE));
    }
}

/* scales of n superblocks of `subs` sub-blocks as integers 0..top times a number of their own. Side by side: [subs][W] */
typedef struct {
    float d[PART];
    u8 q[PART][16];
} small;
INLINE void fit_smalls(small *out, const float *value, const float *weight, int n, int subs, int top)
{
    for (int at = 0; at < n; at += W) {
        vf x[16], w[16], d;
        vi q[16];
        int lanes = n - at < W ? n - at : W;
        float t[W];
        side_by_side(x, value + subs * at, subs, lanes), side_by_side(w, weight + subs * at, subs, lanes);
        d = fit_positive(x, w, subs, top, q);
        store(t, d);
        for (int l = 0; l < lanes; l++) {
            out->d[at + l] = t[l];
            for (int j = 0; j < subs; j++) out->q[at + l][j] = (u8)q[j][l];
        }
    }
}
/* the same without weights: the largest becomes top */
INLINE void largest_smalls(small *out, const float *value, int n, int subs, int top)
{
    for (int s = 0; s < n; s++, value += subs) {
        float most = 0;
        for (int j = 0; j < subs; j++) most = value[j] > most ? value[j] : most;
        float by = most > 0 ? (float)top / most : 0;
        for (int j = 0; j < subs; j++) {
            u8 q = (u8)round_in(by * value[j], -1e6f, 1e6f);
            out->q[s][j] = q < top ? q : (u8)top;
        }
        out->d[s] = most / (float)top;
    }
}

/* codes of one superblock: nearest((x + m) / d), or what the fit had where d is 0 */
INLINE void line_codes(u8 codes[QK], const float *x, const fits *p, int at, int each, float d, float dmin, const u8 *sc,
                       const u8 *mn, float top)
{
    i32 wide[QK];
    for (int j = 0; j < QK / each; j++) {
        float scale = d * (float)sc[j], low = dmin * (float)mn[j];
        for (int i = each * j; i < each * (j + 1); i += W) {
            vf q = scale != 0 ? round_even((load(x + i) + low) / scale)
                              : round_even(p->by[at + j] * (load(x + i) - p->from[at + j]));
            vi c = __builtin_convertvector(clamp(q, 0, top), vi);
            memcpy(wide + i, &c, sizeof c);
        }
    }
    for (int i = 0; i < QK; i++) codes[i] = (u8)wide[i];
}
INLINE float put_half(u8 b[2], float d) /* what decoders will read */
{
    u16 h = f32_to_f16(d);
    half_put(b, h);
    return f16_to_f32(h);
}

static void encode_q2_k(ARGS)
{
    fits p;
    small sc, mn;
    u8 codes[QK];
    EACH_PART(q2_k)
    {
        if (importance) {
            fit_lines(&p, x, importance, n, 16, 3, BY_IMPORTANCE, -0.9f, 0.05f, 36, 1);
            fit_smalls(&sc, p.scale, p.weight, n, 16, 15), fit_smalls(&mn, p.low, p.weight, n, 16, 15);
        } else {
            fit_lines(&p, x, NULL, n, 16, 3, BY_SIZE, -0.5f, 0.1f, 15, 1);
            largest_smalls(&sc, p.scale, n, 16, 15), largest_smalls(&mn, p.low, n, 16, 15);
        }
        for (int s = 0; s < n; s++, b++) {
            float d = put_half(b->d, sc.d[s]), dmin = put_half(b->dmin, mn.d[s]);
            for (int j = 0; j < 16; j++) b->scales[j] = (u8)(sc.q[s][j] | mn.q[s][j] << 4);
            line_codes(codes, x + QK * s, &p, 16 * s, 16, d, dmin, sc.q[s], mn.q[s], 3);
            codes_put_twos(b->q, codes);
        }
    }
}
/* Q4_K and Q5_K: the same but for the codes' range */
INLINE void fit_45(fits *p, small *sc, small *mn, const float *x, const float *importance, int n, float top, float first,
                   int steps)
{
    if (importance) {
        fit_lines(p, x, importance, n, 32, top, BY_IMPORTANCE, -0.9f, 0.05f, 36, 2);
        fit_smalls(sc, p->scale, p->weight, n, 8, 63), fit_smalls(mn, p->low, p->weight, n, 8, 63);
    } else {
        fit_lines(p, x, NULL, n, 32, top, BY_MEAN, first, 0.1f, steps, 1);
        largest_smalls(sc, p->scale, n, 8, 63), largest_smalls(mn, p->low, n, 8, 63);
    }
}
static void encode_q4_k(ARGS)
{
    fits p;
    small sc, mn;
    u8 codes[QK];
    EACH_PART(q4_k)
    {
        fit_45(&p, &sc, &mn, x, importance, n, 15, -1.0f, 20);
        for (int s = 0; s < n; s++, b++) {
            float d = put_half(b->d, sc.d[s]), dmin = put_half(b->dmin, mn.d[s]);
            scales_put_q4_k(b->scales, sc.q[s], mn.q[s]);
            line_codes(codes, x + QK * s, &p, 8 * s, 32, d, dmin, sc.q[s], mn.q[s], 15);
            codes_put_pairs_of_32(b->q, codes);
        }
    }
}
static void encode_q5_k(ARGS)
{
    fits p;
    small sc, mn;
    u8 codes[QK];
    EACH_PART(q5_k)
    {
        fit_45(&p, &sc, &mn, x, importance, n, 31, -0.5f, 15);
        for (int s = 0; s < n; s++, b++) {
            float d = put_half(b->d, sc.d[s]), dmin = put_half(b->dmin, mn.d[s]);
            scales_put_q4_k(b->scales, sc.q[s], mn.q[s]);
            line_codes(codes, x + QK * s, &p, 8 * s, 32, d, dmin, sc.q[s], mn.q[s], 31);
            codes_put_q5_k(b, codes);
        }
    }
}

/* ---- a scale alone: Q3_K, Q6_K
 * -------------------------------------------------------------------------------------------------- */
/* codes of one superblock: nearest(x / d) in -half..half-1, counted from -half; where d is 0, what the fit had */
INLINE void scale_codes(u8 codes[QK], const float *x, const fits *p, int at, float d, const i8 *sc, float half, bool moved)
{
    i32 wide[QK];
    for (int j = 0; j < 16; j++) {
        float scale = d * (float)sc[j], by = p->by[at + j];
        for (int i = 16 * j; i < 16 * (j + 1); i += W) {
            vf q = scale != 0 ? round_even(load(x + i) / scale) : round_even(by * load(x + i));
            vi c = __builtin_convertvector(clamp(q, -half, half - 1) + half, vi) & (scale == 0 && by == 0 ? 0 : -1);
            memcpy(wide + i, &c, sizeof c);
        }
        if (moved && scale == 0 && by != 0)
            for (int i = 0; i < 16; i++) wide[16 * j + i] = (int)(p->moved[(at + j) / W * 16 * W + i * W + (at + j) % W] + half);
    }
    for (int i = 0; i < QK; i++) codes[i] = (u8)wide[i];
}

/* scales of n superblocks in -32..31, the weighted fit of a fit */
INLINE void signed_smalls(const fits *p, int n, float *d, i8 sc[][16])
{
    for (int at = 0; at < n; at += W) {
        vf x[16], w[16];
        int lanes = n - at < W ? n - at : W;
        float by[W], t[W];
        side_by_side(x, p->scale + 16 * at, 16, lanes), side_by_side(w, p->weight + 16 * at, 16, lanes);
        fit f = fit_scale(x, w, 16, 32);
        store(t, f.scale), store(by, f.by);
        for (int l = 0; l < lanes; l++) {
            d[at + l] = t[l];
            for (int j = 0; j < 16; j++) {
                int q = round_in(by[l] * p->scale[16 * (at + l) + j], -32, 31);
                sc[at + l][j] = (i8)(by[l] != 0 ? q : -32);
            }
        }
    }
}
INLINE float largest_sized(const float *value) /* of 16, with its sign */
{
    float top = 0;
    for (int j = 0; j < 16; j++)
        if (fabsf(value[j]) > fabsf(top)) top = value[j];
    return top;
}

static void fit_q3_k(fits *p, const float *x, const float *importance, int n, float *d, i8 sc[][16])
{
    float square[PART] = {0};
    if (importance) squares(x, n, square);
    for (int s = 0; s < PART; s++) square[s] = 2 * square[s] / QK;
    for (int at = 0; at < 16 * n; at += W) {
        vf v[16], w[16];
        int lanes = 16 * n - at < W ? 16 * n - at : W;
        side_by_side(v, x + 16 * at, 16, lanes);
        if (!importance) {
            put_fit(p, at, fit_moves(v, 16, 4, w));
            for (int i = 0; i < 16; i++) store(p->moved + at * 16 + i * W, w[i]);
            continue;
        }
        weights(w, v, 16, BY_IMPORTANCE, importance + 16 * at, square_of(square, at, 16), lanes);
        fit f = fit_scale(v, w, 16, 4);
        f.weight = all(0);
        for (int i = 0; i < 16; i++) f.weight += w[i];
        put_fit(p, at, f);
    }
    if (importance) {
        signed_smalls(p, n, d, sc);
        return;
    }
    for (int s = 0; s < n; s++) {
        float top = largest_sized(p->scale + 16 * s), by = top != 0 ? -32 / top : 0;
        d[s] = top != 0 ? 1 / by : 0;
        for (int j = 0; j < 16; j++) sc[s][j] = top != 0 ? (i8)round_in(by * p->scale[16 * s + j], -32, 31) : -32;
    }
}
static void encode_q3_k(ARGS)
{
    fits p;
    float wanted[PART];
    i8 sc[PART][16];
    u8 codes[QK], put[16];
    EACH_PART(q3_k)
    {
        fit_q3_k(&p, x, importance, n, wanted, sc);
        for (int s = 0; s < n; s++, b++) {
            float d = put_half(b->d, wanted[s]);
            for (int j = 0; j < 16; j++) put[j] = (u8)(sc[s][j] + 32);
            scales_put_q3_k(b->scales, put);
            scale_codes(codes, x + QK * s, &p, 16 * s, d, sc[s], 4, !importance);
            codes_put_q3_k(b, codes);
        }
    }
}

static void encode_q6_k(ARGS)
{
    fits p;
    u8 codes[QK];
    EACH_PART(q6_k)
    {
        for (int at = 0; at < 16 * n; at += W) {
            vf v[16], w[16];
            int lanes = 16 * n - at < W ? 16 * n - at : W;
            side_by_side(v, x + 16 * at, 16, lanes);
            if (importance)
                side_by_side(w, importance + 16 * at, 16, lanes);
            else
                for (int i = 0; i < 16; i++) w[i] = v[i] * v[i];
            put_fit(&p, at, fit_scale(v, w, 16, 32));
        }
        for (int s = 0; s < n; s++, b++) {
            float top = largest_sized(p.scale + 16 * s), by = -128 / top;
            if (!(fabsf(top) >= NOTHING)) {
                memset(b, 0, sizeof *b);
                continue;
            }
            float d = put_half(b->d, 1 / by);
            for (int j = 0; j < 16; j++) b->scales[j] = (i8)round_in(by * p.scale[16 * s + j], -128, 127);
            scale_codes(codes, x + QK * s, &p, 16 * s, d, b->scales, 32, false);
            codes_put_q6_k(b, codes);
        }
    }
}

void BODY(kern_body_encode_k)(kern *k)
{
    k->encode[Q2_K] = encode_q2_k, k->encode[Q3_K] = encode_q3_k, k->encode[Q4_K] = encode_q4_k;
    k->encode[Q5_K] = encode_q5_k, k->encode[Q6_K] = encode_q6_k;
}
