/* model/linear.h - shared by decoder.c and encoder.c: weights as graph leaves, the one function through which every projection
 * goes, so that adapters reach every model, and what stands behind the last block: pooling, classes, losses (loss.c). */
#ifndef MARU_MODEL_LINEAR_H
#define MARU_MODEL_LINEAR_H
#include "model/model.h"

typedef struct {
    graph             *g;
    const model       *m;
    const adapter_set *adapters;
    trained_set       *train;               /* or NULL */
    tensor            *slot;                /* [rows] adapter slot of each row */
    tensor            *drop_key;            /* or NULL */
    u32                site;                /* dropouts so far */
    const batch_shape *shape;
} builder;
builder builder_begin(graph *, const model *, const batch_shape *, model_io *); /* makes the inputs that every graph has */
tensor *leaf_of(builder *, const model_weight *);       /* NULL when the model has none */
tensor *trained_leaf(builder *, trained_kind, const char *name); /* NULL when it is not trained */
tensor *linear(builder *, tensor *x, const model_weight *w, const model_weight *bias); /* x [k,m] -> [n,m], bias and adapters added */
tensor *norm_of(builder *, tensor *x, const model_weight *w, const model_weight *b, norm_kind);
tensor *heads_of(builder *, tensor *x, i64 n_heads);    /* [hd*heads,m] -> [hd,heads,m] */

/* loss.c. x [width,rows] after the last norm; last[i]: output of the block i before the last, 4 of them */
tensor *head_of(builder *, tensor *x);                  /* logits [n_vocab,m] */
void    tail_build(builder *, const batch_shape *, tensor *x, tensor *const *last, model_io *);
#endif
