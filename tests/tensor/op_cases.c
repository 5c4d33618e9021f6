/* tests/tensor/op_cases.c - the table and its builders; op_leaves.c makes their leaves. Sizes are odd on purpose: rows that fill
 * no vector, one row, one value, weights whose rows are no multiple of 8; ids, slots and spans go outside what exists. */
#include "op_cases.h"
#include "tensor/op.h"
#include <limits.h>

#define NODE(g, op, arg, ...)                                                                                                    \
    node(g, op, arg, (int)(sizeof((tensor *[]){__VA_ARGS__}) / sizeof(tensor *)), (tensor *[]){__VA_ARGS__})
#define NONE ((op_arg){{0}})
#define INT(...) ((op_arg){.i = {__VA_ARGS__}})

static tensor *make_leaf(case_build *b, const int *n) { return real(b, (shape){{n[0], n[1]}}, "x"); }

/* ---- views: n[0..3] extents, n[4] what ---- */

enum { RESHAPE, SLICE0, SLICE1, SLICE2, SWAP, VIEW_OF_VIEW, OVERLAP, SPREAD };

static tensor *make_view(case_build *b, const int *n)
{
    graph *g = b->g;
    tensor *x = real(b, (shape){{n[0], n[1], n[2], n[3]}}, "x");
    const i64 e = x->stride[0];
    switch (n[4]) {
    case RESHAPE: return reshape(g, x, (shape){{n[1], n[0] * n[2], n[3]}});
    case SLICE0: return slice(g, x, 0, 1, n[0] - 2);
    case SLICE1: return slice(g, x, 1, n[1] - 1, 1);
    case SLICE2: return slice(g, x, 2, 0, n[2] - 1);
    case SWAP: return view(g, x, (shape){{n[1], n[0]}}, (i64[4]){x->stride[1], e, 0, 0}, 0);
    case VIEW_OF_VIEW: return slice(g, slice(g, reshape(g, x, (shape){{n[0] * n[1], n[2]}}), 0, 2, 9), 0, 1, 5);
    case OVERLAP: return view(g, x, (shape){{3, n[0] * n[1] - 2}}, (i64[4]){e, e, 0, 0}, 0);   /* a window that slides by one */
    default: return view(g, x, (shape){{n[0], 4}}, (i64[4]){e, 0, 0, 0}, (usize)x->stride[1]); /* one row four times */
    }
}

static tensor *make_copy(case_build *b, const int *n) /* n[0..2] extents, n[3] from, n[4] layout, n[5] to, n[6] transposed */
{
    shape s = {{n[0], n[1], n[2]}};
    dtype from = (dtype)n[3], to = (dtype)n[5];
    tensor *x = from == I32 ? ints(b, s, -9, 9, "x") : from == F32 ? real(b, s, "x") : fixed_real(b, from, (layout)n[4], s, "x");
    if (to == F32 && b->as_double) to = F64;
    if (n[6]) x = view(b->g, x, (shape){{n[1], n[0], n[2]}}, (i64[4]){x->stride[1], x->stride[0], x->stride[2], 0}, 0);
    return copy(b->g, x, to);
}

static tensor *make_place(case_build *b, const int *n) /* n[0..2] of x, n[3..5] strides, n[6] offset, n[7] size of the result */
{
    tensor *x = real(b, (shape){{n[0], n[1], n[2]}}, "x");
    return NODE(b->g, OP_PLACE, INT(n[3], n[4], n[5], 0, n[6], n[7], 0), x);
}

/* ---- rows by id ---- */

static void set_id(case_build *b, tensor *ids, i64 row, i32 value)
{
    if (b->only_row < 0)
        ints_data(ids)[row] = value;
    else if (b->only_row == row)
        ints_data(ids)[0] = value;
}
static void bad_ids(case_build *b, tensor *ids, i64 m, i32 limit) /* in a batch of m rows, when there is room for them */
{
    if (m > 3) set_id(b, ids, 1, -1), set_id(b, ids, m - 1, limit);
    if (m > 8) set_id(b, ids, 3, INT_MIN), set_id(b, ids, 5, INT_MAX), set_id(b, ids, 6, 0), set_id(b, ids, 7, 0);
}

static tensor *make_embed(case_build *b, const int *n) /* d, v, m, type, layout; type -1: rows of an activation, strided */
{
    tensor *table, *ids;
    if (n[3] < 0) {
        tensor *wide = scale(b->g, real(b, (shape){{n[0] + 3, n[1]}}, "x"), 1.5f);
        table = slice(b->g, wide, 0, 2, n[0]);
    } else {
        table = n[3] == F32 ? real(b, (shape){{n[0], n[1]}}, "table")
                            : fixed_real(b, (dtype)n[3], (layout)n[4], (shape){{n[0], n[1]}}, "table");
    }
    ids = rows_ints(b, (shape){{n[2]}}, 0, 0, n[1], "ids");
    bad_ids(b, ids, n[2], n[1]);
    return embed(b->g, table, ids);
}

static tensor *make_embed_grad(case_build *b, const int *n) /* d, v, m */
{
    tensor *dy = real(b, (shape){{n[0], n[2]}}, "dy"), *ids = ints(b, (shape){{n[2]}}, 0, n[1], "ids");
    bad_ids(b, ids, n[2], n[1]);
    return NODE(b->g, OP_EMBED_GRAD, INT(n[1]), dy, ids);
}

static tensor *make_kv_put(case_build *b, const int *n) /* d, S, m, type, strided rows */
{
    tensor *cache = n[3] == F32 && b->as_double ? real(b, (shape){{n[0], n[1]}}, "cache")
                                                : fixed_real(b, (dtype)n[3], LAYOUT_ROWS, (shape){{n[0], n[1]}}, "cache");
    tensor *rows = real(b, (shape){{n[0] + n[4], n[2]}}, "rows"), *slots = ints(b, (shape){{n[2]}}, 0, n[1], "slots");
    for (i64 i = 0; i < n[2]; i++) ints_data(slots)[i] = (i32)((i * 7 + 3) % n[1]); /* no slot twice: threads may race there */
    if (n[2] > 3) ints_data(slots)[0] = -1, ints_data(slots)[2] = n[1];
    return kv_put(b->g, cache, slice(b->g, rows, 0, n[4], n[0]), slots);
}

/* ---- matmul: k, n, m, type, layout, slots (0: none), strided x; type F32 is trained ---- */

static tensor *make_w(case_build *b, const int *n)
{
    shape s = {{n[0], n[1], n[5] ? n[5] : 1}};
    return n[3] == F32 ? real(b, s, "w") : fixed_real(b, (dtype)n[3], (layout)n[4], s, "w");
}

static tensor *make_slot(case_build *b, const int *n)
{
    if (!n[5]) return NULL;
    tensor *slot = rows_ints(b, (shape){{n[2]}}, 0, 0, n[5], "slot");
    bad_ids(b, slot, n[2], n[5]);
    return slot;
}

static tensor *make_matmul(case_build *b, const int *n)
{
    tensor *w = make_w(b, n), *x = rows_real(b, (shape){{n[0] + n[6], n[2]}}, 1, "x"), *slot = make_slot(b, n);
    if (n[6]) x = slice(b->g, x, 0, n[6], n[0]);
    return slot ? matmul_slot(b->g, x, w, slot) : matmul(b->g, x, w);
}

static tensor *make_matmul_float(case_build *b, const int *n) /* as a training graph has them: no 8-bit activations */
{
    graph_use_float(b->g);
    return make_matmul(b, n);
}

/* three matmuls, two of one x: an 8-bit copy of x is shared, and the third x must not be taken for it */
static tensor *make_matmul_shared(case_build *b, const int *n)
{
    graph *g = b->g;
    tensor *x = real(b, (shape){{n[0], n[2]}}, "x"), *other = real(b, (shape){{n[0], n[2]}}, "x");
    tensor *first = matmul(g, x, make_w(b, n)), *same = matmul(g, x, make_w(b, n));
    tensor *third = matmul(g, other, make_w(b, n)), *again = matmul(g, x, make_w(b, n));
    return add(g, add(g, first, same), add(g, third, again));
}

static tensor *make_matmul_x(case_build *b, const int *n)
{
    tensor *dy = rows_real(b, (shape){{n[1], n[2]}}, 1, "dy"), *w = make_w(b, n), *slot = make_slot(b, n);
    return NODE(b->g, OP_MATMUL_X, NONE, dy, w, slot);
}

/* the same with something to add to */
static tensor *make_matmul_add(case_build *b, const int *n)
{
    graph_use_float(b->g);
    tensor *w = make_w(b, n), *x = real(b, (shape){{n[0], n[2]}}, "x");
    return matmul_add(b->g, x, w, slice(b->g, real(b, (shape){{n[1] + n[6], n[2]}}, "plus"), 0, n[6], n[1]));
}
static tensor *make_matmul_x_add(case_build *b, const int *n)
{
    tensor *w = make_w(b, n), *dy = real(b, (shape){{n[1], n[2]}}, "dy");
    return NODE(b->g, OP_MATMUL_X, NONE, dy, w, NULL, real(b, (shape){{n[0], n[2]}}, "plus"));
}

static tensor *make_matmul_w(case_build *b, const int *n)
{
    tensor *x = real(b, (shape){{n[0], n[2]}}, "x"), *dy = real(b, (shape){{n[1], n[2]}}, "dy"), *slot = make_slot(b, n);
    return NODE(b->g, OP_MATMUL_W, INT(n[5] ? n[5] : 1), x, dy, slot);
}

static tensor *make_lora(case_build *b, const int *n) /* k, n, m, type, layout, rank: what linear() builds over a frozen weight */
{
    tensor *x = real(b, (shape){{n[0], n[2]}}, "x"), *w = fixed_real(b, (dtype)n[3], (layout)n[4], (shape){{n[0], n[1]}}, "w");
    tensor *slot = ints(b, (shape){{n[2]}}, 0, 2, "slot");
    tensor *down = real(b, (shape){{n[0], n[5], 2}}, "down"), *up = real(b, (shape){{n[5], n[1], 2}}, "up");
    ints_data(slot)[0] = -1;
    return add(b->g, matmul(b->g, x, w), matmul_slot(b->g, matmul_slot(b->g, x, down, slot), up, slot));
}

/* ---- elementwise: n[0..3] extents, n[4] bit set of axes where b has extent 1, n[5] b's type or transposed x ---- */

static tensor *make_pair(case_build *b, const int *n, bool times)
{
    shape s = {{n[0], n[1], n[2], n[3]}}, second = s;
    for (int i = 0; i < 4; i++)
        if (n[4] >> i & 1) second.n[i] = 1;
    tensor *x = real(b, s, "x"), *y = n[5] > 0 ? fixed_real(b, (dtype)n[5], LAYOUT_ROWS, second, "b") : real(b, second, "b");
    if (n[5] < 0) {
        x = view(b->g, x, (shape){{n[1], n[0]}}, (i64[4]){x->stride[1], x->stride[0], 0, 0}, 0);
        y = reshape(b->g, y, op_shape(x));
    }
    return times ? mul(b->g, x, y) : add(b->g, x, y);
}
static tensor *make_add(case_build *b, const int *n) { return make_pair(b, n, false); }
static tensor *make_mul(case_build *b, const int *n) { return make_pair(b, n, true); }
static tensor *make_add_self(case_build *b, const int *n)
{
    tensor *x = real(b, (shape){{n[0], n[1]}}, "x");
    return add(b->g, mul(b->g, x, x), x);
}
static tensor *make_scale(case_build *b, const int *n)
{
    return scale(b->g, rows_real(b, (shape){{n[0], n[1]}}, 1, "x"), -0.37f);
}

static tensor *make_sum_to(case_build *b, const int *n) /* n[0..3] extents, n[4] axes to sum */
{
    shape s = {{n[0], n[1], n[2], n[3]}}, to = s;
    for (int i = 0; i < 4; i++)
        if (n[4] >> i & 1) to.n[i] = 1;
    return sum_to(b->g, real(b, s, "x"), to);
}
static tensor *make_repeat(case_build *b, const int *n) /* n[4] axes that were 1 */
{
    shape s = {{n[0], n[1], n[2], n[3]}}, from = s;
    for (int i = 0; i < 4; i++)
        if (n[4] >> i & 1) from.n[i] = 1;
    return repeat(b->g, real(b, from, "x"), s);
}
static tensor *make_concat(case_build *b, const int *n) /* n[4] axis, n[5] extent of the second there, n[6] integers */
{
    shape first = {{n[0], n[1], n[2], n[3]}}, second = first;
    second.n[n[4]] = n[5];
    if (n[6]) return concat(b->g, ints(b, first, -9, 9, "a"), ints(b, second, -9, 9, "b"), n[4]);
    if (n[5] == n[n[4]]) { /* one tensor twice */
        tensor *x = real(b, first, "a");
        return concat(b->g, x, x, n[4]);
    }
    return concat(b->g, real(b, first, "a"), real(b, second, "b"), n[4]);
}

/* ---- norm: n[0..2] extents, n[3] kind, n[4] 1: w, 2: b, n[5] eps in thousandths ---- */

static tensor *make_norm(case_build *b, const int *n)
{
    tensor *x = rows_real(b, (shape){{n[0], n[1], n[2]}}, 2, "x");
    tensor *w = n[4] & 1 ? real(b, (shape){{n[0]}}, "w") : NULL, *bias = n[4] & 2 ? real(b, (shape){{n[0]}}, "b") : NULL;
    return norm(b->g, x, w, bias, (norm_kind)n[3], (float)n[5] / 1000);
}
static op_arg norm_arg(const int *n)
{
    op_arg arg = INT(n[3]);
    arg.f[1] = (float)n[5] / 1000;
    return arg;
}
static tensor *make_norm_x(case_build *b, const int *n)
{
    shape s = {{n[0], n[1], n[2]}};
    tensor *x = rows_real(b, s, 2, "x"), *dy = rows_real(b, s, 2, "dy"), *w = n[4] & 1 ? real(b, (shape){{n[0]}}, "w") : NULL;
    return NODE(b->g, OP_NORM_X, norm_arg(n), x, dy, w);
}
static tensor *make_norm_w(case_build *b, const int *n)
{
    shape s = {{n[0], n[1], n[2]}};
    tensor *x = real(b, s, "x"), *dy = real(b, s, "dy");
    return NODE(b->g, OP_NORM_W, norm_arg(n), x, dy);
}

static tensor *make_rope(case_build *b, const int *n) /* hd, heads, m, dims, neox, factors, strided, largest position */
{
    tensor *x = rows_real(b, (shape){{n[0] + n[6], n[1], n[2]}}, 2, "x"),
           *pos = rows_ints(b, (shape){{n[2]}}, 0, 0, n[7] + 1, "pos");
    tensor *factors = NULL;
    if (n[5]) {
        factors = fixed_real(b, F32, LAYOUT_ROWS, (shape){{n[3] / 2}}, "factors");
        for (i64 i = 0; i < factors->n[0]; i++) ref_set(factors, i, 0, 0, 0, 1 + fabs(ref_get(factors, i, 0, 0, 0)));
    }
    set_id(b, pos, 0, 0);
    x = slice(b->g, x, 0, n[6], n[0]);
    return rope(b->g, x, pos, factors, (rope_arg){.dims = n[3], .neox = n[4], .theta = 10000, .scale = n[5] ? 0.25f : 1});
}

/* ---- attend: hd, heads, kv heads, m, S, k's type, masks and bends, page (0: none) ---- */

enum { CAUSAL = 0, PACKED = 1, WHOLE = 2, MASKS = 3, WINDOW = 4, CAP = 8, ODD_SPANS = 16 };

static void fill_spans(case_build *b, tensor *span, const int *n)
{
    const i32 m = n[3], n_slots = n[4],
              ahead = n_slots - m > 0 && n[7] == 0 ? n_slots - m : 0; /* keys before the batch: a prefix */
    i32 *s = ints_data(span);
    for (i32 r = 0; r < span->n[1]; r++) {
        i32 row = b->only_row >= 0 ? (i32)b->only_row : r, half = m / 2;
        s[3 * r] = n[7] ? row % 2 : 0;
        s[3 * r + 1] = (n[6] & MASKS) == PACKED && row >= half ? half : 0;
        s[3 * r + 2] = (n[6] & MASKS) == WHOLE                  ? (n[7] ? n_slots / n[7] / 2 * n[7] : n_slots)
                       : (n[6] & MASKS) == PACKED && row < half ? i64_min(row + 1, half)
                                                                : ahead + row + 1;
        if (!(n[6] & ODD_SPANS)) continue;
        if (row == 1) s[3 * r + 1] = s[3 * r + 2];   /* empty */
        if (row == 2) s[3 * r + 2] = n_slots + 1000; /* past the end */
        if (row == 3) s[3 * r + 1] = -1;             /* before the start */
        if (row == 4) s[3 * r] = n[7] ? 77 : 0;      /* no such sequence */
        if (row == 5) s[3 * r + 1] = INT_MAX, s[3 * r + 2] = INT_MIN;
        if (row == 6) s[3 * r + 1] = s[3 * r + 2] - 1; /* one key */
    }
}

static tensor *make_pages(case_build *b, const int *n) /* two sequences deal the pages of the cache backwards */
{
    const int n_pages = n[4] / n[7], each = n_pages / 2;
    tensor *pages = ints(b, (shape){{each, 2}}, 0, 1, "pages");
    for (int p = 0; p < each; p++)
        for (int q = 0; q < 2; q++) ints_data(pages)[q * each + p] = n_pages - 1 - 2 * p - q;
    if (n[6] & ODD_SPANS) ints_data(pages)[0] = -1, ints_data(pages)[each + 1] = n_pages;
    return pages;
}

static attend_arg attend_args(const int *n)
{
    return (attend_arg){.scale = 0.4f, .softcap = n[6] & CAP ? 1.5f : 0, .window = n[6] & WINDOW ? 3 : 0, .page = n[7]};
}

static tensor *make_attend(case_build *b, const int *n)
{
    shape keys = {{n[0], n[2], n[4]}};
    bool plain = n[5] == F32;
    tensor *q = rows_real(b, (shape){{n[0], n[1], n[3]}}, 2, "q"), *span = rows_ints(b, (shape){{3, n[3]}}, 1, 0, 1, "span");
    tensor *k = plain ? real(b, keys, "k") : fixed_real(b, (dtype)n[5], LAYOUT_ROWS, keys, "k");
    tensor *v = plain ? real(b, keys, "v") : fixed_real(b, (dtype)n[5], LAYOUT_ROWS, keys, "v");
    fill_spans(b, span, n);
    return attend(b->g, q, k, v, span, n[7] ? make_pages(b, n) : NULL, attend_args(n));
}

static tensor *make_attend_grad(case_build *b, const int *n)
{
    attend_arg a = attend_args(n);
    op_arg arg = {.f = {a.scale, a.softcap}};
    shape keys = {{n[0], n[2], n[4]}}, rows = {{n[0], n[1], n[3]}};
    tensor *q = real(b, rows, "q"), *k = real(b, keys, "k"), *v = real(b, keys, "v"), *dy = real(b, rows, "dy");
    tensor *span = ints(b, (shape){{3, n[3]}}, 0, 1, "span"), *stat = real(b, (shape){{2, n[1], n[3]}}, "stat");
    arg.i[2] = a.window;
    fill_spans(b, span, n);
    return NODE(b->g, OP_ATTEND_GRAD, arg, q, k, v, span, dy, stat);
}
static tensor *make_attend_stat(case_build *b, const int *n) /* hd, heads, m */
{
    shape rows = {{n[0], n[1], n[2]}};
    tensor *y = rows_real(b, rows, 2, "y"), *dy = rows_real(b, rows, 2, "dy"), *lse = rows_real(b, (shape){{n[1], n[2]}}, 1, "lse");
    return NODE(b->g, OP_ATTEND_STAT, NONE, y, dy, lse);
}

/* self-attention over projections of one x: the gradients of q, k and v meet in it */
static tensor *make_attend_self(case_build *b, const int *n)
{
    graph *g = b->g;
    i64 width = n[0] * n[1], kv_width = n[0] * n[2], m = n[3];
    tensor *x = real(b, (shape){{width, m}}, "x"), *w = real(b, (shape){{width, width + 2 * kv_width}}, "qkv");
    tensor *span = ints(b, (shape){{3, m}}, 0, 1, "span"), *pos = ints(b, (shape){{m}}, 0, 99, "pos"), *qkv = matmul(g, x, w);
    tensor *q = view(g, qkv, (shape){{n[0], n[1], m}}, (i64[4]){qkv->stride[0], n[0] * qkv->stride[0], qkv->stride[1], 0}, 0);
    tensor *k = view(g, qkv, (shape){{n[0], n[2], m}}, (i64[4]){qkv->stride[0], n[0] * qkv->stride[0], qkv->stride[1], 0},
                     (usize)(width * qkv->stride[0]));
    tensor *v = view(g, qkv, (shape){{n[0], n[2], m}}, k->stride, (usize)((width + kv_width) * qkv->stride[0]));
    fill_spans(b, span, n);
    rope_arg r = {.dims = n[0], .neox = true, .theta = 10000, .scale = 1};
    return attend(g, rope(g, q, pos, NULL, r), rope(g, k, pos, NULL, r), v, span, NULL, attend_args(n));
}

/* ---- act, glu, softmax: n[0..2] extents, n[3] kind ---- */

static shape three(const int *n) { return (shape){{n[0], n[1], n[2]}}; }

static tensor *make_act(case_build *b, const int *n) { return act(b->g, rows_real(b, three(n), 2, "x"), (act_kind)n[3]); }
static tensor *make_glu(case_build *b, const int *n)
{
    tensor *gate = rows_real(b, three(n), 2, "gate"), *up = rows_real(b, three(n), 2, "up");
    return glu(b->g, gate, up, (act_kind)n[3]);
}
static tensor *make_act_grad(case_build *b, const int *n)
{
    tensor *x = rows_real(b, three(n), 2, "x"), *dy = rows_real(b, three(n), 2, "dy");
    return NODE(b->g, OP_ACT_GRAD, INT(n[3]), x, dy);
}
static tensor *make_softmax(case_build *b, const int *n) /* n[3]: by how much the logits are spread */
{
    return softmax(b->g, scale(b->g, rows_real(b, three(n), 2, "x"), (float)n[3]));
}
static tensor *make_softmax_grad(case_build *b, const int *n)
{
    tensor *y = rows_real(b, three(n), 2, "y"), *dy = rows_real(b, three(n), 2, "dy");
    return NODE(b->g, OP_SOFTMAX_GRAD, NONE, y, dy);
}

/* ---- loss: v, m, spread; pool: d, m, s, kind ---- */

static tensor *make_xent(case_build *b, const int *n)
{
    tensor *x = scale(b->g, rows_real(b, (shape){{n[0], n[1]}}, 1, "logits"), (float)n[2]),
           *want = rows_ints(b, (shape){{n[1]}}, 0, 0, n[0], "want");
    bad_ids(b, want, n[1], n[0]);
    return xent(b->g, x, want);
}
static tensor *make_xent_grad(case_build *b, const int *n)
{
    tensor *x = rows_real(b, (shape){{n[0], n[1]}}, 1, "logits"), *want = rows_ints(b, (shape){{n[1]}}, 0, 0, n[0], "want");
    tensor *dy = rows_real(b, (shape){{1, n[1]}}, 1, "dy");
    bad_ids(b, want, n[1], n[0]);
    return NODE(b->g, OP_XENT_GRAD, NONE, x, want, dy);
}

static tensor *make_dropout(case_build *b, const int *n) /* n[0..2] extents, n[3] percent, n[4] transposed */
{
    tensor *x = real(b, three(n), "x"), *key = ints(b, (shape){{2}}, 0, 1000, "key");
    if (n[4]) x = view(b->g, x, (shape){{n[1], n[0]}}, (i64[4]){x->stride[1], x->stride[0], 0, 0}, 0);
    return dropout(b->g, x, key, (float)n[3] / 100, 7);
}

/* k, n, m, type, layout, chunk, 1: half of the rows count, 2: none does, 4: twice the loss and its square */
static tensor *make_lm_loss(case_build *b, const int *n)
{
    graph *g = b->g;
    const int w[8] = {n[0], n[1], n[2], n[3], n[4]};
    tensor *x = rows_real(b, (shape){{n[0], n[2]}}, 1, "x"), *want = rows_ints(b, (shape){{n[2]}}, 0, 0, n[1], "want");
    tensor *rate = rows_real(b, (shape){{n[2]}}, 0, "weight");
    for (i64 i = 0; n[6] & 3 && i < n[2]; i++)
        if (i % 2 || n[6] & 2) set_id(b, want, i, -1);
    bad_ids(b, want, n[2], n[1]);
    tensor *loss = lm_loss(g, x, make_w(b, w), want, rate, n[5]);
    return n[6] & 4 ? add(g, mul(g, loss, loss), scale(g, reshape(g, loss, (shape){{1, 1}}), 2)) : loss;
}
static tensor *make_lm_loss_rows(case_build *b, const int *n) { return lm_loss_rows(b->g, make_lm_loss(b, n)); }
static tensor *make_lm_loss_head(case_build *b, const int *n) /* only w is trained */
{
    tensor *x = fixed_real(b, F32, LAYOUT_ROWS, (shape){{n[0], n[2]}}, "x"), *want = ints(b, (shape){{n[2]}}, 0, n[1], "want");
    tensor *rate = fixed_real(b, F32, LAYOUT_ROWS, (shape){{n[2]}}, "weight"), *w = real(b, (shape){{n[0], n[1]}}, "w");
    return lm_loss(b->g, x, w, want, rate, n[5]);
}

static tensor *make_spans(case_build *b, const int *n)
{
    tensor *span = ints(b, (shape){{2, n[2]}}, 0, 1, "span");
    i32 *s = ints_data(span);
    for (i32 i = 0; i < n[2]; i++) { /* they overlap */
        s[2 * i] = i % n[1];
        s[2 * i + 1] = (i32)i64_min(n[1], s[2 * i] + 1 + i * 2);
    }
    if (n[2] > 4) {
        s[2] = s[3];           /* empty */
        s[4] = -1;             /* before the start */
        s[7] = n[1] + 1;       /* past the end */
        s[8] = 0, s[9] = n[1]; /* all */
    }
    return span;
}
static tensor *make_pool(case_build *b, const int *n)
{
    tensor *x = real(b, (shape){{n[0], n[1]}}, "x"), *span = make_spans(b, n);
    return pool_rows(b->g, x, span, (pool_kind)n[3]);
}
static tensor *make_pool_grad(case_build *b, const int *n)
{
    tensor *dy = real(b, (shape){{n[0], n[2]}}, "dy"), *span = make_spans(b, n);
    return NODE(b->g, OP_POOL_GRAD, INT(n[3], n[1]), dy, span);
}

/* ---- the table ---- */
/* clang-format off */

#define EDGE (CASE_EDGE | CASE_NO_DIFF)
#define ONE(op, name, make, flags, ...) {OP_##op, name, make_##make, {__VA_ARGS__}, {0}, 0, flags}

/* a weight type: plain rows and interleaved; k of one and of several blocks, n of no, one and several groups, one column and more */
#define QUANTS(type, k)                                                                                                          \
    {OP_MATMUL, "plain rows " #type, make_matmul, {k, 13, 3, type, LAYOUT_ROWS}, {2048, 8192, 1, type, LAYOUT_ROWS}, 0, CASE_ROWS},  \
    {OP_MATMUL, "plain rows " #type, make_matmul, {3 * (k), 8, 1, type, LAYOUT_ROWS}, {2048, 2048, 128, type, LAYOUT_ROWS}, 0, CASE_ROWS}, \
    {OP_MATMUL, "interleaved " #type, make_matmul, {k, 1, 1, type, LAYOUT_R8}, {2048, 8192, 1, type, LAYOUT_R8}, 0, CASE_ROWS | CASE_8BIT}, \
    {OP_MATMUL, "interleaved " #type, make_matmul, {3 * (k), 16, 2, type, LAYOUT_R8}, {2048, 2048, 4, type, LAYOUT_R8}, 0, CASE_ROWS | CASE_8BIT}, \
    {OP_MATMUL, "interleaved " #type, make_matmul, {5 * (k), 29, 17, type, LAYOUT_R8}, {2048, 2048, 128, type, LAYOUT_R8}, 0, CASE_ROWS | CASE_8BIT}, \
    {OP_MATMUL, "interleaved, strided x " #type, make_matmul, {k, 23, 5, type, LAYOUT_R8, 0, 1}, {0}, 0, CASE_ROWS | CASE_8BIT}, \
    {OP_MATMUL, "interleaved slots " #type, make_matmul, {k, 11, 7, type, LAYOUT_R8, 3}, {0}, 0, CASE_ROWS},                     \
    {OP_MATMUL, "float, plain rows " #type, make_matmul_float, {2 * (k), 21, 7, type, LAYOUT_ROWS}, {0}, 0, CASE_ROWS},          \
    {OP_MATMUL, "float, interleaved " #type, make_matmul_float, {3 * (k), 29, 13, type, LAYOUT_R8}, {2048, 2048, 128, type, LAYOUT_R8}, 0, CASE_ROWS}, \
    {OP_LM_LOSS, "plain rows " #type, make_lm_loss, {k, 37, 11, type, LAYOUT_ROWS, 4}, {0}, 2e-5, 0},                             \
    {OP_LM_LOSS, "interleaved " #type, make_lm_loss, {k, 43, 9, type, LAYOUT_R8, 0}, {1024, 32000, 256, type, LAYOUT_R8}, 2e-5, 0}, \
    {OP_LM_LOSS, "rows, interleaved " #type, make_lm_loss_rows, {2 * (k), 29, 9, type, LAYOUT_R8, 2}, {0}, 0, CASE_ROWS | CASE_VALUE}, \
    {OP_MATMUL_X, "plain rows " #type, make_matmul_x, {k, 5, 3, type, LAYOUT_ROWS}, {0}, 0, CASE_ROWS},                          \
    {OP_MATMUL_X, "interleaved " #type, make_matmul_x, {k, 13, 2, type, LAYOUT_R8}, {2048, 512, 64, type, LAYOUT_R8}, 0, CASE_ROWS | CASE_VALUE}, \
    {OP_EMBED, "plain rows " #type, make_embed, {2 * (k), 11, 9, type, LAYOUT_ROWS}, {2048, 8192, 128, type, LAYOUT_ROWS}, 0, CASE_ROWS}, \
    {OP_EMBED, "interleaved " #type, make_embed, {k, 13, 9, type, LAYOUT_R8}, {0}, 0, CASE_ROWS},                                \
    {OP_COPY, "decode plain rows " #type, make_copy, {k, 3, 1, type, LAYOUT_ROWS, F32}, {0}, 0, 0},                              \
    {OP_COPY, "decode interleaved " #type, make_copy, {k, 9, 2, type, LAYOUT_R8, F32}, {0}, 0, 0}

#define FLOATS(type)                                                                                                             \
    {OP_MATMUL, #type, make_matmul, {1, 1, 1, type}, {0}, 0, CASE_ROWS},                                                         \
    {OP_MATMUL, #type, make_matmul, {33, 7, 5, type}, {2048, 8192, 1, type}, 0, CASE_ROWS},                                      \
    {OP_MATMUL, #type, make_matmul, {300, 17, 2, type}, {2048, 2048, 128, type}, 0, CASE_ROWS},                                  \
    {OP_MATMUL, "slots " #type, make_matmul, {19, 9, 11, type, LAYOUT_ROWS, 3}, {2048, 16, 128, type, LAYOUT_ROWS, 4}, 0, CASE_ROWS}, \
    {OP_MATMUL, "float " #type, make_matmul_float, {1, 1, 1, type}, {0}, 0, CASE_ROWS},                                          \
    {OP_MATMUL, "float " #type, make_matmul_float, {33, 21, 8, type}, {2048, 2048, 128, type}, 0, CASE_ROWS},                    \
    {OP_MATMUL, "float, strided x " #type, make_matmul_float, {279, 33, 5, type, LAYOUT_ROWS, 0, 3}, {0}, 0, CASE_ROWS},         \
    {OP_MATMUL, "float slots " #type, make_matmul_float, {19, 9, 11, type, LAYOUT_ROWS, 3}, {0}, 0, CASE_ROWS},                  \
    {OP_LM_LOSS, #type, make_lm_loss, {17, 23, 5, type, LAYOUT_ROWS, 2}, {0}, 0, 0},                                             \
    {OP_MATMUL_X, #type, make_matmul_x, {21, 6, 4, type}, {2048, 512, 64, type}, 0, CASE_ROWS},                                \
    {OP_MATMUL_X, "slots " #type, make_matmul_x, {7, 5, 11, type, LAYOUT_ROWS, 3}, {0}, 0, CASE_ROWS},                           \
    {OP_EMBED, #type, make_embed, {37, 11, 9, type}, {2048, 8192, 128, type}, 0, CASE_ROWS}

#define ACTS(op, make, kind)                                                                                                     \
    {OP_##op, #kind, make_##make, {5, 3, 2, kind}, {4096, 256, 1, kind}, 0, CASE_ROWS},                                          \
    {OP_##op, #kind " edges", make_##make, {131, 3, 1, kind}, {0}, 0, CASE_ROWS | EDGE}

#define NORMS(kind)                                                                                                              \
    {OP_NORM, #kind, make_norm, {7, 3, 2, kind, 0, 1}, {2048, 128, 1, kind, 1, 1}, 0, CASE_ROWS},                                \
    {OP_NORM, #kind " w", make_norm, {40, 1, 3, kind, 1, 10}, {0}, 0, CASE_ROWS},                                                \
    {OP_NORM, #kind " w b", make_norm, {1, 2, 2, kind, 3, 500}, {0}, 0, CASE_ROWS},                                              \
    {OP_NORM, #kind " b", make_norm, {100, 2, 2, kind, 2, 0}, {0}, 0, CASE_ROWS},                                                \
    {OP_NORM, #kind " edges", make_norm, {67, 2, 3, kind, 3, 1}, {0}, 2e-5, CASE_ROWS | EDGE},                                   \
    {OP_NORM_X, #kind, make_norm_x, {19, 3, 2, kind, 1, 1}, {2048, 128, 1, kind, 1, 1}, 0, CASE_ROWS},                           \
    {OP_NORM_X, #kind " no w", make_norm_x, {33, 1, 2, kind, 0, 1}, {0}, 0, CASE_ROWS},                                          \
    {OP_NORM_W, #kind, make_norm_w, {19, 3, 2, kind, 1, 1}, {2048, 128, 1, kind, 1, 1}, 0, 0}

const op_case op_cases[] = {
    ONE(LEAF, "param", leaf, 0, 5, 3),
    ONE(VIEW, "reshape", view, 0, 4, 3, 2, 2, RESHAPE),
    ONE(VIEW, "slice of a row", view, 0, 9, 3, 2, 1, SLICE0),
    ONE(VIEW, "slice of rows", view, 0, 4, 5, 2, 2, SLICE1),
    ONE(VIEW, "slice of axis 2", view, 0, 4, 5, 3, 1, SLICE2),
    ONE(VIEW, "transposed", view, 0, 4, 5, 1, 1, SWAP),
    ONE(VIEW, "view of a view", view, 0, 4, 3, 2, 1, VIEW_OF_VIEW),
    ONE(VIEW, "overlapping", view, 0, 4, 3, 1, 1, OVERLAP),
    ONE(VIEW, "stride 0", view, 0, 4, 3, 1, 1, SPREAD),
    {OP_COPY, "transposed", make_copy, {7, 5, 3, F32, 0, F32, 1}, {1024, 1024, 1, F32, 0, F32, 1}, 0, 0},
    {OP_COPY, "rows", make_copy, {33, 5, 1, F32, 0, F32}, {4096, 1024, 1, F32, 0, F32}, 0, 0},
    {OP_COPY, "to F16", make_copy, {19, 5, 1, F32, 0, F16}, {4096, 1024, 1, F32, 0, F16}, 0, CASE_NO_DIFF},
    ONE(COPY, "to BF16", copy, CASE_NO_DIFF, 19, 5, 1, F32, 0, BF16),
    ONE(COPY, "to F64", copy, 0, 19, 5, 1, F32, 0, F64),
    ONE(COPY, "to F16 edges", copy, EDGE, 19, 5, 1, F32, 0, F16),
    ONE(COPY, "from F16", copy, 0, 19, 5, 1, F16, 0, F32),
    ONE(COPY, "from BF16", copy, 0, 19, 5, 1, BF16, 0, F32),
    ONE(COPY, "integers", copy, 0, 19, 5, 1, I32, 0, I32, 1),
    ONE(PLACE, "rows", place, 0, 3, 2, 2, 1, 5, 20, 3, 60),
    ONE(PLACE, "overlapping", place, 0, 3, 4, 1, 1, 1, 0, 2, 9),
    ONE(PLACE, "all on one", place, 0, 5, 2, 1, 0, 0, 0, 1, 4),
    {OP_EMBED, "rows of an activation", make_embed, {5, 9, 7, -1}, {2048, 512, 128, -1}, 0, CASE_ROWS},
    {OP_EMBED_GRAD, "repeated ids", make_embed_grad, {5, 4, 11}, {2048, 8192, 128}, 0, 0},
    ONE(EMBED_GRAD, "one row", embed_grad, 0, 3, 7, 1),
    ONE(KV_PUT, "F32", kv_put, 0, 7, 20, 6, F32),
    {OP_KV_PUT, "F16", make_kv_put, {24, 11, 5, F16}, {1024, 4096, 128, F16}, 0, 0},
    ONE(KV_PUT, "F16 strided rows", kv_put, 0, 8, 5, 1, F16, 3),
    ONE(KV_PUT, "F16 edges", kv_put, EDGE, 40, 9, 6, F16),
    FLOATS(F32), FLOATS(F16), FLOATS(BF16),
    ONE(MATMUL, "strided x", matmul, CASE_ROWS, 20, 6, 4, F32, LAYOUT_ROWS, 0, 3),
    ONE(MATMUL, "many columns", matmul, CASE_ROWS, 64, 40, 33, F32),
    ONE(MATMUL, "some columns", matmul, CASE_ROWS, 70, 19, 17, F32),
    ONE(MATMUL, "some columns F16", matmul, CASE_ROWS, 70, 19, 17, F16),
    ONE(MATMUL, "edges", matmul, CASE_ROWS | EDGE, 40, 9, 3, F32),
    ONE(MATMUL, "interleaved edges", matmul, CASE_ROWS | CASE_8BIT | EDGE, 96, 9, 3, Q8_0, LAYOUT_R8),
    ONE(MATMUL, "shared x, interleaved", matmul_shared, CASE_8BIT, 64, 12, 3, Q8_0, LAYOUT_R8),
    ONE(MATMUL, "adapters over Q8_0", lora, 0, 32, 9, 5, Q8_0, LAYOUT_ROWS, 2),
    {OP_MATMUL, "adapters over interleaved Q4_K", make_lora, {256, 9, 5, Q4_K, LAYOUT_R8, 2}, {0}, 0.05, 0}, /* x in 8 bits for one of two matmuls */
    {OP_MATMUL, "added to", make_matmul_add, {300, 21, 9, F32}, {16, 1536, 1024, F32}, 0, 0},
    {OP_MATMUL, "added to, few terms, strided", make_matmul_add, {8, 37, 13, F32, LAYOUT_ROWS, 0, 3}, {0}, 0, 0},
    {OP_MATMUL, "added to, interleaved Q8_0", make_matmul_add, {288, 19, 7, Q8_0, LAYOUT_R8}, {0}, 0, 0},
    {OP_MATMUL_X, "added to", make_matmul_x_add, {21, 270, 8, F32}, {2048, 512, 64, F32}, 0, 0},
    {OP_MATMUL_X, "added to, interleaved Q4_0", make_matmul_x_add, {64, 24, 3, Q4_0, LAYOUT_R8}, {0}, 0, CASE_VALUE},
    {OP_MATMUL_W, "one matrix", make_matmul_w, {5, 4, 3}, {2048, 512, 64}, 0, 0},
    {OP_MATMUL_W, "slots", make_matmul_w, {5, 4, 13, 0, 0, 3}, {0}, 0, 0},
    QUANTS(Q8_0, 32), QUANTS(Q4_0, 32), QUANTS(Q4_1, 32), QUANTS(Q5_0, 32), QUANTS(Q4_K, 256), QUANTS(Q6_K, 256),
    QUANTS(Q5_1, 32), QUANTS(Q5_K, 256), QUANTS(Q3_K, 256), QUANTS(Q2_K, 256), QUANTS(IQ4_NL, 32), QUANTS(IQ4_XS, 256), QUANTS(MXFP4, 32),
    {OP_ADD, "same shape", make_add, {33, 3, 2, 2, 0}, {4096, 256, 1, 1, 0}, 0, 0},
    {OP_ADD, "one row", make_add, {21, 3, 2, 1, 14}, {4096, 256, 1, 1, 14}, 0, 0},
    ONE(ADD, "one value", add, 0, 5, 3, 2, 2, 15),
    ONE(ADD, "one column", add, 0, 5, 3, 2, 2, 1),
    ONE(ADD, "middle axes", add, 0, 5, 3, 2, 2, 6),
    ONE(ADD, "F16 bias", add, 0, 21, 3, 1, 1, 2, F16),
    ONE(ADD, "transposed", add, 0, 5, 7, 1, 1, 0, -1),
    ONE(ADD, "of one tensor with its square", add_self, 0, 6, 3),
    ONE(ADD, "edges", add, EDGE, 67, 2, 1, 1, 0),
    {OP_MUL, "same shape", make_mul, {33, 3, 2, 2, 0}, {4096, 256, 1, 1, 0}, 0, 0},
    ONE(MUL, "one row", mul, 0, 21, 3, 2, 1, 14),
    {OP_MUL, "one value", make_mul, {67, 3, 2, 2, 15}, {4096, 256, 1, 1, 15}, 0, 0},
    ONE(MUL, "one column", mul, 0, 5, 3, 2, 2, 1),
    ONE(MUL, "transposed", mul, 0, 5, 7, 1, 1, 0, -1),
    ONE(MUL, "edges", mul, EDGE, 67, 2, 1, 1, 0),
    {OP_SCALE, "rows", make_scale, {35, 3}, {4096, 256}, 0, CASE_ROWS},
    {OP_SUM_TO, "one row", make_sum_to, {7, 5, 3, 2, 14}, {4096, 256, 1, 1, 2}, 0, 0},
    ONE(SUM_TO, "one value", sum_to, 0, 7, 5, 3, 2, 15),
    ONE(SUM_TO, "one column", sum_to, 0, 7, 5, 3, 2, 1),
    ONE(SUM_TO, "middle axes", sum_to, 0, 7, 5, 3, 2, 6),
    ONE(SUM_TO, "nothing to sum", sum_to, 0, 7, 5, 1, 1, 0),
    {OP_REPEAT, "row", make_repeat, {7, 5, 3, 2, 14}, {4096, 256, 1, 1, 2}, 0, 0},
    ONE(REPEAT, "value", repeat, 0, 7, 5, 3, 2, 15),
    ONE(REPEAT, "column", repeat, 0, 7, 5, 3, 2, 1),
    {OP_CONCAT, "axis 0", make_concat, {7, 3, 2, 2, 0, 4}, {4096, 256, 1, 1, 0, 64}, 0, 0},
    ONE(CONCAT, "axis 1", concat, 0, 7, 3, 2, 2, 1, 1),
    ONE(CONCAT, "axis 2", concat, 0, 4, 3, 2, 2, 2, 5),
    ONE(CONCAT, "axis 3", concat, 0, 4, 3, 2, 2, 3, 3),
    ONE(CONCAT, "one tensor twice", concat, 0, 5, 3, 2, 1, 1, 3),
    ONE(CONCAT, "integers", concat, 0, 4, 3, 2, 1, 1, 3, 1),
    NORMS(NORM_RMS), NORMS(NORM_LAYER), NORMS(NORM_L2),
    ONE(NORM, "L2 shorter than eps", norm, CASE_ROWS, 2, 1, 2, NORM_L2, 1, 30000),
    {OP_ROPE, "halves", make_rope, {16, 3, 4, 16, 1, 0, 0, 40}, {128, 16, 128, 128, 1, 0, 0, 4000}, 0, CASE_ROWS},
    ONE(ROPE, "pairs", rope, CASE_ROWS, 16, 2, 3, 16, 0, 0, 0, 9),
    ONE(ROPE, "halves, part of a head", rope, CASE_ROWS, 20, 2, 3, 6, 1, 0, 0, 9),
    ONE(ROPE, "pairs, part of a head", rope, CASE_ROWS, 20, 2, 3, 6, 0, 0, 0, 9),
    ONE(ROPE, "factors", rope, CASE_ROWS, 64, 2, 3, 64, 1, 1, 0, 100),
    ONE(ROPE, "strided", rope, CASE_ROWS, 8, 2, 3, 8, 1, 0, 5, 9),
    {OP_ROPE, "far positions", make_rope, {64, 1, 5, 64, 1, 0, 0, 100000}, {0}, 2e-2, CASE_ROWS},
    {OP_ATTEND, "causal", make_attend, {8, 2, 2, 7, 7, F32, CAUSAL}, {128, 16, 4, 128, 128, F32, CAUSAL}, 0, CASE_ROWS},
    ONE(ATTEND, "grouped heads", attend, CASE_ROWS, 5, 6, 2, 9, 9, F32, CAUSAL),
    ONE(ATTEND, "whole", attend, CASE_ROWS, 16, 2, 1, 5, 5, F32, WHOLE),
    ONE(ATTEND, "packed", attend, CASE_ROWS, 8, 2, 1, 9, 9, F32, PACKED),
    ONE(ATTEND, "window", attend, CASE_ROWS, 8, 2, 1, 9, 9, F32, CAUSAL | WINDOW),
    ONE(ATTEND, "softcap", attend, CASE_ROWS, 8, 4, 1, 6, 6, F32, CAUSAL | CAP),
    ONE(ATTEND, "softcap, window, packed", attend, CASE_ROWS, 8, 4, 2, 11, 11, F32, PACKED | WINDOW | CAP),
    ONE(ATTEND, "prefix", attend, CASE_ROWS, 8, 2, 1, 4, 9, F32, CAUSAL),
    ONE(ATTEND, "odd spans", attend, CASE_ROWS, 8, 2, 1, 9, 9, F32, CAUSAL | ODD_SPANS),
    ONE(ATTEND, "many keys", attend, CASE_ROWS, 64, 6, 2, 3, 77, F32, WHOLE),
    ONE(ATTEND, "F16 keys", attend, CASE_ROWS | CASE_VALUE, 80, 4, 2, 7, 40, F16, CAUSAL),
    ONE(ATTEND, "BF16 keys", attend, CASE_ROWS | CASE_VALUE, 16, 2, 1, 3, 9, BF16, WHOLE),
    {OP_ATTEND, "pages", make_attend, {64, 4, 2, 7, 64, F16, CAUSAL, 8}, {128, 16, 4, 1, 8192, F16, WHOLE, 64}, 0, CASE_ROWS | CASE_VALUE},
    ONE(ATTEND, "pages, window, softcap", attend, CASE_ROWS | CASE_VALUE, 16, 4, 1, 13, 40, F16, CAUSAL | WINDOW | CAP, 4),
    ONE(ATTEND, "pages of one", attend, CASE_ROWS | CASE_VALUE, 8, 2, 1, 5, 20, F32, CAUSAL, 1),
    ONE(ATTEND, "bad pages, odd spans", attend, CASE_ROWS | CASE_VALUE, 16, 4, 1, 12, 40, F16, CAUSAL | ODD_SPANS, 4),
    ONE(ATTEND, "edges", attend, CASE_ROWS | CASE_VALUE | EDGE, 16, 2, 1, 5, 5, F32, CAUSAL),
    ONE(ATTEND, "many rows, packed", attend, CASE_ROWS | CASE_NO_DIFF, 64, 6, 2, 70, 70, F32, PACKED),
    ONE(ATTEND, "many rows, softcap", attend, CASE_ROWS | CASE_NO_DIFF, 40, 3, 3, 50, 67, F32, CAUSAL | CAP),
    ONE(ATTEND, "many rows, odd spans", attend, CASE_ROWS | CASE_NO_DIFF, 16, 2, 1, 40, 40, F32, CAUSAL | ODD_SPANS),
    ONE(ATTEND, "many rows, pages", attend, CASE_ROWS | CASE_VALUE, 80, 4, 2, 45, 160, F16, CAUSAL, 16),
    ONE(ATTEND, "many rows, edges", attend, CASE_ROWS | CASE_VALUE | EDGE, 16, 2, 1, 40, 40, F32, CAUSAL),
    ONE(ATTEND, "self, of one packed projection", attend_self, 0, 4, 2, 1, 5, 5, F32, CAUSAL),
    {OP_ATTEND_STAT, "rows", make_attend_stat, {37, 3, 5}, {128, 16, 128}, 0, CASE_ROWS},
    {OP_ATTEND_GRAD, "causal", make_attend_grad, {8, 2, 2, 7, 7, F32, CAUSAL}, {128, 16, 4, 128, 128, F32, CAUSAL}, 0, 0},
    ONE(ATTEND_GRAD, "softcap, window, packed", attend_grad, 0, 8, 4, 2, 11, 11, F32, PACKED | WINDOW | CAP),
    ONE(ATTEND_GRAD, "odd spans", attend_grad, 0, 5, 2, 1, 9, 12, F32, CAUSAL | ODD_SPANS),
    ONE(ATTEND_GRAD, "whole", attend_grad, 0, 16, 2, 1, 5, 5, F32, WHOLE),
    ONE(ATTEND_GRAD, "grouped heads, many rows", attend_grad, 0, 20, 6, 2, 70, 70, F32, CAUSAL),
    ONE(ATTEND_GRAD, "packed, many rows", attend_grad, 0, 64, 3, 3, 150, 150, F32, PACKED),
    ONE(ATTEND_GRAD, "window, many rows", attend_grad, 0, 33, 4, 1, 90, 90, F32, CAUSAL | WINDOW | CAP),
    ONE(ATTEND_GRAD, "more heads than a block", attend_grad, 0, 3, 50, 1, 4, 4, F32, CAUSAL),
    ACTS(ACT, act, ACT_SILU), ACTS(ACT, act, ACT_GELU), ACTS(ACT, act, ACT_GELU_TANH), ACTS(ACT, act, ACT_RELU),
    ACTS(ACT, act, ACT_TANH), ACTS(ACT, act, ACT_SIGMOID), ACTS(GLU, glu, ACT_SILU), ACTS(GLU, glu, ACT_GELU),
    ACTS(GLU, glu, ACT_GELU_TANH), ACTS(GLU, glu, ACT_RELU), ACTS(GLU, glu, ACT_TANH), ACTS(GLU, glu, ACT_SIGMOID),
    ACTS(ACT_GRAD, act_grad, ACT_SILU), ACTS(ACT_GRAD, act_grad, ACT_GELU), ACTS(ACT_GRAD, act_grad, ACT_GELU_TANH),
    ACTS(ACT_GRAD, act_grad, ACT_RELU), ACTS(ACT_GRAD, act_grad, ACT_TANH), ACTS(ACT_GRAD, act_grad, ACT_SIGMOID),
    {OP_SOFTMAX, "rows", make_softmax, {37, 3, 2, 1}, {2048, 128, 1, 1}, 0, CASE_ROWS},
    ONE(SOFTMAX, "one value", softmax, CASE_ROWS, 1, 3, 1, 1),
    ONE(SOFTMAX, "spread", softmax, CASE_ROWS | CASE_NO_DIFF, 50, 3, 1, 200),
    ONE(SOFTMAX, "edges", softmax, CASE_ROWS | EDGE, 50, 3, 1, 1),
    {OP_SOFTMAX_GRAD, "rows", make_softmax_grad, {37, 3, 2}, {2048, 128, 1}, 0, CASE_ROWS},
    {OP_DROPOUT, "rows", make_dropout, {37, 3, 2, 30}, {4096, 256, 1, 10}, 0, 0},
    ONE(DROPOUT, "most", dropout, 0, 20, 10, 1, 95),
    ONE(DROPOUT, "transposed", dropout, 0, 9, 10, 1, 50, 1),
    {OP_XENT, "rows", make_xent, {29, 5, 1}, {32000, 64, 1}, 0, CASE_ROWS},
    ONE(XENT, "sharp", xent, CASE_ROWS, 50, 3, 20),
    ONE(XENT, "edges", xent, CASE_ROWS | EDGE, 50, 9, 1),
    {OP_XENT_GRAD, "rows", make_xent_grad, {29, 9}, {32000, 64}, 0, CASE_ROWS},
    {OP_LM_LOSS, "all rows at once", make_lm_loss, {7, 11, 9, F32, 0, 9}, {576, 32000, 256, F32, 0, 0}, 0, 0},
    ONE(LM_LOSS, "a row at a time", lm_loss, 0, 9, 12, 9, F32, 0, 1),
    ONE(LM_LOSS, "half of the rows", lm_loss, 0, 5, 9, 13, F32, 0, 3, 1),
    ONE(LM_LOSS, "no row", lm_loss, 0, 5, 9, 4, F32, 0, 3, 2),
    ONE(LM_LOSS, "one row", lm_loss, 0, 5, 9, 1, F32, 0, 0),
    ONE(LM_LOSS, "one word", lm_loss, CASE_NO_DIFF, 5, 1, 3, F32, 0, 0),
    ONE(LM_LOSS, "twice used", lm_loss, 0, 6, 10, 5, F32, 0, 2, 4),
    ONE(LM_LOSS, "head only", lm_loss_head, 0, 9, 13, 7, 0, 0, 3),
    ONE(LM_LOSS, "rows", lm_loss_rows, CASE_ROWS | CASE_VALUE, 33, 50, 7, F32, 0, 2),
    {OP_POOL, "mean", make_pool, {21, 7, 6, POOL_MEAN}, {384, 512, 8, POOL_MEAN}, 0, 0},
    ONE(POOL, "first", pool, 0, 5, 7, 6, POOL_FIRST),
    ONE(POOL, "last", pool, 0, 5, 7, 6, POOL_LAST),
    {OP_POOL_GRAD, "mean", make_pool_grad, {21, 7, 6, POOL_MEAN}, {384, 512, 8, POOL_MEAN}, 0, 0},
    ONE(POOL_GRAD, "first", pool_grad, 0, 5, 7, 6, POOL_FIRST),
    ONE(POOL_GRAD, "last", pool_grad, 0, 5, 7, 6, POOL_LAST),
};
/* clang-format on */
const int n_op_cases = (int)COUNT_OF(op_cases);
