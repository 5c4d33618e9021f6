/* tensor/op_matmul.c - MATMUL and its two gradients.
 *
 * MATMUL    y[n,r] = sum_k w[k,n] x[k,r]; w of any type and layout. With slots w is [k,n,s] and row r uses the matrix slot[r]
 *           (adapters of several users in one batch, experts); a slot outside [0,s) gives zeros. Without slots src[3] may hold
 *           values of y's shape that the product is added to, in MATMUL_X too: a pair beside a weight, and gradients of one value
 *           from several uses, then cost no pass of their own over the rows.
 * MATMUL_X  dx[k,r] = sum_n w[k,n] dy[n,r]: the same w, decoded, so adapters train over the very file that is served.
 *           In both, the planner puts a second product into src[4] and src[5] (rows, weight): y = w x + pair + plus.
 * MATMUL_W  dw[k,n] = sum_r dy[n,r] x[k,r], over the rows of each slot; built only where w is wanted, and w is then a float.
 *           arg.i[0] is the number of slots. */
#include "tensor/op.h"

static bool slots_fit(const tensor *w, const tensor *slot, i64 m)
{
    if (!slot) return op_is_2d(w);
    return w->n[3] == 1 && op_is_ints(slot) && op_is_1d(slot) && slot->n[0] == m;
}
static bool plus_fits(const tensor *plus, const tensor *slot, i64 n, i64 m)
{
    return !plus || (!slot && op_is_real(plus) && op_is_2d(plus) && plus->n[0] == n && plus->n[1] == m);
}
static dtype type_of(const tensor *x, const tensor *w, const tensor *plus)
{
    dtype type = op_type(x, w);
    return plus && plus->type == F64 ? F64 : type;
}
static i32 slot_of(const tensor *slot, i64 r) { return slot ? ref_int(slot, r, 0) : 0; }

#define MATMUL_WANTS "w [k,n] of numbers, or [k,n,s] with slot I32 [m]"

void matmul_check(graph *g, tensor *y)
{
    const tensor *x = y->src[0], *w = y->src[1], *slot = y->src[2];
    OP_EXPECT(op_is_real(x) && op_is_2d(x) && w->type != I32 && w->n[0] == x->n[0] && slots_fit(w, slot, x->n[1]), "x w slot",
              "x [k,m] f32 or f64, " MATMUL_WANTS);
    OP_EXPECT(plus_fits(y->src[3], slot, w->n[1], x->n[1]), "x w slot plus", "plus [n,m] f32 or f64, and no slot");
    tensor_set(y, type_of(x, w, y->src[3]), (i64[4]){w->n[1], x->n[1]});
}

void matmul_x_check(graph *g, tensor *y)
{
    const tensor *dy = y->src[0], *w = y->src[1], *slot = y->src[2];
    OP_EXPECT(op_is_real(dy) && op_is_2d(dy) && w->type != I32 && w->n[1] == dy->n[0] && slots_fit(w, slot, dy->n[1]),
              "dy w slot", "dy [n,m] f32 or f64, " MATMUL_WANTS);
    OP_EXPECT(plus_fits(y->src[3], slot, w->n[0], dy->n[1]), "dy w slot plus", "plus [k,m] f32 or f64, and no slot");
    tensor_set(y, type_of(dy, w, y->src[3]), (i64[4]){w->n[0], dy->n[1]});
}

void matmul_w_check(graph *g, tensor *y)
{
    const tensor *x = y->src[0], *dy = y->src[1], *slot = y->src[2];
    const i64 n_slots = y->arg.i[0];
    OP_EXPECT(op_is_real(x) && op_is_2d(x) && op_is_real(dy) && op_is_2d(dy) && dy->n[1] == x->n[1] &&
                  (slot ? n_slots > 0 : n_slots == 1) && (!slot || (op_is_ints(slot) && op_is_1d(slot) && slot->n[0] == x->n[1])),
              "x dy slot", "x [k,m], dy [n,m], f32 or f64, slot I32 [m]");
    tensor_set(y, op_type(x, dy), (i64[4]){x->n[0], dy->n[0], n_slots});
}

static tensor *grad_of_w(graph *g, tensor *x, tensor *dy, const tensor *w, tensor *slot)
{
    char show[96];
    if (!op_is_float(w))
        return graph_fail(g, "MATMUL: %s cannot be trained; expected a float weight in plain rows", tensor_show(w, show));
    return op_call(g, OP_MATMUL_W, (op_arg){.i = {(i32)w->n[2]}}, x, dy, slot);
}

void matmul_grad(graph *g, tensor *y, tensor *dy, tensor **dx)
{
    tensor *x = y->src[0], *w = y->src[1], *slot = y->src[2];
    if (dx[0]) dx[0] = op_call(g, OP_MATMUL_X, (op_arg){{0}}, dy, w, slot);
    if (dx[1]) dx[1] = grad_of_w(g, x, dy, w, slot);
    if (dx[3]) dx[3] = dy;
}

void matmul_x_grad(graph *g, tensor *y, tensor *dy, tensor **dx) /* linear in both, as MATMUL is; dy here has the shape of x */
{
    tensor *from = y->src[0], *w = y->src[1], *slot = y->src[2];
    if (dx[0]) dx[0] = op_call(g, OP_MATMUL, (op_arg){.i = {g->use_float}}, dy, w, slot);
    if (dx[1]) dx[1] = grad_of_w(g, dy, from, w, slot);
    if (dx[3]) dx[3] = dy;
}

/* ---- pairs: y = B h + (W x + plus) becomes one node with the thin product as its pair, if nothing else reads what is in brackets;
 * so does dx = W^T dy + (A^T dh + plus). The thin product alone would be a pass over all rows of y for little work. Made when the
 * graph is complete: what is taken in is named by nothing, and the planner leaves it out. ---- */

static i64 terms_of(const tensor *y) { return y->src[1]->n[y->op == OP_MATMUL ? 0 : 1]; }
static bool is_thin(const tensor *y)
{
    return terms_of(y) <= PAIR_TERMS && y->src[1]->type == F32 && y->src[1]->lay == LAYOUT_ROWS && tensor_contiguous(y->src[1]);
}
static bool may_pair(const tensor *y)
{
    bool floats = y->op == OP_MATMUL ? y->arg.i[0] : y->op == OP_MATMUL_X;
    return floats && y->type == F32 && !y->src[2] && !y->src[5] && y->src[0]->type == F32 && op_is_2d(y->src[1]);
}

void matmul_pairs(graph *g, tensor *const *roots, int n_roots)
{
    i32 *uses = mem_array(i32, g->n);
    if (!uses) {
        graph_bad(g, ERR_NOMEM, "out of memory while planning");
        return;
    }
    for (int i = 0; i < n_roots; i++) uses[roots[i]->id]++;
    for (usize i = 0; i < g->n; i++) {
        const tensor *t = g->nodes[i];
        for (int s = 0; s < 6; s++)
            if (t->src[s]) uses[t->src[s]->id]++;
        if (t->base) uses[t->base->id]++;
    }
    for (usize i = 0; i < g->n; i++) {
        tensor *y = g->nodes[i], *in = y->src[3];
        if (!may_pair(y) || !in || in->op != y->op || !may_pair(in) || uses[in->id] != 1 || in->flags & (T_KEEP | T_PARAM)) continue;
        if (!is_thin(y) && !is_thin(in)) continue;
        const tensor *thin = is_thin(y) ? y : in, *whole = is_thin(y) ? in : y;
        tensor *src[6] = {whole->src[0], whole->src[1], NULL, in->src[3], thin->src[0], thin->src[1]};
        memcpy(y->src, src, sizeof src);
        for (int s = 0; s < 6; s++) in->src[s] = s < 2 ? in->src[s] : NULL; /* its plus has one reader as before */
    }
    mem_free(uses);
}

static double pair_at(const tensor *y, i64 n, i64 r)
{
    const tensor *x = y->src[4], *w = y->src[5];
    double sum = 0;
    for (i64 i = 0; w && i < x->n[0]; i++)
        sum += ref_get(x, i, r, 0, 0) * (y->op == OP_MATMUL ? ref_get(w, i, n, 0, 0) : ref_get(w, n, i, 0, 0));
    return sum;
}

/* one row of w is decoded once and serves every row of the batch that uses its matrix */
void matmul_ref(const tensor *y)
{
    const tensor *x = y->src[0], *w = y->src[1], *slot = y->src[2], *plus = y->src[3];
    const i64 k = w->n[0], n_slots = w->n[2];
    double *row = mem_array(double, k); /* [k] */
    if (!row) {
        ref_nan(y);
        return;
    }
    EACH(y) ref_set(y, i0, i1, i2, i3, 0);
    for (i64 s = 0; s < n_slots; s++)
        for (i64 n = 0; n < y->n[0]; n++) {
            bool decoded = false;
            for (i64 r = 0; r < y->n[1]; r++) {
                if (slot_of(slot, r) != s) continue;
                if (!decoded) ref_weight_row(w, n, s, row);
                decoded = true;
                double sum = (plus ? ref_get(plus, n, r, 0, 0) : 0) + pair_at(y, n, r);
                for (i64 i = 0; i < k; i++) sum += row[i] * ref_get(x, i, r, 0, 0);
                ref_set(y, n, r, 0, 0, sum);
            }
        }
    mem_free(row);
}

void matmul_x_ref(const tensor *y)
{
    const tensor *dy = y->src[0], *w = y->src[1], *slot = y->src[2], *plus = y->src[3];
    const i64 k = y->n[0], m = y->n[1];
    double *row = mem_array(double, k), *sum = mem_array(double, k *m); /* [k], [k,m] */
    if (row && sum) {
        for (i64 s = 0; s < w->n[2]; s++)
            for (i64 n = 0; n < w->n[1]; n++) {
                bool decoded = false;
                for (i64 r = 0; r < m; r++) {
                    if (slot_of(slot, r) != s) continue;
                    if (!decoded) ref_weight_row(w, n, s, row);
                    decoded = true;
                    double d = ref_get(dy, n, r, 0, 0);
                    for (i64 i = 0; i < k; i++) sum[r * k + i] += row[i] * d;
                }
            }
        EACH(y) ref_set(y, i0, i1, i2, i3, sum[i1 * k + i0] + (plus ? ref_get(plus, i0, i1, i2, i3) : 0) + pair_at(y, i0, i1));
    } else {
        ref_nan(y);
    }
    mem_free(row);
    mem_free(sum);
}

void matmul_w_ref(const tensor *y)
{
    const tensor *x = y->src[0], *dy = y->src[1], *slot = y->src[2];
    EACH(y)
    {
        double sum = 0;
        for (i64 r = 0; r < x->n[1]; r++)
            if (slot_of(slot, r) == i2) sum += ref_get(dy, i1, r, 0, 0) * ref_get(x, i0, r, 0, 0);
        ref_set(y, i0, i1, i2, i3, sum);
    }
}

tensor *matmul(graph *g, tensor *x, tensor *w) { return node(g, OP_MATMUL, (op_arg){.i = {g->use_float}}, 2, (tensor *[]){x, w}); }
tensor *matmul_add(graph *g, tensor *x, tensor *w, tensor *plus)
{
    if (!g->use_float) return add(g, plus, matmul(g, x, w));
    return node(g, OP_MATMUL, (op_arg){.i = {1}}, 4, (tensor *[]){x, w, NULL, plus});
}
tensor *matmul_slot(graph *g, tensor *x, tensor *w, tensor *slot)
{
    return node(g, OP_MATMUL, (op_arg){.i = {g->use_float}}, 3, (tensor *[]){x, w, slot});
}
