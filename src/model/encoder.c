/* model/encoder.c - the one encoder (BERT family): token, type and position embeddings, post-norm blocks, every row of a
 * sequence sees the whole sequence. Sequences are packed one after another; `span` keeps them apart, so there is no padding
 * inside a batch and a text's vector does not depend on its neighbours. */
#include "model/linear.h"
#include <math.h>

static tensor *block_of(builder *b, const layer_weights *w, tensor *x, const model_io *io)
{
    const hparams *h = &b->m->h;
    graph         *g = b->g;
    tensor        *q = heads_of(b, linear(b, x, &w->q, &w->q_b), h->n_head);
    tensor        *k = heads_of(b, linear(b, x, &w->k, &w->k_b), h->n_kv_head);
    tensor        *v = heads_of(b, linear(b, x, &w->v, &w->v_b), h->n_kv_head);
    tensor        *y = attend(g, q, k, v, io->span, NULL, (attend_arg){.scale = h->attn_scale});
    y = linear(b, reshape(g, y, (shape){{h->n_head * h->head_dim, x->n[1]}}), &w->o, &w->o_b);
    x = norm_of(b, add(g, x, y), &w->attn_post, &w->attn_post_b, NORM_LAYER);
    y = act(g, linear(b, x, &w->up, &w->up_b), b->m->arch->act);
    y = linear(b, y, &w->down, &w->down_b);
    return norm_of(b, add(g, x, y), &w->ff_post, &w->ff_post_b, NORM_LAYER);
}

void encoder_build(graph *g, const model *m, const batch_shape *s, model_io *io)
{
    builder b = builder_begin(g, m, s, io);
    tensor *last[4] = {0}, *x = embed(g, leaf_of(&b, &m->embed), io->ids);
    tensor *types = leaf_of(&b, &m->types); /* [width,n_types]: every token is of type 0 */
    io->seq_span = input(g, I32, (shape){{2, s->seqs}}, "rows of each sequence");
    if (types) x = add(g, x, slice(g, types, 1, 0, 1));
    if (m->positions.data) x = add(g, x, embed(g, leaf_of(&b, &m->positions), io->pos));
    x = norm_of(&b, x, &m->embed_norm, &m->embed_norm_b, NORM_LAYER);
    for (i64 i = 0; i < m->h.n_layer; i++) {
        x = named(block_of(&b, &m->layers[i], x, io), "blk.%d", (int)i);
        if (s->blocks) s->blocks[i] = x;
        if (m->h.n_layer - 1 - i < (i64)COUNT_OF(last)) last[m->h.n_layer - 1 - i] = x;
    }
    if (s->loss == LOSS_TOKENS) graph_fail(g, "%s is an encoder: it has no next token", m->arch->name);
    io->hidden = named(x, "hidden");
    io->pooled = norm(g, pool_rows(g, x, io->seq_span, m->h.pooling), NULL, NULL, NORM_L2, 1e-12f);
    named(io->pooled, "pooled");
    tail_build(&b, s, x, last, io);
}
