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
static inline bool op_is_real(const tensor *t) { return t->type == F32 || t->type == F64; }
static inline bool op_is_float(const tensor *t) { return dtype_is_float(t->type) && t->lay == LAYOUT_ROWS; }
static inline bool op_is_ints(const tensor *t) { return t->type == I32 && t->lay == LAYOUT_ROWS; }
static inline dtype op_type(const tensor *a, const tensor *b) { return a->type == F64 || (b && b->type == F64) ? F64 : F32; }
static inline bool op_is_2d(const tensor *t) { return t->n[2] == 1 && t->n[3] == 1; }
static inline bool op_is_1d(const tensor *t) { return t->n[1] == 1 && op_is_2d(t); }

static inline shape op_shape(const tensor *t)
{
    shape s;
    memcpy(s.n, t->n, sizeof s.n);
    return s;
}

/* fails the graph with "ADD: a is [8,2] f32, bias is [3] f32; expected ..."; roles name the sources that have no name */
void op_mismatch(graph *, const tensor *y, const char *roles, const char *expected);
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
#endif
