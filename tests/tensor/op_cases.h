/* tests/tensor/op_cases.h - the one list of op cases. The same rows are checked for gradients (in doubles), for the CPU kernels
 * at every level, and timed (bench/bench_ops.c). A new op needs a row here or test_ops fails; a new kernel needs nothing.
 *
 * A case is a builder that makes a graph from seeded random leaves. Leaves own their memory here, so one graph can be run by
 * the reference kernels and another, equal one by a plan. */
#ifndef MARU_TEST_OP_CASES_H
#define MARU_TEST_OP_CASES_H
#include "ref_run.h"

enum {
    CASE_ROWS = 1,    /* row r of the result (its last axis) depends on row r of the leaves made by rows_* only */
    CASE_8BIT = 2,    /* a backend may take the leaf "x" in 8-bit blocks */
    CASE_NO_DIFF = 4, /* kinks, huge values or rounding to a narrow type: no finite differences */
    CASE_EDGE = 8,    /* floats are drawn from a list of edge values */
    CASE_VALUE = 16,  /* the result only: its gradient is refused, or would run in another arithmetic */
};
typedef struct case_build case_build;
typedef struct {
    op_id op; /* the op meant; the builder may use others around it */
    const char *name;
    tensor *(*build)(case_build *, const int *n);
    int n[8], big[8]; /* sizes and variants, as the builder reads them; big: for speed, n[0] = 0 when not timed */
    double tol;       /* forward: |a - b| <= tol (|b| + rms of b); 0: 1e-5 */
    u32 flags;
} op_case;
extern const op_case op_cases[];
extern const int n_op_cases;

struct case_build {
    graph *g;
    const op_case *c;
    rng r;
    bool as_double, big;
    i64 only_row, n_rows;                                    /* >= 0: a batch of this one row; the rows of the whole batch */
    void (*round_x)(void *ctx, float *x, i64 k, i64 n_rows); /* what 8-bit blocks would make of "x"; NULL: nothing */
    void *round_ctx;
    void *owned[32];
    int n_owned;
};
tensor *case_make(case_build *);              /* new graph and leaves; the result, contiguous */
tensor *case_loss(case_build *, tensor *y);   /* [1]: sum of y times fixed random numbers; then graph_grad */
void case_free(case_build *, bool graph_too); /* a plan frees its graph itself */

/* for the builders: leaves */
tensor *real(case_build *, shape, const char *name);                      /* trained: F32, or F64 in a graph of doubles */
tensor *rows_real(case_build *, shape, int axis, const char *name);       /* the batch runs along `axis` */
tensor *fixed_real(case_build *, dtype, layout, shape, const char *name); /* a weight of any type, not trained */
tensor *ints(case_build *, shape, i32 from, i32 to, const char *name);    /* in [from,to) */
tensor *rows_ints(case_build *, shape, int axis, i32 from, i32 to, const char *name);
i32 *ints_data(tensor *); /* to set single ones */
#endif
