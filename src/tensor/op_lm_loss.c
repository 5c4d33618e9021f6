/* tensor/op_lm_loss.c - LM_LOSS: the head of a language model, cross-entropy and their gradient in one op, without logits of all
 * rows (Hsu et al. 2024, "Liger Kernel").
 *
 *   l_r = w x_r;  nll_r = ln sum_i exp(l_r[i]) - l_r[want_r];  y = {sum over rows of weight_r nll_r, nll_0, nll_1 ...}
 * A row whose want is no index of the vocabulary (-1) does not count: nll 0, no gradient, and no work. Logits exist for `chunk`
 * rows at once. With unit dy, and while a chunk's logits are there,
 *   d_r = weight_r (softmax(l_r) - onehot(want_r));  dx_r = w^T d_r;  dw = sum over rows of d_r x_r^T
 * are taken too, those that are wanted, and wait in the op's aux (dx [k,m], then dw [k,n]): the gradient scales them by dy. That
 * is why the rows' losses, which lie behind the loss in y, have no gradient of their own: rows are weighed by `weight`.
 * arg: i[0] rows of a chunk, 0: the backend chooses; i[1] what is in the aux. The reference takes one row after another. A
 * softcap of logits is not supported: MATMUL and XENT are for that. */
#include "tensor/op.h"

void lm_loss_check(graph *g, tensor *y)
{
    const tensor *x = y->src[0], *w = y->src[1], *want = y->src[2], *rate = y->src[3];
    OP_EXPECT(op_is_real(x) && op_is_2d(x) && w->type != I32 && op_is_2d(w) && w->n[0] == x->n[0] && op_is_ints(want) &&
                  op_is_1d(want) && want->n[0] == x->n[1] && op_is_real(rate) && op_is_1d(rate) && rate->n[0] == x->n[1],
              "x w want weight", "x [k,m] f32 or f64, w [k,n] of numbers, want I32 [m], weight [m] f32 or f64");
    OP_EXPECT(y->arg.i[0] >= 0, "x w want weight", "a chunk of 0 (chosen) or more rows");
    tensor_set(y, op_type(x, w) == F64 ? F64 : op_type(x, rate), (i64[4]){1 + x->n[1]});
}

/* dy comes from uses of the loss alone: built by view_grad, and added up where there are several */
static bool only_the_loss(const tensor *dy)
{
    switch (dy->op) {
    case OP_VIEW: return only_the_loss(dy->src[0]);
    case OP_ADD: return only_the_loss(dy->src[0]) && only_the_loss(dy->src[1]);
    case OP_PLACE: return tensor_count(dy->src[0]) == 1 && dy->arg.i[4] == 0;
    default: return false;
    }
}

void lm_loss_grad(graph *g, tensor *y, tensor *dy, tensor **dx)
{
    tensor *x = y->src[0], *w = y->src[1];
    const i32 wanted = (dx[0] ? LM_LOSS_DX : 0) | (dx[1] ? LM_LOSS_DW : 0);
    const i64 n_x = dx[0] ? tensor_count(x) : 0, n_w = dx[1] ? tensor_count(w) : 0;
    char show[96];
    if (!only_the_loss(dy)) {
        graph_fail(g,
                   "LM_LOSS: a gradient of the rows' losses is wanted; expected only of the loss, with rows weighed by `weight`");
        return;
    }
    if (dx[1] && !op_is_float(w)) {
        graph_fail(g, "LM_LOSS: %s cannot be trained; expected a float weight in plain rows", tensor_show(w, show));
        return;
    }
    tensor *loss = slice(g, op_contiguous(g, dy), 0, 0, 1);
    if (dx[3]) dx[3] = mul(g, slice(g, y, 0, 1, x->n[1]), loss);
    if (!wanted) return;
    if (y->aux && y->arg.i[1] != wanted) {
        graph_fail(g, "LM_LOSS: differentiated twice for different sources; expected the same");
        return;
    }
    if (!y->aux) tensor_aux(g, y, y->type, (shape){{n_x + n_w}});
    y->arg.i[1] = wanted;
    if (graph_error(g).code) return;
    if (dx[0]) dx[0] = mul(g, reshape(g, slice(g, y->aux, 0, 0, n_x), op_shape(x)), loss);
    if (dx[1]) dx[1] = mul(g, reshape(g, slice(g, y->aux, 0, n_x, n_w), op_shape(w)), loss);
}

/* the gradient of row r into aux: d [n] holds its logits */
static void lm_loss_row_grad(const tensor *y, i64 r, i32 id, double lse, double *d, double *row, double *sum)
{
    const tensor *x = y->src[0], *w = y->src[1], *aux = y->aux;
    const bool with_x = y->arg.i[1] & LM_LOSS_DX, with_w = y->arg.i[1] & LM_LOSS_DW;
    const i64 k = x->n[0], n_x = with_x ? tensor_count(x) : 0;
    const double rate = ref_get(y->src[3], r, 0, 0, 0);
    for (i64 i = 0; i < k; i++) sum[i] = 0;
    for (i64 j = 0; j < w->n[1]; j++) {
        double one = rate * (exp(d[j] - lse) - (j == id));
        ref_weight_row(w, j, 0, row);
        for (i64 i = 0; i < k; i++) {
            sum[i] += one * row[i];
            if (!with_w) continue;
            i64 at = n_x + j * k + i;
            ref_set(aux, at, 0, 0, 0, ref_get(aux, at, 0, 0, 0) + one * ref_get(x, i, r, 0, 0));
        }
    }
    for (i64 i = 0; with_x && i < k; i++) ref_set(aux, r * k + i, 0, 0, 0, sum[i]);
}

void lm_loss_ref(const tensor *y)
{
    const tensor *x = y->src[0], *w = y->src[1], *want = y->src[2];
    const i64 k = x->n[0], n = w->n[1];
    double *l = mem_array(double, n), *row = mem_array(double, 2 * k), loss = 0; /* [n]; a row of w, sums of dx */
    if (!l || !row) {
        ref_nan(y);
        mem_free(l), mem_free(row);
        return;
    }
    if (y->aux) EACH(y->aux) ref_set(y->aux, i0, i1, i2, i3, 0);
    for (i64 r = 0; r < x->n[1]; r++) {
        i32 id = ref_int(want, r, 0);
        double top = -INFINITY, sum = 0, nll = 0;
        if (id >= 0 && id < n) {
            for (i64 j = 0; j < n; j++) {
                ref_weight_row(w, j, 0, row);
                l[j] = 0;
                for (i64 i = 0; i < k; i++) l[j] += row[i] * ref_get(x, i, r, 0, 0);
                top = fmax(top, l[j]);
            }
            for (i64 j = 0; j < n; j++) sum += exp(l[j] - top);
            nll = top + log(sum) - l[id];
            loss += ref_get(y->src[3], r, 0, 0, 0) * nll;
            if (y->aux) lm_loss_row_grad(y, r, id, top + log(sum), l, row, row + k);
        }
        ref_set(y, 1 + r, 0, 0, 0, nll);
    }
    ref_set(y, 0, 0, 0, 0, loss);
    mem_free(l), mem_free(row);
}

tensor *lm_loss(graph *g, tensor *x, tensor *w, tensor *want, tensor *rate, i64 chunk)
{
    op_arg arg = {.i = {(i32)(chunk > INT32_MAX ? INT32_MAX : chunk < 0 ? -1 : chunk)}};
    return slice(g, node(g, OP_LM_LOSS, arg, 4, (tensor *[]){x, w, want, rate}), 0, 0, 1);
}

tensor *lm_loss_rows(graph *g, tensor *loss)
{
    tensor *y = loss && loss->op == OP_VIEW ? loss->src[0] : NULL;
    if (!y || y->op != OP_LM_LOSS) return graph_fail(g, "lm_loss_rows: expected a result of lm_loss");
    return reshape(g, slice(g, y, 0, 1, y->n[0] - 1), (shape){{1, y->n[0] - 1}});
}
