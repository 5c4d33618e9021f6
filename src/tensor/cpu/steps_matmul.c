/* tensor/cpu/steps_matmul.c - matmul and embed steps of inference (of training: steps_train.c). Two arithmetics: quantised
 * weights in LAYOUT_R8 against activations in 8-bit blocks (exact integer sums), and float: any weight, decoded by tiles of rows.
 * Threads own ranges of weight rows; columns go through in blocks that stay in the second-level cache. Every output element is
 * computed by one thread in one fixed order. */
#include "tensor/cpu/cpu.h"

#define L2_BYTES (192 * 1024)
#define TILE_ROWS 8

static const float *column(const tensor *x, i64 r)
{
    return (const float *)(const void *)((const u8 *)x->data + r * x->stride[1]);
}

static void run_quant(const step *s, const cpu_run *r)
{
    const tensor *x = s->t->src[0];
    i64 k = x->n[0], m = x->n[1], from, to;
    usize each = xq_bytes(k);
    part(m, r->thread, r->n_threads, &from, &to);
    for (i64 c = from; c < to; c++) r->k->quant(column(x, c), k, r->shared + (usize)c * each);
}

static void run_matmul_q(const step *s, const cpu_run *r)
{
    const tensor *y = s->t, *w = y->src[1];
    i64 k = w->n[0], n = w->n[1], m = y->n[1], groups = (n + 7) / 8, from, to;
    usize each = xq_bytes(k), group_bytes = weight_bytes(w->type, w->lay, k, 8);
    i64 block = (i64)(L2_BYTES / each) / 4 * 4;
    block = i64_min(m, i64_max(block, 8));
    part(groups, r->thread, r->n_threads, &from, &to);
    for (i64 c = 0; c < m; c += block) {
        int cols = (int)i64_min(block, m - c);
        const u8 *xq = r->shared + (usize)c * each;
        float *out = (float *)y->data + c * n;
        for (i64 g = from; g < to; g++) {
            const u8 *group = (const u8 *)w->data + (usize)g * group_bytes;
            if (g * 8 + 8 <= n) {
                r->k->qdot[w->type](group, k, xq, each, cols, out + g * 8, n);
                continue;
            }
            for (int one = 0; one < cols; one++) { /* the last group is padded: only its real rows are stored */
                float tmp[8];
                r->k->qdot[w->type](group, k, xq + (usize)one * each, each, 1, tmp, 8);
                memcpy(out + one * n + g * 8, tmp, sizeof *tmp * (usize)(n - g * 8));
            }
        }
    }
}

static const float *float_rows(const tensor *w, i64 slot, i64 row, int rows, float *tile)
{
    const u8 *base = (const u8 *)w->data + (usize)slot * weight_bytes(w->type, w->lay, w->n[0], w->n[1]);
    if (w->type == F32 && w->lay == LAYOUT_ROWS) return (const float *)(const void *)base + row * w->n[0];
    weight_decode(w->type, w->lay, w->n[0], base, row, rows, tile);
    return tile;
}

static void run_matmul_f(const step *s, const cpu_run *r)
{
    const tensor *y = s->t, *x = y->src[0], *w = y->src[1];
    i64 k = w->n[0], n = w->n[1], m = y->n[1], tiles = (n + TILE_ROWS - 1) / TILE_ROWS, from, to;
    part(tiles, r->thread, r->n_threads, &from, &to);
    for (i64 t = from; t < to; t++) {
        int rows = (int)i64_min(TILE_ROWS, n - t * TILE_ROWS);
        const float *f = float_rows(w, 0, t * TILE_ROWS, rows, (float *)(void *)r->own);
        r->k->gemm(f, k, rows, column(x, 0), x->stride[1] / 4, (int)m, k, (float *)y->data + t * TILE_ROWS, n);
    }
}

static void run_matmul_slot(const step *s, const cpu_run *r)
{
    const tensor *y = s->t, *x = y->src[0], *w = y->src[1], *slot = y->src[2];
    i64 k = w->n[0], n = w->n[1], m = y->n[1], from, to;
    part(n, r->thread, r->n_threads, &from, &to);
    for (i64 c = 0; c < m; c++) {
        i32 a = ref_int(slot, c, 0);
        float *out = (float *)y->data + c * n;
        if (a < 0 || a >= w->n[2]) {
            memset(out + from, 0, sizeof *out * (usize)(to - from));
            continue;
        }
        for (i64 row = from; row < to; row += TILE_ROWS) {
            int rows = (int)i64_min(TILE_ROWS, to - row);
            const float *f = float_rows(w, a, row, rows, (float *)(void *)r->own);
            r->k->gemm(f, k, rows, column(x, c), k, 1, k, out + row, n);
        }
    }
}

static void run_embed(const step *s, const cpu_run *r)
{
    const tensor *y = s->t, *w = y->src[0], *ids = y->src[1];
    i64 d = y->n[0], m = tensor_rows(y), from, to;
    part(m, r->thread, r->n_threads, &from, &to);
    for (i64 c = from; c < to; c++) {
        i32 id = ref_int(ids, c, 0);
        float *out = (float *)y->data + c * d;
        if (id < 0 || id >= w->n[1])
            memset(out, 0, sizeof *out * (usize)d);
        else if (w->type == F32 && w->lay == LAYOUT_ROWS)
            memcpy(out, (const u8 *)w->data + id * w->stride[1], sizeof *out * (usize)d);
        else
            weight_decode(w->type, w->lay, d, w->data, id, 1, out);
    }
}

bool step_choose_matmul(cpu_backend *c, cpu_plan *cp, tensor *t, step_pair *s)
{
    tensor *x = t->src[0], *w = t->src[1];
    if (t->op == OP_EMBED) {
        s->main.run = run_embed;
        s->main.alone = t->n[1] == 1 || tensor_count(t) <= 2048;
        return t->type == F32 && x->n[2] * x->n[3] == 1 && x->stride[0] == dtype_table[x->type].bytes &&
               (x->lay != LAYOUT_ROWS || x->stride[1] == (i64)dtype_row_bytes(x->type, x->n[0]) || x->type == F32);
    }
    if (x->type != F32 || t->type != F32 || x->stride[0] != 4 || x->n[2] * x->n[3] != 1) return false;
    if (w->lay == LAYOUT_ROWS && !tensor_contiguous(w)) return false;
    if (w->type == F64 || w->type == I32) return false;
    if (t->arg.i[0]) return step_choose_train(t, s);
    if (t->src[3]) return false; /* only graphs of floats have it */
    i64 k = w->n[0];
    s->main.alone = (double)k * (double)w->n[1] * (double)x->n[1] <= 16384;
    if (t->src[2]) {
        s->main.run = run_matmul_slot;
        s->per_thread = (usize)(TILE_ROWS * k) * sizeof(float);
        return true;
    }
    if (w->lay == LAYOUT_R8 && !c->reference && !t->arg.i[0] && c->k->qdot[w->type]) {
        s->main.run = run_matmul_q;
        s->main.reads = x; /* lives through the last of them, so no result lies where another is read */
        if (cp->quantised != x) {
            s->before.run = run_quant;
            s->before.alone = x->n[1] == 1 || tensor_count(x) <= 4096;
        }
        cp->quantised = x;
        s->shared = xq_bytes(k) * (usize)x->n[1];
        return true;
    }
    s->main.run = run_matmul_f;
    s->per_thread = (usize)(TILE_ROWS * k) * sizeof(float);
    return true;
}
