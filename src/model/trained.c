/* model/trained.c - an adapter from a file as a set of matrices for graphs without pages: evaluation and further training of what has
 * been trained. Serving has slots instead (adapter_set). */
#include "model/model.h"

static void put(trained_set *s, trained_kind kind, const char *name, i64 k, i64 n, float *data, float scale)
{
    trained *t = &s->t[s->n++];
    *t = (trained){.kind = kind, .k = k, .n = n, .data = data, .scale = scale};
    snprintf(t->name, sizeof t->name, "%s", name);
}

static void put_whole(trained_set *s, const whole_tensor *w)
{
    if (!strcmp(w->name, "score.weight")) put(s, TRAIN_CLASSES, "", w->k, w->n, w->data, 0);
    else if (!strcmp(w->name, "score.bias")) put(s, TRAIN_CLASSES_B, "", w->k, w->n, w->data, 0);
    else put(s, TRAIN_WEIGHT, w->name, w->k, w->n, w->data, 0);
}

err trained_of_adapter(const adapter_file *a, const model *m, trained_set *out)
{
    i64 kv = m->h.n_kv_head * m->h.head_dim, layers = a->n_prefix ? m->h.n_layer : 0;
    *out = (trained_set){.t = mem_array(trained, 2 * a->n_pairs + a->n_whole + 2 * (usize)layers + 1)};
    if (!out->t) return err_new(ERR_NOMEM, "out of memory for an adapter");
    for (usize i = 0; i < a->n_pairs; i++) {
        const low_rank *p = &a->pair[i];
        put(out, TRAIN_A, p->name, p->k, p->rank, p->a, p->scale);
        put(out, TRAIN_B, p->name, p->rank, p->n, p->b, 0);
    }
    for (usize i = 0; i < a->n_whole; i++) put_whole(out, &a->whole[i]);
    if (a->n_prompt) put(out, TRAIN_PROMPT, "", m->h.width, a->n_prompt, a->prompt, 0);
    for (i64 i = 0; i < layers; i++) {
        char name[48];
        snprintf(name, sizeof name, "blk.%d", (int)i);
        put(out, TRAIN_PREFIX_K, name, kv, a->n_prefix, a->k[i], 0);
        put(out, TRAIN_PREFIX_V, name, kv, a->n_prefix, a->v[i], 0);
    }
    return OK;
}
