/* tensor/cpu/steps_grad.c - the fast kernels of gradients: attention's backward pass, norms, losses, and the ops that move or
 * sum rows. Whatever a step adds up, it adds in an order that follows from the data alone: each value has one thread, or its
 * partial sums are cut by position, never by the number of threads. Nothing is allocated; scratch comes with the plan. */
#include "tensor/cpu/cpu.h"

static float *row_at(const tensor *t, i64 r) /* r counts rows over n[1..3] */
{
    i64 i1 = r % t->n[1], i2 = r / t->n[1] % t->n[2], i3 = r / (t->n[1] * t->n[2]);
    return (float *)(void *)((u8 *)t->data + i1 * t->stride[1] + i2 * t->stride[2] + i3 * t->stride[3]);
}
static float *head_at(const tensor *t, i64 head, i64 r)
{
    return (float *)(void *)((u8 *)t->data + head * t->stride[1] + r * t->stride[2]);
}
static bool plain_rows(const tensor *t) { return t->type == F32 && t->lay == LAYOUT_ROWS && (t->stride[0] == 4 || t->n[0] == 1); }
static usize floats_of(i64 n) { return (usize)((n + 15) / 16 * 16) * sizeof(float); }

/* ---- attention ----------------------------------------------------------------------------------------------------------------
 * Rows are taken in blocks whose spans meet, keys in blocks cut at multiples of GRAD_KEYS; a pair of blocks is one call of a
 * kernel, and pairs without a common position cost nothing. dq sums over the blocks of keys, dk and dv over the blocks of rows,
 * both in rising order, and two ways of sharing the work keep to it:
 *   by sequences: a thread has a run of rows that sees no key of another run, and does both sums at once;
 *   by halves: threads own blocks of keys for dk and dv, then blocks of rows for dq, and compute P and dP twice (14 instead of
 *   10 multiply-adds), but one long sequence keeps all busy.
 * Every thread reads the spans and comes to the same choice; the bits are the same by either way. */

typedef struct {
    i64 row, n_rows; /* rows [row, row + n_rows) */
    i64 from, to;    /* keys that any of them sees; empty: from == to */
} row_block;

static void row_span(const tensor *t, i64 r, i64 *from, i64 *to)
{
    const tensor *span = t->src[3];
    const i64 window = t->arg.i[2];
    *from = ref_int(span, 1, r), *to = ref_int(span, 2, r);
    if (window > 0) *from = i64_max(*from, *to - window);
    if (*from < 0 || *to > t->src[1]->n[2] || *to <= *from) *from = *to = 0;
}

static i64 rows_of_block(i64 group) { return i64_max(1, GRAD_COLS / group); }
static i64 keys_of_block(i64 hd)
{
    return hd <= 64 ? GRAD_KEYS : GRAD_KEYS / 2;
} /* keys and values stay in the first-level cache */

static row_block block_from(const tensor *t, i64 row)
{
    const i64 m = t->src[0]->n[2], most = rows_of_block(t->src[0]->n[1] / t->src[1]->n[1]);
    row_block b = {.row = row};
    for (; row < m && b.n_rows < most; row++, b.n_rows++) {
        i64 from, to;
        row_span(t, row, &from, &to);
        if (from == to) continue;
        if (b.from == b.to) {
            b.from = from, b.to = to;
            continue;
        }
        if (from >= b.to || to <= b.from) break; /* another sequence */
        b.from = i64_min(b.from, from), b.to = i64_max(b.to, to);
    }
    return b;
}

typedef struct {
    i64 row, end; /* rows [row, end) */
    double cost;
} row_run;

/* rows from `row` on, up to where spans begin at or behind the last key so far */
static row_run run_from(const tensor *t, i64 row)
{
    row_run u = {.row = row};
    i64 m = t->src[0]->n[2], to = 0;
    for (bool any = false; row < m;) {
        row_block b = block_from(t, row);
        bool sees = b.from < b.to;
        if (any && sees && b.from >= to) break;
        any = any || sees;
        to = i64_max(to, b.to);
        row += b.n_rows;
        u.cost += (double)b.n_rows * (double)(b.to - b.from);
    }
    u.end = row;
    return u;
}

/* the thread that has an item: items of known cost lie one after another, and each goes to where its middle falls */
static int owner_of(double before, double cost, double total, int n_threads)
{
    int at = total > 0 ? (int)((before + cost / 2) / total * n_threads) : 0;
    return at < n_threads ? at : n_threads - 1;
}

static bool share_by_runs(const tensor *t, int n_threads, double *total)
{
    const i64 m = t->src[0]->n[2], kv_heads = t->src[1]->n[1];
    i64 base = 0, to = 0;
    bool apart = true;
    *total = 0;
    for (i64 row = 0; row < m;) {
        row_run u = run_from(t, row);
        base = to; /* keys before it belong to earlier runs */
        for (i64 r = u.row; r < u.end; r++) {
            i64 from, end;
            row_span(t, r, &from, &end);
            if (from == end) continue;
            apart = apart && from >= base;
            to = i64_max(to, end);
        }
        *total += u.cost * (double)kv_heads;
        row = u.end;
    }
    double before = 0, load = 0, worst = 0;
    int who = -1;
    for (i64 row = 0; row < m && apart;) {
        row_run u = run_from(t, row);
        for (i64 h = 0; h < kv_heads; h++, before += u.cost) {
            int now = owner_of(before, u.cost, *total, n_threads);
            load = now == who ? load + u.cost : u.cost;
            who = now;
            worst = load > worst ? load : worst;
        }
        row = u.end;
    }
    return apart && worst * 10 <= *total * 14 / n_threads;
}

typedef struct { /* one thread's work on one kv head */
    const tensor *t;
    const kern *k;
    i64 kv_head, group;
    attend_block a;
    float *q, *dy, *dq; /* scratch [hd, columns] */
    i32 *from, *to;     /* scratch [columns] */
    float *lse, *along; /* scratch [columns] */
} grad_ctx;

static i64 columns_of(const tensor *t)
{
    i64 group = t->src[0]->n[1] / t->src[1]->n[1];
    return rows_of_block(group) * group;
}
static usize attend_grad_scratch(const tensor *t)
{
    i64 c = columns_of(t), hd = t->src[0]->n[0];
    return 2 * floats_of(c * GRAD_KEYS) + floats_of(hd * GRAD_KEYS) + 3 * floats_of(c * hd) + 4 * floats_of(c);
}

static u8 *take(u8 **at, i64 n)
{
    u8 *p = *at;
    *at += floats_of(n);
    return p;
}

static grad_ctx grad_begin(const tensor *t, const cpu_run *r, i64 kv_head)
{
    const i64 c = columns_of(t), hd = t->src[0]->n[0];
    grad_ctx x = {.t = t, .k = r->k, .kv_head = kv_head, .group = t->src[0]->n[1] / t->src[1]->n[1]};
    u8 *at = r->own;
    x.a.p = (void *)take(&at, c * GRAD_KEYS), x.a.ds = (void *)take(&at, c * GRAD_KEYS);
    x.a.turned = (void *)take(&at, hd * GRAD_KEYS);
    x.q = (void *)take(&at, c * hd), x.dy = (void *)take(&at, c * hd), x.dq = (void *)take(&at, c * hd);
    x.from = (void *)take(&at, c), x.to = (void *)take(&at, c);
    x.lse = (void *)take(&at, c), x.along = (void *)take(&at, c);
    x.a.q = x.q, x.a.dy = x.dy, x.a.from = x.from, x.a.to = x.to, x.a.lse = x.lse, x.a.along = x.along;
    x.a.hd = (int)hd, x.a.scale = t->arg.f[0], x.a.softcap = t->arg.f[1];
    x.a.k_stride = t->src[1]->stride[2] / 4, x.a.v_stride = t->src[2]->stride[2] / 4;
    x.a.dkv_stride = t->src[1]->n[1] * hd;
    return x;
}

static void load_rows(grad_ctx *x, const row_block *b)
{
    const tensor *t = x->t;
    const usize bytes = sizeof(float) * (usize)x->a.hd;
    int c = 0;
    for (i64 r = b->row; r < b->row + b->n_rows; r++)
        for (i64 h = x->kv_head * x->group; h < (x->kv_head + 1) * x->group; h++, c++) {
            const float *stat = head_at(t->src[5], h, r);
            memcpy(x->q + (i64)c * x->a.hd, head_at(t->src[0], h, r), bytes);
            memcpy(x->dy + (i64)c * x->a.hd, head_at(t->src[4], h, r), bytes);
            x->lse[c] = stat[0], x->along[c] = stat[1];
        }
    x->a.n_cols = c;
}

/* the block of rows b against keys [from, to) */
static void one_block(grad_ctx *x, const row_block *b, i64 from, i64 to, bool for_q, bool for_kv)
{
    const tensor *t = x->t, *k = t->src[1], *v = t->src[2];
    float *dk = (float *)t->data + tensor_count(t->src[0]) + (from * k->n[1] + x->kv_head) * x->a.hd, *dv = dk + tensor_count(k);
    for (i64 i = 0; i < b->n_rows; i++) {
        i64 first, end;
        row_span(t, b->row + i, &first, &end);
        first = i64_max(first, from) - from, end = i64_min(end, to) - from;
        for (i64 h = i * x->group; h < (i + 1) * x->group; h++)
            x->from[h] = (i32)(end > first ? first : 0), x->to[h] = (i32)(end > first ? end : 0);
    }
    x->a.k = head_at(k, x->kv_head, from), x->a.v = head_at(v, x->kv_head, from);
    x->a.n_keys = (int)(to - from);
    x->a.dq = for_q ? x->dq : NULL;
    x->a.dk = for_kv ? dk : NULL, x->a.dv = for_kv ? dv : NULL;
    x->k->attend_grad(&x->a);
}

/* a block of rows against all keys it sees, and dq written out */
static void whole_block(grad_ctx *x, const row_block *b, bool for_kv)
{
    const tensor *t = x->t;
    const i64 hd = x->a.hd, heads = t->src[0]->n[1], keys = keys_of_block(hd);
    memset(x->dq, 0, sizeof *x->dq * (usize)(b->n_rows * x->group * hd));
    if (b->from < b->to) load_rows(x, b);
    for (i64 from = b->from, to; from < b->to; from = to) {
        to = i64_min(b->to, (from / keys + 1) * keys);
        one_block(x, b, from, to, true, for_kv);
    }
    for (i64 i = 0; i < b->n_rows; i++)
        memcpy((float *)t->data + ((b->row + i) * heads + x->kv_head * x->group) * hd, x->dq + i * x->group * hd,
               sizeof *x->dq * (usize)(x->group * hd));
}

/* items whose cost falls or rises steadily, dealt there and back */
static bool is_dealt(i64 i, const cpu_run *r)
{
    i64 at = i % r->n_threads;
    return r->thread == (i / r->n_threads % 2 ? r->n_threads - 1 - at : at);
}

static void keys_of_thread(const tensor *t, const cpu_run *r)
{
    const i64 kv_heads = t->src[1]->n[1], keys = keys_of_block(t->src[0]->n[0]), n = (t->src[1]->n[2] + keys - 1) / keys;
    for (i64 i = 0; i < n * kv_heads; i++) {
        if (!is_dealt(i, r)) continue;
        grad_ctx x = grad_begin(t, r, i % kv_heads);
        i64 first = i / kv_heads * keys, end = i64_min(first + keys, t->src[1]->n[2]);
        for (i64 row = 0; row < t->src[0]->n[2];) {
            row_block b = block_from(t, row);
            i64 from = i64_max(first, b.from), to = i64_min(end, b.to);
            row += b.n_rows;
            if (from >= to) continue;
            load_rows(&x, &b);
            one_block(&x, &b, from, to, false, true);
        }
    }
}

static void rows_of_thread(const tensor *t, const cpu_run *r)
{
    const i64 kv_heads = t->src[1]->n[1];
    i64 i = 0;
    for (i64 row = 0; row < t->src[0]->n[2];) {
        row_block b = block_from(t, row);
        row += b.n_rows;
        for (i64 h = 0; h < kv_heads; h++, i++) {
            if (!is_dealt(i, r)) continue;
            grad_ctx x = grad_begin(t, r, h);
            whole_block(&x, &b, false);
        }
    }
}

static void run_attend_grad(const step *s, const cpu_run *r)
{
    const tensor *t = s->t;
    double total, before = 0;
    if (!share_by_runs(t, r->n_threads, &total)) {
        keys_of_thread(t, r);
        rows_of_thread(t, r);
        return;
    }
    for (i64 row = 0; row < t->src[0]->n[2];) {
        row_run u = run_from(t, row);
        row = u.end;
        for (i64 h = 0; h < t->src[1]->n[1]; h++, before += u.cost) {
            if (owner_of(before, u.cost, total, r->n_threads) != r->thread) continue;
            grad_ctx x = grad_begin(t, r, h);
            for (i64 at = u.row; at < u.end;) {
                row_block b = block_from(t, at);
                at += b.n_rows;
                whole_block(&x, &b, true);
            }
        }
    }
}

static void run_clear_kv(const step *s, const cpu_run *r) /* dk and dv: sums, and keys that no row sees */
{
    i64 from, to, n_q = tensor_count(s->t->src[0]);
    part(tensor_count(s->t) - n_q, r->thread, r->n_threads, &from, &to);
    memset((float *)s->t->data + n_q + from, 0, sizeof(float) * (usize)(to - from));
}

static bool choose_attend_grad(tensor *t, step_pair *pair)
{
    if (t->src[5]->stride[0] != 4) return false;
    pair->before.run = run_clear_kv;
    pair->main.run = run_attend_grad;
    pair->per_thread = attend_grad_scratch(t);
    return true;
}

static void run_attend_stat(const step *s, const cpu_run *r)
{
    const tensor *t = s->t, *y = t->src[0], *dy = t->src[1], *lse = t->src[2];
    i64 from, to;
    part(t->n[1] * t->n[2], r->thread, r->n_threads, &from, &to);
    for (i64 i = from; i < to; i++) {
        float *stat = row_at(t, i);
        stat[0] = row_at(lse, i / t->n[1])[i % t->n[1]];
        stat[1] = r->k->dot(row_at(y, i), row_at(dy, i), y->n[0]);
    }
}

/* ---- norms
 * --------------------------------------------------------------------------------------------------------------------- */

static void run_norm_x(const step *s, const cpu_run *r)
{
    const tensor *t = s->t, *x = t->src[0], *dy = t->src[1], *w = t->src[2];
    i64 from, to;
    part(tensor_rows(t), r->thread, r->n_threads, &from, &to);
    for (i64 i = from; i < to; i++)
        r->k->norm_x(row_at(t, i), row_at(x, i), row_at(dy, i), w ? w->data : NULL, t->n[0], t->arg.i[0], t->arg.f[1]);
}

/* Sums over rows: threads own columns. Some rows are summed apart first, so that the error does not grow with their number. */
enum { SUM_ROWS = 32 };
static bool own_columns(i64 n, const cpu_run *r, i64 *from, i64 *to)
{
    part((n + 15) / 16, r->thread, r->n_threads, from, to);
    *from *= 16;
    *to = i64_min(*to * 16, n);
    return *from < *to;
}

static void run_norm_stats(const step *s, const cpu_run *r)
{
    const tensor *t = s->t, *x = t->src[0];
    norm_stat *stat = (void *)r->shared;
    i64 from, to;
    part(tensor_rows(x), r->thread, r->n_threads, &from, &to);
    for (i64 i = from; i < to; i++) stat[i] = r->k->norm_stat(row_at(x, i), x->n[0], t->arg.i[0], t->arg.f[1]);
}
static void run_norm_w(const step *s, const cpu_run *r)
{
    const tensor *t = s->t, *x = t->src[0], *dy = t->src[1];
    const norm_stat *stat = (const void *)r->shared;
    const i64 rows = tensor_rows(x);
    float *y = t->data, *sum = (void *)r->own; /* [columns of the thread] */
    i64 from, to;
    if (!own_columns(t->n[0], r, &from, &to)) return;
    const i64 n = to - from;
    memset(y + from, 0, sizeof *y * (usize)n);
    for (i64 first = 0; first < rows; first += SUM_ROWS) {
        memset(sum, 0, sizeof *sum * (usize)n);
        for (i64 i = first; i < i64_min(rows, first + SUM_ROWS); i++)
            r->k->norm_w(sum, row_at(x, i) + from, row_at(dy, i) + from, &stat[i], n);
        r->k->add(y + from, y + from, sum, n);
    }
}

/* ---- losses and rows by id
 * ------------------------------------------------------------------------------------------------------- */

static void run_softmax_grad(const step *s, const cpu_run *r)
{
    const tensor *t = s->t;
    i64 from, to;
    part(tensor_rows(t), r->thread, r->n_threads, &from, &to);
    for (i64 i = from; i < to; i++) r->k->softmax_grad(row_at(t, i), row_at(t->src[0], i), row_at(t->src[1], i), t->n[0]);
}

static void run_dropout(const step *s, const cpu_run *r)
{
    const tensor *t = s->t;
    i64 from, to;
    if (!own_columns(tensor_count(t), r, &from, &to)) return;
    for (i64 end; from < to; from = end) { /* one rule serves 2^32 elements */
        dropout_rule rule = dropout_rule_of(t, (u64)from);
        end = i64_min(to, ((from >> 32) + 1) << 32);
        r->k->dropout((float *)t->data + from, (const float *)t->src[0]->data + from, end - from, (u32)from, &rule);
    }
}

static void run_xent_grad(const step *s, const cpu_run *r)
{
    const tensor *t = s->t, *x = t->src[0], *want = t->src[1], *dy = t->src[2];
    i64 from, to;
    part(t->n[1], r->thread, r->n_threads, &from, &to);
    for (i64 i = from; i < to; i++) {
        float *y = row_at(t, i), d = *row_at(dy, i);
        i32 w = ref_int(want, i, 0);
        if (w < 0 || w >= x->n[0]) {
            memset(y, 0, sizeof *y * (usize)t->n[0]);
            continue;
        }
        r->k->softmax(y, row_at(x, i), t->n[0]);
        r->k->scale(y, y, d, t->n[0]);
        y[w] -= d;
    }
}

/* Threads own ranges of ids: most of the work is to clear a table of which a batch names few rows. */
static void run_embed_grad(const step *s, const cpu_run *r)
{
    const tensor *t = s->t, *dy = t->src[0], *ids = t->src[1];
    float *y = t->data;
    const i64 d = t->n[0];
    i64 from, to;
    part(t->n[1], r->thread, r->n_threads, &from, &to);
    memset(y + from * d, 0, sizeof *y * (usize)((to - from) * d));
    for (i64 i = 0; i < dy->n[1]; i++) {
        i32 id = ref_int(ids, i, 0);
        if (id >= from && id < to) r->k->add(y + id * d, y + id * d, row_at(dy, i), d);
    }
}

static void run_pool_grad(const step *s, const cpu_run *r)
{
    const tensor *t = s->t, *dy = t->src[0], *span = t->src[1];
    i64 from, to;
    part(t->n[1], r->thread, r->n_threads, &from, &to);
    memset(row_at(t, from), 0, sizeof(float) * (usize)((to - from) * t->n[0]));
    for (i64 i = 0; i < dy->n[1]; i++) {
        i64 first = ref_int(span, 0, i), end = ref_int(span, 1, i);
        if (first < 0 || end > t->n[1] || end <= first) continue;
        if (t->arg.i[0] == POOL_FIRST) end = first + 1;
        if (t->arg.i[0] == POOL_LAST) first = end - 1;
        for (i64 j = i64_max(first, from); j < i64_min(end, to); j++)
            r->k->axpy(row_at(t, j), row_at(dy, i), 1.0f / (float)(end - first), t->n[0]);
    }
}

/* ---- sums and moves
 * -------------------------------------------------------------------------------------------------------------- */

static i64 row_number(const tensor *t, const i64 at[3]) { return at[0] + t->n[1] * (at[1] + t->n[2] * at[2]); }
static void row_place(const tensor *t, i64 row, i64 at[3])
{
    at[0] = row % t->n[1], at[1] = row / t->n[1] % t->n[2], at[2] = row / (t->n[1] * t->n[2]);
}

/* the j-th of the rows of x that are summed into a row of y (of x repeated to y: the other way round) */
static i64 rows_per_sum(const tensor *x, const tensor *y) { return tensor_rows(x) / tensor_rows(y); }
static i64 summed_row(const tensor *x, const tensor *y, i64 row, i64 j)
{
    i64 at[3];
    row_place(y, row, at);
    for (int a = 0; a < 3; a++) {
        i64 span = x->n[a + 1] / y->n[a + 1];
        at[a] += j % span;
        j /= span;
    }
    return row_number(x, at);
}

static void run_sum_rows(const step *s, const cpu_run *r) /* rows keep their length */
{
    const tensor *t = s->t, *x = t->src[0];
    const i64 each = rows_per_sum(x, t);
    float *sum = (void *)r->own;
    i64 from, to;
    if (!own_columns(t->n[0], r, &from, &to)) return;
    const i64 n = to - from;
    for (i64 row = 0; row < tensor_rows(t); row++) {
        float *y = row_at(t, row) + from;
        memset(y, 0, sizeof *y * (usize)n);
        for (i64 first = 0; first < each; first += SUM_ROWS) {
            memset(sum, 0, sizeof *sum * (usize)n);
            for (i64 j = first; j < i64_min(each, first + SUM_ROWS); j++)
                r->k->add(sum, sum, row_at(x, summed_row(x, t, row, j)) + from, n);
            r->k->add(y, y, sum, n);
        }
    }
}

static void run_row_sums(const step *s, const cpu_run *r)
{
    const tensor *x = s->t->src[0];
    double *sums = (void *)r->shared;
    i64 from, to;
    part(tensor_rows(x), r->thread, r->n_threads, &from, &to);
    for (i64 i = from; i < to; i++) sums[i] = r->k->sum(row_at(x, i), x->n[0]);
}
static void run_sum_values(const step *s, const cpu_run *r) /* rows become one value each, or less */
{
    const tensor *t = s->t, *x = t->src[0];
    const double *sums = (const void *)r->shared;
    const i64 each = rows_per_sum(x, t);
    i64 from, to;
    part(tensor_rows(t), r->thread, r->n_threads, &from, &to);
    for (i64 row = from; row < to; row++) {
        double sum = 0;
        for (i64 j = 0; j < each; j++) sum += sums[summed_row(x, t, row, j)];
        *row_at(t, row) = (float)sum;
    }
}

static void run_repeat(const step *s, const cpu_run *r)
{
    const tensor *t = s->t, *x = t->src[0];
    i64 from, to;
    part(tensor_rows(t), r->thread, r->n_threads, &from, &to);
    for (i64 i = from; i < to; i++) {
        i64 at[3];
        row_place(t, i, at);
        for (int a = 0; a < 3; a++)
            if (x->n[a + 1] == 1) at[a] = 0;
        float *y = row_at(t, i), *from_x = row_at(x, row_number(x, at));
        if (x->n[0] == t->n[0])
            memcpy(y, from_x, sizeof *y * (usize)t->n[0]);
        else
            for (i64 j = 0; j < t->n[0]; j++) y[j] = *from_x;
    }
}

static void run_concat(const step *s, const cpu_run *r)
{
    const tensor *t = s->t, *a = t->src[0], *b = t->src[1];
    const int axis = t->arg.i[0];
    i64 from, to;
    part(tensor_rows(t), r->thread, r->n_threads, &from, &to);
    for (i64 i = from; i < to; i++) {
        float *y = row_at(t, i);
        i64 at[3];
        row_place(t, i, at);
        if (axis == 0) {
            memcpy(y, row_at(a, i), sizeof *y * (usize)a->n[0]);
            memcpy(y + a->n[0], row_at(b, i), sizeof *y * (usize)b->n[0]);
            continue;
        }
        const bool second = at[axis - 1] >= a->n[axis]; /* a and b may be one tensor */
        const tensor *x = second ? b : a;
        if (second) at[axis - 1] -= a->n[axis];
        memcpy(y, row_at(x, row_number(x, at)), sizeof *y * (usize)t->n[0]);
    }
}

/* no value of the result is named twice: each axis steps over all that the axes of smaller strides reach */
static bool places_apart(const tensor *t)
{
    const tensor *x = t->src[0];
    i64 reach = 0;
    bool done[4] = {0};
    for (int left = 4; left > 0; left--) {
        int least = -1;
        for (int a = 0; a < 4; a++)
            if (!done[a] && (least < 0 || t->arg.i[a] < t->arg.i[least])) least = a;
        done[least] = true;
        if (x->n[least] == 1) continue;
        if (t->arg.i[least] <= reach) return false;
        reach += (x->n[least] - 1) * t->arg.i[least];
    }
    return true;
}

/* threads own ranges of the result: they clear them, then copy the parts of rows that fall into them */
static void run_place(const step *s, const cpu_run *r)
{
    const tensor *t = s->t, *x = t->src[0];
    float *y = t->data;
    i64 from, to;
    if (!own_columns(t->n[0], r, &from, &to)) return;
    memset(y + from, 0, sizeof *y * (usize)(to - from));
    for (i64 i = 0; i < tensor_rows(x); i++) {
        i64 at[3], start = t->arg.i[4];
        row_place(x, i, at);
        for (int a = 0; a < 3; a++) start += at[a] * t->arg.i[a + 1];
        i64 first = i64_max(start, from), end = i64_min(start + x->n[0], to);
        if (first < end) memcpy(y + first, row_at(x, i) + (first - start), sizeof *y * (usize)(end - first));
    }
}

/* ---- choice
 * ---------------------------------------------------------------------------------------------------------------------- */

static bool choose_norm_w(cpu_plan *cp, tensor *t, step_pair *pair)
{
    pair->before.run = run_norm_stats;
    pair->main.run = run_norm_w;
    pair->per_thread = floats_of(t->n[0]);
    pair->shared = sizeof(norm_stat) * (usize)tensor_rows(t->src[0]);
    cp->quantised = NULL; /* what lay in the shared scratch */
    return true;
}

static bool choose_sum_to(cpu_plan *cp, tensor *t, step_pair *pair)
{
    const tensor *x = t->src[0];
    pair->main.run = run_sum_rows;
    pair->per_thread = floats_of(t->n[0]);
    if (t->n[0] > 1) return true;
    pair->before.run = run_row_sums;
    pair->before.alone = pair->main.alone;
    pair->main.run = run_sum_values;
    pair->shared = sizeof(double) * (usize)tensor_rows(x);
    cp->quantised = NULL;
    return true;
}

bool step_choose_grad(cpu_backend *c, cpu_plan *cp, tensor *t, step_pair *pair)
{
    (void)c;
    step *s = &pair->main;
    bool plain = true;
    i64 n = tensor_count(t);
    for (int i = 0; i < 6; i++)
        if (t->src[i] && t->src[i]->type != I32) plain = plain && plain_rows(t->src[i]), n = i64_max(n, tensor_count(t->src[i]));
    if (!plain) return false;
    s->alone = t->op != OP_ATTEND_GRAD && n <= 4096; /* sooner done by one than two meet */
    switch (t->op) {
    case OP_ATTEND_STAT: s->run = run_attend_stat; return true;
    case OP_ATTEND_GRAD: return choose_attend_grad(t, pair);
    case OP_NORM_X: s->run = run_norm_x; return true;
    case OP_NORM_W: s->alone = false; return choose_norm_w(cp, t, pair);
    case OP_SOFTMAX_GRAD: s->run = run_softmax_grad; return true;
    case OP_DROPOUT: s->run = run_dropout; return tensor_contiguous(t->src[0]);
    case OP_XENT_GRAD: s->run = run_xent_grad; return true;
    case OP_EMBED_GRAD: s->run = run_embed_grad; return true;
    case OP_POOL_GRAD: s->run = run_pool_grad; return true;
    case OP_SUM_TO: return choose_sum_to(cp, t, pair);
    case OP_REPEAT: s->run = run_repeat; return true;
    case OP_CONCAT: s->run = run_concat; return true;
    case OP_PLACE: s->run = run_place; return (t->arg.i[0] == 1 || t->src[0]->n[0] == 1) && places_apart(t);
    default: return false;
    }
}
