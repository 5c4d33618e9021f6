/* model/decoder.c - the one decoder: llama, qwen2, gemma3, gpt2 and their kin are rows of arch.c over this. Pre-norm blocks with
 * grouped-query attention over a paged KV cache and a feed-forward part, gated or not. Per layer, x [width,rows]:
 *     x += post(o(attend(rope(qnorm(q(norm x))), K, V)));  x += post(down(act(gate(norm x)) * up(norm x)))
 * What differs is data: biases and norms that a model lacks are simply absent. */
#include "model/linear.h"
#include <math.h>

static bool layer_global(const model *m, i64 layer)
{
    int every = m->arch->global_every;
    return !every || (layer + 1) % every == 0;
}

/* keys and values of any number of sequences in pages: what a server keeps */
static tensor *attend_cached(builder *b, const kv_cache *kv, i64 layer, tensor *q, tensor *k, tensor *v, const model_io *io, attend_arg a)
{
    const hparams *h = &b->m->h;
    graph         *g = b->g;
    i64            kv_dim = h->n_kv_head * h->head_dim, slots = kv->n_pages * KV_PAGE;
    tensor        *ck = weight(g, kv->type, LAYOUT_ROWS, (shape){{kv_dim, slots}}, kv->k[layer], "k cache");
    tensor        *cv = weight(g, kv->type, LAYOUT_ROWS, (shape){{kv_dim, slots}}, kv->v[layer], "v cache");
    ck = kv_put(g, ck, reshape(g, k, (shape){{kv_dim, q->n[2]}}), io->slots);
    cv = kv_put(g, cv, v, io->slots);
    a.page = KV_PAGE;
    return attend(g, q, heads_of(b, ck, h->n_kv_head), heads_of(b, cv, h->n_kv_head), io->span, io->pages, a);
}

/* rows see rows of the batch, and the trained prefix that key_rows puts in front of each sequence */
static tensor *attend_batch(builder *b, i64 layer, tensor *q, tensor *k, tensor *v, const model_io *io, attend_arg a)
{
    const hparams *h = &b->m->h;
    graph         *g = b->g;
    char           name[48];
    snprintf(name, sizeof name, "blk.%d", (int)layer);
    tensor *pk = trained_leaf(b, TRAIN_PREFIX_K, name), *pv = trained_leaf(b, TRAIN_PREFIX_V, name);
    if (pk && pv) {
        k = reshape(g, k, (shape){{h->n_kv_head * h->head_dim, q->n[2]}});
        k = embed(g, concat(g, pk, k, 1), io->key_rows);
        v = embed(g, concat(g, pv, v, 1), io->key_rows);
        k = heads_of(b, k, h->n_kv_head);
    }
    return attend(g, q, k, heads_of(b, v, h->n_kv_head), io->span, NULL, a);
}

static tensor *attention(builder *b, const layer_weights *w, const kv_cache *kv, i64 layer, tensor *x, const model_io *io)
{
    const model   *m = b->m;
    const hparams *h = &m->h;
    graph         *g = b->g;
    bool           global = layer_global(m, layer);
    rope_arg       r = {.dims = (int)h->rope_dims, .neox = m->arch->neox, .theta = global ? h->theta : h->local_theta, .scale = global ? h->rope_scale : 1};
    tensor        *factors = leaf_of(b, &m->rope_factors);
    tensor        *q = heads_of(b, linear(b, x, &w->q, &w->q_b), h->n_head);
    tensor        *k = heads_of(b, linear(b, x, &w->k, &w->k_b), h->n_kv_head);
    tensor        *v = linear(b, x, &w->v, &w->v_b);
    if (m->arch->qk_norm) {
        q = norm_of(b, q, &w->q_norm, NULL, NORM_RMS);
        k = norm_of(b, k, &w->k_norm, NULL, NORM_RMS);
    }
    if (!m->arch->learned) {
        q = rope(g, q, io->pos, factors, r);
        k = rope(g, k, io->pos, factors, r);
    }
    attend_arg a = {.scale = h->attn_scale, .softcap = h->softcap_attn, .window = global ? 0 : (int)h->window};
    tensor    *y = kv ? attend_cached(b, kv, layer, q, k, v, io, a) : attend_batch(b, layer, q, k, v, io, a);
    return linear(b, reshape(g, y, (shape){{h->n_head * h->head_dim, x->n[1]}}), &w->o, &w->o_b);
}

static tensor *block_norm(builder *b, tensor *x, const model_weight *w, const model_weight *bias)
{
    return norm_of(b, x, w, bias, b->m->arch->layer_norm ? NORM_LAYER : NORM_RMS);
}

static tensor *feed_forward(builder *b, const layer_weights *w, tensor *x)
{
    if (b->m->arch->ungated) return linear(b, act(b->g, linear(b, x, &w->up, &w->up_b), b->m->arch->act), &w->down, &w->down_b);
    tensor *gate = linear(b, x, &w->gate, NULL), *up = linear(b, x, &w->up, &w->up_b);
    return linear(b, glu(b->g, gate, up, b->m->arch->act), &w->down, &w->down_b);
}

static i64 prefix_length(const trained_set *set)
{
    const trained *t = trained_find(set, TRAIN_PREFIX_K, "blk.0");
    return t ? t->n : 0;
}

static builder begin(graph *g, const model *m, const kv_cache *kv, const batch_shape *s, model_io *io)
{
    builder b = builder_begin(g, m, s, io);
    const trained *prompt = trained_find(s->train, TRAIN_PROMPT, "");
    i64 prefix = prefix_length(s->train);
    if (kv) {
        io->slots = input(g, I32, (shape){{s->rows}}, "slots");
        io->pages = input(g, I32, (shape){{s->max_pages, s->seqs}}, "pages");
    }
    if (s->outs) io->out_rows = input(g, I32, (shape){{s->outs}}, "output rows");
    if (prefix) io->key_rows = input(g, I32, (shape){{prefix * s->seqs + s->rows}}, "rows of keys");
    if (s->soft || prompt) {
        io->soft = prompt ? trained_leaf(&b, TRAIN_PROMPT, "") : input(g, F32, (shape){{m->h.width, s->soft}}, "given vectors");
        io->soft_ids = input(g, I32, (shape){{s->rows}}, "given vector of each row");
    }
    return b;
}

void decoder_build(graph *g, const model *m, const kv_cache *kv, const batch_shape *s, model_io *io)
{
    builder  b = begin(g, m, kv, s, io);
    tensor  *last[4] = {0}, *x = embed(g, leaf_of(&b, &m->embed), io->ids);
    i64      n = m->h.n_layer;
    if (m->arch->scale_embedding) x = scale(g, x, sqrtf((float)m->h.width));
    if (io->soft) x = add(g, x, embed(g, io->soft, io->soft_ids));
    if (m->arch->learned) x = add(g, x, embed(g, leaf_of(&b, &m->positions), io->pos));
    for (i64 i = 0; i < n; i++) {
        const layer_weights *w = &m->layers[i];
        tensor              *y = attention(&b, w, kv, i, block_norm(&b, x, &w->attn_norm, &w->attn_norm_b), io);
        if (m->arch->post_norm) y = norm_of(&b, y, &w->attn_post, NULL, NORM_RMS);
        x = named(add(g, x, y), "blk.%d.attention", (int)i);
        y = feed_forward(&b, w, block_norm(&b, x, &w->ff_norm, &w->ff_norm_b));
        if (m->arch->post_norm) y = norm_of(&b, y, &w->ff_post, NULL, NORM_RMS);
        x = named(add(g, x, y), "blk.%d", (int)i);
        if (s->blocks) s->blocks[i] = x;
        if (n - 1 - i < (i64)COUNT_OF(last)) last[n - 1 - i] = x;
    }
    if (s->outs) { /* the last norm and the head only where somebody asked */
        tensor *rows = embed(g, x, io->out_rows);
        io->logits = named(head_of(&b, block_norm(&b, rows, &m->out_norm, &m->out_norm_b)), "logits");
    }
    io->hidden = named(block_norm(&b, x, &m->out_norm, &m->out_norm_b), "hidden");
    tail_build(&b, s, io->hidden, last, io);
}
