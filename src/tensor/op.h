/* tensor/op.h - what the op_*.c files share: the call that makes a node, result types, loops and scratch of reference kernels.
 *
 * How an op file reads: the formula; the check (types and shapes, message "MATMUL: x is [8,2], blk.0.attn_q is [9,4]"); the
 * gradient, built of other ops of the table; the reference kernel; the builder that tensor.h declares.
 * Reference kernels are the meaning of an op: naive, in double, any float type, any strides. They are also the fallback of the
 * CPU backend, so ids, slots and spans, which are outside data, never make them read or write out of bounds. */
#ifndef MARU_TENSOR_OP_H
#define MARU_TENSOR_OP_H
#include "tensor/internal.h"
#include <math.h>

#define EACH_ROW(t)                                                                                                              \
    for (i64 i3 = 0; i3 < (t)->n[3]; i3++)                                                                                       \
        for (i64 i2 = 0; i2 < (t)->n[2]; i2++)                                                                                   \
            for (i64 i1 = 0; i1 < (t)->n[1]; i1++)
#define EACH(t)                                                                                                                  \
    EACH_ROW(t)                                                                                                                  \
    for (i64 i0 = 0; i0 < (t)->n[0]; i0++)

static inline tensor *op_call(graph *g, op_id op, op_arg arg, tensor *a, tensor *b, tensor *c)
{
    int n = 1 + (b || c) + (c != NULL); /* an optional second source may be absent while the third is there */
    return node(g, op, arg, n, (tensor *[]){a, b, c});
}

/* activations are F32, or F64 in a graph of doubles */
static inline bool  op_is_real(const tensor *t) { return t->type == F32 || t->type == F64; }
static inline bool  op_is_float(const tensor *t) { return dtype_is_float(t->type) && t->lay == LAYOUT_ROWS; }
static inline bool  op_is_ints(const tensor *t) { return t->type == I32 && t->lay == LAYOUT_ROWS; }
static inline dtype op_type(const tensor *a, const tensor *b) { return a->type == F64 || (b && b->type == F64) ? F64 : F32; }
static inline bool  op_is_2d(const tensor *t) { return t->n[2] == 1 && t->n[3] == 1; }
static inline bool  op_is_1d(const tensor *t) { return t->n[1] == 1 && op_is_2d(t); }

/* "ADD: a is [8,2] f32, b is [3] f32, expected ..." ; names stand where the tensors have them */
static inline const char *op_called(const tensor *t, const char *role, char out[96])
{
    char show[96];
    if (t->name[0]) tensor_show(t, show);
    const char *shown = t->name[0] ? show : tensor_show(t, show);
    const char *dims = strchr(shown, '[');
    snprintf(out, 96, "%.44s is %.48s", t->name[0] ? t->name : role, dims ? dims : shown);
    return out;
}
static inline void op_mismatch(graph *g, const tensor *y, const char *roles, const char *expected)
{
    char   text[224] = "", one[96];
    usize  at = 0;
    tensor *const *src = y->src;
    for (int i = 0; i < 6; i++) {
        char  role[16];
        usize n = strcspn(roles, " ");
        snprintf(role, sizeof role, "%.*s", (int)n, roles);
        roles += n + (roles[n] == ' ');
        if (src[i] && at + 1 < sizeof text) at += (usize)snprintf(text + at, sizeof text - at, "%s%s", at ? ", " : "", op_called(src[i], role, one));
    }
    graph_fail(g, "%s: %s; expected %s", op_table[y->op].name, text, expected);
}
#define OP_EXPECT(ok, roles, expected)                                                                                           \
    do {                                                                                                                         \
        if (!(ok)) {                                                                                                             \
            op_mismatch(g, y, roles, expected);                                                                                  \
            return;                                                                                                              \
        }                                                                                                                        \
    } while (0)

static inline tensor *op_contiguous(graph *g, tensor *t) { return tensor_contiguous(t) ? t : copy(g, t, t->type); }

/* When the scratch of a reference kernel cannot be had, its result is NaN: seen at once, never mistaken for a value. */
static inline void ref_nan(const tensor *y) { EACH(y) ref_set(y, i0, i1, i2, i3, NAN); }
static inline i64  ref_row_index(const tensor *t, i64 i1, i64 i2, i64 i3) { return i1 + t->n[1] * (i2 + t->n[2] * i3); }
#endif
