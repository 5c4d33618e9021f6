/* tensor/op_pool.c - POOL: one row for each span of rows (sentence vectors). arg.i[0] is the kind, arg.i[1] of the gradient m.
 *
 *   span {first, end}; an empty one, or one that is not inside [0,m]: zeros
 *   MEAN   y[:,s] = mean of x[:,r], r in [first,end)      dx[:,r] += dy[:,s] / (end - first)
 *   FIRST  y[:,s] = x[:,first]                            dx[:,first] += dy[:,s]
 *   LAST   y[:,s] = x[:,end-1]                            dx[:,end-1] += dy[:,s]
 * Spans may overlap. All three are one weighted sum over [from,to), so one loop serves both directions. */
#include "tensor/op.h"

typedef struct {
    i64 from, to;
    double weight; /* of each row in [from,to) */
} rows_used;

static rows_used rows_of(const tensor *y, const tensor *span, i64 m, i64 s)
{
    rows_used u = {ref_int(span, 0, s), ref_int(span, 1, s), 1};
    if (u.from < 0 || u.to > m || u.to <= u.from) return (rows_used){0, 0, 0};
    if (y->arg.i[0] == POOL_FIRST) u.to = u.from + 1;
    if (y->arg.i[0] == POOL_LAST) u.from = u.to - 1;
    u.weight = 1 / (double)(u.to - u.from);
    return u;
}

static bool spans_fit(const tensor *x, const tensor *span, int kind)
{
    return op_is_real(x) && op_is_2d(x) && op_is_ints(span) && op_is_2d(span) && span->n[0] == 2 && kind >= POOL_MEAN &&
           kind <= POOL_LAST;
}

void pool_check(graph *g, tensor *y)
{
    const tensor *x = y->src[0], *span = y->src[1];
    OP_EXPECT(spans_fit(x, span, y->arg.i[0]), "x span", "x [d,m] f32 or f64, span I32 [2,s]");
    tensor_set(y, x->type, (i64[4]){x->n[0], span->n[1]});
}

void pool_grad_check(graph *g, tensor *y)
{
    const tensor *dy = y->src[0], *span = y->src[1];
    OP_EXPECT(spans_fit(dy, span, y->arg.i[0]) && span->n[1] == dy->n[1] && y->arg.i[1] > 0, "dy span",
              "dy [d,s] f32 or f64, span I32 [2,s]");
    tensor_set(y, dy->type, (i64[4]){dy->n[0], y->arg.i[1]});
}

void pool_grad(graph *g, tensor *y, tensor *dy, tensor **dx)
{
    dx[0] = op_call(g, OP_POOL_GRAD, (op_arg){.i = {y->arg.i[0], (i32)y->src[0]->n[1]}}, dy, y->src[1], NULL);
}

void pool_ref(const tensor *y)
{
    const tensor *x = y->src[0], *span = y->src[1];
    for (i64 s = 0; s < y->n[1]; s++) {
        rows_used u = rows_of(y, span, x->n[1], s);
        for (i64 i = 0; i < y->n[0]; i++) {
            double sum = 0;
            for (i64 r = u.from; r < u.to; r++) sum += ref_get(x, i, r, 0, 0);
            ref_set(y, i, s, 0, 0, sum * u.weight);
        }
    }
}

void pool_grad_ref(const tensor *y)
{
    const tensor *dy = y->src[0], *span = y->src[1];
    for (i64 r = 0; r < y->n[1]; r++)
        for (i64 i = 0; i < y->n[0]; i++) {
            double sum = 0;
            for (i64 s = 0; s < dy->n[1]; s++) {
                rows_used u = rows_of(y, span, y->n[1], s);
                if (r >= u.from && r < u.to) sum += u.weight * ref_get(dy, i, s, 0, 0);
            }
            ref_set(y, i, r, 0, 0, sum);
        }
}

tensor *pool_rows(graph *g, tensor *x, tensor *span, pool_kind kind)
{
    return node(g, OP_POOL, (op_arg){.i = {(i32)kind}}, 2, (tensor *[]){x, span});
}
