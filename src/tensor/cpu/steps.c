/* tensor/cpu/steps.c - the choice of a fast kernel for each op, and the row-wise steps. A step gets a static part of the rows
 * (or, for one row and an elementwise op, of its elements in multiples of 16). */
#include "tensor/cpu/cpu.h"
#include <math.h>

static float *row(const tensor *t, i64 r) /* r counts rows over n[1..3] */
{
    i64 i1 = r % t->n[1], i2 = r / t->n[1] % t->n[2], i3 = r / (t->n[1] * t->n[2]);
    return (float *)(void *)((u8 *)t->data + i1 * t->stride[1] + i2 * t->stride[2] + i3 * t->stride[3]);
}
static bool f32_rows(const tensor *t) { return t->type == F32 && t->lay == LAYOUT_ROWS && (t->stride[0] == 4 || t->n[0] == 1); }

/* elementwise over contiguous tensors of one shape: parts in multiples of 16 elements */
static void flat_part(const tensor *t, const cpu_run *r, i64 *from, i64 *to)
{
    i64 n = tensor_count(t);
    part((n + 15) / 16, r->thread, r->n_threads, from, to);
    *from *= 16;
    *to = i64_min(*to * 16, n);
}

static void run_flat(const step *s, const cpu_run *r)
{
    const tensor *t = s->t;
    i64 from, to;
    flat_part(t, r, &from, &to);
    if (to <= from) return;
    float *y = (float *)t->data + from;
    const float *a = (const float *)t->src[0]->data + from, *b = t->src[1] ? (const float *)t->src[1]->data + from : NULL;
    i64 n = to - from;
    switch (t->op) {
    case OP_ADD: r->k->add(y, a, b, n); break;
    case OP_MUL: r->k->mul(y, a, b, n); break;
    case OP_SCALE: r->k->scale(y, a, t->arg.f[0], n); break;
    case OP_ACT: r->k->act(y, a, n, t->arg.i[0]); break;
    case OP_ACT_GRAD: r->k->act_grad(y, a, b, n, t->arg.i[0]); break;
    case OP_GLU: r->k->glu(y, a, b, n, t->arg.i[0]); break;
    default: break;
    }
}

static void run_rows(const step *s, const cpu_run *r) /* ops of one row; ADD and MUL with a second operand of one row */
{
    const tensor *t = s->t, *a = t->src[0], *b = t->src[1], *c = t->src[2];
    i64 from, to;
    part(tensor_rows(t), r->thread, r->n_threads, &from, &to);
    for (i64 i = from; i < to; i++) {
        float *y = row(t, i), *x = row(a, i);
        switch (t->op) {
        case OP_ADD: r->k->add(y, x, b->data, t->n[0]); break;
        case OP_MUL: r->k->mul(y, x, b->data, t->n[0]); break;
        case OP_NORM: r->k->norm(y, x, b ? b->data : NULL, c ? c->data : NULL, t->n[0], t->arg.i[0], t->arg.f[1]); break;
        case OP_SOFTMAX: r->k->softmax(y, x, t->n[0]); break;
        case OP_COPY: memcpy(y, x, sizeof *y * (usize)t->n[0]); break;
        default: break;
        }
    }
}

/* Cosines and sines [dims/2, 2, m] of one set of positions. Every layer rotates by the same angles, and a power, a cosine and a
 * sine cost more than the rotation: so they are computed once in a run, for the first that asks. */
static void run_angles(const step *s, const cpu_run *r)
{
    const tensor *t = s->t, *pos = t->src[1], *factors = t->src[2];
    int dims = t->arg.i[0];
    float theta = t->arg.f[2], pos_scale = t->arg.f[3], sign = t->arg.f[4];
    i64 from, to;
    part(t->n[2], r->thread, r->n_threads, &from, &to);
    for (int i = 0; i < dims / 2 && from < to; i++) { /* in floats, as the models were trained: frequency first, then the angle */
        float f = (float)pow((double)theta, -2.0 * i / dims);
        if (factors) f /= ((const float *)factors->data)[i];
        for (i64 c = from; c < to; c++) {
            float *cosine = r->angles + s->at + c * dims, angle = (float)ref_int(pos, c, 0) * pos_scale * f;
            cosine[i] = (float)cos((double)angle);
            cosine[dims / 2 + i] = (float)sin((double)angle) * sign;
        }
    }
}

static bool same_angles(const angle_table *a, const tensor *t)
{
    const op_arg *x = &a->arg, *y = &t->arg; /* all but i[1], which pairs turn */
    return a->pos == t->src[1] && a->factors == t->src[2] && x->i[0] == y->i[0] && !memcmp(x->f + 2, y->f + 2, 3 * sizeof(float));
}

static void choose_angles(cpu_plan *cp, const tensor *t, step_pair *s)
{
    for (int i = 0; i < cp->n_tables; i++)
        if (same_angles(&cp->tables[i], t)) {
            s->main.at = cp->tables[i].at;
            return;
        }
    s->before.run = run_angles;
    s->before.alone = t->n[2] == 1 || t->n[2] * t->arg.i[0] <= 64;
    s->before.at = s->main.at = cp->angles;
    cp->angles += (usize)((t->n[2] * t->arg.i[0] + 15) / 16 * 16);
    if (cp->n_tables < (int)COUNT_OF(cp->tables))
        cp->tables[cp->n_tables++] = (angle_table){t->src[1], t->src[2], t->arg, s->main.at};
}

static void run_rope(const step *s, const cpu_run *r)
{
    const tensor *t = s->t, *x = t->src[0];
    int hd = (int)t->n[0], dims = t->arg.i[0];
    bool neox = t->arg.i[1];
    i64 from, to;
    part(t->n[1] * t->n[2], r->thread, r->n_threads, &from, &to);
    for (i64 i = from; i < to; i++) {
        i64 h = i % t->n[1], c = i / t->n[1];
        const float *from_x = (const float *)(const void *)((const u8 *)x->data + h * x->stride[1] + c * x->stride[2]);
        const float *cosine = r->angles + s->at + c * dims;
        r->k->rope((float *)t->data + i * hd, from_x, cosine, cosine + dims / 2, dims, hd, neox);
    }
}

/* Threads own parts of every row, not rows: of two rows with one slot the later one stays, whoever is faster. */
static void run_kv_put(const step *s, const cpu_run *r)
{
    const tensor *t = s->t, *x = t->src[1], *slots = t->src[2];
    i64 from, to, d = t->n[0];
    part((d + 31) / 32, r->thread, r->n_threads, &from, &to);
    from *= 32;
    to = i64_min(to * 32, d);
    for (i64 c = 0; c < x->n[1] && from < to; c++) {
        i32 slot = ref_int(slots, c, 0);
        if (slot < 0 || slot >= t->n[1]) continue;
        u8 *dst = (u8 *)t->data + slot * t->stride[1];
        const float *src = (const float *)(const void *)((const u8 *)x->data + c * x->stride[1]) + from;
        if (t->type == F16)
            r->k->to_f16((u16 *)(void *)dst + from, src, to - from);
        else
            memcpy((float *)(void *)dst + from, src, sizeof *src * (usize)(to - from));
    }
}

static bool pages_exist(const i32 *pages, i32 page, i32 first, i32 end, i64 n_pages) /* page numbers are outside data */
{
    for (i32 i = first / page; i <= (end - 1) / page; i++)
        if (pages[i] < 0 || pages[i] >= n_pages) return false;
    return true;
}

typedef struct {
    i32 first, end; /* positions [first, end); none: both 0 */
    const i32 *pages;
} row_view;

static row_view row_sees(const tensor *t, i64 c)
{
    const tensor *k = t->src[1], *span = t->src[3], *pages = t->src[4];
    i32 seq = ref_int(span, 0, c), first = ref_int(span, 1, c), end = ref_int(span, 2, c), window = t->arg.i[2];
    i64 most = pages ? pages->n[0] * t->arg.i[3] : k->n[2];
    row_view v = {first, end, pages && seq >= 0 && seq < pages->n[1] ? (const i32 *)pages->data + seq * pages->n[0] : NULL};
    if (window > 0 && first < (i64)end - window) v.first = end - window;
    if (v.first < 0 || end > most || end <= v.first ||
        (pages && (!v.pages || !pages_exist(v.pages, t->arg.i[3], v.first, end, k->n[2] / t->arg.i[3]))))
        v.first = v.end = 0;
    return v;
}

enum { BLOCK_HEADS = 48, BLOCK_SCORES = 1 << 16 }; /* rows times heads, scores in floats: what second-level caches hold */
typedef struct {
    i64 rows, room;               /* rows of a block, at most; floats of its scores */
    usize q, y, lse, ends, bytes; /* where the scratch of several rows lies behind the scores; bytes of all */
} attend_scratch;

static attend_scratch scratch_of(const tensor *t)
{
    const tensor *k = t->src[1], *pages = t->src[4];
    i64 most = pages ? pages->n[0] * t->arg.i[3] : k->n[2], group = t->n[1] / k->n[1], window = t->arg.i[2];
    if (window > 0) most = i64_min(most, window);
    attend_scratch x = {.rows = i64_max(1, i64_min(t->n[2], BLOCK_HEADS / group))};
    i64 one = (most + 31) * group;
    usize values = sizeof(float) * (usize)((x.rows * group * t->n[0] + 15) / 16 * 16);
    x.room = (i64_max(one, i64_min(one * x.rows, BLOCK_SCORES)) + 15) / 16 * 16;
    x.q = sizeof(float) * (usize)x.room; /* [hd, heads, rows], as y; lse [heads, rows], ends [rows] */
    x.y = x.q + (x.rows > 1 ? values : 0);
    x.lse = x.y + (x.rows > 1 ? values : 0);
    x.ends = x.lse + sizeof(float) * (usize)(x.rows * group);
    x.bytes = x.ends + sizeof(i32) * (usize)x.rows;
    return x;
}

/* rows from c on that see keys from one position on, so many that their scores have room */
static int rows_alike(const tensor *t, i64 c, i64 most, i64 room)
{
    row_view a = row_sees(t, c);
    const i64 group = t->n[1] / t->src[1]->n[1];
    i32 end = a.end, n = 1;
    for (; a.end > 0 && n < most && c + n < t->n[2]; n++) {
        row_view b = row_sees(t, c + n);
        end = b.end > end ? b.end : end;
        if (b.end == 0 || b.first != a.first || b.pages != a.pages || ((i64)end - a.first + 31) * group * (n + 1) > room) break;
    }
    return n;
}

static const float *query_at(const tensor *q, i64 h, i64 c)
{
    return (const float *)(const void *)((const u8 *)q->data + h * q->stride[1] + c * q->stride[2]);
}

static void attend_item(const tensor *t, const cpu_run *r, i64 c, int n_rows, i64 kvh, int first_head, int n_heads)
{
    const tensor *q = t->src[0], *k = t->src[1], *v = t->src[2];
    i64 h = kvh * (t->n[1] / k->n[1]) + first_head, hd = t->n[0];
    const row_view see = row_sees(t, c);
    const usize row_bytes = sizeof(float) * (usize)(hd * n_heads);
    const attend_scratch x = scratch_of(t);
    float *some_q = (void *)(r->own + x.q), *some_y = (void *)(r->own + x.y), *some_lse = (void *)(r->own + x.lse);
    i32 *ends = (void *)(r->own + x.ends);
    float *y = (float *)t->data + (c * t->n[1] + h) * hd, *lse = t->aux ? (float *)t->aux->data + c * t->n[1] + h : NULL;
    attend_row a = {.q = n_rows > 1 ? some_q : query_at(q, h, c),
                    .k = (const u8 *)k->data + kvh * k->stride[1],
                    .v = (const u8 *)v->data + kvh * v->stride[1],
                    .k_stride = (usize)k->stride[2],
                    .v_stride = (usize)v->stride[2],
                    .type = k->type,
                    .pages = see.pages,
                    .page = t->arg.i[3],
                    .first = see.first,
                    .end = see.end,
                    .hd = (int)hd,
                    .n_q = n_heads,
                    .scale = t->arg.f[0],
                    .softcap = t->arg.f[1],
                    .y = n_rows > 1 ? some_y : y,
                    .lse = lse && n_rows > 1 ? some_lse : lse,
                    .score = (void *)r->own,
                    .n_rows = n_rows,
                    .ends = ends,
                    .train = t->arg.i[4]};
    for (i64 i = 0; n_rows > 1 && i < n_rows; i++) {
        ends[i] = row_sees(t, c + i).end;
        a.end = ends[i] > a.end ? ends[i] : a.end;
        memcpy(some_q + i * n_heads * hd, query_at(q, h, c + i), row_bytes);
    }
    r->k->attend(&a);
    for (i64 i = 0; n_rows > 1 && i < n_rows; i++) {
        memcpy(y + i * t->n[1] * hd, some_y + i * n_heads * hd, row_bytes);
        if (lse) memcpy(lse + i * t->n[1], some_lse + i * n_heads, sizeof *lse * (usize)n_heads);
    }
}

/* Items are (block of rows, kv head), dealt round robin since later rows see more keys. Blocks are so small that there is work
 * for all; when there are fewer rows than threads, the heads that share a kv head are divided too. */
static void run_attend(const step *s, const cpu_run *r)
{
    const tensor *t = s->t;
    const attend_scratch x = scratch_of(t);
    i64 kvh = t->src[1]->n[1], group = t->n[1] / kvh, items = kvh * t->n[2], n_threads = r->n_threads, i = 0;
    i64 cuts = items >= n_threads ? 1 : i64_min(group, (n_threads + items - 1) / items);
    i64 most = i64_max(1, i64_min(x.rows, items / n_threads / 2));
    for (i64 c = 0, n; c < t->n[2]; c += n) {
        n = most > 1 ? rows_alike(t, c, most, x.room) : 1;
        for (i64 j = 0; j < kvh * cuts; j++, i++) {
            i64 from, to;
            if (i % n_threads != r->thread) continue;
            part(group, (int)(j % cuts), (int)cuts, &from, &to);
            if (to > from) attend_item(t, r, c, (int)n, j / cuts, (int)from, (int)(to - from));
        }
    }
}

static void run_pool(const step *s, const cpu_run *r)
{
    const tensor *t = s->t, *x = t->src[0], *span = t->src[1];
    i64 from, to;
    part(t->n[1], r->thread, r->n_threads, &from, &to);
    for (i64 i = from; i < to; i++) {
        i32 first = ref_int(span, 0, i), end = ref_int(span, 1, i);
        float *y = row(t, i);
        memset(y, 0, sizeof *y * (usize)t->n[0]);
        if (first < 0 || end > x->n[1] || end <= first) continue;
        if (t->arg.i[0] == POOL_FIRST)
            memcpy(y, row(x, first), sizeof *y * (usize)t->n[0]);
        else if (t->arg.i[0] == POOL_LAST)
            memcpy(y, row(x, end - 1), sizeof *y * (usize)t->n[0]);
        else {
            for (i64 c = first; c < end; c++) r->k->add(y, y, row(x, c), t->n[0]);
            r->k->scale(y, y, 1.0f / (float)(end - first), t->n[0]);
        }
    }
}

static void run_xent(const step *s, const cpu_run *r)
{
    const tensor *t = s->t, *x = t->src[0], *want = t->src[1];
    i64 from, to;
    part(t->n[1], r->thread, r->n_threads, &from, &to);
    for (i64 c = from; c < to; c++) {
        i32 w = ref_int(want, c, 0);
        float *l = row(x, c);
        *row(t, c) = w < 0 || w >= x->n[0] ? 0 : r->k->lse(l, x->n[0]) - l[w];
    }
}

static bool choose_elementwise(const tensor *t, step *s)
{
    const tensor *a = t->src[0], *b = t->src[1];
    if (!f32_rows(a) || (b && !f32_rows(b)) || !tensor_same_shape(t, a)) return false;
    s->run = run_flat;
    if (tensor_contiguous(a) && (!b || (tensor_contiguous(b) && tensor_same_shape(a, b)))) return true;
    s->run = run_rows;
    return (t->op == OP_ADD || t->op == OP_MUL) && b && tensor_rows(b) == 1 && b->n[0] == t->n[0];
}

static bool attend_fits(const tensor *t, usize *per_thread)
{
    const tensor *k = t->src[1], *v = t->src[2], *pages = t->src[4];
    *per_thread = scratch_of(t).bytes;
    return f32_rows(t->src[0]) && t->src[0]->stride[1] == t->n[0] * 4 && (k->type == F32 || k->type == F16) &&
           v->type == k->type && k->stride[0] == dtype_table[k->type].bytes && v->stride[0] == k->stride[0] &&
           (!pages || tensor_contiguous(pages));
}

/* Rows of which one thread does all sooner than two meet: a value takes a tenth of a nanosecond, through exp about one. */
static bool is_small(const tensor *t)
{
    i64 n = tensor_count(t);
    bool one_row = tensor_rows(t) == 1;
    switch (t->op) {
    case OP_ADD:
    case OP_MUL:
    case OP_SCALE: return n <= 8192;
    case OP_NORM:
    case OP_COPY: return one_row || n <= 8192;
    case OP_SOFTMAX: return one_row || n <= 1024;
    case OP_ROPE: return n <= 2048;
    case OP_KV_PUT: return tensor_count(t->src[1]) <= 4096;
    case OP_ACT:
    case OP_ACT_GRAD:
    case OP_GLU: return n <= 1024;
    case OP_POOL:
    case OP_XENT: return one_row;
    default: return false; /* steps_matmul.c knows its own; attention depends on data */
    }
}

bool step_choose_grad(cpu_backend *, cpu_plan *, tensor *, step_pair *); /* steps_grad.c */

bool step_choose(cpu_backend *c, cpu_plan *cp, tensor *t, step_pair *pair)
{
    if (t->type != F32 && t->op != OP_KV_PUT) return false;
    tensor *a = t->src[0];
    step *s = &pair->main;
    s->alone = is_small(t);
    switch (t->op) {
    case OP_EMBED:
    case OP_MATMUL: return step_choose_matmul(c, cp, t, pair);
    case OP_MATMUL_X:
    case OP_MATMUL_W: return step_choose_train(t, pair);
    case OP_LM_LOSS: return step_choose_lm_loss(cp, t, pair);
    case OP_MUL:
        if (step_choose_mul_one(t, pair)) return true;
        return choose_elementwise(t, s);
    case OP_ADD:
    case OP_SCALE:
    case OP_ACT:
    case OP_ACT_GRAD:
    case OP_GLU: return choose_elementwise(t, s);
    case OP_NORM:
        s->run = run_rows;
        return f32_rows(a) && (!t->src[1] || f32_rows(t->src[1])) && (!t->src[2] || f32_rows(t->src[2]));
    case OP_SOFTMAX:
    case OP_COPY: s->run = run_rows; return f32_rows(a) && a->n[0] > 1;
    case OP_ROPE:
        s->run = run_rope;
        if (!f32_rows(a) || (t->src[2] && !f32_rows(t->src[2]))) return false;
        choose_angles(cp, t, pair);
        return true;
    case OP_KV_PUT: s->run = run_kv_put; return (t->type == F16 || t->type == F32) && f32_rows(t->src[1]);
    case OP_ATTEND: s->run = run_attend; return attend_fits(t, &pair->per_thread);
    case OP_POOL: s->run = run_pool; return f32_rows(a);
    case OP_XENT: s->run = run_xent; return f32_rows(a);
    default: return step_choose_grad(c, cp, t, pair);
    }
}
