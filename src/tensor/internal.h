/* tensor/internal.h - what op files, the planner and the backends share. Not for other folders. */
#ifndef MARU_TENSOR_INTERNAL_H
#define MARU_TENSOR_INTERNAL_H
#include "tensor/tensor.h"

typedef struct {
    const char *name;
    int         min_src, max_src;
    void (*check)(graph *, tensor *);                              /* set type, n and stride, or graph_fail */
    void (*grad)(graph *, tensor *y, tensor *dy, tensor **dx);     /* dx[i] non-NULL is wanted: replace it by the gradient's node */
    void (*ref)(const tensor *y);                                  /* all data bound; src of any float type, strided */
} op_def;
extern const op_def op_table[OP_COUNT];
void op_no_gradient(graph *, tensor *, tensor *, tensor **);
void op_no_kernel(const tensor *);                                   /* leaves and views: nothing to do */
#define OP(id, min_src, max_src, check, grad, ref) void check(graph *, tensor *); void grad(graph *, tensor *, tensor *, tensor **); void ref(const tensor *);
#include "tensor/ops.def"
#undef OP

tensor *graph_bad(graph *, err_code, const char *message);           /* keeps the first; returns the dead node */
tensor *node(graph *, op_id, op_arg, int n_src, tensor *const *src); /* NULL sources allowed where optional; runs check */
void    tensor_set(tensor *, dtype, const i64 n[4]);                 /* type, extents, contiguous strides (INT64_MAX: too much) */
bool    tensor_contiguous(const tensor *);
bool    tensor_same_shape(const tensor *, const tensor *);
tensor *tensor_aux(graph *, tensor *of, dtype, shape);               /* a buffer that lives from y to y's gradient */
enum { PAIR_TERMS = 64 };                                             /* of a pair that a MATMUL or MATMUL_X takes in, at most: op_matmul.c */
void    matmul_pairs(graph *, tensor *const *roots, int n_roots);    /* the planner's: makes such pairs */
enum { LM_LOSS_DX = 1, LM_LOSS_DW = 2 };                             /* arg.i[1] of LM_LOSS: what its aux holds */
bool    dtype_is_float(dtype);                                       /* F32 F16 BF16 F64 */
const char *tensor_show(const tensor *, char buf[96]);               /* "name [64,8] f32" for messages */

/* reference access: element as double, any float type or I32, strides respected */
double ref_get(const tensor *, i64 i0, i64 i1, i64 i2, i64 i3);
void   ref_set(const tensor *, i64 i0, i64 i1, i64 i2, i64 i3, double);
i32    ref_int(const tensor *, i64 i0, i64 i1);                      /* I32 */
void   ref_weight_row(const tensor *w, i64 row, i64 slot, double *dst); /* row of a weight of any type and layout, dst [k] */

/* dropout: the rule of the 2^32 elements around an index; h begins as the low word of the index. u32 or vectors of them */
typedef struct { u32 before, between, least /* of h, of an element that stays */; double by; } dropout_rule;
dropout_rule dropout_rule_of(const tensor *dropout, u64 index);
#define DROPOUT_HASH(h, rule)                                                                                                    \
    ((h) = ((h) ^ (rule).before) * 0x9e3779b1u, (h) ^= (h) >> 15, (h) = ((h) + (rule).between) * 0x21f0aaadu, (h) ^= (h) >> 15,  \
     (h) = (h) * 0x735a2d97u, (h) ^= (h) >> 15)

/* a device: eight functions (close is the ninth word of the struct, not counted) */
struct backend {
    const char *name;
    bool (*can)(backend *, const tensor *);                          /* a kernel exists for this op and these types */
    err  (*alloc)(backend *, usize, void **);
    void (*release)(backend *, void *);
    err  (*put)(backend *, void *dst, const void *src, usize);
    err  (*get)(backend *, void *dst, const void *src, usize);
    err  (*bind)(backend *, plan *);                                 /* once: choose kernels, fuse neighbours; may ask for plan->extra bytes of scratch */
    err  (*run)(backend *, plan *);                                  /* no allocation, no branching on shapes */
    void (*unbind)(backend *, plan *);
    void (*close)(backend *);
};
struct plan {
    graph   *g;
    workspace *ws;
    backend *be;
    tensor **order; int n_order;                                     /* nodes that have work, in the order they run */
    usize    scratch;                                                /* bytes of the workspace this plan uses */
    usize    extra, extra_at;                                        /* backend's own scratch inside it: bytes, offset */
    usize    fixed;                                                  /* bytes of inputs and kept values, allocated with the plan */
    void    *fixed_mem;
    const tensor *missing;                                           /* a needed weight without memory: planned, not run */
    u32      bound_at;                                               /* workspace generation the pointers belong to */
    void    *state;                                                  /* backend's steps */
};
struct workspace { backend *be; void *mem; usize n; u32 generation; };
struct graph {
    arena   *a;
    tensor **nodes; usize n, cap;
    usize    n_forward;                                              /* nodes before the last graph_grad's; 0: none */
    err      bad; char what[256];
    bool     use_double, use_float;
    tensor  *dead;
};
#endif
