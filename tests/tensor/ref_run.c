/* tests/tensor/ref_run.c - see ref_run.h. Every value has memory of its own, so a planner's mistake cannot hide here. */
#include "ref_run.h"

err ref_bind(ref_memory *m, graph *g)
{
    *m = (ref_memory){.g = g, .owned = mem_array(void *, g->n)};
    if (!m->owned) return err_new(ERR_NOMEM, "out of memory for a reference run");
    TRY(graph_error(g));
    for (usize i = 0; i < g->n; i++) {
        tensor *t = g->nodes[i];
        if (t->base) {
            t->data = (u8 *)t->base->data + t->offset;
        } else if (!t->data) {
            t->data = m->owned[m->n++] = mem_zero(dtype_row_bytes(t->type, t->n[0]) * (usize)tensor_rows(t));
            if (!t->data) return err_new(ERR_NOMEM, "out of memory for a reference run");
        }
    }
    return OK;
}

void ref_run(const ref_memory *m, i32 last)
{
    for (i32 i = 0; i <= last; i++) op_table[m->g->nodes[i]->op].ref(m->g->nodes[i]);
}

void ref_free(ref_memory *m)
{
    for (usize i = 0; i < m->n; i++) mem_free(m->owned[i]);
    mem_free(m->owned);
    *m = (ref_memory){0};
}

double ref_at(const tensor *t, i64 flat)
{
    i64 i0 = flat % t->n[0], i1 = flat / t->n[0] % t->n[1], i2 = flat / (t->n[0] * t->n[1]) % t->n[2];
    return ref_get(t, i0, i1, i2, flat / (t->n[0] * t->n[1] * t->n[2]));
}
