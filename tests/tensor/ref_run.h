/* tests/tensor/ref_run.h - runs a graph by the reference kernels alone: no plan, no reuse of memory, nodes in the order they were
 * made. What every backend is compared with, and what finite differences call. */
#ifndef MARU_TEST_REF_RUN_H
#define MARU_TEST_REF_RUN_H
#include "tensor/internal.h"

typedef struct {
    graph *g;
    void **owned;
    usize n;
} ref_memory;
err ref_bind(ref_memory *, graph *);        /* memory for every value, after the last node (graph_grad too) was made */
void ref_run(const ref_memory *, i32 last); /* nodes 0..last */
void ref_free(ref_memory *);                /* before the graph */
double ref_at(const tensor *, i64 flat);    /* element in logical order, n[0] fastest */
#endif
