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
    return 2 * floats_of(c * GRAD_KEYS) + 3 * floats_of(c * hd) + 4 * floats_of(c);
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

static void keys_of_thread(const tensor *t, const cpu_run *r)
{
    const i64 kv_heads = t->src[1]->n[1], keys = keys_of_block(t->src[0]->n[0]), n = (t->src[1]->n[2] + keys - 1) / keys;
    for (i64 i = r->thread; i < n * kv_heads; i += r->n_threads) {
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
            if (i % r->n_threads != r->thread) continue;
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
    for (int i = 0; i < 6; i++)
        if (i != 3 && !plain_rows(t->src[i])) return false;
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

bool step_choose_grad(cpu_backend *c, cpu_plan *cp, tensor *t, step_pair *pair)
{
    (void)c, (void)cp;
    step *s = &pair->main;
    switch (t->op) {
    case OP_ATTEND_STAT: s->run = run_attend_stat; return plain_rows(t->src[0]) && plain_rows(t->src[1]) && plain_rows(t->src[2]);
    case OP_ATTEND_GRAD: return choose_attend_grad(t, pair);
    default: return false;
    }
}
