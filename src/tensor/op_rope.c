/* tensor/op_rope.c - ROPE: rotary positions (Su et al. 2021, "RoFormer"), over the first `dims` values of each head.
 *
 *   angle(i, r) = pos[r] * scale * theta^(-2i/dims) / factors[i]        i in [0, dims/2)
 *   (a, b) -> (a cos - b sin, a sin + b cos) for the pairs (i, i + dims/2) (neox) or (2i, 2i+1); the rest of a head is copied.
 *
 * A rotation's gradient is the rotation back: the same op with the sign of the sine turned. Positions are data; any I32 is one.
 * arg: i[0] dims, i[1] neox, f[2] theta, f[3] scale, f[4] sign, 1 or -1. */
#include "tensor/op.h"

void rope_check(graph *g, tensor *y)
{
    const tensor *x = y->src[0], *pos = y->src[1], *factors = y->src[2];
    const i64 dims = y->arg.i[0];
    OP_EXPECT(op_is_real(x) && x->n[3] == 1 && op_is_ints(pos) && op_is_1d(pos) && pos->n[0] == x->n[2], "x pos factors",
              "x [hd,heads,m] f32 or f64, pos I32 [m]");
    OP_EXPECT(dims > 0 && dims % 2 == 0 && dims <= x->n[0] && y->arg.f[2] > 0, "x pos factors",
              "an even number of rotated values within a head, theta > 0");
    OP_EXPECT(!factors || (op_is_float(factors) && op_is_1d(factors) && factors->n[0] == dims / 2), "x pos factors",
              "factors [dims/2] of a float type");
    tensor_set(y, x->type, x->n);
}

void rope_grad(graph *g, tensor *y, tensor *dy, tensor **dx)
{
    op_arg back = y->arg;
    back.f[4] = -back.f[4];
    if (dx[2]) {
        graph_fail(g, "ROPE: factors (%s) have no gradient", y->src[2]->name);
        return;
    }
    if (dx[0]) dx[0] = op_call(g, OP_ROPE, back, dy, y->src[1], y->src[2]);
}

void rope_ref(const tensor *y)
{
    const tensor *x = y->src[0], *pos = y->src[1], *factors = y->src[2];
    const i64 dims = y->arg.i[0], half = dims / 2;
    const bool neox = y->arg.i[1];
    EACH_ROW(y)
    {
        for (i64 i = 0; i < half; i++) {
            double angle = ref_int(pos, i2, 0) * (double)y->arg.f[3] * pow((double)y->arg.f[2], -2.0 * (double)i / (double)dims);
            if (factors) angle /= ref_get(factors, i, 0, 0, 0);
            i64 at = neox ? i : 2 * i, to = neox ? i + half : 2 * i + 1;
            double a = ref_get(x, at, i1, i2, i3), b = ref_get(x, to, i1, i2, i3);
            double c = cos(angle), sine = sin(angle) * (double)y->arg.f[4];
            ref_set(y, at, i1, i2, i3, a * c - b * sine);
            ref_set(y, to, i1, i2, i3, a * sine + b * c);
        }
        for (i64 i = dims; i < y->n[0]; i++) ref_set(y, i, i1, i2, i3, ref_get(x, i, i1, i2, i3));
    }
}

tensor *rope(graph *g, tensor *x, tensor *pos, tensor *factors, rope_arg a)
{
    op_arg arg = {.i = {a.dims, a.neox}};
    arg.f[2] = a.theta;
    arg.f[3] = a.scale;
    arg.f[4] = 1;
    return op_call(g, OP_ROPE, arg, x, pos, factors);
}
