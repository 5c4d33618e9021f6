/* tensor/graph.c - nodes, sticky errors, reverse mode, and the element access of reference kernels. Knows no op: what one means
 * stands in its row of ops.def and the op_*.c behind it. */
#include "tensor/internal.h"
#include <stdlib.h>

/* Bytes of one tensor, at most: far beyond any memory, and so far below 2^63 that sums over a graph stay exact. Extents come
 * from files. */
#define MOST_BYTES ((i64)1 << 46)

const op_def op_table[OP_COUNT] = {
#define OP(id, min_src, max_src, check, grad, ref) [OP_##id] = {#id, min_src, max_src, check, grad, ref},
#include "tensor/ops.def"
#undef OP
};

graph *graph_new(void)
{
    graph *g = mem_zero(sizeof *g);
    if (!g) return NULL;
    g->a = arena_new();
    g->dead = g->a ? arena_take(g->a, sizeof *g->dead) : NULL;
    if (!g->dead) {
        graph_free(g);
        return NULL;
    }
    tensor_set(g->dead, F32, (i64[4]){1, 1, 1, 1});
    return g;
}

void graph_free(graph *g)
{
    if (!g) return;
    arena_free(g->a);
    mem_free(g->nodes);
    mem_free(g);
}

err graph_error(const graph *g) { return g->bad.code ? err_new(g->bad.code, "%s", g->what) : OK; }
void graph_use_double(graph *g) { g->use_double = true; }
void graph_use_float(graph *g) { g->use_float = true; }

tensor *graph_bad(graph *g, err_code code, const char *message)
{
    if (!g->bad.code) {
        snprintf(g->what, sizeof g->what, "%s", message);
        g->bad = (err){(int)code, g->what};
    }
    return g->dead;
}

tensor *graph_fail(graph *g, const char *fmt, ...)
{
    char message[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(message, sizeof message, fmt, ap);
    va_end(ap);
    return graph_bad(g, ERR_INPUT, message);
}

static tensor *append(graph *g)
{
    if (g->bad.code) return NULL;
    tensor *t = arena_take(g->a, sizeof *t);
    if (!t || !VEC_PUSH(g->nodes, g->n, g->cap, t)) {
        graph_bad(g, ERR_NOMEM, "out of memory while building a graph");
        return NULL;
    }
    t->id = (i32)g->n - 1;
    return t;
}

static i64 times(i64 a, i64 b) /* INT64_MAX when it is more */
{
    i64 product;
    return __builtin_mul_overflow(a, b, &product) ? INT64_MAX : product;
}

void tensor_set(tensor *t, dtype type, const i64 n[4])
{
    const dtype_info *d = &dtype_table[type];
    t->type = type;
    for (int i = 0; i < 4; i++) t->n[i] = n[i] ? n[i] : 1;
    t->stride[0] = d->bytes;
    t->stride[1] = times(t->n[0] / d->block, d->bytes);
    t->stride[2] = times(t->stride[1], t->n[1]);
    t->stride[3] = times(t->stride[2], t->n[2]);
}

static bool too_large(const tensor *t) /* just set: contiguous */
{
    return t->n[1] > MOST_BYTES || times(t->stride[3], t->n[3]) > MOST_BYTES ||
           times(times(t->n[0], t->n[1]), times(t->n[2], t->n[3])) > MOST_BYTES;
}

bool tensor_contiguous(const tensor *t)
{
    i64 at = (i64)dtype_row_bytes(t->type, t->n[0]);
    if (t->n[0] > 1 && t->stride[0] != dtype_table[t->type].bytes) return false;
    for (int i = 1; i < 4; at *= t->n[i++])
        if (t->n[i] > 1 && t->stride[i] != at) return false;
    return true;
}

bool tensor_same_shape(const tensor *a, const tensor *b) { return !memcmp(a->n, b->n, sizeof a->n); }
bool dtype_is_float(dtype t) { return t == F32 || t == F16 || t == BF16 || t == F64; }

const char *tensor_show(const tensor *t, char out[96])
{
    int dims = 4;
    while (dims > 1 && t->n[dims - 1] == 1) dims--;
    int at = snprintf(out, 96, "%.40s [", t->name[0] ? t->name : op_table[t->op].name);
    for (int i = 0; i < dims && at < 72; i++) at += snprintf(out + at, 96 - (usize)at, i ? ",%lld" : "%lld", (long long)t->n[i]);
    snprintf(out + at, 96 - (usize)at, "] %s", dtype_table[t->type].name); /* an extent has 20 characters at most */
    return out;
}

tensor *node(graph *g, op_id op, op_arg arg, int n_src, tensor *const *src)
{
    const op_def *d = &op_table[op];
    if (n_src > d->max_src) return graph_fail(g, "%s: %d sources, at most %d", d->name, n_src, d->max_src);
    for (int i = 0; i < d->min_src; i++)
        if (i >= n_src || !src[i]) return graph_fail(g, "%s: source %d is missing", d->name, i);
    tensor *t = append(g);
    if (!t) return g->dead;
    t->op = op;
    t->arg = arg;
    for (int i = 0; i < n_src; i++) t->src[i] = src[i];
    tensor_set(t, F32, (i64[4]){1, 1, 1, 1});
    d->check(g, t);
    char show[96];
    if (!g->bad.code && too_large(t))
        return graph_fail(g, "%s: the result would be %s, more than 2^46 bytes", d->name, tensor_show(t, show));
    return g->bad.code ? g->dead : t;
}

tensor *named(tensor *t, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(t->name, sizeof t->name, fmt, ap);
    va_end(ap);
    return t;
}

tensor *keep(tensor *t)
{
    t->flags |= T_KEEP;
    return t;
}

static tensor *leaf(graph *g, dtype type, layout lay, shape s, void *data, const char *name, u32 flags)
{
    if (!name) name = "";
    for (int i = 0; i < 4; i++) {
        if (s.n[i] < 0) return graph_fail(g, "%s: extent %d is %lld", name, i, (long long)s.n[i]);
        if (!s.n[i]) s.n[i] = 1;
    }
    if ((unsigned)type >= DTYPE_COUNT) return graph_fail(g, "%s: unknown type %d", name, (int)type);
    if (s.n[0] % dtype_table[type].block)
        return graph_fail(g, "%s: rows of %lld values, %s needs a multiple of %d", name, (long long)s.n[0],
                          dtype_table[type].name, dtype_table[type].block);
    if (!weight_packs(type, lay)) return graph_fail(g, "%s: %s has no layout %d", name, dtype_table[type].name, (int)lay);
    tensor *t = append(g);
    if (!t) return g->dead;
    t->op = OP_LEAF;
    tensor_set(t, type, s.n);
    t->lay = lay;
    t->data = data;
    t->flags = flags;
    snprintf(t->name, sizeof t->name, "%s", name);
    char show[96];
    if (too_large(t)) return graph_fail(g, "%s: more than 2^46 bytes", tensor_show(t, show));
    return t;
}

static dtype float_type(const graph *g, dtype t) { return g->use_double && t == F32 ? F64 : t; }
tensor *input(graph *g, dtype type, shape s, const char *name)
{
    return leaf(g, float_type(g, type), LAYOUT_ROWS, s, NULL, name, T_INPUT);
}
tensor *weight(graph *g, dtype type, layout lay, shape s, void *data, const char *name)
{
    return leaf(g, type, lay, s, data, name, 0);
}
tensor *param(graph *g, shape s, float *data, const char *name)
{
    return leaf(g, float_type(g, F32), LAYOUT_ROWS, s, data, name, T_PARAM);
}

tensor *tensor_aux(graph *g, tensor *of, dtype type, shape s)
{
    tensor *t = append(g);
    if (!t) return g->dead;
    t->op = OP_LEAF;
    tensor_set(t, type, s.n);
    t->flags = T_AUX;
    snprintf(t->name, sizeof t->name, "aux of %.30s", op_table[of->op].name);
    of->aux = t;
    return t;
}

void leaf_check(graph *g, tensor *t)
{
    (void)t;
    graph_fail(g, "LEAF: made by input, weight or param only");
}

void op_no_gradient(graph *g, tensor *y, tensor *dy, tensor **dx)
{
    (void)dy, (void)dx;
    char name[96];
    snprintf(name, sizeof name, "%s has no gradient (%s)", op_table[y->op].name, y->name);
    graph_bad(g, ERR_UNSUPPORTED, name);
}

/* ---- reverse mode ---- */

/* of two gradients of one value; a product made just now, which nothing else can have named yet, takes the other in */
static tensor *sum_of(graph *g, tensor *a, tensor *b, usize made)
{
    if (b->op != OP_MATMUL_X || (usize)b->id < made || b->src[2] || b->src[3] || !tensor_same_shape(a, b) || a->type != b->type)
        return add(g, a, b);
    b->src[3] = a;
    return b;
}

static void grad_of(graph *g, tensor *t, tensor **d, const bool *need)
{
    tensor *dx[6] = {0};
    bool any = false;
    for (int s = 0; s < 6; s++)
        if (t->src[s] && need[t->src[s]->id]) dx[s] = t->src[s], any = true;
    if (!any) return;
    const usize made = g->n;
    op_table[t->op].grad(g, t, d[t->id], dx);
    for (int s = 0; s < 6 && !g->bad.code; s++) {
        if (!dx[s] || dx[s] == t->src[s]) continue;
        tensor **into = &d[t->src[s]->id];
        *into = *into ? sum_of(g, *into, dx[s], made) : dx[s];
    }
}

void graph_grad(graph *g, tensor *loss)
{
    if (!loss) graph_fail(g, "graph_grad: no loss");
    if (g->bad.code) return;
    usize n = g->n_forward = g->n;
    tensor **d = arena_take(g->a, sizeof *d * n);
    bool *need = arena_take(g->a, n);
    double *one = arena_take(g->a, sizeof *one);
    if (!d || !need || !one) {
        graph_bad(g, ERR_NOMEM, "out of memory in graph_grad");
        return;
    }
    if (tensor_count(loss) != 1) {
        graph_fail(g, "graph_grad: the loss has %lld values, expected 1", (long long)tensor_count(loss));
        return;
    }
    for (usize i = 0; i < n; i++) {
        tensor *t = g->nodes[i];
        need[i] = t->flags & T_PARAM;
        for (int s = 0; s < 6; s++)
            if (t->src[s]) need[i] |= need[t->src[s]->id];
    }
    if (loss->type == F64)
        *one = 1;
    else
        *(float *)one = 1;
    d[loss->id] = weight(g, loss->type, LAYOUT_ROWS, (shape){{1}}, one, "one");
    for (i64 i = loss->id; i >= 0 && !g->bad.code; i--)
        if (d[i] && need[i]) grad_of(g, g->nodes[i], d, need);
    for (usize i = 0; i < n && !g->bad.code; i++)
        if (g->nodes[i]->flags & T_PARAM) {
            g->nodes[i]->grad = d[i];
            if (d[i]) keep(d[i]);
        }
}

/* ---- element access for reference kernels: slow and sure ---- */

static const u8 *element(const tensor *t, i64 i0, i64 i1, i64 i2, i64 i3)
{
    return (const u8 *)t->data + i0 * t->stride[0] + i1 * t->stride[1] + i2 * t->stride[2] + i3 * t->stride[3];
}

double ref_get(const tensor *t, i64 i0, i64 i1, i64 i2, i64 i3)
{
    const void *p = element(t, i0, i1, i2, i3);
    switch (t->type) {
    case F32: return *(const float *)p;
    case F64: return *(const double *)p;
    case F16: return f16_to_f32(*(const u16 *)p);
    case BF16: return bf16_to_f32(*(const u16 *)p);
    case I32: return *(const i32 *)p;
    default: return 0; /* quantised weights are read by ref_weight_row */
    }
}

void ref_set(const tensor *t, i64 i0, i64 i1, i64 i2, i64 i3, double v)
{
    void *p = (void *)(uintptr_t)element(t, i0, i1, i2, i3);
    switch (t->type) {
    case F32: *(float *)p = (float)v; break;
    case F64: *(double *)p = v; break;
    case F16: *(u16 *)p = f32_to_f16((float)v); break;
    case BF16: *(u16 *)p = f32_to_bf16((float)v); break;
    case I32: *(i32 *)p = (i32)v; break;
    default: break;
    }
}

i32 ref_int(const tensor *t, i64 i0, i64 i1) { return *(const i32 *)(const void *)element(t, i0, i1, 0, 0); }

void ref_weight_row(const tensor *w, i64 row, i64 slot, double *dst)
{
    i64 k = w->n[0];
    if (dtype_is_float(w->type) && w->lay == LAYOUT_ROWS) {
        for (i64 i = 0; i < k; i++) dst[i] = ref_get(w, i, row, slot, 0);
        return;
    }
    const u8 *base = (const u8 *)w->data + (usize)slot * weight_bytes(w->type, w->lay, k, w->n[1]);
    u8 *floats = (u8 *)dst + sizeof(float) * (usize)k; /* decoded into the far half: widened from the front, value i is read
                                                          before anything reaches it, and nothing is allocated */
    weight_decode(w->type, w->lay, k, base, row, 1, (float *)(void *)floats);
    for (i64 i = 0; i < k; i++) {
        float v;
        memcpy(&v, floats + sizeof v * (usize)i, sizeof v);
        dst[i] = (double)v;
    }
}
