/* model/linear.c - weights as leaves, what is trained in their place, and the projection with bias and adapters. */
#include "model/linear.h"

trained *trained_find(const trained_set *set, trained_kind kind, const char *name)
{
    for (usize i = 0; set && i < set->n; i++)
        if (set->t[i].kind == kind && !strcmp(set->t[i].name, name)) return &set->t[i];
    return NULL;
}

/* one leaf for all uses, so that a tied matrix gets the sum of its gradients */
tensor *trained_leaf(builder *b, trained_kind kind, const char *name)
{
    trained *t = trained_find(b->train, kind, name);
    if (!t) return NULL;
    if (!t->leaf) t->leaf = param(b->g, (shape){{t->k, t->n}}, t->data, t->name);
    return t->leaf;
}

tensor *leaf_of(builder *b, const model_weight *w)
{
    if (!w->data) return NULL;
    tensor *t = trained_leaf(b, TRAIN_WEIGHT, w->name);
    return t ? t : weight(b->g, w->type, w->lay, (shape){{w->k, w->n}}, w->data, w->name);
}

builder builder_begin(graph *g, const model *m, const batch_shape *s, model_io *io)
{
    bool drops = false;
    memset(io, 0, sizeof *io);
    for (usize i = 0; s->train && i < s->train->n; i++) {
        s->train->t[i].leaf = NULL;
        drops |= s->learn && s->train->t[i].dropout > 0;
    }
    io->ids = input(g, I32, (shape){{s->rows}}, "ids");
    io->pos = input(g, I32, (shape){{s->rows}}, "positions");
    io->span = input(g, I32, (shape){{3, s->rows}}, "span");
    if (s->adapters) io->adapter = input(g, I32, (shape){{s->rows}}, "adapter slots");
    if (drops) io->drop_key = input(g, I32, (shape){{2}}, "dropout seed and step");
    return (builder){.g = g, .m = m, .adapters = s->adapters, .train = s->train, .slot = io->adapter, .drop_key = io->drop_key, .shape = s};
}

static const adapter_pair *pair_of(const adapter_set *set, const char *name)
{
    for (usize i = 0; set && i < set->n; i++)
        if (!strcmp(set->pair[i].name, name)) return &set->pair[i];
    return NULL;
}

/* y with its trained pair, if it has one */
static tensor *with_pair(builder *b, tensor *x, tensor *y, const char *name)
{
    const trained *t = trained_find(b->train, TRAIN_A, name);
    if (!t) return y;
    if (b->drop_key && t->dropout > 0) x = dropout(b->g, x, b->drop_key, t->dropout, b->site++);
    tensor *down = trained_leaf(b, TRAIN_A, name), *up = trained_leaf(b, TRAIN_B, name);
    return matmul_add(b->g, scale(b->g, matmul(b->g, x, down), t->scale), up, y);
}

tensor *linear(builder *b, tensor *x, const model_weight *w, const model_weight *bias)
{
    if (b->shape->product) b->shape->product(b->shape->product_ctx, b->g, x, w->name);
    tensor *y = named(matmul(b->g, x, leaf_of(b, w)), "%s", w->name);
    if (bias && bias->data) y = add(b->g, y, leaf_of(b, bias));
    y = with_pair(b, x, y, w->name);
    const adapter_pair *p = pair_of(b->adapters, w->name);
    if (!p) return y;
    i64     s = b->adapters->n_slots;
    tensor *down = weight(b->g, F32, LAYOUT_ROWS, (shape){{w->k, p->rank, s}}, p->a, "adapter a");
    tensor *up = weight(b->g, F32, LAYOUT_ROWS, (shape){{p->rank, w->n, s}}, p->b, "adapter b");
    return add(b->g, y, matmul_slot(b->g, matmul_slot(b->g, x, down, b->slot), up, b->slot));
}

tensor *norm_of(builder *b, tensor *x, const model_weight *w, const model_weight *bias, norm_kind kind)
{
    return norm(b->g, x, leaf_of(b, w), bias ? leaf_of(b, bias) : NULL, kind, b->m->h.eps);
}

tensor *heads_of(builder *b, tensor *x, i64 n_heads)
{
    return reshape(b->g, x, (shape){{x->n[0] / n_heads, n_heads, x->n[1]}});
}
