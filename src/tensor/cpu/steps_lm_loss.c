/* tensor/cpu/steps_lm_loss.c - LM_LOSS by chunks of rows, and MUL by one value, which ends its gradient.
 *
 * A chunk is three phases with meetings between them inside the step: logits (threads share the vocabulary), losses and the
 * logits' gradient in their place (rows), then dx (k) and dw (the vocabulary). Rows that do not count are passed over by the list
 * of those that do, so chunks are full. Values of a row depend on no other row and no value on the number of threads; dw and the
 * loss are sums over rows in their order, dw by pieces of a chunk. */
#include "tensor/cpu/train.h"

#define CHUNK_BYTES ((i64)64 << 20) /* of logits */
enum { LEAST_ROWS = 64, MOST_ROWS = 256 };

static i64 chunk_of(const tensor *t)
{
    i64 rows = t->arg.i[0], fit = CHUNK_BYTES / (4 * t->src[1]->n[1]);
    if (!rows) rows = i64_min(MOST_ROWS, i64_max(LEAST_ROWS, fit / OUTER_ROWS * OUTER_ROWS));
    return i64_min(rows, t->src[0]->n[1]);
}

static void meet(const cpu_run *r)
{
    if (r->n_threads > 1) pool_barrier(r->pool, r->thread);
}

/* the rows that count; what the others give is zeros */
static i64 rows_that_count(const tensor *t, const cpu_run *r, i32 *list)
{
    const tensor *want = t->src[2];
    const i64 k = t->src[0]->n[0];
    i64 n = 0;
    for (i64 i = 0; i < want->n[0]; i++) {
        i32 id = ref_int(want, i, 0);
        if (id >= 0 && id < t->src[1]->n[1]) {
            list[n++] = (i32)i;
            continue;
        }
        if (i % r->n_threads != r->thread) continue;
        ((float *)t->data)[1 + i] = 0;
        if (t->aux && t->arg.i[1] & LM_LOSS_DX) memset((float *)t->aux->data + i * k, 0, sizeof(float) * (usize)k);
    }
    return n;
}

/* losses of rows list[0..rows), their gradients in place of their logits [n, rows] */
static void row_losses(const tensor *t, const cpu_run *r, const i32 *list, i64 rows, float *logits)
{
    const tensor *want = t->src[2], *rate = t->src[3];
    const i64 n = t->src[1]->n[1];
    i64 from, to;
    part(rows, r->thread, r->n_threads, &from, &to);
    for (i64 i = from; i < to; i++) {
        float *l = logits + i * n, each = ((const float *)rate->data)[list[i]];
        i32 id = ref_int(want, list[i], 0);
        float own = l[id], lse = t->aux ? r->k->softmax_lse(l, l, n, each) : r->k->lse(l, n);
        ((float *)t->data)[1 + list[i]] = lse - own;
        if (t->aux) l[id] -= each;
    }
}

static void run_lm_loss(const step *s, const cpu_run *r)
{
    const tensor *t = s->t, *x = t->src[0], *w = t->src[1], *rate = t->src[3];
    const i64 k = w->n[0], n = w->n[1];
    i32 *list = (i32 *)(void *)r->own; /* [m] */
    float *scratch = (float *)(void *)(r->own + s->at), *grad = t->aux ? t->aux->data : NULL;
    float *dx = grad && t->arg.i[1] & LM_LOSS_DX ? grad : NULL;
    float *dw = grad && t->arg.i[1] & LM_LOSS_DW ? grad + (dx ? tensor_count(x) : 0) : NULL;
    const float_rows logits = {(float *)(void *)r->shared, n, NULL}; /* [n, chunk] */
    const i64 live = rows_that_count(t, r, list), chunks = (live + chunk_of(t) - 1) / chunk_of(t);
    const i64 chunk = chunks ? (live + chunks - 1) / chunks : 0; /* of one size */
    const i64 cost = w->type == F32 ? 2 : DECODE_COST;
    const area all = area_of(r, k, OUTER_LANES, n, OUTER_ROWS, 2);
    for (i64 j = all.b_from; dw && !live && j < all.b_to; j++)
        memset(dw + j * k + all.a_from, 0, sizeof *dw * (usize)(all.a_to - all.a_from));
    for (i64 c = 0; c < live; c += chunk) {
        i64 rows = i64_min(chunk, live - c);
        float_rows some = {x->data, x->stride[1] / 4, list + c};
        if (c) meet(r); /* the chunk before is read no more */
        product_y(r, scratch, w, 0, some, (float_pair){.w = NULL}, (float_rows){0}, logits, area_of(r, n, OUTER_LANES, rows, OUTER_ROWS, cost));
        meet(r);
        row_losses(t, r, list + c, rows, logits.base);
        if (grad) meet(r);
        if (dx)
            product_x(r, scratch, w, 0, logits, (float_pair){.w = NULL}, (float_rows){0}, (float_rows){dx, k, list + c},
                      area_of(r, k, k_unit(w), rows, OUTER_ROWS, cost));
        if (dw) product_w(r, scratch, some, logits, rows, dw, k, c > 0, all);
    }
    if (!grad) meet(r); /* with gradients all met after the last row's loss */
    double sum = 0;
    for (i64 i = 0; r->thread == 0 && i < live; i++)
        sum += (double)((const float *)rate->data)[list[i]] * (double)((const float *)t->data)[1 + list[i]];
    if (r->thread == 0) *(float *)t->data = (float)sum;
}

bool step_choose_lm_loss(cpu_plan *cp, tensor *t, step_pair *p)
{
    const tensor *x = t->src[0], *w = t->src[1], *rate = t->src[3];
    if (x->type != F32 || (x->stride[0] != 4 && x->n[0] > 1) || !train_weight(w) || rate->type != F32 || !tensor_contiguous(rate))
        return false;
    p->main.run = run_lm_loss;
    p->main.at = (sizeof(i32) * (usize)x->n[1] + 63) / 64 * 64;
    p->per_thread = p->main.at + product_scratch(i64_max(x->n[0], w->n[1]), BLOCK, 0);
    p->shared = sizeof(float) * (usize)(chunk_of(t) * w->n[1]);
    cp->quantised = NULL; /* its rows lie where the logits will */
    return true;
}

/* ---- MUL by one value ------------------------------------------------------------------------------------------------------ */
static void run_mul_one(const step *s, const cpu_run *r)
{
    const tensor *t = s->t;
    i64 n = tensor_count(t), from, to;
    part((n + 15) / 16, r->thread, r->n_threads, &from, &to);
    from *= 16, to = i64_min(to * 16, n);
    if (to > from)
        r->k->scale((float *)t->data + from, (const float *)t->src[0]->data + from, *(const float *)t->src[1]->data, to - from);
}

bool step_choose_mul_one(tensor *t, step_pair *p)
{
    const tensor *a = t->src[0], *b = t->src[1];
    if (a->type != F32 || b->type != F32 || tensor_count(b) != 1 || !tensor_contiguous(a)) return false;
    p->main.run = run_mul_one;
    return true;
}
