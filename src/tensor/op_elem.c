/* tensor/op_elem.c - ADD MUL SCALE SUM_TO REPEAT CONCAT: arithmetic that knows no model.
 *
 * ADD     y = a + b       b's extents equal a's or are 1 (b is then repeated)      da = dy, db = SUM_TO(dy)
 * MUL     y = a * b       the same                                                da = dy b, db = SUM_TO(dy a)
 * SCALE   y = s x                                                                 dx = s dy
 * SUM_TO  y = sum of x over the axes whose extent becomes 1                       dx = REPEAT(dy)
 * REPEAT  y = x along the axes whose extent was 1                                 dx = SUM_TO(dy)
 * CONCAT  y = a, then b, along one axis                                           da, db = the slices of dy
 * The checks same_check and pair_check serve the elementwise ops of op_act.c too. */
#include "tensor/op.h"

void same_check(graph *g, tensor *y) /* y has the shape of x */
{
    OP_EXPECT(op_is_real(y->src[0]), "x", "f32 or f64");
    tensor_set(y, y->src[0]->type, y->src[0]->n);
}

void pair_check(graph *g, tensor *y) /* two sources of one shape */
{
    const tensor *a = y->src[0], *b = y->src[1];
    OP_EXPECT(op_is_real(a) && op_is_real(b) && tensor_same_shape(a, b), "a b", "two of one shape, f32 or f64");
    tensor_set(y, op_type(a, b), a->n);
}

void broadcast_check(graph *g, tensor *y)
{
    const tensor *a = y->src[0], *b = y->src[1];
    bool fits = op_is_real(a) && op_is_float(b);
    for (int i = 0; i < 4; i++) fits = fits && (b->n[i] == a->n[i] || b->n[i] == 1);
    OP_EXPECT(fits, "a b", "a f32 or f64, b any float type whose extents equal a's or are 1");
    tensor_set(y, op_type(a, b), a->n);
}

static double ref_second(const tensor *b, i64 i0, i64 i1, i64 i2, i64 i3) /* b repeated along its extents of 1 */
{
    return ref_get(b, b->n[0] == 1 ? 0 : i0, b->n[1] == 1 ? 0 : i1, b->n[2] == 1 ? 0 : i2, b->n[3] == 1 ? 0 : i3);
}

/* ---- ADD, MUL, SCALE ---- */

static tensor *sum_like(graph *g, tensor *dy, const tensor *b)
{
    return tensor_same_shape(dy, b) ? dy : sum_to(g, dy, op_shape(b));
}

void add_grad(graph *g, tensor *y, tensor *dy, tensor **dx)
{
    if (dx[0]) dx[0] = dy;
    if (dx[1]) dx[1] = sum_like(g, dy, y->src[1]);
}
void mul_grad(graph *g, tensor *y, tensor *dy, tensor **dx)
{
    if (dx[0]) dx[0] = mul(g, dy, y->src[1]);
    if (dx[1]) dx[1] = sum_like(g, mul(g, dy, y->src[0]), y->src[1]);
}
void scale_grad(graph *g, tensor *y, tensor *dy, tensor **dx) { dx[0] = scale(g, dy, y->arg.f[0]); }

void add_ref(const tensor *y)
{
    const tensor *a = y->src[0], *b = y->src[1];
    EACH(y) ref_set(y, i0, i1, i2, i3, ref_get(a, i0, i1, i2, i3) + ref_second(b, i0, i1, i2, i3));
}
void mul_ref(const tensor *y)
{
    const tensor *a = y->src[0], *b = y->src[1];
    EACH(y) ref_set(y, i0, i1, i2, i3, ref_get(a, i0, i1, i2, i3) * ref_second(b, i0, i1, i2, i3));
}
void scale_ref(const tensor *y) { EACH(y) ref_set(y, i0, i1, i2, i3, (double)y->arg.f[0] * ref_get(y->src[0], i0, i1, i2, i3)); }

tensor *add(graph *g, tensor *a, tensor *b) { return node(g, OP_ADD, (op_arg){{0}}, 2, (tensor *[]){a, b}); }
tensor *mul(graph *g, tensor *a, tensor *b) { return node(g, OP_MUL, (op_arg){{0}}, 2, (tensor *[]){a, b}); }
tensor *scale(graph *g, tensor *x, float s) { return op_call(g, OP_SCALE, (op_arg){.f = {s}}, x, NULL, NULL); }

/* ---- SUM_TO, REPEAT: arg.i[0..3] are the extents of the result ---- */

static op_arg extents(shape s)
{
    op_arg arg = {.i = {0}};
    for (int i = 0; i < 4; i++) arg.i[i] = s.n[i] == 0 ? 1 : s.n[i] < 0 || s.n[i] > INT32_MAX ? -1 : (i32)s.n[i];
    return arg;
}

static void resize_check(graph *g, tensor *y, bool shrink)
{
    const tensor *x = y->src[0];
    const i32 *to = y->arg.i;
    bool fits = op_is_real(x);
    for (int i = 0; i < 4; i++) fits = fits && to[i] > 0 && (to[i] == x->n[i] || (shrink ? to[i] : x->n[i]) == 1);
    if (!fits) {
        char show[96];
        graph_fail(g, "%s: %s to [%d,%d,%d,%d]; expected f32 or f64 and extents that stay or %s 1", op_table[y->op].name,
                   tensor_show(x, show), to[0], to[1], to[2], to[3], shrink ? "become" : "were");
        return;
    }
    tensor_set(y, x->type, (i64[4]){to[0], to[1], to[2], to[3]});
}
void sum_to_check(graph *g, tensor *y) { resize_check(g, y, true); }
void repeat_check(graph *g, tensor *y) { resize_check(g, y, false); }

void sum_to_grad(graph *g, tensor *y, tensor *dy, tensor **dx) { dx[0] = repeat(g, dy, op_shape(y->src[0])); }
void repeat_grad(graph *g, tensor *y, tensor *dy, tensor **dx) { dx[0] = sum_to(g, dy, op_shape(y->src[0])); }

static i64 span_of(const tensor *x, const tensor *y, int axis) { return x->n[axis] / y->n[axis]; }

void sum_to_ref(const tensor *y)
{
    const tensor *x = y->src[0];
    EACH(y)
    {
        double sum = 0;
        for (i64 j3 = 0; j3 < span_of(x, y, 3); j3++)
            for (i64 j2 = 0; j2 < span_of(x, y, 2); j2++)
                for (i64 j1 = 0; j1 < span_of(x, y, 1); j1++)
                    for (i64 j0 = 0; j0 < span_of(x, y, 0); j0++) sum += ref_get(x, i0 + j0, i1 + j1, i2 + j2, i3 + j3);
        ref_set(y, i0, i1, i2, i3, sum);
    }
}
void repeat_ref(const tensor *y) { EACH(y) ref_set(y, i0, i1, i2, i3, ref_second(y->src[0], i0, i1, i2, i3)); }

tensor *sum_to(graph *g, tensor *x, shape s) { return op_call(g, OP_SUM_TO, extents(s), x, NULL, NULL); }
tensor *repeat(graph *g, tensor *x, shape s) { return op_call(g, OP_REPEAT, extents(s), x, NULL, NULL); }

/* ---- CONCAT: arg.i[0] is the axis ---- */

void concat_check(graph *g, tensor *y)
{
    const tensor *a = y->src[0], *b = y->src[1];
    int axis = y->arg.i[0];
    bool fits = axis >= 0 && axis < 4 && ((op_is_real(a) && op_is_real(b)) || (op_is_ints(a) && op_is_ints(b)));
    i64 n[4];
    for (int i = 0; i < 4; i++) {
        fits = fits && (i == axis || a->n[i] == b->n[i]);
        n[i] = i == axis ? a->n[i] + b->n[i] : a->n[i];
    }
    OP_EXPECT(fits, "a b", "two floats, or two I32, that differ along the axis only");
    tensor_set(y, a->type == I32 ? I32 : op_type(a, b), n);
}

/* cut out and contiguous, so that the gradient of a parameter can be read as a whole */
void concat_grad(graph *g, tensor *y, tensor *dy, tensor **dx)
{
    int axis = y->arg.i[0];
    i64 n_a = y->src[0]->n[axis], n_b = y->src[1]->n[axis];
    if (dx[0]) dx[0] = op_contiguous(g, slice(g, dy, axis, 0, n_a));
    if (dx[1]) dx[1] = op_contiguous(g, slice(g, dy, axis, n_a, n_b));
}

void concat_ref(const tensor *y)
{
    const tensor *a = y->src[0], *b = y->src[1];
    i64 at[4] = {0}, axis = y->arg.i[0];
    at[axis] = a->n[axis];
    EACH(a) ref_set(y, i0, i1, i2, i3, ref_get(a, i0, i1, i2, i3));
    EACH(b) ref_set(y, i0 + at[0], i1 + at[1], i2 + at[2], i3 + at[3], ref_get(b, i0, i1, i2, i3));
}

tensor *concat(graph *g, tensor *a, tensor *b, int axis)
{
    return node(g, OP_CONCAT, (op_arg){.i = {axis}}, 2, (tensor *[]){a, b});
}
