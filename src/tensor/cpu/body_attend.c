/* tensor/cpu/body_attend.c - attention of one query row: the heads that share one kv head against the positions [first,end).
 *   s_p = scale <q,k_p>, with a softcap c: c tanh(s_p / c);   w_p = e^(s_p - max) / sum e^(s - max);   y = sum_p w_p v_p
 * Three passes over a scratch row per head: scores, weights, values. Keys and values are read in tiles of TILE positions counted
 * from `first`, converted to floats once for all heads. Every sum has an order that follows from positions alone: a score is 16
 * partial sums over hd, the denominator 8 over positions, y the sum of each tile in order, then the tiles in order. So where the
 * pages lie changes nothing. Masks, windows and the choice of positions are the caller's. */
#include "tensor/cpu/body.h"

#define TILE 16                    /* positions */
#define PIECE 256                  /* values of a head at a time in the third pass */
#define TILE_FLOATS (TILE * PIECE) /* a tile as floats: half of a first-level cache */
#if W == 16
#define HEADS 8 /* whose sums the registers hold */
#elif W == 8
#define HEADS 4
#else
#define HEADS 2
#endif

INLINE i64 slot_of(const attend_row *a, i64 p) { return a->pages ? (i64)a->pages[p / a->page] * a->page + p % a->page : p; }

/* to [room] = values [at, at + n) of the row of position p, then zeros */
INLINE void fetch(const attend_row *a, const u8 *base, usize stride, i64 p, i64 at, i64 n, i64 room, float *to)
{
    const u8 *from = base + (usize)slot_of(a, p) * stride;
    if (a->type == F16)
        half_to_float(to, (const u16 *)(const void *)from + at, n);
    else
        memcpy(to, (const float *)(const void *)from + at, sizeof *to * (usize)n);
    for (i64 i = n; i < room; i++) to[i] = 0;
}

/* score [n_pad, n_q] */
static void scores(const attend_row *a, i64 n, i64 n_pad)
{
    float t[TILE_FLOATS];
    i64 hd = a->hd, tile = i64_min(TILE, TILE_FLOATS / hd);
    for (i64 i = 0; i < n; i += tile) {
        int keys = (int)i64_min(tile, n - i);
        for (int j = 0; j < keys; j++) fetch(a, a->k, a->k_stride, a->first + i + j, 0, hd, hd, t + j * hd);
        BODY(body_gemm)(t, hd, keys, a->q, hd, a->n_q, hd, a->score + i, n_pad);
    }
}

/* the same for heads longer than a tile: no model has them, but a file may say so */
static void scores_long(const attend_row *a, i64 n, i64 n_pad)
{
    float t[TILE_FLOATS];
    for (i64 i = 0; i < n * a->n_q; i++) {
        i64 p = i / a->n_q, h = i % a->n_q;
        vf s[LANES] = {{0}};
        for (i64 at = 0; at < a->hd; at += TILE_FLOATS) {
            i64 some = i64_min(TILE_FLOATS, a->hd - at);
            fetch(a, a->k, a->k_stride, a->first + p, at, some, some, t);
            dot_add(s, a->q + h * a->hd + at, t, some);
        }
        a->score[h * n_pad + p] = sum_1(fold4(s));
    }
}

/* scores of one head to weights */
static void weights(const attend_row *a, float *s, i64 n, float *lse)
{
    i64 i = 0;
    for (i64 j = n; j % 16; j++) s[j] = 0; /* the scratch has room for whole vectors */
    for (; i < n; i += W) {
        vf v = load(s + i) * a->scale;
        if (a->softcap > 0) v = v_tanh(v / a->softcap) * a->softcap;
        store(s + i, v);
    }
    float shift = row_shift(s, n);
    double sum = row_exp(s, s, shift, n);
    float by = (float)(1 / sum);
    for (i = 0; i < n; i += W) store(s + i, load(s + i) * by);
    if (lse) *lse = (float)((double)shift + log(sum));
}

/* y [16, h] += sum over keys of weight [key, h] times v [16, key]; only the first n of 16 exist in y */
INLINE void values_step(float *y, i64 y_stride, i64 n, const float *weight, i64 w_stride, const float *v, i64 room, int keys,
                        int h)
{
    vf s[HEADS * LANES];
    UNROLLED(i, h * LANES) s[i] = (vf){0};
    for (int j = 0; j < keys; j++) {
        UNROLLED(l, LANES)
        {
            vf x = load(v + j * room + l * W);
            UNROLLED(i, h) s[i * LANES + l] += x * weight[i * w_stride + j];
        }
    }
    float t[16];
    for (int i = 0; i < h; i++, y += y_stride) {
        float *to = n < 16 ? t : y;
        if (n < 16) pad16(t, y, n, 0);
        UNROLLED(l, LANES) store(to + l * W, load(to + l * W) + s[i * LANES + l]);
        for (i64 j = 0; n < 16 && j < n; j++) y[j] = t[j];
    }
}

INLINE void values_tile(const attend_row *a, i64 n_pad, i64 i, int keys, i64 at, i64 cols, const float *v, i64 room)
{
    for (int head = 0; head < a->n_q; head += HEADS) {
        const float *weight = a->score + head * n_pad + i;
        float *y = a->y + (i64)head * a->hd + at;
        for (i64 c = 0; c < cols; c += 16) {
            i64 some = i64_min(16, cols - c);
#define HEADS_ARE(h)                                                                                                             \
    case h: values_step(y + c, a->hd, some, weight, n_pad, v + c, room, keys, h); break
            switch (i64_min(HEADS, a->n_q - head)) {
                HEADS_ARE(1);
                HEADS_ARE(2);
#if HEADS > 2
                HEADS_ARE(3);
                HEADS_ARE(4);
#endif
#if HEADS > 4
                HEADS_ARE(5);
                HEADS_ARE(6);
                HEADS_ARE(7);
                HEADS_ARE(8);
#endif
            default: break;
            }
#undef HEADS_ARE
        }
    }
}

static void values(const attend_row *a, i64 n, i64 n_pad)
{
    float t[TILE_FLOATS];
    memset(a->y, 0, sizeof *a->y * (usize)a->hd * (usize)a->n_q);
    for (i64 at = 0; at < a->hd; at += PIECE) {
        i64 cols = i64_min(PIECE, a->hd - at), room = (cols + 15) / 16 * 16;
        for (i64 i = 0; i < n; i += TILE) {
            int keys = (int)i64_min(TILE, n - i);
            for (int j = 0; j < keys; j++) fetch(a, a->v, a->v_stride, a->first + i + j, at, cols, room, t + j * room);
            values_tile(a, n_pad, i, keys, at, cols, t, room);
        }
    }
}

static void attend_one(const attend_row *a)
{
    i64 n = (i64)a->end - a->first, n_pad = (n + 15) / 16 * 16;
    if (n <= 0 || a->hd <= 0) {
        memset(a->y, 0, sizeof *a->y * (usize)i64_max(0, a->hd) * (usize)a->n_q);
        for (int h = 0; a->lse && h < a->n_q; h++) a->lse[h] = 0;
        return;
    }
    if (a->hd <= TILE_FLOATS)
        scores(a, n, n_pad);
    else
        scores_long(a, n, n_pad);
    for (int h = 0; h < a->n_q; h++) weights(a, a->score + h * n_pad, n, a->lse ? a->lse + h : NULL);
    values(a, n, n_pad);
}

void BODY(kern_body_attend)(kern *k) { k->attend = attend_one; }
