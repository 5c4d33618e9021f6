/* tensor/op_norm.c - NORM over n[0] and its gradients.
 *
 *   y = h w + b                  w, b [n0] or absent;  h by kind, of one row x of n values:
 *   NORM_RMS    h = x r          r = 1 / sqrt(mean(x^2) + eps)
 *   NORM_LAYER  h = (x - u) r    u = mean(x), r = 1 / sqrt(mean((x - u)^2) + eps)
 *   NORM_L2     h = x r          r = 1 / max(|x|, eps)
 *
 * NORM_X: with g = dy w
 *   RMS    dx = r (g - h mean(g h))
 *   LAYER  dx = r (g - mean(g) - h mean(g h))
 *   L2     dx = r (g - h sum(g h)), and r g where |x| < eps (r is constant there)
 * NORM_W: dw = sum over rows of dy h;  db is SUM_TO(dy). Nothing is saved: h and r come again from x.
 * arg.i[0] is the kind, arg.f[1] eps. */
#include "tensor/op.h"

static bool row_of(const tensor *w, const tensor *x) { return op_is_float(w) && op_is_1d(w) && w->n[0] == x->n[0]; }
static bool kind_known(const tensor *y) { return y->arg.i[0] >= NORM_RMS && y->arg.i[0] <= NORM_L2 && y->arg.f[1] >= 0; }

void norm_check(graph *g, tensor *y)
{
    const tensor *x = y->src[0], *w = y->src[1], *b = y->src[2];
    OP_EXPECT(op_is_real(x) && kind_known(y) && (!w || row_of(w, x)) && (!b || row_of(b, x)), "x w b",
              "x [n,...] f32 or f64, w and b [n] or absent, eps >= 0");
    tensor_set(y, x->type, x->n);
}

void norm_x_check(graph *g, tensor *y)
{
    const tensor *x = y->src[0], *dy = y->src[1], *w = y->src[2];
    OP_EXPECT(op_is_real(x) && op_is_real(dy) && kind_known(y) && tensor_same_shape(x, dy) && (!w || row_of(w, x)), "x dy w",
              "x and dy of one shape, f32 or f64, w [n] or absent");
    tensor_set(y, op_type(x, dy), x->n);
}

void norm_w_check(graph *g, tensor *y)
{
    const tensor *x = y->src[0], *dy = y->src[1];
    OP_EXPECT(op_is_real(x) && op_is_real(dy) && kind_known(y) && tensor_same_shape(x, dy), "x dy",
              "x and dy of one shape, f32 or f64");
    tensor_set(y, op_type(x, dy), (i64[4]){x->n[0]});
}

void norm_grad(graph *g, tensor *y, tensor *dy, tensor **dx)
{
    tensor *x = y->src[0], *w = y->src[1];
    if (dx[0]) dx[0] = op_call(g, OP_NORM_X, y->arg, x, dy, w);
    if (dx[1]) dx[1] = op_call(g, OP_NORM_W, y->arg, x, dy, NULL);
    if (dx[2]) dx[2] = sum_to(g, dy, (shape){{dy->n[0]}});
}

/* u and r of a row; false: r does not depend on x */
static bool row_scale(const tensor *y, const tensor *x, i64 i1, i64 i2, i64 i3, double *u, double *r)
{
    const double n = (double)x->n[0], eps = (double)y->arg.f[1];
    double sum = 0, square = 0;
    for (i64 i = 0; i < x->n[0]; i++) sum += ref_get(x, i, i1, i2, i3);
    *u = y->arg.i[0] == NORM_LAYER ? sum / n : 0;
    for (i64 i = 0; i < x->n[0]; i++) {
        double d = ref_get(x, i, i1, i2, i3) - *u;
        square += d * d;
    }
    if (y->arg.i[0] != NORM_L2) {
        *r = 1 / sqrt(square / n + eps);
        return true;
    }
    double length = sqrt(square);
    *r = length > eps ? 1 / length : eps > 0 ? 1 / eps : 0;
    return length > eps;
}

void norm_ref(const tensor *y)
{
    const tensor *x = y->src[0], *w = y->src[1], *b = y->src[2];
    EACH_ROW(y)
    {
        double u, r;
        row_scale(y, x, i1, i2, i3, &u, &r);
        for (i64 i = 0; i < y->n[0]; i++) {
            double h = (ref_get(x, i, i1, i2, i3) - u) * r;
            ref_set(y, i, i1, i2, i3, h * (w ? ref_get(w, i, 0, 0, 0) : 1) + (b ? ref_get(b, i, 0, 0, 0) : 0));
        }
    }
}

void norm_x_ref(const tensor *y)
{
    const tensor *x = y->src[0], *dy = y->src[1], *w = y->src[2];
    const double n = (double)y->n[0];
    EACH_ROW(y)
    {
        double u, r, sum_g = 0, sum_gh = 0;
        bool depends = row_scale(y, x, i1, i2, i3, &u, &r);
        for (i64 i = 0; i < y->n[0]; i++) {
            double g = ref_get(dy, i, i1, i2, i3) * (w ? ref_get(w, i, 0, 0, 0) : 1);
            sum_g += g;
            sum_gh += g * (ref_get(x, i, i1, i2, i3) - u) * r;
        }
        double mean_g = y->arg.i[0] == NORM_LAYER ? sum_g / n : 0, along = !depends                 ? 0
                                                                           : y->arg.i[0] == NORM_L2 ? sum_gh
                                                                                                    : sum_gh / n;
        for (i64 i = 0; i < y->n[0]; i++) {
            double g = ref_get(dy, i, i1, i2, i3) * (w ? ref_get(w, i, 0, 0, 0) : 1), h = (ref_get(x, i, i1, i2, i3) - u) * r;
            ref_set(y, i, i1, i2, i3, r * (g - mean_g - h * along));
        }
    }
}

void norm_w_ref(const tensor *y)
{
    const tensor *x = y->src[0], *dy = y->src[1];
    double *sum = mem_array(double, y->n[0]); /* [n0] */
    if (!sum) {
        ref_nan(y);
        return;
    }
    EACH_ROW(x)
    {
        double u, r;
        row_scale(y, x, i1, i2, i3, &u, &r);
        for (i64 i = 0; i < x->n[0]; i++) sum[i] += ref_get(dy, i, i1, i2, i3) * (ref_get(x, i, i1, i2, i3) - u) * r;
    }
    for (i64 i = 0; i < y->n[0]; i++) ref_set(y, i, 0, 0, 0, sum[i]);
    mem_free(sum);
}

tensor *norm(graph *g, tensor *x, tensor *w, tensor *b, norm_kind kind, float eps)
{
    op_arg arg = {.i = {(i32)kind}};
    arg.f[1] = eps;
    return op_call(g, OP_NORM, arg, x, w, b);
}
