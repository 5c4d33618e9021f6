/* tensor/op_act.c - ACT, GLU, SOFTMAX and their gradients. arg.i[0] of the first two is the act_kind.
 *
 * ACT           y = f(x):  SILU x s(x) with s(x) = 1 / (1 + e^-x);  GELU x (1 + erf(x / sqrt 2)) / 2 (Hendrycks, Gimpel 2016);
 *               GELU_TANH x (1 + tanh(c (x + 0.044715 x^3))) / 2 with c = sqrt(2 / pi);  RELU max(x, 0);  TANH;  SIGMOID s(x)
 * ACT_GRAD      dx = dy f'(x); RELU's derivative at 0 is 0
 * GLU           y = f(gate) up          dgate = ACT_GRAD(gate, dy up), dup = dy ACT(gate)
 * SOFTMAX       y = exp(x - max x) / sum, over n[0]
 * SOFTMAX_GRAD  dx = y (dy - <y, dy>): needs y only, not x */
#include "tensor/op.h"

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }
static double gelu_inner(double x) { return sqrt(2 / M_PI) * (x + 0.044715 * x * x * x); }

static double act_of(int kind, double x)
{
    switch (kind) {
    case ACT_SILU: return x * sigmoid(x);
    case ACT_GELU: return 0.5 * x * (1 + erf(x * M_SQRT1_2));
    case ACT_GELU_TANH: return 0.5 * x * (1 + tanh(gelu_inner(x)));
    case ACT_RELU: return x > 0 ? x : 0;
    case ACT_TANH: return tanh(x);
    default: return sigmoid(x);
    }
}

static double act_slope(int kind, double x)
{
    double s;
    switch (kind) {
    case ACT_SILU: s = sigmoid(x); return s * (1 + x * (1 - s));
    case ACT_GELU: return 0.5 * (1 + erf(x * M_SQRT1_2)) + x * exp(-0.5 * x * x) / sqrt(2 * M_PI);
    case ACT_GELU_TANH:
        s = tanh(gelu_inner(x));
        return 0.5 * (1 + s) + 0.5 * x * (1 - s * s) * sqrt(2 / M_PI) * (1 + 3 * 0.044715 * x * x);
    case ACT_RELU: return x > 0;
    case ACT_TANH: s = tanh(x); return 1 - s * s;
    default: s = sigmoid(x); return s * (1 - s);
    }
}

static op_arg kind_arg(act_kind kind) { return (op_arg){.i = {(i32)kind}}; }

void act_grad(graph *g, tensor *y, tensor *dy, tensor **dx) { dx[0] = op_call(g, OP_ACT_GRAD, y->arg, y->src[0], dy, NULL); }
void act_ref(const tensor *y) { EACH(y) ref_set(y, i0, i1, i2, i3, act_of(y->arg.i[0], ref_get(y->src[0], i0, i1, i2, i3))); }
void act_grad_ref(const tensor *y)
{
    const tensor *x = y->src[0], *dy = y->src[1];
    EACH(y) ref_set(y, i0, i1, i2, i3, ref_get(dy, i0, i1, i2, i3) * act_slope(y->arg.i[0], ref_get(x, i0, i1, i2, i3)));
}

void glu_grad(graph *g, tensor *y, tensor *dy, tensor **dx)
{
    tensor *gate = y->src[0], *up = y->src[1];
    if (dx[0]) dx[0] = op_call(g, OP_ACT_GRAD, y->arg, gate, mul(g, dy, up), NULL);
    if (dx[1]) dx[1] = glu(g, gate, dy, (act_kind)y->arg.i[0]);
}
void glu_ref(const tensor *y)
{
    const tensor *gate = y->src[0], *up = y->src[1];
    EACH(y) ref_set(y, i0, i1, i2, i3, act_of(y->arg.i[0], ref_get(gate, i0, i1, i2, i3)) * ref_get(up, i0, i1, i2, i3));
}

void softmax_grad(graph *g, tensor *y, tensor *dy, tensor **dx)
{
    dx[0] = op_call(g, OP_SOFTMAX_GRAD, (op_arg){{0}}, y, dy, NULL);
}
void softmax_ref(const tensor *y)
{
    const tensor *x = y->src[0];
    EACH_ROW(y)
    {
        double top = -INFINITY, sum = 0;
        for (i64 i = 0; i < y->n[0]; i++) top = fmax(top, ref_get(x, i, i1, i2, i3));
        for (i64 i = 0; i < y->n[0]; i++) sum += exp(ref_get(x, i, i1, i2, i3) - top);
        for (i64 i = 0; i < y->n[0]; i++) ref_set(y, i, i1, i2, i3, exp(ref_get(x, i, i1, i2, i3) - top) / sum);
    }
}
void softmax_grad_ref(const tensor *dx)
{
    const tensor *y = dx->src[0], *dy = dx->src[1];
    EACH_ROW(dx)
    {
        double along = 0;
        for (i64 i = 0; i < dx->n[0]; i++) along += ref_get(y, i, i1, i2, i3) * ref_get(dy, i, i1, i2, i3);
        for (i64 i = 0; i < dx->n[0]; i++)
            ref_set(dx, i, i1, i2, i3, ref_get(y, i, i1, i2, i3) * (ref_get(dy, i, i1, i2, i3) - along));
    }
}

tensor *act(graph *g, tensor *x, act_kind kind) { return op_call(g, OP_ACT, kind_arg(kind), x, NULL, NULL); }
tensor *glu(graph *g, tensor *gate, tensor *up, act_kind kind)
{
    return node(g, OP_GLU, kind_arg(kind), 2, (tensor *[]){gate, up});
}
tensor *softmax(graph *g, tensor *x) { return op_call(g, OP_SOFTMAX, (op_arg){{0}}, x, NULL, NULL); }
