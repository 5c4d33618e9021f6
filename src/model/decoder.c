/* model/decoder.c - the one decoder: llama, qwen2, gemma3 and their kin are rows of arch.c over this. Pre-norm blocks with
 * grouped-query attention over a paged KV cache and a gated feed-forward part. Per layer, x [width,rows]:
 *     x += post(o(attend(rope(qnorm(q(norm x))), K, V)));  x += post(down(act(gate(norm x)) * up(norm x)))
 * What differs is data: biases and norms that a model lacks are simply absent. */
#include "model/linear.h"
#include <math.h>

static bool layer_global(const model *m, i64 layer)
{
    int every = m->arch->global_every;
    return !every || (layer + 1) % every == 0;
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
    q = rope(g, q, io->pos, factors, r);
    k = rope(g, k, io->pos, factors, r);
    i64     kv_dim = h->n_kv_head * h->head_dim, slots = kv->n_pages * KV_PAGE;
    tensor *ck = weight(g, kv->type, LAYOUT_ROWS, (shape){{kv_dim, slots}}, kv->k[layer], "k cache");
    tensor *cv = weight(g, kv->type, LAYOUT_ROWS, (shape){{kv_dim, slots}}, kv->v[layer], "v cache");
    ck = kv_put(g, ck, reshape(g, k, (shape){{kv_dim, x->n[1]}}), io->slots);
    cv = kv_put(g, cv, v, io->slots);
    attend_arg a = {.scale = h->attn_scale, .softcap = h->softcap_attn, .window = global ? 0 : (int)h->window, .page = KV_PAGE};
    tensor    *y = attend(g, q, heads_of(b, ck, h->n_kv_head), heads_of(b, cv, h->n_kv_head), io->span, io->pages, a);
    return linear(b, reshape(g, y, (shape){{h->n_head * h->head_dim, x->n[1]}}), &w->o, &w->o_b);
}

static tensor *feed_forward(builder *b, const layer_weights *w, tensor *x)
{
    tensor *gate = linear(b, x, &w->gate, NULL), *up = linear(b, x, &w->up, &w->up_b);
    return linear(b, glu(b->g, gate, up, b->m->arch->act), &w->down, &w->down_b);
}

static void inputs(graph *g, const model *m, const batch_shape *s, model_io *io)
{
    memset(io, 0, sizeof *io);
    io->ids = input(g, I32, (shape){{s->rows}}, "ids");
    io->pos = input(g, I32, (shape){{s->rows}}, "positions");
    io->slots = input(g, I32, (shape){{s->rows}}, "slots");
    io->span = input(g, I32, (shape){{3, s->rows}}, "span");
    io->pages = input(g, I32, (shape){{s->max_pages, s->seqs}}, "pages");
    if (s->outs) io->out_rows = input(g, I32, (shape){{s->outs}}, "output rows");
    if (s->adapters) io->adapter = input(g, I32, (shape){{s->rows}}, "adapter slots");
    if (s->soft) {
        io->soft = input(g, F32, (shape){{m->h.width, s->soft}}, "given vectors");
        io->soft_ids = input(g, I32, (shape){{s->rows}}, "given vector of each row");
    }
}

void decoder_build(graph *g, const model *m, const kv_cache *kv, const batch_shape *s, model_io *io)
{
    inputs(g, m, s, io);
    builder b = {.g = g, .m = m, .adapters = s->adapters, .slot = io->adapter};
    tensor *x = embed(g, leaf_of(&b, &m->embed), io->ids);
    if (m->arch->scale_embedding) x = scale(g, x, sqrtf((float)m->h.width));
    if (s->soft) x = add(g, x, embed(g, io->soft, io->soft_ids));
    for (i64 i = 0; i < m->h.n_layer; i++) {
        const layer_weights *w = &m->layers[i];
        tensor              *y = attention(&b, w, kv, i, norm_of(&b, x, &w->attn_norm, NULL, NORM_RMS), io);
        if (m->arch->post_norm) y = norm_of(&b, y, &w->attn_post, NULL, NORM_RMS);
        x = named(add(g, x, y), "blk.%d.attention", (int)i);
        y = feed_forward(&b, w, norm_of(&b, x, &w->ff_norm, NULL, NORM_RMS));
        if (m->arch->post_norm) y = norm_of(&b, y, &w->ff_post, NULL, NORM_RMS);
        x = named(add(g, x, y), "blk.%d", (int)i);
    }
    if (s->outs) { /* the last norm and the head only where somebody asked */
        tensor *rows = embed(g, x, io->out_rows);
        io->logits = linear(&b, norm_of(&b, rows, &m->out_norm, NULL, NORM_RMS), &m->head, NULL);
        if (m->h.softcap_logits > 0) io->logits = scale(g, act(g, scale(g, io->logits, 1 / m->h.softcap_logits), ACT_TANH), m->h.softcap_logits);
        named(io->logits, "logits");
    }
    io->hidden = named(norm_of(&b, x, &m->out_norm, NULL, NORM_RMS), "hidden");
}
