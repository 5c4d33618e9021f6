/* tensor/op_dropout.c - DROPOUT (Srivastava et al. 2014), scaled while training so that nothing changes afterwards.
 *
 *   y[i] = x[i] / (1 - p) with probability 1 - p, else 0           dx = the same op on dy
 * Which elements stay is a hash of (seed, step, site, i): no state, nothing saved. The gradient, a recomputed copy and any
 * division among threads find the same mask, and the next step, whose number is data in `key`, another. i counts the elements of
 * x in their logical order; site tells the dropouts of one graph apart. arg.f[0] is p, arg.i[1] the site. */
#include "tensor/op.h"

void dropout_check(graph *g, tensor *y)
{
    const tensor *x = y->src[0], *key = y->src[1];
    const float p = y->arg.f[0];
    OP_EXPECT(op_is_real(x) && op_is_ints(key) && op_is_1d(key) && key->n[0] == 2, "x key", "x f32 or f64, key I32 [2]");
    OP_EXPECT(p > 0 && p < 1, "x key", "a probability between 0 and 1");
    tensor_set(y, x->type, x->n);
}

void dropout_grad(graph *g, tensor *y, tensor *dy, tensor **dx) { dx[0] = op_call(g, OP_DROPOUT, y->arg, dy, y->src[1], NULL); }

static u32 stir(u32 h)
{
    h ^= h >> 16, h *= 0x21f0aaadu, h ^= h >> 15, h *= 0x735a2d97u;
    return h ^ h >> 15;
}

dropout_rule dropout_rule_of(const tensor *y, u64 index)
{
    const u32 words[] = {(u32)ref_int(y->src[1], 0, 0), (u32)ref_int(y->src[1], 1, 0), (u32)y->arg.i[1], (u32)(index >> 32)};
    dropout_rule r = {0x9e3779b9u, 0x7f4a7c15u, 0, 0};
    for (usize i = 0; i < COUNT_OF(words); i++)
        r.before = stir(r.before ^ words[i]), r.between = stir(r.between + words[i] + r.before);
    const double p = (double)y->arg.f[0];
    r.least = (u32)(p * 0x1p32); /* p < 1 in float: below 2^32 */
    r.by = 1 / (1 - p);
    return r;
}

void dropout_ref(const tensor *y)
{
    const tensor *x = y->src[0];
    u64 i = 0;
    dropout_rule r = {0};
    EACH(y)
    {
        if (!(u32)i) r = dropout_rule_of(y, i);
        u32 h = (u32)i++;
        DROPOUT_HASH(h, r);
        ref_set(y, i0, i1, i2, i3, h >= r.least ? ref_get(x, i0, i1, i2, i3) * r.by : 0);
    }
}

tensor *dropout(graph *g, tensor *x, tensor *key, float p, u32 site)
{
    if (p == 0) return x;
    op_arg arg = {.f = {p}};
    arg.i[1] = (i32)site;
    return op_call(g, OP_DROPOUT, arg, x, key, NULL);
}
