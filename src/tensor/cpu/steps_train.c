/* tensor/cpu/steps_train.c - the float matrix products of training: MATMUL where a graph asks for float arithmetic, MATMUL_X and
 * MATMUL_W, with slots and without, over weights of any type and layout.
 *
 * All three are one kernel (kern.outer), blocked as by Goto and van de Geijn (2008): at most 320 x 1536 values in panels, of the
 * weight, decoded once for all columns (transposed when its rows are the outputs), or of x; they lie in the third-level cache,
 * and the first holds one of them at a time, which some rows meet that lie mixed in the second. Sums run in pieces of one size,
 * at most 320 terms, so their bits depend neither on blocks nor on threads, and for MATMUL
 * and MATMUL_X not on the number of rows either. A short last piece would cost much: its sums are loaded and stored for few terms. Inference has its own float matmul (steps_matmul.c): dot products do better on
 * one column, and its bits must be the same for one row and for many. */
#include "tensor/cpu/train.h"

area area_of(const cpu_run *r, i64 a, i64 a_unit, i64 b, i64 b_unit, i64 extra)
{
    const i64 n_a = (a + a_unit - 1) / a_unit, n_b = (b + b_unit - 1) / b_unit;
    double least = INFINITY;
    int along = 1;
    for (int ta = 1; ta <= r->n_threads; ta++) {
        if (r->n_threads % ta) continue;
        i64 tb = r->n_threads / ta;
        double cost = (double)((n_a + ta - 1) / ta * a_unit) * (double)((n_b + tb - 1) / tb * b_unit + extra);
        if (cost < least) least = cost, along = ta;
    }
    area me;
    part(n_a, r->thread % along, along, &me.a_from, &me.a_to);
    part(n_b, r->thread / along, r->n_threads / along, &me.b_from, &me.b_to);
    me.a_from *= a_unit, me.b_from *= b_unit;
    me.a_to = i64_min(me.a_to * a_unit, a), me.b_to = i64_min(me.b_to * b_unit, b);
    return me;
}

i64 k_unit(const tensor *w) { return i64_max(OUTER_LANES, dtype_table[w->type].block); }
bool train_weight(const tensor *w) { return w->type != F64 && w->type != I32 && (w->lay != LAYOUT_ROWS || tensor_contiguous(w)); }

enum { WIDE = 1536, NEAR_ROWS = 192, THIN = 48 }; /* values in panels; rows that are mixed; so narrow that mixing does not pay */
static i64 most_terms(i64 unit) { return BLOCK / unit * unit; }
static i64 piece_of(i64 n, i64 unit) /* terms of a piece: as many as others, in units */
{
    i64 pieces = i64_max(1, (n + most_terms(unit) - 1) / most_terms(unit));
    return (n + pieces * unit - 1) / (pieces * unit) * unit;
}
static i64 room_of(i64 n_terms, i64 n_pair) { return i64_min(n_terms, BLOCK) + n_pair; }
static i64 whole_panels(i64 n) { return (i64_min(n, WIDE) + OUTER_LANES - 1) / OUTER_LANES * OUTER_LANES; }
usize product_scratch(i64 n_panel, i64 n_terms, i64 n_pair)
{
    return sizeof(float) * (usize)((whole_panels(n_panel) + NEAR_ROWS) * room_of(n_terms, n_pair) + OUTER_LANES * BLOCK);
}
/* scratch: OUTER_LANES rows of BLOCK, NEAR_ROWS times as many terms as a piece has, panels */
static float *mixed_of(float *scratch) { return scratch + OUTER_LANES * BLOCK; }
static float *panels_of(float *scratch, i64 n_terms, i64 n_pair)
{
    return mixed_of(scratch) + NEAR_ROWS * room_of(n_terms, n_pair);
}

static float *row_at(float_rows f, i64 i) { return f.base + f.stride * (f.list ? f.list[i] : i); }

/* values [k_from, k_from + n) of rows [row, row + n_rows) of w, row a multiple of 8, n_rows at most OUTER_LANES: where they are,
 * or decoded into dst, rows BLOCK apart */
static float_rows part_of_rows(const cpu_run *r, const tensor *w, i64 slot, i64 row, i64 n_rows, i64 k_from, i64 n, float *dst)
{
    const i64 k = w->n[0];
    u8 *base = (u8 *)w->data + (usize)slot * weight_bytes(w->type, w->lay, k, w->n[1]);
    if (w->type == F32) return (float_rows){(float *)(void *)base + row * k + k_from, k, NULL};
    if (w->lay == LAYOUT_R8)
        for (i64 i = 0; i < n_rows; i += 8)
            r->k->decode8[w->type](base + (usize)((row + i) / 8) * weight_bytes(w->type, w->lay, k, 8), k_from, n,
                                   dst + i * BLOCK, BLOCK);
    else
        for (i64 i = 0; i < n_rows; i++) weight_decode_part(w->type, w->lay, k, base, row + i, k_from, n, dst + i * BLOCK);
    return (float_rows){dst, BLOCK, NULL};
}

/* Rows of which a block takes a part lie pages apart, where no hardware looks ahead. */
enum { AHEAD = 4 };
static void fetch_soon(const float *row, i64 n)
{
    for (i64 i = 0; i < n; i += OUTER_LANES) __builtin_prefetch(row + i);
}

/* values of a row become step `s` of panels of n_steps */
static void into_panels(float *panels, i64 n_steps, i64 s, const float *row, i64 n)
{
    float *to = panels + s * OUTER_LANES;
    for (; n >= OUTER_LANES; n -= OUTER_LANES, row += OUTER_LANES, to += n_steps * OUTER_LANES)
        memcpy(to, row, sizeof *to * OUTER_LANES);
    for (i64 i = 0; n && i < OUTER_LANES; i++) to[i] = i < n ? row[i] : 0;
}

/* `some` rows of n as OUTER_LANES of them in dst, zeros behind */
static float_rows with_zeros(float_rows from, i64 some, i64 n, float *dst)
{
    for (i64 i = 0; i < OUTER_LANES; i++) {
        if (i >= some)
            memset(dst + i * BLOCK, 0, sizeof *dst * (usize)n);
        else if (from.base != dst)
            memcpy(dst + i * BLOCK, row_at(from, i), sizeof *dst * (usize)n);
    }
    return (float_rows){dst, BLOCK, NULL};
}

typedef struct { /* what rows bring: terms [at, at + n) of a, behind them those of a thin pair */
    float_rows a;
    i64        at, n;
    float_rows pair;
    i64        n_pair;
} terms;

/* Rows [from, to) of y, values [y_at, y_at + n). The terms of rows are copied: as they lie, at distances that often are powers of
 * two, they would push each other out of the first-level cache. */
static void meet_rows(const cpu_run *r, float *scratch, outer_block o, const terms *t, float_rows plus, float_rows y, i64 y_at,
                      i64 from, i64 to)
{
    const float *rows[NEAR_ROWS], *pair[NEAR_ROWS], *add[NEAR_ROWS];
    float *out[NEAR_ROWS], *mixed = mixed_of(scratch);
    o.y = out, o.plus = plus.base ? add : NULL, o.n_steps = t->n + t->n_pair;
    for (i64 i = from; i < to; i += NEAR_ROWS) {
        o.n_rows = i64_min(NEAR_ROWS, to - i);
        for (i64 j = 0; j < o.n_rows; j++) {
            rows[j] = row_at(t->a, i + j) + t->at, out[j] = row_at(y, i + j) + y_at;
            if (o.plus) add[j] = row_at(plus, i + j) + y_at;
            if (t->n_pair) pair[j] = row_at(t->pair, i + j);
        }
        if (o.n <= THIN && !t->n_pair) {
            o.a = rows;
        } else {
            r->k->mix(rows, o.n_rows, t->n, mixed, o.n_steps), o.mixed = mixed;
            if (t->n_pair) r->k->mix(pair, o.n_rows, t->n_pair, mixed + t->n * OUTER_ROWS, o.n_steps);
        }
        r->k->outer(&o);
    }
}

/* terms [at, at + steps) of OUTER_LANES weights from row n on, transposed into steps of a panel */
static void turn_rows(const cpu_run *r, float *scratch, const tensor *w, i64 slot, i64 n, i64 some, i64 at, i64 steps, float *panel)
{
    float_rows from = part_of_rows(r, w, slot, n, some, at, steps, scratch);
    if (some < OUTER_LANES) from = with_zeros(from, some, steps, scratch);
    r->k->turn(from.base, from.stride, steps, panel);
}

void product_y(const cpu_run *r, float *scratch, const tensor *w, i64 slot, float_rows x, float_pair pair, float_rows plus,
               float_rows y, area me)
{
    float *panels = panels_of(scratch, w->n[0], pair.w ? pair.w->n[0] : 0);
    const i64 piece = piece_of(w->n[0], k_unit(w));
    if (me.b_to <= me.b_from) return;
    for (i64 n = me.a_from; n < me.a_to; n += WIDE)
        for (i64 at = 0; at < w->n[0]; at += piece) {
            i64 rows = i64_min(WIDE, me.a_to - n);
            terms t = {.a = x, .at = at, .n = i64_min(piece, w->n[0] - at), .pair = pair.x};
            if (pair.w && at + piece >= w->n[0]) t.n_pair = pair.w->n[0];
            for (i64 i = 0; i < rows; i += OUTER_LANES) {
                i64 some = i64_min(OUTER_LANES, rows - i);
                float *panel = panels + i * (t.n + t.n_pair);
                turn_rows(r, scratch, w, slot, n + i, some, at, t.n, panel);
                if (t.n_pair) turn_rows(r, scratch, pair.w, 0, n + i, some, 0, t.n_pair, panel + t.n * OUTER_LANES);
            }
            meet_rows(r, scratch, (outer_block){.b = panels, .n = rows}, &t, at ? y : plus, y, n, me.b_from, me.b_to);
        }
}

/* values [at, at + wide) of rows [n, n + steps) of w become steps of panels of n_steps, from `panels` on */
static void rows_into_panels(const cpu_run *r, float *scratch, const tensor *w, i64 slot, i64 n, i64 steps, i64 at, i64 wide,
                             float *panels, i64 n_steps)
{
    const i64 most = most_terms(k_unit(w));
    for (i64 s = 0; s < steps; s += OUTER_LANES)
        for (i64 part_at = 0; part_at < wide; part_at += most) {
            i64 some = i64_min(OUTER_LANES, steps - s), next = i64_min(OUTER_LANES, steps - s - some),
                k = i64_min(most, wide - part_at);
            float_rows from = part_of_rows(r, w, slot, n + s, some, at + part_at, k, scratch);
            for (i64 j = 0; j < some; j++) {
                if (w->type == F32 && j < next) fetch_soon(row_at(from, j + some), k);
                into_panels(panels + part_at * n_steps, n_steps, s + j, row_at(from, j), k);
            }
        }
}

void product_x(const cpu_run *r, float *scratch, const tensor *w, i64 slot, float_rows dy, float_pair pair, float_rows plus,
               float_rows dx, area me)
{
    float *panels = panels_of(scratch, w->n[1], pair.w ? pair.w->n[1] : 0);
    const i64 piece = piece_of(w->n[1], OUTER_LANES);
    if (me.b_to <= me.b_from) return;
    for (i64 at = me.a_from; at < me.a_to; at += WIDE)
        for (i64 n = 0; n < w->n[1]; n += piece) {
            i64 wide = i64_min(WIDE, me.a_to - at);
            terms t = {.a = dy, .at = n, .n = i64_min(piece, w->n[1] - n), .pair = pair.x};
            if (pair.w && n + piece >= w->n[1]) t.n_pair = pair.w->n[1];
            const i64 all = t.n + t.n_pair;
            rows_into_panels(r, scratch, w, slot, n, t.n, at, wide, panels, all);
            if (t.n_pair)
                rows_into_panels(r, scratch, pair.w, 0, 0, t.n_pair, at, wide, panels + t.n * OUTER_LANES, all);
            meet_rows(r, scratch, (outer_block){.b = panels, .n = wide}, &t, n ? dx : plus, dx, at, me.b_from, me.b_to);
        }
}

/* values [n, n + some) of rows [from, from + steps) to groups of OUTER_ROWS of them, those of one row side by side */
static void mix_columns(float *mixed, float_rows dy, i64 from, i64 steps, i64 n, i64 some)
{
    for (i64 s = 0; s < steps; s++) {
        const float *row = row_at(dy, from + s) + n;
        float *to = mixed + s * OUTER_ROWS;
        i64 i = 0;
        if (s + AHEAD < steps) fetch_soon(row_at(dy, from + s + AHEAD) + n, some);
        for (; i + OUTER_ROWS <= some; i += OUTER_ROWS, to += OUTER_ROWS * steps) memcpy(to, row + i, sizeof *to * OUTER_ROWS);
        if (i < some) memcpy(to, row + i, sizeof *to * (usize)(some - i));
    }
}

void product_w(const cpu_run *r, float *scratch, float_rows x, float_rows dy, i64 n_rows, float *dw, i64 k, bool add, area me)
{
    float *panels = panels_of(scratch, n_rows, 0), *mixed = mixed_of(scratch), *out[NEAR_ROWS];
    const i64 piece = piece_of(n_rows, 1);
    if (me.b_to <= me.b_from) return;
    for (i64 at = me.a_from; at < me.a_to; at += WIDE)
        for (i64 from = 0; from < n_rows; from += piece) {
            i64 wide = i64_min(WIDE, me.a_to - at), steps = i64_min(piece, n_rows - from);
            for (i64 s = 0; s < steps; s++) {
                if (s + AHEAD < steps) fetch_soon(row_at(x, from + s + AHEAD) + at, wide);
                into_panels(panels, steps, s, row_at(x, from + s) + at, wide);
            }
            for (i64 n = me.b_from; n < me.b_to; n += NEAR_ROWS) {
                outer_block o = {.mixed = mixed,
                                 .b = panels,
                                 .n_steps = steps,
                                 .n = wide,
                                 .y = out,
                                 .n_rows = i64_min(NEAR_ROWS, me.b_to - n)};
                mix_columns(mixed, dy, from, steps, n, o.n_rows);
                for (i64 j = 0; j < o.n_rows; j++) out[j] = dw + (n + j) * k + at;
                if (add || from) o.plus = (const float *const *)out;
                r->k->outer(&o);
            }
        }
}

/* ---- steps. With slots each matrix meets the rows that name it: every thread makes the same list of them ------------------ */

static float_rows rows_of(const tensor *t, const i32 *list) { return (float_rows){t->data, t->stride[1] / 4, list}; }

static i64 list_rows(const tensor *slot, i64 which, i32 *list)
{
    i64 n = 0;
    for (i64 i = 0; i < slot->n[0]; i++)
        if (ref_int(slot, i, 0) == which) list[n++] = (i32)i;
    return n;
}

/* y and x: the result and the source that the weight meets, of MATMUL and MATMUL_X alike */
static void run_product(const step *s, const cpu_run *r)
{
    const tensor *y = s->t, *x = y->src[0], *w = y->src[1], *slot = y->src[2], *plus = y->src[3];
    const float_pair pair = y->src[5] ? (float_pair){rows_of(y->src[4], NULL), y->src[5]} : (float_pair){.w = NULL};
    const i64 m = y->n[1], n_slots = slot ? w->n[2] : 1, unit = y->op == OP_MATMUL ? OUTER_LANES : k_unit(w);
    i32 *list = slot ? (i32 *)(void *)r->own : NULL; /* [m] */
    float *scratch = (float *)(void *)(r->own + s->at);
    for (i64 i = r->thread; slot && i < m; i += r->n_threads) {
        i32 which = ref_int(slot, i, 0);
        if (which < 0 || which >= n_slots) memset((float *)y->data + i * y->n[0], 0, sizeof(float) * (usize)y->n[0]);
    }
    for (i64 i = 0; i < n_slots; i++) {
        i64 rows = slot ? list_rows(slot, i, list) : m;
        area me = area_of(r, y->n[0], unit, rows, OUTER_ROWS, w->type == F32 ? 2 : DECODE_COST);
        if (rows)
            (y->op == OP_MATMUL ? product_y : product_x)(r, scratch, w, i, rows_of(x, list), pair,
                                                         plus ? rows_of(plus, NULL) : (float_rows){0}, rows_of(y, list), me);
    }
}

static void run_product_w(const step *s, const cpu_run *r)
{
    const tensor *y = s->t, *x = y->src[0], *dy = y->src[1], *slot = y->src[2];
    const i64 k = y->n[0], n = y->n[1];
    i32 *list = slot ? (i32 *)(void *)r->own : NULL; /* [m] */
    float *scratch = (float *)(void *)(r->own + s->at);
    area me = area_of(r, k, OUTER_LANES, n, OUTER_ROWS, 2);
    for (i64 i = 0; i < y->n[2]; i++) {
        i64 rows = slot ? list_rows(slot, i, list) : x->n[1];
        float *dw = (float *)y->data + i * k * n;
        if (rows)
            product_w(r, scratch, rows_of(x, list), rows_of(dy, list), rows, dw, k, false, me);
        else
            for (i64 j = me.b_from; j < me.b_to; j++)
                memset(dw + j * k + me.a_from, 0, sizeof *dw * (usize)(me.a_to - me.a_from));
    }
}

static bool floats_in_rows(const tensor *t) { return t->type == F32 && (t->stride[0] == 4 || t->n[0] == 1); }

bool step_choose_train(tensor *t, step_pair *p)
{
    const tensor *x = t->src[0], *w = t->src[1], *slot = t->src[2];
    if (t->type != F32 || !floats_in_rows(x) || !(t->op == OP_MATMUL_W ? floats_in_rows(w) : train_weight(w))) return false;
    if (t->src[3] && !floats_in_rows(t->src[3])) return false;
    if (t->src[4] && !floats_in_rows(t->src[4])) return false;
    p->main.run = t->op == OP_MATMUL_W ? run_product_w : run_product;
    p->main.at = slot ? (sizeof(i32) * (usize)x->n[1] + 63) / 64 * 64 : 0;
    p->main.alone = (double)t->n[0] * (double)t->n[1] * (double)(t->op == OP_MATMUL_W ? x->n[1] : x->n[0]) <= 16384;
    p->per_thread = p->main.at + product_scratch(t->n[0], t->op == OP_MATMUL_W ? x->n[1] : x->n[0], t->src[4] ? t->src[4]->n[0] : 0);
    return true;
}
