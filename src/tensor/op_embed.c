/* tensor/op_embed.c - EMBED and KV_PUT: rows chosen by ids, read and written.
 *
 * EMBED       y[:,r] = table[:,ids[r]]; zeros where the id is outside the table (-1 by custom). The table may be a weight of
 *             any type and layout, or an activation, whose rows it then gathers.
 * EMBED_GRAD  dtable[:,t] = sum of dy[:,r] over the rows with ids[r] = t. arg.i[0] is the number of rows of the table.
 * KV_PUT      cache[:,slots[r]] = rows[:,r], in place; a row whose slot is outside the cache (-1) is skipped. Two rows with one
 *             slot: the later one stays. No gradient: training attends to the rows of its own batch. */
#include "tensor/op.h"

void embed_check(graph *g, tensor *y)
{
    const tensor *table = y->src[0], *ids = y->src[1];
    OP_EXPECT(table->type != I32 && op_is_2d(table) && op_is_ints(ids) && op_is_1d(ids), "table ids",
              "table [d,v] of numbers, ids I32 [m]");
    tensor_set(y, op_type(table, NULL), (i64[4]){table->n[0], ids->n[0]});
}

void embed_grad(graph *g, tensor *y, tensor *dy, tensor **dx)
{
    if (dx[0]) dx[0] = op_call(g, OP_EMBED_GRAD, (op_arg){.i = {(i32)y->src[0]->n[1]}}, dy, y->src[1], NULL);
}

void embed_ref(const tensor *y)
{
    const tensor *table = y->src[0], *ids = y->src[1];
    const bool plain = op_is_float(table);
    double *row = plain ? NULL : mem_array(double, y->n[0]); /* [d] */
    if (!plain && !row) {
        ref_nan(y);
        return;
    }
    for (i64 r = 0; r < y->n[1]; r++) {
        i32 id = ref_int(ids, r, 0);
        bool inside = id >= 0 && id < table->n[1];
        if (inside && !plain) ref_weight_row(table, id, 0, row);
        for (i64 i = 0; i < y->n[0]; i++) ref_set(y, i, r, 0, 0, !inside ? 0 : plain ? ref_get(table, i, id, 0, 0) : row[i]);
    }
    mem_free(row);
}

tensor *embed(graph *g, tensor *table, tensor *ids) { return node(g, OP_EMBED, (op_arg){{0}}, 2, (tensor *[]){table, ids}); }

void embed_grad_check(graph *g, tensor *y)
{
    const tensor *dy = y->src[0], *ids = y->src[1];
    OP_EXPECT(op_is_real(dy) && op_is_2d(dy) && op_is_ints(ids) && op_is_1d(ids) && ids->n[0] == dy->n[1] && y->arg.i[0] > 0,
              "dy ids", "dy [d,m] f32 or f64, ids I32 [m]");
    tensor_set(y, dy->type, (i64[4]){dy->n[0], y->arg.i[0]});
}

void embed_grad_ref(const tensor *y)
{
    const tensor *dy = y->src[0], *ids = y->src[1];
    for (i64 t = 0; t < y->n[1]; t++) {
        i64 n_hits = 0;
        for (i64 r = 0; r < dy->n[1]; r++) n_hits += ref_int(ids, r, 0) == t;
        for (i64 i = 0; i < y->n[0]; i++) {
            double sum = 0;
            for (i64 r = 0; n_hits && r < dy->n[1]; r++)
                if (ref_int(ids, r, 0) == t) sum += ref_get(dy, i, r, 0, 0);
            ref_set(y, i, t, 0, 0, sum);
        }
    }
}

void kv_put_check(graph *g, tensor *y)
{
    const tensor *cache = y->src[0], *rows = y->src[1], *slots = y->src[2];
    OP_EXPECT(op_is_float(cache) && cache->type != BF16 && op_is_2d(cache) && tensor_contiguous(cache) && op_is_real(rows) &&
                  op_is_2d(rows) && rows->n[0] == cache->n[0] && op_is_ints(slots) && op_is_1d(slots) &&
                  slots->n[0] == rows->n[1],
              "cache rows slots", "cache [d,S] f16, f32 or f64, rows [d,m], slots I32 [m]");
    tensor_set(y, cache->type, cache->n);
    y->base = cache->base ? cache->base : y->src[0];
    y->offset = cache->base ? cache->offset : 0;
}

void kv_put_ref(const tensor *y)
{
    const tensor *rows = y->src[1], *slots = y->src[2];
    for (i64 r = 0; r < rows->n[1]; r++) {
        i32 slot = ref_int(slots, r, 0);
        if (slot < 0 || slot >= y->n[1]) continue;
        for (i64 i = 0; i < y->n[0]; i++) ref_set(y, i, slot, 0, 0, ref_get(rows, i, r, 0, 0));
    }
}

tensor *kv_put(graph *g, tensor *cache, tensor *rows, tensor *slots)
{
    return node(g, OP_KV_PUT, (op_arg){{0}}, 3, (tensor *[]){cache, rows, slots});
}
