/* model/linear.h - shared by decoder.c and encoder.c: weights as graph leaves, and the one function through which every
 * projection goes, so that adapters reach every model. */
#ifndef MARU_MODEL_LINEAR_H
#define MARU_MODEL_LINEAR_H
#include "model/model.h"

typedef struct {
    graph             *g;
    const model       *m;
    const adapter_set *adapters;
    tensor            *slot;                /* [rows] adapter slot of each row */
} builder;
tensor *leaf_of(builder *, const model_weight *);       /* NULL when the model has none */
tensor *linear(builder *, tensor *x, const model_weight *w, const model_weight *bias); /* x [k,m] -> [n,m], bias and adapters added */
tensor *norm_of(builder *, tensor *x, const model_weight *w, const model_weight *b, norm_kind);
tensor *heads_of(builder *, tensor *x, i64 n_heads);    /* [hd*heads,m] -> [hd,heads,m] */
#endif
