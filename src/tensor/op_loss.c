/* tensor/op_loss.c - XENT: cross-entropy of rows of logits with wanted ids, in nats.
 *
 *   XENT       y[r] = ln sum_i exp(x[i,r]) - x[want[r],r]; 0 where want[r] is no index of the row (-1: the row does not count)
 *   XENT_GRAD  dx[i,r] = dy[r] (p[i,r] - (i = want[r])), p = softmax(x[:,r]); zeros where the row does not count
 * The probabilities come again from the logits: nothing of size [v,m] is kept between the passes but the logits. */
#include "tensor/op.h"

static bool logits_fit(const tensor *x, const tensor *want)
{
    return op_is_real(x) && op_is_2d(x) && op_is_ints(want) && op_is_1d(want) && want->n[0] == x->n[1];
}

void xent_check(graph *g, tensor *y)
{
    const tensor *x = y->src[0], *want = y->src[1];
    OP_EXPECT(logits_fit(x, want), "logits want", "logits [v,m] f32 or f64, want I32 [m]");
    tensor_set(y, x->type, (i64[4]){1, x->n[1]});
}

void xent_grad_check(graph *g, tensor *y)
{
    const tensor *x = y->src[0], *want = y->src[1], *dy = y->src[2];
    OP_EXPECT(logits_fit(x, want) && op_is_real(dy) && op_is_2d(dy) && dy->n[0] == 1 && dy->n[1] == x->n[1], "logits want dy",
              "logits [v,m], want I32 [m], dy [1,m]");
    tensor_set(y, op_type(x, dy), x->n);
}

void xent_grad(graph *g, tensor *y, tensor *dy, tensor **dx)
{
    dx[0] = op_call(g, OP_XENT_GRAD, (op_arg){{0}}, y->src[0], y->src[1], dy);
}

static double row_lse(const tensor *x, i64 r)
{
    double top = -INFINITY, sum = 0;
    for (i64 i = 0; i < x->n[0]; i++) top = fmax(top, ref_get(x, i, r, 0, 0));
    for (i64 i = 0; i < x->n[0]; i++) sum += exp(ref_get(x, i, r, 0, 0) - top);
    return top + log(sum);
}

void xent_ref(const tensor *y)
{
    const tensor *x = y->src[0], *want = y->src[1];
    for (i64 r = 0; r < x->n[1]; r++) {
        i32 id = ref_int(want, r, 0);
        bool counts = id >= 0 && id < x->n[0];
        ref_set(y, 0, r, 0, 0, counts ? row_lse(x, r) - ref_get(x, id, r, 0, 0) : 0);
    }
}

void xent_grad_ref(const tensor *y)
{
    const tensor *x = y->src[0], *want = y->src[1], *dy = y->src[2];
    for (i64 r = 0; r < x->n[1]; r++) {
        i32 id = ref_int(want, r, 0);
        bool counts = id >= 0 && id < x->n[0];
        double lse = counts ? row_lse(x, r) : 0, d = ref_get(dy, 0, r, 0, 0);
        for (i64 i = 0; i < x->n[0]; i++)
            ref_set(y, i, r, 0, 0, counts ? d * (exp(ref_get(x, i, r, 0, 0) - lse) - (i == id)) : 0);
    }
}

tensor *xent(graph *g, tensor *logits, tensor *want) { return node(g, OP_XENT, (op_arg){{0}}, 2, (tensor *[]){logits, want}); }
