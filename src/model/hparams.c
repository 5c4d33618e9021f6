/* model/hparams.c - metadata -> hyperparameters. Everything that sizes memory or indexes a table is bounded here. */
#include "model/arch.h"
#include <math.h>

typedef struct {
    const model *m;
    err          bad;
} reader; /* sticky: the first error is kept */

static const char *key_of(const reader *r, char out[96], const char *what)
{
    snprintf(out, 96, "%s.%s", r->m->arch->name, what);
    return out;
}

static i64 get_i(reader *r, const char *what, i64 otherwise, i64 least, i64 most)
{
    char key[96];
    i64  v = otherwise;
    key_of(r, key, what);
    if (r->bad.code) return least;
    if (file_meta(r->m->file, key)) r->bad = file_i64(r->m->file, key, &v);
    else if (otherwise < 0) r->bad = err_new(ERR_FORMAT, "%s: metadata key %s is missing", r->m->path, key);
    if (!r->bad.code && (v < least || v > most))
        r->bad = err_new(ERR_FORMAT, "%s: %s is %lld, expected %lld to %lld", r->m->path, key, (long long)v, (long long)least, (long long)most);
    return r->bad.code ? least : v;
}

static float get_f(reader *r, const char *what, double otherwise, double least, double most)
{
    char   key[96];
    double v = otherwise;
    key_of(r, key, what);
    if (r->bad.code) return (float)otherwise;
    if (file_meta(r->m->file, key)) r->bad = file_f64(r->m->file, key, &v);
    if (!r->bad.code && !(v >= least && v <= most)) r->bad = err_new(ERR_FORMAT, "%s: %s is %g, expected %g to %g", r->m->path, key, v, least, most);
    return (float)v;
}

static err rope_read(reader *r, hparams *h)
{
    char key[96];
    str  kind;
    h->theta = get_f(r, "rope.freq_base", 10000, 1, 1e12);
    h->rope_dims = get_i(r, "rope.dimension_count", h->head_dim, 2, h->head_dim);
    h->local_theta = r->m->arch->local_theta > 0 ? get_f(r, "rope.freq_base_swa", r->m->arch->local_theta, 1, 1e12) : h->theta;
    h->rope_scale = 1;
    if (file_meta(r->m->file, key_of(r, key, "rope.scaling.type"))) {
        TRY(file_str(r->m->file, key, &kind));
        if (str_eq(kind, S("linear"))) h->rope_scale = 1.0f / get_f(r, "rope.scaling.factor", 1, 1e-3, 1e6);
        else if (!str_eq(kind, S("none"))) return err_new(ERR_UNSUPPORTED, "%s: %s \"%.*s\": this build knows linear and none", r->m->path, key, (int)kind.n, kind.p);
    }
    if (h->rope_dims % 2) return err_new(ERR_FORMAT, "%s: rope.dimension_count is %lld, expected an even number", r->m->path, (long long)h->rope_dims);
    return OK;
}

err hparams_read(model *m)
{
    hparams *h = &m->h;
    reader   r = {.m = m};
    h->n_layer = get_i(&r, "block_count", -1, 1, 1024);
    h->width = get_i(&r, "embedding_length", -1, 1, 1 << 17);
    h->n_head = get_i(&r, "attention.head_count", -1, 1, 1 << 12);
    h->n_kv_head = get_i(&r, "attention.head_count_kv", h->n_head, 1, h->n_head);
    if (r.bad.code) return r.bad;
    if (h->n_head % h->n_kv_head)
        return err_new(ERR_FORMAT, "%s: %lld attention heads do not divide into %lld key heads", m->path, (long long)h->n_head, (long long)h->n_kv_head);
    h->head_dim = get_i(&r, "attention.key_length", h->width / h->n_head, 1, 1 << 12);
    if (!r.bad.code && get_i(&r, "attention.value_length", h->head_dim, 1, 1 << 12) != h->head_dim)
        return err_new(ERR_UNSUPPORTED, "%s: keys and values of different length", m->path);
    h->n_ff = get_i(&r, "feed_forward_length", -1, 1, 1 << 20);
    h->n_ctx = get_i(&r, "context_length", -1, m->arch->encoder ? 3 : 1, 1 << 27); /* an encoder's window: a token between the two around it */
    h->window = m->arch->global_every ? get_i(&r, "attention.sliding_window", 0, 0, 1 << 27) : 0;
    h->eps = m->arch->encoder || m->arch->layer_norm ? get_f(&r, "attention.layer_norm_epsilon", 1e-12, 0, 1) : get_f(&r, "attention.layer_norm_rms_epsilon", 1e-5, 0, 1);
    h->attn_scale = 1.0f / sqrtf((float)h->head_dim);
    h->softcap_attn = get_f(&r, "attn_logit_softcapping", 0, 0, 1e6);
    h->softcap_logits = get_f(&r, "final_logit_softcapping", 0, 0, 1e6);
    h->causal = !m->arch->encoder;
    if (!m->arch->encoder && !m->arch->learned && !r.bad.code) TRY(rope_read(&r, h));
    i64 pooling = m->arch->encoder ? get_i(&r, "pooling_type", 1, 0, 3) : 3; /* ggml: 0 none, 1 mean, 2 first, 3 last */
    h->pooling = pooling == 2 ? POOL_FIRST : pooling == 3 ? POOL_LAST : POOL_MEAN;
    return r.bad;
}
