/* tests/tensor/op_leaves.c - graphs of cases: leaves with their memory, a loss over the result. Everything is drawn from the seed
 * of the case in the order of the builder's calls, so a batch of one row holds the very numbers of that row in the whole batch.
 */
#include "op_cases.h"
#include "tensor/op.h"
#include <stdlib.h>

static const float edge_values[] = {0,     -0.0f,  1,     -1,     0.5f,  -0.5f,  1e-30f, -1e-30f, 1e-3f, -1e-3f, 3,    -3,
                                    9.99f, -9.99f, 20.5f, -20.5f, 88.7f, -88.7f, 104,    -104,    700,   -700,   3e3f, -3e3f};

static void *own(case_build *b, usize bytes)
{
    void *p = mem_zero(bytes + 64); /* interleaved groups are padded by their writer, never by the reader */
    if (!p || b->n_owned == (int)COUNT_OF(b->owned)) {
        fprintf(stderr, "op_cases: out of memory or more than %d leaves\n", (int)COUNT_OF(b->owned));
        exit(1);
    }
    return b->owned[b->n_owned++] = p;
}

static float draw(case_build *b)
{
    if (b->c->flags & CASE_EDGE) return edge_values[rng_u64(&b->r) % COUNT_OF(edge_values)];
    return rng_normal(&b->r);
}

static i64 count_of(shape s)
{
    i64 n = 1;
    for (int i = 0; i < 4; i++) n *= s.n[i] ? s.n[i] : 1;
    return n;
}

/* the part of a leaf of `count` values that this graph holds: all, or row only_row of the batch */
static shape part_of(case_build *b, shape s, int axis, i64 *from, i64 *n)
{
    *from = 0;
    *n = count_of(s);
    if (axis >= 0) b->n_rows = s.n[axis] ? s.n[axis] : 1;
    if (b->only_row < 0 || axis < 0) return s;
    *n /= s.n[axis];
    *from = b->only_row * *n;
    s.n[axis] = 1;
    return s;
}

static tensor *real_leaf(case_build *b, shape s, int axis, const char *name)
{
    i64 all = count_of(s), from, n;
    shape held = part_of(b, s, axis, &from, &n);
    float *f = own(b, sizeof *f * (usize)n);
    double *d = b->as_double ? own(b, sizeof *d * (usize)n) : NULL;
    for (i64 i = 0; i < all; i++) {
        float v = b->big && i >= 65536 ? f[i - 65536] : draw(b);
        if (i >= from && i < from + n) f[i - from] = v;
    }
    if (b->round_x && !strcmp(name, "x")) b->round_x(b->round_ctx, f, held.n[0], n / held.n[0]);
    for (i64 i = 0; d && i < n; i++) d[i] = f[i];
    return param(b->g, held, d ? (float *)(void *)d : f, name);
}
tensor *real(case_build *b, shape s, const char *name) { return real_leaf(b, s, -1, name); }
tensor *rows_real(case_build *b, shape s, int axis, const char *name) { return real_leaf(b, s, axis, name); }

tensor *fixed_real(case_build *b, dtype type, layout lay, shape s, const char *name)
{
    i64 k = s.n[0], n = s.n[1] ? s.n[1] : 1, n_slots = count_of(s) / (k * n);
    usize plain = dtype_row_bytes(type, k) * (usize)n, packed = weight_bytes(type, lay, k, n);
    i64 drawn = b->big ? i64_min(n, 8) : n; /* rows; for speed eight will do, again and again */
    float *f = mem_array(float, k *drawn);
    u8 *rows = mem_zero(plain), *data = own(b, packed * (usize)n_slots);
    for (i64 slot = 0; slot < n_slots; slot++) {
        for (i64 i = 0; i < k * drawn; i++) f[i] = draw(b);
        if (type == F64)
            for (i64 i = 0; i < k * drawn; i++) ((double *)(void *)rows)[i] = f[i];
        else
            dtype_table[type].encode(f, rows, k * drawn);
        for (i64 r = drawn; r < n; r++)
            memcpy(rows + dtype_row_bytes(type, k) * (usize)r, rows + dtype_row_bytes(type, k) * (usize)(r - drawn),
                   dtype_row_bytes(type, k));
        if (lay == LAYOUT_ROWS)
            memcpy(data + packed * (usize)slot, rows, plain);
        else
            weight_pack(type, lay, k, n, rows, data + packed * (usize)slot, 0, (n + 7) / 8);
    }
    mem_free(f);
    mem_free(rows);
    return weight(b->g, type, lay, s, data, name);
}

static tensor *int_leaf(case_build *b, shape s, int axis, i32 lo, i32 hi, const char *name)
{
    i64 all = count_of(s), from, n;
    shape held = part_of(b, s, axis, &from, &n);
    i32 *v = own(b, sizeof *v * (usize)n);
    for (i64 i = 0; i < all; i++) {
        i32 one = lo + (i32)(rng_u64(&b->r) % (u64)(hi - lo));
        if (i >= from && i < from + n) v[i - from] = one;
    }
    return weight(b->g, I32, LAYOUT_ROWS, held, v, name);
}
tensor *ints(case_build *b, shape s, i32 lo, i32 hi, const char *name) { return int_leaf(b, s, -1, lo, hi, name); }
tensor *rows_ints(case_build *b, shape s, int axis, i32 lo, i32 hi, const char *name)
{
    return int_leaf(b, s, axis, lo, hi, name);
}
i32 *ints_data(tensor *t) { return t->data; }

tensor *case_make(case_build *b)
{
    rng_seed(&b->r, hash64(b->c->name, strlen(b->c->name), (u64)b->c->op));
    b->n_owned = 0;
    b->n_rows = 0;
    b->g = graph_new();
    if (!b->g) {
        fprintf(stderr, "op_cases: out of memory\n");
        exit(1);
    }
    if (b->as_double) graph_use_double(b->g);
    tensor *y = b->c->build(b, b->big ? b->c->big : b->c->n);
    return graph_error(b->g).code || tensor_contiguous(y) ? y : copy(b->g, y, y->type);
}

tensor *case_loss(case_build *b, tensor *y)
{
    if (graph_error(b->g).code) return y;
    double *d = own(b, sizeof *d * (usize)tensor_count(y));
    float *f = (float *)(void *)d;
    for (i64 i = 0; i < tensor_count(y); i++)
        if (y->type == F64)
            d[i] = rng_normal(&b->r);
        else
            f[i] = rng_normal(&b->r);
    tensor *weights = weight(b->g, y->type, LAYOUT_ROWS, op_shape(y), d, "weights of the loss");
    tensor *loss = sum_to(b->g, mul(b->g, y, weights), (shape){{1}});
    graph_grad(b->g, loss);
    return loss;
}

void case_free(case_build *b, bool graph_too)
{
    for (int i = 0; i < b->n_owned; i++) mem_free(b->owned[i]);
    b->n_owned = 0;
    if (graph_too) graph_free(b->g);
    b->g = NULL;
}
