/* tensor/op_attend.c - ATTEND, ATTEND_STAT and ATTEND_GRAD: softmax attention of query rows over keys named by data.
 *
 * ATTEND, for row r with span {sequence, first, end} and query head h over kv head c = h / (heads / kv_heads):
 *   positions  p in [first, end), of a windowed row in [max(first, end - window), end); none if these are not inside the S
 *              slots, or not inside the pages of an existing sequence, or on a page (-1) that is none of the S / page of the
 * cache slot(p)    without pages p; with pages: pages[p / page, sequence] * page + p % page u_p = scale <q, k_p>;  s_p = softcap
 * tanh(u_p / softcap), or u_p;  P_p = exp(s_p - lse), lse = ln sum exp(s_p) y = sum P_p v_p;  no position: zeros One span serves
 * causal (end = position + 1), whole-sequence, packed and prefix masks.
 *
 * ATTEND_STAT [2,heads,m] is {lse, D} with D = <dy, y> = sum P_p <dy, v_p>; ATTEND saves lse in its aux [heads,m] once the
 * gradient is built. From these two ATTEND_GRAD has P and its derivative again, key by key (Dao et al. 2022, "FlashAttention"):
 *   dP_p = <dy, v_p>;  dS_p = P_p (dP_p - D);  dU_p = scale dS_p (1 - (s_p / softcap)^2)
 *   dq = sum dU_p k_p;  dk_p += dU_p q;  dv_p += P_p dy       over all rows and the heads of the group
 * Packed result: dq [hd,heads,m], dk [hd,kv_heads,S], dv the same, one after another. Keys in a paged cache come from earlier
 * steps and have no gradient: without pages only.
 * arg: f[0] scale, f[1] softcap, i[2] window, i[3] page, i[4] in a graph of training, where kernels may sum in another order. */
#include "tensor/op.h"

static bool heads_fit(const tensor *q, const tensor *k, const tensor *v, const tensor *span)
{
    return op_is_real(q) && q->n[3] == 1 && op_is_float(k) && op_is_float(v) && tensor_same_shape(k, v) && k->n[3] == 1 &&
           k->n[0] == q->n[0] && q->n[1] % k->n[1] == 0 && op_is_ints(span) && op_is_2d(span) && span->n[0] == 3 &&
           span->n[1] == q->n[2];
}

void attend_check(graph *g, tensor *y)
{
    const tensor *q = y->src[0], *k = y->src[1], *v = y->src[2], *span = y->src[3], *pages = y->src[4];
    OP_EXPECT(heads_fit(q, k, v, span), "q k v span pages",
              "q [hd,heads,m], k and v [hd,kv_heads,S], kv_heads dividing heads, span I32 [3,m]");
    OP_EXPECT(!pages || (op_is_ints(pages) && op_is_2d(pages) && y->arg.i[3] > 0), "q k v span pages",
              "pages I32 [max_pages,n_seq] and a page of at least 1 position");
    OP_EXPECT(y->arg.i[2] >= 0 && y->arg.f[1] >= 0, "q k v span pages", "window and softcap of 0 (none) or more");
    tensor_set(y, op_type(q, NULL), q->n);
}

void attend_stat_check(graph *g, tensor *y)
{
    const tensor *out = y->src[0], *dy = y->src[1], *lse = y->src[2];
    OP_EXPECT(op_is_real(out) && op_is_real(dy) && tensor_same_shape(out, dy) && out->n[3] == 1 && op_is_real(lse) &&
                  op_is_2d(lse) && lse->n[0] == out->n[1] && lse->n[1] == out->n[2],
              "y dy lse", "y and dy [hd,heads,m], lse [heads,m]");
    tensor_set(y, op_type(out, dy), (i64[4]){2, out->n[1], out->n[2]});
}

void attend_grad_check(graph *g, tensor *y)
{
    const tensor *q = y->src[0], *k = y->src[1], *v = y->src[2], *span = y->src[3], *dy = y->src[4], *stat = y->src[5];
    OP_EXPECT(heads_fit(q, k, v, span) && op_is_real(k) && op_is_real(v) && op_is_real(dy) && tensor_same_shape(dy, q) &&
                  op_is_real(stat) && stat->n[0] == 2 && stat->n[1] == q->n[1] && stat->n[2] == q->n[2] && stat->n[3] == 1,
              "q k v span dy stat",
              "q [hd,heads,m], k and v [hd,kv_heads,S] f32 or f64, span I32 [3,m], dy as q, stat [2,heads,m]");
    tensor_set(y, op_type(q, dy), (i64[4]){tensor_count(q) + 2 * tensor_count(k)});
}

void attend_grad(graph *g, tensor *y, tensor *dy, tensor **dx)
{
    tensor *q = y->src[0], *k = y->src[1], *v = y->src[2];
    char show[96];
    if (y->src[4]) {
        graph_fail(g, "ATTEND: %s are pages of a cache; expected none where a gradient is wanted", tensor_show(y->src[4], show));
        return;
    }
    tensor *lse = y->aux ? y->aux : tensor_aux(g, y, y->type, (shape){{q->n[1], q->n[2]}});
    tensor *stat = op_call(g, OP_ATTEND_STAT, (op_arg){{0}}, y, dy, lse);
    tensor *packed = node(g, OP_ATTEND_GRAD, y->arg, 6, (tensor *[]){q, k, v, y->src[3], dy, stat});
    i64 n_q = tensor_count(q), n_k = tensor_count(k);
    if (dx[0]) dx[0] = reshape(g, slice(g, packed, 0, 0, n_q), op_shape(q));
    if (dx[1]) dx[1] = reshape(g, slice(g, packed, 0, n_q, n_k), op_shape(k));
    if (dx[2]) dx[2] = reshape(g, slice(g, packed, 0, n_q + n_k, n_k), op_shape(v));
}

/* ---- reference ---- */

typedef struct {
    i64 from, to, sequence; /* positions [from,to) */
} seen;

static seen row_sees(const tensor *y, const tensor *span, const tensor *pages, i64 n_slots, i64 r)
{
    const i64 window = y->arg.i[2], page = y->arg.i[3], most = pages ? pages->n[0] * page : n_slots;
    seen s = {.sequence = ref_int(span, 0, r), .from = ref_int(span, 1, r), .to = ref_int(span, 2, r)};
    if (window) s.from = i64_max(s.from, s.to - window);
    if (s.from < 0 || s.to > most || (pages && (s.sequence < 0 || s.sequence >= pages->n[1]))) s.to = s.from;
    for (i64 p = s.from; pages && p < s.to; p += page - p % page) {
        i32 number = ref_int(pages, p / page, s.sequence);
        if (number < 0 || number >= n_slots / page) s.to = s.from;
    }
    return s;
}

static i64 slot_at(const tensor *y, const tensor *pages, seen s, i64 p)
{
    const i64 page = y->arg.i[3];
    return pages ? ref_int(pages, p / page, s.sequence) * page + p % page : p;
}

static double dot_heads(const tensor *a, i64 head_a, i64 row_a, const tensor *b, i64 head_b, i64 row_b)
{
    double sum = 0;
    for (i64 i = 0; i < a->n[0]; i++) sum += ref_get(a, i, head_a, row_a, 0) * ref_get(b, i, head_b, row_b, 0);
    return sum;
}

static double score_of(const tensor *y, const tensor *q, i64 h, i64 r, const tensor *k, i64 c, i64 slot)
{
    double u = (double)y->arg.f[0] * dot_heads(q, h, r, k, c, slot), cap = (double)y->arg.f[1];
    return cap > 0 ? cap * tanh(u / cap) : u;
}

/* row r, head h; one pass over the keys, sum_v [hd] */
static void attend_one(const tensor *y, i64 h, i64 r, double *sum_v)
{
    const tensor *q = y->src[0], *k = y->src[1], *v = y->src[2], *pages = y->src[4];
    const i64 c = h / (q->n[1] / k->n[1]);
    seen s = row_sees(y, y->src[3], pages, k->n[2], r);
    double top = -INFINITY, sum = 0;
    for (i64 i = 0; i < y->n[0]; i++) sum_v[i] = 0;
    for (i64 p = s.from; p < s.to; p++) {
        i64 slot = slot_at(y, pages, s, p);
        double now = score_of(y, q, h, r, k, c, slot), scale_old = 1;
        if (now > top) { /* keep the sums relative to the largest score so far */
            scale_old = exp(top - now);
            top = now;
        }
        double weight_p = exp(now - top);
        sum = sum * scale_old + weight_p;
        for (i64 i = 0; i < y->n[0]; i++) sum_v[i] = sum_v[i] * scale_old + weight_p * ref_get(v, i, c, slot, 0);
    }
    for (i64 i = 0; i < y->n[0]; i++) ref_set(y, i, h, r, 0, sum > 0 ? sum_v[i] / sum : 0);
    if (y->aux) ref_set(y->aux, h, r, 0, 0, sum > 0 ? top + log(sum) : 0);
}

void attend_ref(const tensor *y)
{
    double *sums = mem_array(double, y->n[0]); /* [hd] */
    if (!sums) {
        ref_nan(y);
        return;
    }
    for (i64 r = 0; r < y->n[2]; r++)
        for (i64 h = 0; h < y->n[1]; h++) attend_one(y, h, r, sums);
    mem_free(sums);
}

void attend_stat_ref(const tensor *y)
{
    const tensor *out = y->src[0], *dy = y->src[1], *lse = y->src[2];
    for (i64 r = 0; r < y->n[2]; r++)
        for (i64 h = 0; h < y->n[1]; h++) {
            ref_set(y, 0, h, r, 0, ref_get(lse, h, r, 0, 0));
            ref_set(y, 1, h, r, 0, dot_heads(out, h, r, dy, h, r));
        }
}

/* dq, dk, dv in double */
static void attend_grad_one(const tensor *y, i64 h, i64 r, double *dq, double *dk, double *dv)
{
    const tensor *q = y->src[0], *k = y->src[1], *v = y->src[2], *dy = y->src[4];
    const i64 hd = q->n[0], c = h / (q->n[1] / k->n[1]);
    const double lse = ref_get(y->src[5], 0, h, r, 0), along = ref_get(y->src[5], 1, h, r, 0), cap = (double)y->arg.f[1];
    seen s = row_sees(y, y->src[3], NULL, k->n[2], r);
    for (i64 j = s.from; j < s.to; j++) {
        double score = score_of(y, q, h, r, k, c, j), p = exp(score - lse);
        double du = p * (dot_heads(dy, h, r, v, c, j) - along) * (double)y->arg.f[0];
        if (cap > 0) du *= 1 - score / cap * (score / cap);
        for (i64 i = 0; i < hd; i++) {
            dq[(r * q->n[1] + h) * hd + i] += du * ref_get(k, i, c, j, 0);
            dk[(j * k->n[1] + c) * hd + i] += du * ref_get(q, i, h, r, 0);
            dv[(j * k->n[1] + c) * hd + i] += p * ref_get(dy, i, h, r, 0);
        }
    }
}

void attend_grad_ref(const tensor *y)
{
    const tensor *q = y->src[0], *k = y->src[1];
    const i64 n_q = tensor_count(q), n_k = tensor_count(k);
    double *sum = mem_array(double, y->n[0]); /* packed as y */
    if (sum) {
        for (i64 r = 0; r < q->n[2]; r++)
            for (i64 h = 0; h < q->n[1]; h++) attend_grad_one(y, h, r, sum, sum + n_q, sum + n_q + n_k);
        for (i64 i = 0; i < y->n[0]; i++) ref_set(y, i, 0, 0, 0, sum[i]);
    } else {
        ref_nan(y);
    }
    mem_free(sum);
}

tensor *attend(graph *g, tensor *q, tensor *k, tensor *v, tensor *span, tensor *pages, attend_arg a)
{
    op_arg arg = {.f = {a.scale, a.softcap}};
    arg.i[2] = a.window;
    arg.i[3] = a.page;
    arg.i[4] = g->use_float;
    return node(g, OP_ATTEND, arg, pages ? 5 : 4, (tensor *[]){q, k, v, span, pages});
}
