/* model/linear.c - weights as leaves and the projection with bias and adapters. */
#include "model/linear.h"

tensor *leaf_of(builder *b, const model_weight *w)
{
    if (!w->data) return NULL;
    return weight(b->g, w->type, w->lay, (shape){{w->k, w->n}}, w->data, w->name);
}

static const adapter_pair *pair_of(const adapter_set *set, const char *name)
{
    for (usize i = 0; set && i < set->n; i++)
        if (!strcmp(set->pair[i].name, name)) return &set->pair[i];
    return NULL;
}

tensor *linear(builder *b, tensor *x, const model_weight *w, const model_weight *bias)
{
    tensor *y = named(matmul(b->g, x, leaf_of(b, w)), "%s", w->name);
    if (bias && bias->data) y = add(b->g, y, leaf_of(b, bias));
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
