/* tensor/cpu/body_attend.c - attention of query rows: the heads that share one kv head against the positions [first,end).
 *   s_p = scale <q,k_p>, with a softcap c: c tanh(s_p / c);   w_p = e^(s_p - max) / sum e^(s - max);   y = sum_p w_p v_p
 * Three passes over a scratch row per head: scores, weights, values. Keys and values are read by tiles, converted to floats once
 * for all heads. Every sum has an order that follows from positions alone: a score is 16 partial sums over hd, the denominator 8
 * over positions, y the sum of each TILE positions counted from `first`, in order, then of these sums, in order. So where the
 * pages lie changes nothing, nor which rows come together: a tile of keys serves them all, and a row whose end lies inside a tile
 * sums its part of it alone. Masks, windows and the choice of positions are the caller's. The gradient follows at the end. */
#include "tensor/cpu/body.h"

#define TILE 32                    /* positions */
#define PIECE 128                  /* values of a head at a time in the third pass */
#define TILE_FLOATS (TILE * PIECE) /* a tile as floats: half of a first-level cache */
/* sums of the third pass in registers: heads at once, and for each number of heads the units of 16 columns */
#if W == 16
#define HEADS 4
static const int units[] = {1, 4, 4, 2, 2};
#elif W == 8
#define HEADS 6
static const int units[] = {1, 4, 2, 1, 1, 1, 1};
#else
#define HEADS 2
static const int units[] = {1, 2, 1};
#endif

static i64 slot_of(const attend_row *a, i32 p) { return a->pages ? (i64)a->pages[p / a->page] * a->page + p % a->page : p; }
static i32 run_of(const attend_row *a, i32 p, i64 most) /* positions from p on whose slots are neighbours */
{
    return (i32)(a->pages ? i64_min(most, a->page - p % a->page) : most);
}

/* to [room, keys] = values [at, at + n) of the keys of positions p and on, each filled up with zeros */
static void fetch(const attend_row *a, const u8 *base, usize stride, i32 p, int keys, i64 at, i64 n, i64 room, float *to)
{
    while (keys > 0) {
        i32 run = run_of(a, p, keys);
        const u8 *from = base + (usize)slot_of(a, p) * stride;
        for (i32 i = 0; i < run; i++, from += stride, to += room) {
            if (a->type == F16)
                half_to_float(to, (const u16 *)(const void *)from + at, n);
            else
                memcpy(to, (const float *)(const void *)from + at, sizeof *to * (usize)n);
            for (i64 j = n; j < room; j++) to[j] = 0;
        }
        p += run, keys -= run;
    }
}

/* Floats that lie as the kernels want them are read in place. */
static bool in_place(const attend_row *a, i32 p, int keys) { return a->type == F32 && run_of(a, p, keys) == keys; }
static const float *float_at(const attend_row *a, const u8 *base, usize stride, i32 p)
{
    return (const float *)(const void *)(base + (usize)slot_of(a, p) * stride);
}

/* positions of a row, counted from `first` */
static i64 row_keys(const attend_row *a, i64 row) { return (i64)(a->n_rows > 1 ? a->ends[row] : a->end) - a->first; }
static i64 rows_of(const attend_row *a) { return i64_max(1, a->n_rows); }

/* score [n_pad, n_q, rows] */
static void scores(const attend_row *a, i64 n, i64 n_pad)
{
    float t[TILE_FLOATS];
    i64 hd = a->hd, tile = i64_min(TILE, TILE_FLOATS / hd);
    for (i64 i = 0; i < n; i += tile) {
        int keys = (int)i64_min(tile, n - i);
        i32 p = a->first + (i32)i;
        bool there = in_place(a, p, keys);
        const float *k = there ? float_at(a, a->k, a->k_stride, p) : t;
        if (!there) fetch(a, a->k, a->k_stride, p, keys, 0, hd, hd, t);
        i64 from = 0, to = rows_of(a); /* the rows that see any of it, and those between */
        while (row_keys(a, from) <= i) from++;
        while (row_keys(a, to - 1) <= i) to--;
        BODY(body_gemm)
        (k, there ? (i64)a->k_stride / 4 : hd, keys, a->q + from * a->n_q * hd, hd, (int)(to - from) * a->n_q, hd,
         a->score + from * a->n_q * n_pad + i, n_pad);
    }
}

/* the same for heads longer than a tile: no model has them, but a file may say so */
static void scores_long(const attend_row *a, i64 n_pad)
{
    float t[TILE_FLOATS];
    for (i64 c = 0; c < rows_of(a) * a->n_q; c++)
        for (i64 p = 0; p < row_keys(a, c / a->n_q); p++) {
            vf s[LANES] = {{0}};
            for (i64 at = 0; at < a->hd; at += TILE_FLOATS) {
                i64 some = i64_min(TILE_FLOATS, a->hd - at);
                fetch(a, a->k, a->k_stride, a->first + (i32)p, 1, at, some, some, t);
                dot_add(s, a->q + c * a->hd + at, t, some);
            }
            a->score[c * n_pad + p] = sum_1(fold4(s));
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

typedef struct {
    const float *weight;            /* [keys, heads] */
    const float *v;                 /* [columns, keys] */
    float *y;                       /* [columns, heads] */
    i64 weight_stride, weight_step; /* from head to head, from key to key */
    i64 v_stride, y_stride;
    int keys;
    bool fresh; /* y holds nothing yet */
} mix;

/* y += the sum over keys of weight times value, for h heads and u units of 16 columns; if u is 1, for n <= 16 columns */
INLINE void mix_unit(const mix *m, int head, i64 col, i64 n, int h, int u)
{
    vf s[16 * LANES];
    const float *weight = m->weight + head * m->weight_stride, *v = m->v + col;
    float *y = m->y + head * m->y_stride + col, t[16];
    UNROLLED(i, h * u * LANES) s[i] = (vf){0};
    for (int j = 0; j < m->keys; j++, v += m->v_stride, weight += m->weight_step) {
        vf x[4 * LANES];
        UNROLLED(l, u * LANES)
        {
            x[l] = load(v + l * W);
            if (h > 1) HOLD(x[l]);
        }
        UNROLLED(i, h)
        {
            vf w = all(weight[i * m->weight_stride]);
            UNROLLED(l, u * LANES) s[i * u * LANES + l] += x[l] * w;
        }
    }
    UNROLLED(i, h)
    {
        float *to = n < 16 ? t : y + i * m->y_stride;
        if (n < 16) pad16(t, y + i * m->y_stride, n, 0);
        if (m->fresh)
            UNROLLED(l, u * LANES) store(to + l * W, s[i * u * LANES + l]);
        else
            UNROLLED(l, u * LANES) store(to + l * W, load(to + l * W) + s[i * u * LANES + l]);
        for (i64 j = 0; n < 16 && j < n; j++) y[i * m->y_stride + j] = t[j];
    }
}
INLINE void mix_heads(const mix *m, int head, i64 cols, int h)
{
    i64 c = 0;
    for (; c + 16 * units[h] <= cols; c += 16 * units[h]) mix_unit(m, head, c, 16, h, units[h]);
    for (; c < cols; c += 16) mix_unit(m, head, c, i64_min(16, cols - c), h, 1);
}
static void mix_all(const mix *m, int n_q, i64 cols)
{
    int groups = (n_q + HEADS - 1) / HEADS, each = (n_q + groups - 1) / groups;
    for (int head = 0; head < n_q; head += each) {
        switch (i64_min(each, n_q - head)) {
        case 1: mix_heads(m, head, cols, 1); break;
        case 2: mix_heads(m, head, cols, 2); break;
#if HEADS > 2
        case 3: mix_heads(m, head, cols, 3); break;
        case 4: mix_heads(m, head, cols, 4); break;
#endif
#if HEADS > 4
        case 5: mix_heads(m, head, cols, 5); break;
        case 6: mix_heads(m, head, cols, 6); break;
#endif
        default: break;
        }
    }
}

/* one tile of keys and one piece of their values for all rows: those that see the whole tile together */
static void mix_rows(const attend_row *a, mix m, i64 i, i64 cols)
{
    const float *weight = m.weight;
    float *y = m.y;
    const i64 whole = m.keys;
    for (i64 row = 0, end; row < rows_of(a); row = end) {
        end = row + 1;
        i64 sees = i64_min(whole, row_keys(a, row) - i);
        if (sees <= 0) continue;
        while (end < rows_of(a) && sees == whole && row_keys(a, end) - i >= whole) end++;
        m.keys = (int)sees;
        m.weight = weight + row * a->n_q * m.weight_stride, m.y = y + row * a->n_q * m.y_stride;
        mix_all(&m, (int)(end - row) * a->n_q, cols);
    }
}

static void values(const attend_row *a, i64 n, i64 n_pad)
{
    float t[TILE_FLOATS];
    memset(a->y, 0, sizeof *a->y * (usize)(a->hd * a->n_q * rows_of(a)));
    for (i64 at = 0; at < a->hd; at += PIECE) {
        i64 cols = i64_min(PIECE, a->hd - at), room = (cols + 15) / 16 * 16;
        for (i64 i = 0; i < n; i += TILE) {
            mix m = {.weight = a->score + i,
                     .v = t,
                     .y = a->y + at,
                     .weight_stride = n_pad,
                     .weight_step = 1,
                     .v_stride = room,
                     .y_stride = a->hd};
            i32 p = a->first + (i32)i;
            m.keys = (int)i64_min(TILE, n - i);
            if (cols == room && in_place(a, p, m.keys))
                m.v = float_at(a, a->v, a->v_stride, p) + at, m.v_stride = (i64)a->v_stride / 4;
            else
                fetch(a, a->v, a->v_stride, p, m.keys, at, cols, room, t);
            mix_rows(a, m, i, cols);
        }
    }
}

/* ---- training ------------------------------------------------------------------------------------------------------------
 * Many rows come together and pages do not: keys are turned so that a lane is a key, as in the gradient below. The same tiles and sums of values as above; a score is one sum in the order of the head, and weights are
 * divided by their sum at the end. What a row does not see has weight zero and adds nothing. */

enum { TRAIN_HEAD = 256 };
static void turn(const float *from, i64 stride, int n_keys, i64 hd, float *to);

static bool for_training(const attend_row *a)
{
    return a->train && a->type == F32 && !a->pages && a->hd % 16 == 0 && a->hd <= TRAIN_HEAD;
}

/* one head's scores, of n keys seen and n_pad there, to weights that are not divided yet; returns 1 / their sum */
static float open_weights(const attend_row *a, float *s, i64 n, i64 n_pad, float *lse)
{
    vf top = all(-INFINITY);
    vi lane;
    for (int j = 0; j < W; j++) lane[j] = j;
    for (i64 i = 0; i < n; i += W) {
        vf v = load(s + i) * a->scale;
        if (a->softcap > 0) v = v_tanh(v / a->softcap) * a->softcap;
        if (i + W > n) v = pick(lane < (i32)(n - i), v, all(-INFINITY));
        top = greater(v, top);
        store(s + i, v);
    }
    float shift = -INFINITY;
    for (int j = 0; j < W; j++) shift = top[j] > shift ? top[j] : shift;
    if (shift - shift != 0) shift = 0; /* as row_shift */
    double sum = row_exp(s, s, shift, n);
    for (i64 j = n; j < n_pad; j++) s[j] = 0;
    if (lse) *lse = (float)((double)shift + log(sum));
    return (float)(1 / sum);
}

/* rows [from, to) see some of the keys from i on: of growing rows the last ones, of windows others too */
static void rows_seeing(const attend_row *a, i64 i, i64 *from, i64 *to)
{
    *from = 0, *to = rows_of(a);
    while (row_keys(a, *from) <= i) ++*from;
    while (row_keys(a, *to - 1) <= i) --*to;
}

static void attend_train(const attend_row *a, i64 n, i64 n_pad)
{
    float turned[TRAIN_HEAD * GRAD_KEYS], by[GRAD_COLS];
    const i64 tile = a->hd <= 64 ? GRAD_KEYS : GRAD_KEYS / 2, k_stride = (i64)a->k_stride / 4, v_stride = (i64)a->v_stride / 4, columns = rows_of(a) * a->n_q;
    const float *k = float_at(a, a->k, a->k_stride, a->first), *v = float_at(a, a->v, a->v_stride, a->first);
    i64 from, to;
    for (i64 i = 0; i < n; i += tile) {
        i64 keys = i64_min(tile, n - i);
        rows_seeing(a, i, &from, &to);
        turn(k + i * k_stride, k_stride, (int)keys, a->hd, turned);
        mix m = {a->q + from * a->n_q * a->hd, turned, a->score + from * a->n_q * n_pad + i, a->hd, 1, GRAD_KEYS, n_pad,
                 a->hd, true};
        mix_all(&m, (int)(to - from) * a->n_q, (keys + 15) / 16 * 16);
    }
    for (i64 c = 0; c < columns; c++) by[c] = open_weights(a, a->score + c * n_pad, row_keys(a, c / a->n_q), n_pad, a->lse ? a->lse + c : NULL);
    memset(a->y, 0, sizeof *a->y * (usize)(a->hd * columns));
    for (i64 i = 0; i < n; i += tile) {
        rows_seeing(a, i, &from, &to);
        mix m = {a->score + from * a->n_q * n_pad + i, v + i * v_stride, a->y + from * a->n_q * a->hd, n_pad, 1, v_stride,
                 a->hd, (int)i64_min(tile, n - i), false};
        mix_all(&m, (int)(to - from) * a->n_q, a->hd);
    }
    for (i64 c = 0; c < columns; c++)
        for (i64 i = 0; i < a->hd; i += W) store(a->y + c * a->hd + i, load(a->y + c * a->hd + i) * by[c]);
}

static void attend_rows(const attend_row *a)
{
    i64 n = (i64)a->end - a->first, n_pad = (n + 15) / 16 * 16;
    if (n <= 0 || a->hd <= 0) {
        memset(a->y, 0, sizeof *a->y * (usize)(i64_max(0, a->hd) * a->n_q * rows_of(a)));
        for (i64 c = 0; a->lse && c < rows_of(a) * a->n_q; c++) a->lse[c] = 0;
        return;
    }
    if (for_training(a)) { /* one row may have any number of heads */
        for (int head = 0, some; head < a->n_q; head += some) {
            attend_row b = *a;
            some = b.n_q = rows_of(a) == 1 ? (int)i64_min(a->n_q - head, GRAD_COLS) : a->n_q;
            b.q += head * a->hd, b.y += head * a->hd, b.lse = a->lse ? a->lse + head : NULL;
            attend_train(&b, n, n_pad);
        }
        return;
    }
    if (a->hd <= TILE_FLOATS)
        scores(a, n, n_pad);
    else
        scores_long(a, n_pad);
    for (i64 c = 0; c < rows_of(a) * a->n_q; c++)
        weights(a, a->score + c * n_pad, row_keys(a, c / a->n_q), a->lse ? a->lse + c : NULL);
    values(a, n, n_pad);
}

/* ---- gradient ------------------------------------------------------------------------------------------------------------
 * Every sum over keys or columns is made within the block, in order, and then added to what the blocks before it left: the bits
 * depend on how rows and keys are cut into blocks, not on who computes a block. */

/* the last values of a row that fill no 16 are summed one by one, in the same order: keys lie as they lie, with no room behind */
static void mix_add(const mix *m, int n_out, i64 cols)
{
    i64 whole = cols / 16 * 16;
    mix_all(m, n_out, whole);
    for (i64 o = 0; o < n_out; o++)
        for (i64 c = whole; c < cols; c++) {
            float s = 0;
            for (i64 j = 0; j < m->keys; j++)
                s += m->v[j * m->v_stride + c] * m->weight[o * m->weight_stride + j * m->weight_step];
            m->y[o * m->y_stride + c] += s;
        }
}

/* one column's scores and <dy,v> become P and dU; both are zero where the column does not look */
static void block_weights(const attend_block *a, int col)
{
    float *p = a->p + col * GRAD_KEYS, *ds = a->ds + col * GRAD_KEYS;
    int from = a->from[col], to = i64_max(from, a->to[col]), end = (a->n_keys + W - 1) / W * W;
    vf lse = all(a->lse[col]), along = all(a->along[col]);
    for (int i = from / W * W; i < to; i += W) {
        vf s = load(p + i) * a->scale, slope = all(a->scale);
        if (a->softcap > 0) {
            vf bent = v_tanh(s / a->softcap);
            s = bent * a->softcap;
            slope = slope * (1.0f - bent * bent);
        }
        vf e = v_exp(s - lse);
        store(p + i, e);
        store(ds + i, e * (load(ds + i) - along) * slope);
    }
    for (int i = 0; i < from; i++) p[i] = ds[i] = 0;
    for (int i = to; i < end; i++) p[i] = ds[i] = 0;
}

/* rows of keys to rows of positions in a head, filled up with zeros to whole 16s: to [GRAD_KEYS, hd] */
static void turn(const float *from, i64 stride, int n_keys, i64 hd, float *to)
{
    int whole = n_keys / 4 * 4, end = (n_keys + 15) / 16 * 16;
    i64 s = 0;
    for (; s + 4 <= hd; s += 4)
        for (int j = 0; j < whole; j += 4) {
            const float *at = from + j * stride + s;
            __m128 a = _mm_loadu_ps(at), b = _mm_loadu_ps(at + stride);
            __m128 c = _mm_loadu_ps(at + 2 * stride), d = _mm_loadu_ps(at + 3 * stride);
            _MM_TRANSPOSE4_PS(a, b, c, d);
            float *out = to + s * GRAD_KEYS + j;
            _mm_storeu_ps(out, a), _mm_storeu_ps(out + GRAD_KEYS, b);
            _mm_storeu_ps(out + 2 * GRAD_KEYS, c), _mm_storeu_ps(out + 3 * GRAD_KEYS, d);
        }
    for (i64 i = 0; i < hd; i++)
        for (int j = i < s ? whole : 0; j < end; j++) to[i * GRAD_KEYS + j] = j < n_keys ? from[j * stride + i] : 0;
}

/* to [GRAD_KEYS, n_cols] = <key, column>: sums in the order of the head, one lane is one key, so that none is added up across */
static void products(const attend_block *a, const float *keys, i64 stride, const float *columns, float *to)
{
    int end = (a->n_keys + 15) / 16 * 16;
    turn(keys, stride, a->n_keys, a->hd, a->turned);
    mix m = {columns, a->turned, to, a->hd, 1, GRAD_KEYS, GRAD_KEYS, a->hd, true};
    mix_all(&m, a->n_cols, end);
}

static void attend_grad_block(const attend_block *a)
{
    products(a, a->k, a->k_stride, a->q, a->p);
    products(a, a->v, a->v_stride, a->dy, a->ds);
    for (int c = 0; c < a->n_cols; c++) block_weights(a, c);
    if (a->dq) {
        mix m = {a->ds, a->k, a->dq, GRAD_KEYS, 1, a->k_stride, a->hd, a->n_keys, false};
        mix_add(&m, a->n_cols, a->hd);
    }
    if (a->dk) {
        mix m = {a->ds, a->q, a->dk, 1, GRAD_KEYS, a->hd, a->dkv_stride, a->n_cols, false};
        mix_add(&m, a->n_keys, a->hd);
        m.weight = a->p, m.v = a->dy, m.y = a->dv;
        mix_add(&m, a->n_keys, a->hd);
    }
}

void BODY(kern_body_attend)(kern *k)
{
    k->attend = attend_rows, k->attend_grad = attend_grad_block;
    BODY(kern_body_grad)(k);
}
